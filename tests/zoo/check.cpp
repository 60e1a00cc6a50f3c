#include "check.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <stdexcept>

#include "../../src/core/engine_state.h"
#include "gsd/runtime.h"
#include "judge.h"

namespace gsd::zoo {
namespace {

constexpr int kContext = 640;
constexpr double kMostNoise = 1.5;  // of our logits, in libllama's own
constexpr double kDeaf = 0.1;       // noise of logits, in their deviations, in which faults would hide

struct Text {
  Tokens prompt;
  Tokens generated;
  Stats stats;
  Rows rows;  // that the tokens were drawn from; only if asked for
};

// Random words, as no model expects them: the text depends on the whole prompt.
Tokens words(std::size_t n, std::uint32_t seed) {
  Tokens tokens{0};
  for (std::uint32_t state = seed * 2654435761U + 1; tokens.size() < n;) {
    state = state * 1664525U + 1013904223U;
    tokens.push_back(static_cast<Token>(1 + (state >> 8) % 1000));
  }
  return tokens;
}

Tokens joined(const Tokens& a, const Tokens& b) {
  Tokens out = a;
  out.insert(out.end(), b.begin(), b.end());
  return out;
}

Tokens first(const Tokens& t, std::size_t n) {
  return {t.begin(), t.begin() + static_cast<long>(std::min(n, t.size()))};
}

// ---- running

// A dear, flat target and a cheap draft: mode auto then speculates, whatever such tiny models take on this machine.
void set_costs(Engine& engine) {
  engine.state().planner_.target_cost().load({{1, 10}, {8, 12}, {32, 16}});
  engine.state().planner_.target_cost().freeze(true);
  for (CostModel& cost : engine.state().planner_.draft_costs()) {
    cost.load({{1, 0.5}, {16, 1}});
    cost.freeze(true);
  }
}

SessionOptions session_options(const std::string& mode, int n) {
  SessionOptions o;
  o.speculation.mode = parse_mode(mode);
  o.speculation.max_width = mode == "graph" ? 32 : 16;
  o.speculation.path_threshold = 0.01F;
  if (mode == "chain") o.speculation.depth = 4;
  o.max_tokens = n;
  o.ignore_eog = true;
  return o;
}

// Runs the prompts side by side, one session and mode each.
std::vector<Text> run(Runtime& pair, const std::vector<std::pair<std::string, Tokens>>& requests, int n, bool rows) {
  Engine& engine = pair.engine();
  set_costs(engine);
  std::vector<Text> texts(requests.size());
  std::vector<std::unique_ptr<Session>> sessions;
  for (std::size_t i = 0; i < requests.size(); ++i) {
    Text& text = texts[i];
    text.prompt = requests[i].second;
    SessionOptions o = session_options(requests[i].first, n);
    if (rows)
      o.on_step = [&text](const StepView& v) {
        for (std::size_t t = 0; t < v.acceptance.token.size(); ++t) {
          const auto row = v.logits(t);
          text.rows.emplace_back(row.begin(), row.end());
        }
      };
    sessions.push_back(engine.open(std::move(o), text.prompt));
    engine.set_prompt(*sessions.back(), text.prompt);
  }
  for (const auto& s : sessions)
    while (engine.prefill(*s) > 0) {
    }
  for (std::vector<Session*> open;; open.clear()) {
    for (const auto& s : sessions)
      if (!s->finished()) open.push_back(s.get());
    if (open.empty()) break;
    engine.step(open);
  }
  for (std::size_t i = 0; i < sessions.size(); ++i) {
    texts[i].generated.assign(sessions[i]->generated().begin(), sessions[i]->generated().end());
    texts[i].stats = sessions[i]->stats();
  }
  return texts;
}

struct Setting {
  int sessions = 1;
  std::string cache = "f16";
  bool narrow = true;
  bool exact = false;
  bool mtp = false;                      // no draft but the model's own layers
  std::vector<std::string> drafts = {};  // these instead, beside the layers where they draft
};

std::unique_ptr<Runtime> load(const std::string& target, const std::string& draft, const Setting& s) {
  RuntimeOptions o;
  o.target = target;
  if (!s.mtp) o.draft = draft;
  if (!s.drafts.empty()) {
    o.draft = s.drafts.front();
    o.more_drafts.assign(s.drafts.begin() + 1, s.drafts.end());
    o.with_mtp = s.mtp;
  }
  o.context.n_ctx = kContext;
  o.context.n_seq = s.sessions;
  o.context.n_threads = 1;
  o.context.type_k = o.context.type_v = s.cache;
  o.profile = false;
  o.narrow = s.narrow;
  o.engine.exact = s.exact;
  o.engine.keep_prefixes = true;
  return std::make_unique<Runtime>(o);
}

// Requests as clients make them: several share a beginning, then they are gone on with, asked again, changed and cut.
std::vector<Text> conversation(Runtime& pair, int n, int rounds) {
  const Tokens common = words(70, 1);
  const std::vector<std::string> modes{"graph", "auto", "chain", "plain"};
  std::vector<Text> all;
  std::vector<Tokens> prompts{joined(common, words(20, 2)), joined(common, words(5, 3)), common, words(50, 4)};
  for (int round = 0; round < rounds; ++round) {
    std::vector<std::pair<std::string, Tokens>> requests;
    for (std::size_t i = 0; i < prompts.size(); ++i) requests.emplace_back(modes[(i + round) % 4], prompts[i]);
    std::vector<Text> texts = run(pair, requests, n, false);
    const auto whole = [&](std::size_t i) { return joined(texts[i].prompt, texts[i].generated); };
    prompts = {joined(whole(0), words(9, 5 + round)),                       // gone on with
               texts[1].prompt,                                             // asked again
               joined(first(whole(2), 60 + round), words(15, 11 + round)),  // changed in the middle
               joined(first(whole(3), 20), words(30, 21 + round))};         // cut
    for (Text& t : texts) all.push_back(std::move(t));
  }
  return all;
}

// ---- judging

std::string kind_of(const Entry& entry, const llama_model* model) {
  std::vector<std::string> kinds;
  const auto has = [&](const char* key) {
    return std::any_of(entry.metadata.begin(), entry.metadata.end(), [&](const auto& kv) { return kv.first == key; });
  };
  if (llama_model_is_recurrent(model)) kinds.push_back("recurrent");
  if (llama_model_is_hybrid(model)) kinds.push_back("hybrid");
  if (llama_model_n_swa(model) > 0) kinds.push_back("sliding window");
  if (has("expert_count")) kinds.push_back("mixture");
  if (has("attention.kv_lora_rank")) kinds.push_back("latent attention");
  if (has("attention.indexer.head_count")) kinds.push_back("sparse attention");
  if (has("attention.max_alibi_bias")) kinds.push_back("ALiBi");
  if (has("hyper_connection.count")) kinds.push_back("hyper-connections");
  if (llama_model_rope_type(model) == LLAMA_ROPE_TYPE_MROPE || llama_model_rope_type(model) == LLAMA_ROPE_TYPE_IMROPE)
    kinds.push_back("M-RoPE");
  if (kinds.empty()) return "dense";
  std::string out = kinds[0];
  for (std::size_t i = 1; i < kinds.size(); ++i) out += ", " + kinds[i];
  return out;
}

// ---- the cases of a model

struct Pending {
  Case c;
  std::vector<Text> texts;
  std::string cache;
};

class Check {
 public:
  Check(const Entry& entry, const CheckOptions& options)
      : entry_(entry),
        options_(options),
        target_(options.dir / (entry.name + ".gguf")),
        draft_(options.dir / (entry.name + ".draft.gguf")) {
    Recipe recipe = options.recipe;
    write_model(entry, options.vocabulary, recipe, target_);
    recipe.draft = true;
    write_model(entry, options.vocabulary, recipe, draft_);
  }
  ~Check() {
    std::error_code ignored;
    std::filesystem::remove(target_, ignored);
    std::filesystem::remove(draft_, ignored);
  }

