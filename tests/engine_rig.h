// The engine over scripted models, and a corpus of cases for it.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <random>
#include <string_view>
#include <utility>
#include <vector>

#include "../src/core/engine_state.h"
#include "gsd/engine.h"
#include "gsd/scripted_backend.h"

namespace gsd {

struct World {
  int n_vocab = 12;
  int n_ctx = 256;
  int n_seq = 1;
  int order = 2;
  float sharpness = 6;
  float drift = 0.3F;
  int max_leaves = 16;
  int max_rollback = INT32_MAX;
  int max_batch = 128;
  Token eog = -1;
  bool with_draft = true;
  std::vector<float> more_drafts = {};  // drifts of further ones
  std::uint64_t seed = 1;
  EngineOptions engine;
};

// A draft's levels are passes of their own: it drops nodes of several.
inline BackendInfo draft_info(BackendInfo target) {
  target.max_rollback = INT32_MAX;
  return target;
}

// The drafters of a world, and what they ask.
struct Drafts {
  Drafts(const World& s, const BackendInfo& target) {
    if (!s.with_draft) return;
    std::vector<float> drifts = s.more_drafts;
    drifts.insert(drifts.begin(), s.drift);
    for (const float drift : drifts)
      backends.push_back(std::make_unique<ScriptedBackend>(
          draft_info(target), random_script(s.seed, s.order, s.sharpness, drift), s.order, s.eog));
  }
  std::vector<std::unique_ptr<Drafter>> drafters() const {
    std::vector<std::unique_ptr<Drafter>> out;
    for (const auto& b : backends) out.push_back(make_model_drafter(*b, b->info().n_vocab, kNames[out.size()]));
    return out;
  }
  static constexpr std::string_view kNames[] = {"model", "second", "third", "fourth", "one too many"};
  std::vector<std::unique_ptr<ScriptedBackend>> backends;
};

// A target, drafts that mostly agree with it, and an engine over them.
struct Rig {
  explicit Rig(const World& s)
      : info{.n_vocab = s.n_vocab,
             .n_ctx = s.n_ctx,
             .n_seq = s.n_seq,
             .max_batch = s.max_batch,
             .max_outputs = 64,
             .max_leaves = s.max_leaves,
             .max_rollback = s.max_rollback},
        target(info, random_script(s.seed, s.order, s.sharpness), s.order, s.eog),
        drafts(s, info),
        engine(target, drafts.drafters(), s.engine) {
    // Times of the scripted backend mean nothing; a machine on which speculation pays.
    engine.state().planner_.target_cost().load({{1, 10}, {8, 12}, {16, 16}, {32, 40}});
    engine.state().planner_.target_cost().freeze(true);
    for (CostModel& cost : engine.state().planner_.draft_costs()) {
      cost.load({{1, 0.5}, {16, 1}});
      cost.freeze(true);
    }
  }

  std::vector<Token> run(SessionOptions options, std::vector<Token> prompt) {
    auto s = engine.open(std::move(options));
    engine.set_prompt(*s, prompt);
    while (engine.prefill(*s) > 0) {
    }
    Session* list[] = {s.get()};
    while (!s->finished()) {
      engine.step(list);
      check(*s);
    }
    stats = s->stats();
    finish = s->finish();
    return {s->generated().begin(), s->generated().end()};
  }

  // The target's memory holds everything but the last token; the drafts' never more, and no wrong token.
  void check(const Session& s) const {
    const auto all = s.tokens();
    const auto held = target.committed(0);
    if (!s.finished()) {
      ASSERT_EQ(held.size(), all.size() - 1);
    }
    ASSERT_TRUE(std::equal(held.begin(), held.end(), all.begin()));
    ASSERT_EQ(target.n_speculative(0), 0);
    for (const auto& draft : drafts.backends) {
      const auto drafted = draft->committed(0);
      ASSERT_LE(drafted.size(), all.size());
      ASSERT_TRUE(std::equal(drafted.begin(), drafted.end(), all.begin()));
      ASSERT_EQ(draft->n_speculative(0), 0);
    }
  }
  ScriptedBackend& draft() { return *drafts.backends.front(); }

  BackendInfo info;
  ScriptedBackend target;
  Drafts drafts;
  Engine engine;
  Stats stats;
  FinishReason finish = FinishReason::kNone;
};

inline SessionOptions options(Mode mode, float temperature = 0, std::uint64_t seed = 0, std::int64_t max_tokens = 60) {
  SessionOptions o;
  o.speculation.mode = mode;
  o.sampling.temperature = temperature;
  o.sampling.seed = seed;
  o.max_tokens = max_tokens;
  return o;
}

constexpr Mode kModes[] = {Mode::kPlain, Mode::kChain, Mode::kTree, Mode::kGraph, Mode::kAuto};
constexpr Mode kSpeculative[] = {Mode::kChain, Mode::kTree, Mode::kGraph, Mode::kAuto};

// A world, a wish and a prompt of plain decoding.
struct Case {
  World world;
  SessionOptions options;
  std::vector<Token> prompt;
};

inline Case random_case(std::mt19937_64& rng) {
  Case c;
  World& w = c.world;
  w.seed = rng();
  w.n_vocab = 4 + static_cast<int>(rng() % 30);
  w.order = 1 + static_cast<int>(rng() % 3);
  w.drift = static_cast<float>(rng() % 10) / 10;
  w.sharpness = static_cast<float>(1 + rng() % 12);
  w.max_leaves = 1 + static_cast<int>(rng() % 20);
  if (rng() % 3 == 0) {  // a recurrent model
    w.max_leaves = 1;
    w.max_rollback = static_cast<int>(rng() % 6);
  }
  w.with_draft = rng() % 8 != 0;
  for (auto n = rng() % 3; n > 0; --n) w.more_drafts.push_back(static_cast<float>(rng() % 10) / 10);
  w.engine.exact = rng() % 3 == 0;
  w.engine.prefill_chunk = 1 + static_cast<int>(rng() % 20);
  w.eog = rng() % 2 ? 0 : -1;
  c.prompt.resize(1 + rng() % 40);
  for (Token& t : c.prompt) t = static_cast<Token>(1 + rng() % static_cast<std::uint64_t>(w.n_vocab - 1));
  const float temperature = rng() % 3 == 0 ? 0 : 0.5F + static_cast<float>(rng() % 10) / 10;
  SessionOptions& o = c.options;
  o = options(Mode::kPlain, temperature, rng());
  o.speculation.merge_length = static_cast<int>(rng() % 3);
  o.speculation.top_k = 1 + static_cast<int>(rng() % 6);
  o.speculation.depth = 1 + static_cast<int>(rng() % 10);
  o.speculation.sibling_threshold = static_cast<float>(rng() % 3) / 4;
  o.speculation.path_threshold = static_cast<float>(rng() % 3) / 10;
  o.speculation.max_width = 1 + static_cast<int>(rng() % 40);
  o.speculation.history = rng() % 3 != 0;
  if (rng() % 3 == 0) o.sampling.repeat_penalty = 1.3F;
  if (rng() % 3 == 0) o.sampling.top_k = 5;
  if (rng() % 3 == 0) o.sampling.top_p = 0.9F;
  if (rng() % 4 == 0) o.constraint = Constraint{[](Token t) { return t % 3 != 1; }, [](Token) {}};
  return c;
}

}  // namespace gsd
