// A replay must do what the engine does with the models themselves.
#include "../src/core/replay.h"

#include <gtest/gtest.h>

#include "../src/core/engine_state.h"
#include "../src/core/replay_backend.h"
#include "gsd/error.h"
#include "gsd/scripted_backend.h"
#include "random.h"

namespace gsd {
namespace {

constexpr std::int32_t kVocab = 24;
constexpr std::int32_t kCtx = 256;

struct Models {
  explicit Models(std::uint64_t seed)
      : target({kVocab, kCtx, 1, 64, 64, 16}, random_script(seed, 2, 3), 2),
        draft({kVocab, kCtx + 64, 1, 64, 64, 16}, random_script(seed, 2, 3, 0.4F), 2) {}
  ScriptedBackend target;
  ScriptedBackend draft;
};

Profile cheap_width() { return {{{1, 10}, {16, 14}, {64, 40}}, {{1, 0.4}, {16, 0.8}}, 0.05}; }

struct Reference {
  std::vector<Token> text;
  Stats stats;
};

// The engine with real (scripted) models and a frozen profile.
Reference run(std::uint64_t seed, const SpeculationParams& params, const SamplingParams& sampling,
              const Profile& profile) {
  Models m(seed);
  Engine engine(m.target, &m.draft, {.exact = false, .prefill_chunk = 64, .max_total_width = 64});
  engine.state().planner_.target_cost().load(profile.target);
  engine.state().planner_.draft_cost().load(profile.draft);
  engine.state().planner_.target_cost().freeze(true);
  engine.state().planner_.draft_cost().freeze(true);
  SessionOptions o;
  o.speculation = params;
  o.sampling = sampling;
  o.max_tokens = 80;
  const auto s = engine.open(std::move(o));
  engine.set_prompt(*s, std::vector<Token>{1, 2, 3});
  while (engine.prefill(*s) > 0) {
  }
  Session* list[] = {s.get()};
  while (!s->finished()) engine.step(list);
  return {{s->tokens().begin(), s->tokens().end()}, s->stats()};
}

Replay record(std::uint64_t seed, const std::vector<Token>& text, const SamplingParams& sampling) {
  Models m(seed);
  SpeculationParams wide;
  wide.depth = 12;
  wide.top_k = 8;
  wide.frontier = 16;
  wide.max_nodes = 400;
  wide.path_threshold = 0;
  const auto is_eog = std::make_unique<bool[]>(kVocab);
  return record_drafts(*make_model_drafter(m.draft, kVocab), text, 3, sampling, wide, {is_eog.get(), kVocab}, {});
}

SpeculationParams params(Mode mode) {
  SpeculationParams p;
  p.mode = mode;
  p.depth = 4;
  p.max_width = 12;
  p.path_threshold = 0.1F;
  return p;
}

TEST(Replay, TakesTheStepsThatTheModelsTook) {
  std::int64_t unknown = 0;
  std::int64_t asked = 0;
  for (int round = 0; round < 6; ++round) {
    GSD_SEEDED(rng, round);
    const std::uint64_t seed = rng();
    for (const Mode mode : {Mode::kPlain, Mode::kChain, Mode::kTree, Mode::kGraph, Mode::kAuto}) {
      const Reference r = run(seed, params(mode), {}, cheap_width());
      Learned learned;
      const Simulated s = simulate(record(seed, r.text, {}), params(mode), cheap_width(), learned);
      unknown += s.unknown;
      asked += s.stats.draft_nodes;
      EXPECT_EQ(s.stats.emitted, r.stats.emitted);
      if (s.unknown > 0) continue;
      EXPECT_EQ(s.stats.steps, r.stats.steps) << mode_name(mode);
      EXPECT_EQ(s.stats.verified, r.stats.verified) << mode_name(mode);
      EXPECT_EQ(s.stats.draft_forwards, r.stats.draft_forwards) << mode_name(mode);
      EXPECT_NEAR(s.stats.modelled_ms, r.stats.modelled_ms, 1e-6) << mode_name(mode);
      EXPECT_NEAR(s.ms, s.stats.modelled_ms + 0.05 * static_cast<double>(s.stats.steps), 1e-9);
    }
  }
  EXPECT_LT(static_cast<double>(unknown), 0.02 * static_cast<double>(asked))
      << "the record must answer nearly everything";
}

TEST(Replay, WithNoiseTheDraftIsRankedAsInTheRun) {
  const SamplingParams sampling{.temperature = 0.8F, .seed = 7};
  const Reference r = run(11, params(Mode::kTree), sampling, cheap_width());
  Learned learned;
  const Simulated s = simulate(record(11, r.text, sampling), params(Mode::kTree), cheap_width(), learned);
  // Candidates behind the recorded ones are thought equal, so a rank may differ now and then.
  EXPECT_NEAR(static_cast<double>(s.stats.steps), static_cast<double>(r.stats.steps),
              0.1 * static_cast<double>(r.stats.steps));
}

TEST(Replay, AnotherProfileChangesThePlanButNotTheText) {
  const Reference r = run(5, params(Mode::kAuto), {}, cheap_width());
  const Replay replay = record(5, r.text, {});
  Learned a;
  Learned b;
  const Simulated cheap = simulate(replay, params(Mode::kAuto), cheap_width(), a);
  const Simulated dear = simulate(replay, params(Mode::kAuto), {{{1, 10}, {64, 640}}, {{1, 1}}, 0}, b);
  EXPECT_EQ(cheap.stats.emitted, dear.stats.emitted);
  EXPECT_LT(cheap.stats.steps, dear.stats.steps);
  EXPECT_LE(dear.ms, 1.1 * 10 * static_cast<double>(dear.stats.emitted)) << "at worst plain decoding and a few probes";
}

TEST(Replay, RefusesWhatCannotBePlayed) {
  const Reference r = run(5, params(Mode::kPlain), {}, cheap_width());
  const Replay good = record(5, r.text, {});
  EXPECT_NO_THROW(good.check());
  const auto bad = [&](auto change) {
    Replay x = good;
    change(x);
    EXPECT_THROW(x.check(), Error);
  };
  bad([](Replay& x) { x.n_vocab = 0; });
  bad([](Replay& x) { x.n_prompt = 0; });
  bad([](Replay& x) { x.n_prompt = x.text.size(); });
  bad([](Replay& x) { x.text[4] = kVocab; });
  bad([](Replay& x) { x.root.pop_back(); });
  bad([](Replay& x) { x.nodes[0].candidates[0] = -1; });
  bad([](Replay& x) { x.nodes[0].candidates[1] = x.nodes[0].candidates[0]; });
  bad([](Replay& x) { x.nodes[0].log_q.pop_back(); });
  bad([](Replay& x) { x.nodes[0].log_q[0] = 1; });
  bad([](Replay& x) { x.nodes[0].log_q[0] = std::nanf(""); });
  bad([](Replay& x) { x.sampling.temperature = -1; });
}

// As Backend promises: all rows of a pass stay valid until the next one.
TEST(ReplayBackend, ARowStaysWhatItIsWhileOthersAreAskedFor) {
  Replay replay;
  replay.n_vocab = kVocab;
  replay.text = {1, 2, 3, 4};
  replay.n_prompt = 1;
  replay.root.assign(replay.text.size(), -1);
  ReplayBackend target(replay, ReplayBackend::Side::kTarget);
  target.forward(std::vector<NodeInput>{{0, 1, -1, true, true}, {0, 2, 0, true}, {0, 3, 1, true}});
  std::vector<std::span<const float>> rows;
  for (std::int32_t row = 0; row < 3; ++row) rows.push_back(target.logits(row));
  for (std::size_t row = 0; row < 3; ++row) {
    const auto best = std::max_element(rows[row].begin(), rows[row].end()) - rows[row].begin();
    EXPECT_EQ(best, replay.text[row + 1]);
    EXPECT_EQ(target.logits(static_cast<std::int32_t>(row)).data(), rows[row].data());
  }
}

}  // namespace
}  // namespace gsd