  Report run() {
    report_.name = entry_.name;
    report_.architecture = entry_.architecture;
    const bool fast = options_.fast;
    const int n = fast ? 40 : 64;
    if (options_.only_exact) {
      with({.exact = true}, [&](Runtime& pair) { exact(pair, n); });
      judge();
      return report_;
    }
    with({}, [&](Runtime& pair) { modes(pair, "", {"plain", "chain", "tree", "graph", "auto"}, n); });
    if (report_.refused.empty()) {
      with({.sessions = 4},
           [&](Runtime& pair) { add("sessions", "f16", conversation(pair, fast ? 24 : 40, fast ? 2 : 3)); });
      with(
          {.cache = "q8_0"}, [&](Runtime& pair) { modes(pair, "q8_0 cache, ", {"graph"}, n); }, "q8_0");
      with({.exact = true}, [&](Runtime& pair) { exact(pair, n); });
      with({.narrow = false}, [&](Runtime& pair) { modes(pair, "ggml's kernels, ", {"chain", "graph"}, n); });
    }
    if (report_.refused.empty() && mtp_layers(target_).count > 0) mtp(n);
    if (report_.refused.empty() && gives_layers()) heads(n);
    judge();
    return report_;
  }

 private:
  // The model's own layers draft, without being asked to.
  void mtp(int n) {
    const bool fast = options_.fast;
    with({.mtp = true}, [&](Runtime& pair) { modes(pair, "MTP, ", {"plain", "chain", "tree", "graph", "auto"}, n); });
    with({.sessions = 4, .mtp = true},
         [&](Runtime& pair) { add("MTP, sessions", "f16", conversation(pair, fast ? 24 : 40, fast ? 2 : 3)); });
    with({.exact = true, .mtp = true}, [&](Runtime& pair) { exact(pair, n, "MTP, "); });
    several({.sessions = 4, .mtp = true, .drafts = {draft_}}, "MTP and draft");
  }

