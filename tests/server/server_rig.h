// The server's parts over the scripted backend: a model of 128 tokens, each one ASCII character.
#pragma once

#include <chrono>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "../../src/core/engine_state.h"
#include "../../src/server/api.h"
#include "gsd/error.h"
#include "gsd/scripted_backend.h"

namespace gsd::server {

constexpr const char* kPlainTemplate =
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif "
    "%}";

struct RigOptions {
  int n_seq = 3;
  int n_ctx = 512;
  int prefill_chunk = 16;
  std::size_t max_queue = 64;
  std::size_t n_shared = 0;
  std::size_t cache_bytes = 0;
  bool with_draft = true;
  int step_us = 0;  // a pass of the target takes that long for each row
  Script script;    // of both models; empty: random ones
  std::string chat_template = kPlainTemplate;
  std::string tool_format;  // empty: found by a trial
  bool fills = false;       // the model has tokens for what is to be filled in
  std::size_t n_stores = 0;
  int store_capacity = 1 << 14;
};

inline Script slowed(Script script, int us) {
  if (us == 0) return script;
  return [script = std::move(script), us](std::span<const Token> context, std::span<float> logits) {
    std::this_thread::sleep_for(std::chrono::microseconds(us));
    script(context, logits);
  };
}

inline ApiOptions api_options(const RigOptions& rig = {}) {
  ApiOptions o;
  if (!rig.tool_format.empty()) {  // with the template's tags of reasoning, as gsd serve does it
    o.tool_format = chat::tool_format(rig.tool_format);
    const chat::ToolFormat found = chat::find_tool_format(chat::JinjaFormat(rig.chat_template, "", ""));
    o.tool_format->reasoning_open = found.reasoning_open;
    o.tool_format->reasoning_close = found.reasoning_close;
  }
  o.version = "test";
  for (std::size_t i = 0; i < rig.n_stores; ++i) o.stores.push_back(std::make_shared<AnswerStore>(rig.store_capacity));
  return o;
}

inline TextModel ascii_model(int n_ctx, const std::string& chat_template = kPlainTemplate) {
  TextModel m;
  m.id = "ascii";
  m.aliases = {"other-name"};
  m.description = "scripted";
  m.vocabulary.size = 128;
  m.n_ctx = m.n_ctx_train = n_ctx;
  m.vocabulary.tokenize = [](std::string_view text, AddBegin, ParseControl) {
    std::vector<Token> out;
    for (const char c : text) out.push_back(static_cast<unsigned char>(c) % 128);
    return out;
  };
  m.vocabulary.piece = [](Token t, ShowControl) { return std::string(1, static_cast<char>(t)); };
  m.vocabulary.is_eog = [](Token t) { return t == 0; };
  m.chat = std::make_shared<chat::JinjaFormat>(chat_template, "", "");
  auto texts = std::make_shared<TokenTexts>();
  for (Token t = 0; t < 128; ++t) texts->add(m.vocabulary.piece(t, ShowControl::kNo), t == 0);
  m.grammar = [texts](const std::string& gbnf) { return Grammar(gbnf, texts); };
  return m;
}

// 1 to `longest` of the first `letters` letters.
inline std::string random_prompt(std::mt19937_64& rng, unsigned longest, unsigned letters) {
  std::string prompt(1 + rng() % longest, 'x');
  for (char& c : prompt) c = static_cast<char>('a' + rng() % letters);
  return prompt;
}

// Of any mode and length; every second one is drawn.
inline SessionOptions random_options(std::mt19937_64& rng, int index) {
  SessionOptions o;
  o.speculation.mode = static_cast<Mode>(rng() % 5);
  o.max_tokens = 1 + static_cast<std::int64_t>(rng() % 60);
  o.ignore_eog = rng() % 2 == 0;
  o.sampling.temperature = index % 2 ? 0.9F : 0;
  o.sampling.seed = rng();
  return o;
}

// Everything but HTTP; the scheduler runs in a thread of its own until the rig is destroyed.
struct Rig {
  explicit Rig(const RigOptions& o = {}) : Rig(o, api_options(o)) {}
  Rig(const RigOptions& o, ApiOptions api_options)
      : info{.n_vocab = 128, .n_ctx = o.n_ctx, .n_seq = o.n_seq, .max_batch = 128, .max_outputs = 64, .max_leaves = 8},
        target(info, slowed(o.script ? o.script : script(0), o.step_us), o.script ? 32 : 2, 0),
        draft(info, o.script ? o.script : script(0.3F), o.script ? 32 : 2, 0),
        engine(target, o.with_draft ? &draft : nullptr,
               {.exact = false,
                .prefill_chunk = o.prefill_chunk,
                .max_total_width = 64,
                .keep_prefixes = true,
                .cache_bytes = o.cache_bytes}),
        model(ascii_model(o.n_ctx, o.chat_template)),
        scheduler(engine, metrics, {.max_queue = o.max_queue, .n_shared = o.n_shared}),
        stores(api_options.stores),
        api(model, scheduler, metrics, std::move(api_options)) {
    if (o.fills) model.vocabulary.fill = {.prefix = 1, .suffix = 2, .middle = 3};
    // Times of the scripted backend mean nothing; a machine on which speculation pays.
    engine.state().planner_.target_cost().load({{1, 10}, {8, 12}, {16, 16}, {32, 40}});
    engine.state().planner_.draft_cost().load({{1, 0.5}, {16, 1}});
    engine.state().planner_.target_cost().freeze(true);
    engine.state().planner_.draft_cost().freeze(true);
  }
  ~Rig() { stop(); }

  // The end of text is improbable, so that generations have a length of their own choice.
  static Script script(float drift) {
    return [inner = random_script(3, 2, 8, drift)](std::span<const Token> context, std::span<float> logits) {
      inner(context, logits);
      for (Token t = 0; t < 32; ++t) logits[static_cast<std::size_t>(t)] -= t == 0 ? 2 : 40;
      logits[127] -= 40;
    };
  }

  void start() {
    thread = std::thread([this] { scheduler.run(); });
  }
  void stop() {
    scheduler.stop();
    if (thread.joinable()) thread.join();
  }
  void finish() {
    scheduler.drain();
    if (thread.joinable()) thread.join();
  }

  // What one request alone gives, with an engine of its own.
  static std::string alone(const std::string& prompt, SessionOptions options, int n_ctx = 512) {
    RigOptions o;
    o.n_ctx = n_ctx;
    Rig fresh(o);
    options.speculation.mode = Mode::kPlain;
    const auto s = fresh.engine.open(options);
    fresh.engine.set_prompt(*s, fresh.model.vocabulary.tokenize(prompt, AddBegin::kYes, ParseControl::kNo));
    while (fresh.engine.prefill(*s) > 0) {
    }
    Session* list[] = {s.get()};
    while (!s->finished()) fresh.engine.step(list);
    std::string out;
    for (const Token t : s->generated()) {
      if (t != 0) out += static_cast<char>(t);
    }
    return out;
  }

  BackendInfo info;
  ScriptedBackend target;
  ScriptedBackend draft;
  Engine engine;
  TextModel model;
  Metrics metrics;
  Scheduler scheduler;
  std::vector<std::shared_ptr<AnswerStore>> stores;  // of the API
  Api api;
  std::thread thread;
};

}  // namespace gsd::server