  // Heads that know nothing, alone and beside a draft that does.
  void heads(int n) {
    const auto eagle3 = options_.dir / (entry_.name + ".eagle3.gguf");
    const auto dflash = options_.dir / (entry_.name + ".dflash.gguf");
    write_model(eagle3_of(entry_, "0,1,1"), options_.vocabulary, options_.recipe, eagle3);
    write_model(dflash_of(entry_, "0,1,2"), options_.vocabulary, options_.recipe, dflash);
    with({.drafts = {dflash}}, [&](Runtime& pair) {
      modes(pair, "DFlash, ", {"plain", "chain", "tree", "graph", "auto"}, n);
    });
    with({.exact = true, .drafts = {dflash}}, [&](Runtime& pair) { exact(pair, n, "DFlash, "); });
    several({.sessions = 4, .drafts = {dflash}}, "DFlash");
    several({.sessions = 4, .drafts = {draft_, eagle3, dflash}}, "draft, EAGLE-3 and DFlash");
    std::filesystem::remove(eagle3);
    std::filesystem::remove(dflash);
  }

  bool gives_layers() const {
    const std::set<std::string> names{"gpt-oss", "llama", "qwen3", "qwen3moe"};
    return names.contains(entry_.architecture);
  }

  void several(const Setting& setting, const std::string& name) {
    with(setting, [&](Runtime& pair) {
      add(name + ", sessions", "f16", conversation(pair, options_.fast ? 24 : 40, options_.fast ? 2 : 3));
    });
  }

  // A failure of one setting does not end the others.
  void with(const Setting& setting, const std::function<void(Runtime&)>& body, const std::string& cache = "f16") {
    cache_ = cache;
    try {
      body(*load(target_, draft_, setting));
    } catch (const Error& e) {
      if (e.code() == ErrorCode::kModelUnsupported) {
        report_.refused = e.what();
        return;
      }
      failed(setting, e.what());
    }
  }

  void failed(const Setting& s, const std::string& why) {
    Case c;
    c.name = !s.drafts.empty() ? "heads"
             : s.mtp           ? "MTP"
             : s.exact         ? "exact"
             : s.sessions > 1  ? "sessions"
             : !s.narrow       ? "ggml's kernels"
                               : s.cache + " cache";
    c.error = why;
    pending_.push_back({c, {}, cache_});
  }

  void add(const std::string& name, const std::string& cache, std::vector<Text> texts) {
    Case c;
    c.name = name;
    std::set<Token> distinct;
    std::int64_t steps = 0;
    for (const Text& t : texts) {
      c.tokens += static_cast<int>(t.generated.size());
      steps += t.stats.steps;
      distinct.insert(t.generated.begin(), t.generated.end());
    }
    c.distinct = static_cast<int>(distinct.size());
    c.per_step = static_cast<double>(c.tokens) / static_cast<double>(std::max<std::int64_t>(1, steps));
    pending_.push_back({c, std::move(texts), cache});
  }

  void modes(Runtime& pair, const std::string& prefix, const std::vector<std::string>& modes, int n) {
    for (const std::string& mode : modes) add(prefix + mode, cache_, zoo::run(pair, {{mode, words(120, 7)}}, n, false));
  }

  void exact(Runtime& pair, int n, const std::string& prefix = "") {
    Rows plain;
    for (const std::string mode : {"plain", "chain", "tree", "graph", "auto"}) {
      std::vector<Text> texts = zoo::run(pair, {{mode, words(120, 7)}}, n, true);
      Rows rows = texts[0].rows;
      add("exact, " + prefix + mode, "f16", std::move(texts));
      pending_.back().c.bits_equal = plain.empty() || rows == plain;
      if (plain.empty()) plain = std::move(rows);
    }
    report_.obstacles = width_obstacles(pair.target(), !pair.narrow().empty());
  }

  void judge() {
    std::optional<Judge> f16(std::in_place, target_, "f16", kContext + 64);
    report_.kind = kind_of(entry_, f16->model());
    const bool one_state = llama_model_is_recurrent(f16->model()) || llama_model_is_hybrid(f16->model());
    report_.drafts = !one_state ? "graph" : f16->has_snapshots() ? "chain, snapshots" : "chain, copies";
    std::optional<Judge> q8;
    for (Pending& p : pending_) {
      if (p.cache == "q8_0" && !f16->takes(p.cache)) {
        report_.no_q8_0 = true;
        continue;
      }
      std::optional<Judge>& judge = p.cache == "q8_0" ? q8 : f16;
      if (!judge) judge.emplace(target_, p.cache, kContext + 64);
      for (const Text& t : p.texts) judge->judge(t.prompt, t.generated, t.rows, p.c);
      if (p.c.name == "plain") require_strict(*judge, p.texts[0]);
      report_.cases.push_back(p.c);
    }
  }

  // A judge that lets a foreign token pass would prove nothing.
  static void require_strict(Judge& judge, const Text& text) {
    Tokens foreign = first(text.generated, 20);
    foreign.back() = (foreign.back() + 500) % 1000;
    Case c;
    judge.judge(text.prompt, foreign, {}, c);
    if (c.wrong == 0) throw std::runtime_error("the judge takes a foreign token for the model's");
  }

  const Entry& entry_;
  const CheckOptions& options_;
  std::string target_;
  std::string draft_;
  std::string cache_;
  Report report_;
  std::vector<Pending> pending_;
};

}  // namespace

Report check(const Entry& entry, const CheckOptions& options) { return Check(entry, options).run(); }

std::vector<std::string> Report::failures() const {
  std::vector<std::string> out;
  if (!refused.empty()) out.push_back("refused: " + refused);
  for (const Case& c : cases) {
    if (!c.error.empty()) {
      out.push_back(c.name + ": " + c.error);
      continue;
    }
    if (c.wrong > 0)
      out.push_back(c.name + ": " + std::to_string(c.wrong) + " of " + std::to_string(c.tokens) +
                    " tokens are not libllama's, regret " + std::to_string(c.regret));
    if (c.noise > kMostNoise * c.own_noise)
      out.push_back(c.name + ": the logits are " + std::to_string(c.noise) + " from libllama's, which are " +
                    std::to_string(c.own_noise) + " from its own when embeddings change by next to nothing");
    if (c.own_noise > kDeaf)
      out.push_back(c.name + ": libllama's own noise is " + std::to_string(c.own_noise) + "; that shows nothing");
    const double expected = c.tokens * c.own_other_experts;  // and three deviations of such a count
    if (c.other_experts > 1 + std::max(c.tokens / 50.0, expected + 3 * std::sqrt(expected)))
      out.push_back(c.name + ": " + std::to_string(c.other_experts) + " of " + std::to_string(c.tokens) +
                    " tokens are libllama's with other experts only; that many ties there are not");
    if (c.name.starts_with("exact") && !c.bits_equal && obstacles.empty())
      out.push_back(c.name + ": other bits than plain decoding's, though the program promises the same");
    if (c.name == "plain" && c.distinct < 8) out.push_back("plain: the text repeats itself and shows nothing");
    if (c.name == "chain" && c.per_step < 2.5)
      out.push_back("chain: " + std::to_string(c.per_step) + " tokens a step; too little is accepted to show anything");
    if ((c.name == "MTP, chain" || c.name == "MTP, auto") && c.per_step < 1.5)
      out.push_back(c.name + ": " + std::to_string(c.per_step) + " tokens a step; the layers hardly draft");
    if (c.name == "auto" && c.per_step < 1.5)
      out.push_back("auto: " + std::to_string(c.per_step) + " tokens a step; it hardly speculates");
  }
  return out;
}

nlohmann::json to_json(const Report& r) {
  nlohmann::json cases = nlohmann::json::array();
  for (const Case& c : r.cases)
    cases.push_back({{"name", c.name},
                     {"error", c.error},
                     {"tokens", c.tokens},
                     {"per_step", c.per_step},
                     {"distinct", c.distinct},
                     {"ties", c.ties},
                     {"other_experts", c.other_experts},
                     {"wrong", c.wrong},
                     {"regret", c.regret},
                     {"noise", c.noise},
                     {"own_noise", c.own_noise},
                     {"own_other_experts", c.own_other_experts},
                     {"bits_equal", c.bits_equal}});
  return {{"name", r.name},       {"architecture", r.architecture}, {"kind", r.kind},           {"drafts", r.drafts},
          {"refused", r.refused}, {"no_q8_0", r.no_q8_0},           {"obstacles", r.obstacles}, {"cases", cases}};
}

Report from_json(const nlohmann::json& j) {
  Report r{j.at("name"),    j.at("architecture"), j.at("kind"),      j.at("drafts"),
           j.at("refused"), j.at("no_q8_0"),      j.at("obstacles"), {}};
  for (const auto& c : j.at("cases"))
    r.cases.push_back({c.at("name"), c.at("error"), c.at("tokens"), c.at("per_step"), c.at("distinct"), c.at("ties"),
                       c.at("other_experts"), c.at("wrong"), c.at("regret"), c.at("noise"), c.at("own_noise"),
                       c.at("own_other_experts"), c.at("bits_equal")});
  return r;
}

}  // namespace gsd::zoo
