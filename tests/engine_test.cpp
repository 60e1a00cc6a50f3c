// The engine on the scripted backend: whatever is drafted, the text is the target's.
#include "gsd/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "../src/core/engine_state.h"
#include "chi_square.h"
#include "engine_rig.h"
#include "gsd/error.h"
#include "gsd/lookup_text.h"
#include "gsd/scripted_backend.h"
#include "random.h"
#include "verifying.h"

namespace gsd {
namespace {

TEST(Engine, EveryModeGivesPlainDecodingsTextForTheSameSeed) {
  for (int round = 0; round < 60; ++round) {
    GSD_SEEDED(rng, round);
    Case c = random_case(rng);
    const auto plain = Rig(c.world).run(c.options, c.prompt);
    ASSERT_FALSE(plain.empty());
    for (const Mode mode : kSpeculative) {
      SCOPED_TRACE(mode_name(mode));
      c.options.speculation.mode = mode;
      ASSERT_EQ(Rig(c.world).run(c.options, c.prompt), plain);
    }
  }
}

// The sequences of three tokens over a vocabulary of four: 64 outcomes with known probabilities.
TEST(Engine, EveryModeSamplesTheTargetsDistribution) {
  constexpr int kVocab = 4;
  constexpr int kLength = 3;
  constexpr int kRuns = 6000;
  for (int round = 0; round < 3; ++round) {
    GSD_SEEDED(rng, round);
    World setup;
    setup.seed = rng();
    setup.n_vocab = kVocab;
    setup.sharpness = 3;
    setup.drift = 0.5F;
    const std::vector<Token> prompt{1, 2};
    const Script script = random_script(setup.seed, setup.order, setup.sharpness);
    std::vector<double> want;
    for (int code = 0; code < kVocab * kVocab * kVocab; ++code) {
      std::vector<Token> text = prompt;
      double p = 1;
      for (int i = 0, rest = code; i < kLength; ++i, rest /= kVocab) {
        std::vector<float> logits(kVocab);
        script(text, logits);
        double z = 0;
        for (const float x : logits) z += std::exp(static_cast<double>(x));
        p *= std::exp(static_cast<double>(logits[static_cast<std::size_t>(rest % kVocab)])) / z;
        text.push_back(rest % kVocab);
      }
      want.push_back(p);
    }
    for (const Mode mode : kModes) {
      SCOPED_TRACE(mode_name(mode));
      Rig rig(setup);
      std::vector<long> count(want.size());
      for (int run = 0; run < kRuns; ++run) {
        const auto text = rig.run(options(mode, 1, static_cast<std::uint64_t>(run) * 977 + round, kLength), prompt);
        ASSERT_EQ(text.size(), static_cast<std::size_t>(kLength));
        ++count[static_cast<std::size_t>(text[0] + kVocab * (text[1] + kVocab * text[2]))];
      }
      test::expect_distribution(want, count);
    }
  }
}

TEST(Engine, SessionsSteppedTogetherGiveTheTextsTheyGiveAlone) {
  for (int round = 0; round < 10; ++round) {
    GSD_SEEDED(rng, round);
    World setup;
    setup.seed = rng();
    setup.n_seq = 4;
    Rig rig(setup);
    std::vector<std::unique_ptr<Session>> sessions;
    std::vector<std::vector<Token>> alone;
    std::vector<std::vector<Token>> prompts;
    for (int i = 0; i < 4; ++i) {
      const Mode mode = kModes[rng() % 5];
      prompts.push_back({static_cast<Token>(rng() % 12), static_cast<Token>(rng() % 12), 3});
      const auto o = options(mode, i % 2 ? 0.8F : 0, rng(), 20 + static_cast<int>(rng() % 40));
      alone.push_back(Rig(setup).run(o, prompts.back()));
      sessions.push_back(rig.engine.open(o));
      rig.engine.set_prompt(*sessions.back(), prompts.back());
      while (rig.engine.prefill(*sessions.back()) > 0) {
      }
    }
    EXPECT_THROW(rig.engine.open({}), Error) << "all slots are taken";
    while (true) {
      std::vector<Session*> running;
      for (const auto& s : sessions) {
        if (!s->finished() && rng() % 4 != 0) running.push_back(s.get());
      }
      if (!running.empty()) rig.engine.step(running);
      if (std::all_of(sessions.begin(), sessions.end(), [](const auto& s) { return s->finished(); })) break;
    }
    for (std::size_t i = 0; i < 4; ++i) {
      EXPECT_EQ(std::vector<Token>(sessions[i]->generated().begin(), sessions[i]->generated().end()), alone[i])
          << "session " << i;
    }
  }
}

TEST(Engine, SpeculationAcceptsAndMergingDraftsLess) {
  World setup;
  setup.n_vocab = 8;
  setup.n_ctx = 2048;
  setup.order = 1;  // the next token depends on the last one only: every merge is right
  auto run = [&](Mode mode, float temperature) {
    Rig rig(setup);
    auto o = options(mode, temperature, 7, 1000);
    o.speculation.history = false;
    o.speculation.max_nodes = 64;
    o.speculation.max_width = 32;
    rig.run(o, {1, 2, 3});
    return rig.stats;
  };
  const auto per_step = [](std::int64_t n, const Stats& s) {
    return static_cast<double>(n) / static_cast<double>(s.steps);
  };
  // With noise a merged subtree was drafted for another position's noise: a candidate that wins here may be a bare
  // leaf.
  for (const auto& [temperature, kept] : {std::pair{0.0F, 0.98}, std::pair{0.8F, 0.9}}) {
    const Stats tree = run(Mode::kTree, temperature);
    const Stats graph = run(Mode::kGraph, temperature);
    EXPECT_GT(tree.tokens_per_step(), 1.5);
    EXPECT_LT(per_step(graph.drafted, graph), 0.8 * per_step(tree.drafted, tree));
    EXPECT_GT(graph.tokens_per_step(), kept * tree.tokens_per_step());
  }
  EXPECT_EQ(run(Mode::kPlain, 0).tokens_per_step(), 1);
}

TEST(Engine, AutoFallsBackToPlainWhereNothingPays) {
  World setup;
  setup.drift = 1;  // the draft knows nothing
  setup.n_vocab = 500;
  setup.n_ctx = 2048;
  Rig rig(setup);
  rig.engine.state().planner_.target_cost().freeze(false);
  rig.engine.state().planner_.target_cost().load({{1, 10}, {32, 320}});
  rig.engine.state().planner_.target_cost().freeze(true);
  rig.run(options(Mode::kAuto, 1, 3, 1000), {1, 2, 3});
  EXPECT_GT(rig.stats.plain_steps, 900);
  EXPECT_LT(rig.stats.draft_forwards, 60);
}

TEST(Engine, EndsForTheStatedReasons) {
  for (const Mode mode : kModes) {
    SCOPED_TRACE(mode_name(mode));
    World setup;
    setup.n_ctx = 40;
    {
      Rig rig(setup);
      const auto text = rig.run(options(mode, 0, 0, -1), {1, 2, 3});
      EXPECT_EQ(rig.finish, FinishReason::kContextFull);
      EXPECT_EQ(text.size(), 38U) << "40 positions hold all but the last token";
    }
    {
      Rig rig(setup);
      EXPECT_EQ(rig.run(options(mode, 0, 0, 0), {1, 2, 3}).size(), 0U);
      EXPECT_EQ(rig.finish, FinishReason::kLength);
    }
    {
      Rig rig(setup);
      auto o = options(mode, 0.9F, 5, -1);
      int seen = 0;
      o.on_token = [&](Token) { return ++seen < 7; };
      EXPECT_EQ(rig.run(o, {1, 2, 3}).size(), 7U);
      EXPECT_EQ(rig.finish, FinishReason::kStopped);
    }
    {
      setup.eog = 4;
      Rig rig(setup);
      const auto text = rig.run(options(mode, 1.5F, 11, -1), {1, 2, 3});
      ASSERT_EQ(rig.finish, FinishReason::kEndOfText);
      EXPECT_EQ(text.back(), 4);
      EXPECT_EQ(std::count(text.begin(), text.end(), 4), 1);
      auto o = options(mode, 1.5F, 11, -1);
      o.ignore_eog = true;
      EXPECT_EQ(Rig(setup).run(o, {1, 2, 3}).size(), 38U);
      setup.eog = -1;
    }
    {
      Rig rig(setup);
      auto o = options(mode);
      o.constraint = Constraint{[](Token) { return false; }, [](Token) {}};
      EXPECT_EQ(rig.run(o, {1, 2, 3}).size(), 0U);
      EXPECT_EQ(rig.finish, FinishReason::kConstraint);
    }
  }
}

TEST(Engine, RefusesBadPrompts) {
  Rig rig({});
  auto s = rig.engine.open(options(Mode::kAuto));
  EXPECT_THROW(rig.engine.set_prompt(*s, {}), Error);
  EXPECT_THROW(rig.engine.set_prompt(*s, std::vector<Token>{99}), Error);
  try {
    rig.engine.set_prompt(*s, std::vector<Token>(257, 1));
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kContextFull);
    EXPECT_THAT(e.what(), testing::HasSubstr("257"));
  }
}

TEST(Engine, NarrowsWhenTheCacheHasNoRoom) {
  for (const Mode mode : kSpeculative) {
    SCOPED_TRACE(mode_name(mode));
    const auto plain = Rig({}).run(options(Mode::kPlain), {1, 2, 3});
    Rig rig({});
    auto s = rig.engine.open(options(mode));
    rig.engine.set_prompt(*s, std::vector<Token>{1, 2, 3});
    rig.engine.prefill(*s);
    Session* list[] = {s.get()};
    for (int i = 0; !s->finished(); ++i) {
      if (i % 3 == 1) rig.target.fail_next(1);
      if (i % 4 == 1) rig.draft().fail_next(1);
      try {
        rig.engine.step(list);
      } catch (const Error& e) {
        ASSERT_EQ(e.code(), ErrorCode::kNoKvSlot) << "even the root alone found no room";
      }
      rig.check(*s);
    }
    EXPECT_EQ(std::vector<Token>(s->generated().begin(), s->generated().end()), plain);
  }
}

TEST(Engine, KeepsTheMemoryOfACommonPrefix) {
  Rig rig({});
  auto s = rig.engine.open(options(Mode::kAuto, 0, 0, 10));
  const std::vector<Token> first{1, 2, 3, 4, 5, 6};
  rig.engine.set_prompt(*s, first);
  while (rig.engine.prefill(*s) > 0) {
  }
  Session* list[] = {s.get()};
  while (!s->finished()) rig.engine.step(list);
  std::vector<Token> second(s->tokens().begin(), s->tokens().end());
  second.push_back(7);
  second.push_back(8);
  rig.engine.set_prompt(*s, second);
  EXPECT_EQ(s->n_reused(), first.size() + 9) << "all but the last generated token were in memory";
  while (rig.engine.prefill(*s) > 0) {
  }
  while (!s->finished()) rig.engine.step(list);
  EXPECT_EQ(std::vector<Token>(s->generated().begin(), s->generated().end()),
            Rig({}).run(options(Mode::kPlain, 0, 0, 10), second));
}

TEST(Engine, TreesAndGraphsKeepTheirInvariants) {
  for (int round = 0; round < 10; ++round) {
    GSD_SEEDED(rng, round);
    World setup;
    setup.seed = rng();
    setup.order = 1;
    for (const Mode mode : kSpeculative) {
      auto o = options(mode, round % 2 ? 0.9F : 0, rng());
      o.speculation.merge_length = round % 3;
      o.on_step = [&](const StepView& v) {
        v.hypotheses.graph().check_integrity();
        v.hypotheses.tree().check_integrity();
        ASSERT_LE(v.hypotheses.tree().size(), v.hypotheses.params().width());
        ASSERT_EQ(v.acceptance.path.size() + 1, v.acceptance.token.size());
      };
      Rig(setup).run(o, {1, 2, 3, 4});
    }
  }
}

// A failed verification leaves the root in the draft's memory.
TEST(Engine, AFailedStepCanBeSteppedAgainTogetherWithAnotherSession) {
  World world;
  world.n_seq = 2;
  const auto want = Rig(world).run(options(Mode::kPlain), {1, 2, 3});
  for (const bool failed_first : {true, false}) {
    Rig rig(world);
    auto a = rig.engine.open(options(Mode::kTree));
    auto b = rig.engine.open(options(Mode::kTree));
    for (Session* s : {a.get(), b.get()}) {
      rig.engine.set_prompt(*s, std::vector<Token>{1, 2, 3});
      while (rig.engine.prefill(*s) > 0) {
      }
    }
    Session* alone[] = {a.get()};
    rig.target.fail_next(2);  // the tree, and the root alone
    EXPECT_THROW(rig.engine.step(alone), Error);
    while (!a->finished() && !b->finished()) {
      Session* both[] = {failed_first ? a.get() : b.get(), failed_first ? b.get() : a.get()};
      ASSERT_NO_THROW(rig.engine.step(both));
    }
    EXPECT_EQ(std::vector<Token>(a->generated().begin(), a->generated().end()), want);
    EXPECT_EQ(std::vector<Token>(b->generated().begin(), b->generated().end()), want);
  }
}

TEST(Engine, AnEditedPromptAndAReusedSlotStartFromTheRightPrefix) {
  World world;
  world.order = 3;
  Rig rig(world);
  for (int open = 0; open < 2; ++open) {
    auto s = rig.engine.open(options(Mode::kGraph, 0.8F, 3, 10));
    for (const std::vector<Token>& prompt :
         std::vector<std::vector<Token>>{{1, 2, 3, 4, 5, 6}, {1, 2, 9, 4, 5, 6}, {1, 2, 9, 4}, {1, 2, 9, 4}, {7}}) {
      rig.engine.set_prompt(*s, prompt);
      EXPECT_LT(s->n_reused(), prompt.size());
      while (rig.engine.prefill(*s) > 0) {
      }
      const auto held = rig.target.committed(0);
      ASSERT_EQ(std::vector<Token>(held.begin(), held.end()), std::vector<Token>(prompt.begin(), prompt.end() - 1));
      Session* list[] = {s.get()};
      while (!s->finished()) {
        rig.engine.step(list);
        rig.check(*s);
      }
      EXPECT_EQ(std::vector<Token>(s->generated().begin(), s->generated().end()),
                Rig(world).run(options(Mode::kPlain, 0.8F, 3, 10), prompt));
    }
    s.reset();
    EXPECT_EQ(rig.target.n_committed(0), 0) << "a closed session gives its memory back";
    EXPECT_EQ(rig.draft().n_committed(0), 0);
  }
}

// With a perfect draft of the same script nearly everything must be accepted,
// and no draft token is evaluated twice.
TEST(Engine, APerfectDraftIsAcceptedWhole) {
  for (const float temperature : {0.0F, 1.0F}) {
    World world;
    world.drift = 0;
    world.n_seq = 2;
    world.sharpness = 3;
    Rig rig(world);
    std::vector<std::unique_ptr<Session>> sessions;
    for (int i = 0; i < 2; ++i) {
      auto o = options(Mode::kChain, temperature, static_cast<std::uint64_t>(i), 120);
      o.speculation.depth = 4;
      o.speculation.path_threshold = 0;
      o.speculation.history = false;
      sessions.push_back(rig.engine.open(o));
      rig.engine.set_prompt(*sessions.back(), std::vector<Token>{static_cast<Token>(i + 1), static_cast<Token>(i + 5)});
      while (rig.engine.prefill(*sessions.back()) > 0) {
      }
    }
    while (!sessions[0]->finished() && !sessions[1]->finished()) {
      Session* list[] = {sessions[0].get(), sessions[1].get()};
      rig.engine.step(list);
    }
    for (const auto& s : sessions) {
      EXPECT_GT(s->stats().tokens_per_step(), 4.5) << "depth 4 and the target's own";
      EXPECT_LT(static_cast<double>(s->stats().draft_nodes) / static_cast<double>(s->stats().steps), 5.5)
          << "accepted nodes stay in the draft's memory";
    }
  }
}

TEST(Engine, NoiseIsKeyedByTheGeneratedIndex) {
  World world;
  world.order = 1;
  const auto a = Rig(world).run(options(Mode::kPlain, 1, 4, 30), {5});
  const auto b = Rig(world).run(options(Mode::kPlain, 1, 4, 30), {1, 2, 3, 5});
  EXPECT_EQ(a, b) << "the script sees one token back, so only the noise's key can differ";
}

TEST(Engine, HistoryAloneIsAcceptedOnRepetitiveText) {
  World world;
  world.with_draft = false;
  world.order = 1;
  world.n_ctx = 1024;
  Rig rig(world);
  rig.run(options(Mode::kTree, 0, 0, 600), {1, 2, 3});  // greedy order-1 text runs into a loop of at most 12 tokens
  EXPECT_GT(rig.stats.tokens_per_step(),
            10);  // 13.9 here; 2.9 if a match is not looked for again at the end of its chain
}

// A text given for lookup is drawn on without a draft and without a history of one's own.
TEST(Engine, ALookupTextIsAcceptedWhereTheTargetFollowsIt) {
  World world;
  world.order = 3;
  world.n_vocab = 50;
  world.with_draft = false;
  SessionOptions o = options(Mode::kPlain, 0, 0, 60);
  const std::vector<Token> prompt{1, 2, 3, 4, 5};
  std::vector<Token> text = prompt;
  const auto want = Rig(world).run(o, prompt);
  text.insert(text.end(), want.begin(), want.end());
  for (const Mode mode : {Mode::kChain, Mode::kAuto}) {
    Rig rig(world);
    rig.engine.add_source(make_lookup_text(std::vector<Token>{7, 7, 7}));  // never matches
    rig.engine.add_source(make_lookup_text(text));
    o.speculation.mode = mode;
    o.speculation.history = false;
    int looked_up = 0;
    o.on_step = [&](const StepView& v) {
      for (const Origin origin : v.hypotheses.tree().origin) looked_up += origin == Origin::kLookup ? 1 : 0;
    };
    EXPECT_EQ(rig.run(o, prompt), want);
    EXPECT_GT(rig.stats.tokens_per_step(), 3);
    EXPECT_GT(looked_up, 30);
    EXPECT_THROW(rig.engine.add_source(make_lookup_text(text)), Error) << "more than it takes";
  }
  EXPECT_THROW(make_lookup_text(text, 2), Error);
}

TEST(Engine, TheTotalWidthHoldsOverAllSessions) {
  World world;
  world.n_seq = 3;
  world.engine.max_total_width = 33;  // Rig loads a profile up to width 32
  Rig rig(world);
  std::vector<std::unique_ptr<Session>> sessions;
  std::vector<Session*> list;
  int width = 0;
  for (int i = 0; i < 3; ++i) {
    auto o = options(i == 0 ? Mode::kAuto : Mode::kTree, 0, 0, 400);
    o.speculation.max_width = 64;
    o.speculation.path_threshold = 0;
    o.on_step = [&](const StepView& v) { width += v.hypotheses.tree().size(); };
    sessions.push_back(rig.engine.open(o));
    rig.engine.set_prompt(*sessions.back(), std::vector<Token>{static_cast<Token>(i), 2});
    while (rig.engine.prefill(*sessions.back()) > 0) {
    }
    list.push_back(sessions.back().get());
  }
  for (int i = 0; i < 10; ++i) {
    width = 0;
    rig.engine.step(list);
    EXPECT_LE(width, 33);
  }
}

TEST(Engine, ShapesFollowTheParameters) {
  for (const Mode mode : kSpeculative) {
    World world;
    world.eog = 4;
    auto o = options(mode, 0.9F, 5, 100);
    o.ignore_eog = true;
    o.speculation.path_threshold = 0;
    o.speculation.history = false;
    o.speculation.sibling_threshold = mode == Mode::kTree ? 1 : 0;  // only exact ties pass
    o.on_step = [&](const StepView& v) {
      const TokenTree& t = v.hypotheses.tree();
      for (std::int32_t i = 1; i < t.size(); ++i) {
        const auto parent = static_cast<std::size_t>(t.parent[static_cast<std::size_t>(i)]);
        ASSERT_TRUE(parent == 0 || t.token[parent] != 4) << "something hangs below an end of text";
      }
      const TokenGraph& g = v.hypotheses.graph();
      for (std::int32_t n = 0; n < g.size(); ++n) {
        int children = 0;
        for (std::int32_t e = g.node(n).first_edge; e >= 0; e = g.edge(e).next)
          children += g.edge(e).child >= 0 ? 1 : 0;
        if (mode == Mode::kChain || mode == Mode::kTree) {
          ASSERT_LE(children, 1);
        }
      }
    };
    Rig(world).run(o, {1, 2, 3});
  }
}

// A machine with a clock of its own. `forgets`: its model cannot go back, so that after a rejection it is set back to
// before the pass, which takes a while, and what was accepted is computed again with the next pass.
class SimulatedMachine final : public test::PassingBackend {
 public:
  SimulatedMachine(Backend& inner, double& clock, double first_ms, double each_ms, bool forgets)
      : PassingBackend(inner),
        info_(inner.info()),
        clock_(clock),
        first_ms_(first_ms),
        each_ms_(each_ms),
        forgets_(forgets) {
    info_.feeds_again = forgets;
  }

  const BackendInfo& info() const override { return info_; }
  void forward(std::span<const NodeInput> nodes) override {
    extra_ = std::exchange(owed_, 0);
    clock_ += first_ms_ + each_ms_ * static_cast<double>(static_cast<std::int32_t>(nodes.size()) + extra_ - 1);
    inner_.forward(nodes);
  }
  void commit(std::int32_t seq, std::span<const std::int32_t> path) override {
    const bool all = static_cast<std::int32_t>(path.size()) == inner_.n_speculative(seq);
    inner_.commit(seq, path);
    if (!forgets_ || all) return;
    owed_ = static_cast<std::int32_t>(path.size());
    clock_ += kSetBackMs;
    sequence_ms_ += kSetBackMs;
  }
  std::int32_t n_extra() const override { return extra_; }
  double sequence_ms() const override { return sequence_ms_; }

 private:
  static constexpr double kSetBackMs = 1;
  BackendInfo info_;
  double& clock_;
  double first_ms_;
  double each_ms_;
  bool forgets_;
  std::int32_t owed_ = 0;
  std::int32_t extra_ = 0;
  double sequence_ms_ = 0;
};

// Tokens per millisecond.
double speed_where_tokens_are_fed_again(float drift, double each_ms, const SpeculationParams& speculation) {
  World s;
  s.n_ctx = 4096;
  s.max_leaves = 1;
  s.max_rollback = 8;
  s.drift = drift;
  s.seed = 3;
  Rig rig(s);
  double clock = 0;
  SimulatedMachine target(rig.target, clock, 10, each_ms, true);
  SimulatedMachine draft(rig.draft(), clock, 0.3, 0.02, false);
  EngineOptions options;
  options.clock = [&] { return clock; };
  Engine engine(target, &draft, options);
  // What measure_cost() finds, which never goes back.
  engine.state().planner_.target_cost().load({{1, 10}, {8, 10 + 7 * each_ms}, {32, 10 + 31 * each_ms}});
  engine.state().planner_.draft_cost().load({{1, 0.3}, {32, 1}});
  SessionOptions o;
  o.speculation = speculation;
  o.speculation.history = false;
  o.sampling.temperature = 1;  // a greedy text runs in a circle
  o.sampling.seed = 5;
  o.max_tokens = 2000;
  auto session = engine.open(std::move(o));
  engine.set_prompt(*session, std::vector<Token>{1, 2, 3});
  while (engine.prefill(*session) > 0) {
  }
  const double start = clock;
  run_to_end(engine, *session);
  return static_cast<double>(session->generated().size()) / (clock - start);
}

TEST(Engine, AutoIsAsFastAsAnyChainWhereTokensAreFedAgain) {
  for (const double each_ms : {0.5, 2.0, 4.0}) {
    for (const float drift : {0.1F, 0.4F, 0.8F, 1.2F}) {
      SpeculationParams p;
      p.mode = Mode::kPlain;
      const double plain = speed_where_tokens_are_fed_again(drift, each_ms, p);
      double best = plain;
      p.mode = Mode::kChain;
      p.path_threshold = 0;
      for (p.depth = 1; p.depth <= 8; ++p.depth)
        best = std::max(best, speed_where_tokens_are_fed_again(drift, each_ms, p));
      const double speed = speed_where_tokens_are_fed_again(drift, each_ms, {});
      EXPECT_GT(speed, 0.97 * best) << "of " << best / plain << " of plain, with " << each_ms
                                    << " ms a token and drift " << drift;
    }
  }
}

// Tokens per millisecond of the frozen cost profile: the planner's choices without the clock's noise.
double planned_rate(const World& world, std::vector<CostModel::Point> target_ms, SessionOptions o) {
  Rig rig(world);
  rig.engine.state().planner_.target_cost().freeze(false);
  rig.engine.state().planner_.target_cost().load(target_ms);
  rig.engine.state().planner_.target_cost().freeze(true);
  rig.run(std::move(o), {1, 2, 3});
  return static_cast<double>(rig.stats.emitted) / rig.stats.modelled_ms;
}

TEST(Engine, ModelledTimeOfPlainDecodingIsTheProfiles) {
  Rig rig({});
  rig.run(options(Mode::kPlain), {1, 2, 3});
  EXPECT_DOUBLE_EQ(rig.stats.modelled_ms, 60 * 10);
}

// Of texts of a thousand tokens.
World long_world(std::uint64_t seed) {
  World world;
  world.seed = seed;
  world.n_ctx = 1024;
  world.n_vocab = 40;
  world.order = 3;
  return world;
}

// What the planner is for: whatever the machine charges for width and however good the draft, it is never slower than
// plain decoding, on the whole faster than the best chain set by hand for each case, and in no case much slower (the
// worst: a perfect draft under noise, whose confidence says nothing).
TEST(Engine, AutoKeepsUpWithPlainDecodingAndWithTheBestChain) {
  const std::vector<CostModel::Point> flat{{1, 10}, {16, 14}, {32, 24}};
  const std::vector<CostModel::Point> steep{{1, 10}, {2, 17}, {16, 90}, {32, 170}};
  constexpr int kRounds = 24;
  double log_ratio = 0;
  for (int round = 0; round < kRounds; ++round) {
    GSD_SEEDED(rng, round);
    World world = long_world(rng());
    world.drift = static_cast<float>(round % 4) * 0.3F;
    const auto& machine = round % 8 < 4 ? flat : steep;
    SessionOptions o = options(Mode::kAuto, round % 3 == 0 ? 0 : 0.8F, rng(), 1000);
    o.speculation.max_width = 32;
    const double automatic = planned_rate(world, machine, o);
    o.speculation.mode = Mode::kPlain;
    EXPECT_GT(automatic, 0.97 * planned_rate(world, machine, o));
    o.speculation.mode = Mode::kChain;
    double best = 0;
    for (const int depth : {1, 2, 4, 8}) {
      o.speculation.depth = depth;
      best = std::max(best, planned_rate(world, machine, o));
    }
    EXPECT_GT(automatic, 0.85 * best);
    log_ratio += std::log(automatic / best) / kRounds;
  }
  EXPECT_GT(std::exp(log_ratio), 1.03);
}

// The rate of `auto` with the drafters of the given drifts and milliseconds a pass, and whose passes they were.
struct Drafted {
  double rate;
  std::array<DraftStats, kMaxDrafters> by;
};
Drafted drafted(World world, const std::vector<std::pair<float, double>>& drafters, const SessionOptions& o) {
  world.drift = drafters.front().first;
  for (std::size_t i = 1; i < drafters.size(); ++i) world.more_drafts.push_back(drafters[i].first);
  Rig rig(world);
  for (std::size_t i = 0; i < drafters.size(); ++i) {
    CostModel& cost = rig.engine.state().planner_.draft_costs()[i];
    cost.freeze(false);
    cost.load({{1, drafters[i].second}, {16, 2 * drafters[i].second}});
    cost.freeze(true);
  }
  rig.run(o, {1, 2, 3});
  return {static_cast<double>(rig.stats.emitted) / rig.stats.modelled_ms, rig.stats.drafter};
}

// Nobody can know before which of two drafters will be the better one; soon it must not matter.
TEST(Engine, AutoWithTwoDraftersKeepsUpWithTheBetterOne) {
  double log_ratio = 0;
  constexpr int kRounds = 24;
  for (int round = 0; round < kRounds; ++round) {
    GSD_SEEDED(rng, round);
    World world = long_world(rng());
    const std::pair<float, double> a{static_cast<float>(rng() % 10) / 10, 0.2 + static_cast<double>(rng() % 20) / 10};
    const std::pair<float, double> b{static_cast<float>(rng() % 10) / 10, 0.2 + static_cast<double>(rng() % 20) / 10};
    SessionOptions o = options(Mode::kAuto, round % 3 == 0 ? 0 : 0.8F, rng(), 1000);
    o.speculation.history = false;
    const double best = std::max(drafted(world, {a}, o).rate, drafted(world, {b}, o).rate);
    const double both = drafted(world, {a, b}, o).rate;
    EXPECT_GT(both, 0.9 * best) << a.first << " at " << a.second << ", " << b.first << " at " << b.second;
    log_ratio += std::log(both / best) / kRounds;
  }
  EXPECT_GT(std::exp(log_ratio), 0.97) << "to find out which costs a little";
}

TEST(Engine, AsksTheDrafterThatIsWorthMost) {
  World world;
  world.n_ctx = 2048;
  world.n_vocab = 40;
  world.order = 3;
  SessionOptions o = options(Mode::kAuto, 0, 1, 1500);
  o.speculation.history = false;
  const auto share = [](const Drafted& d) {
    return static_cast<double>(d.by[1].forwards) / static_cast<double>(d.by[0].forwards + d.by[1].forwards);
  };
  EXPECT_LT(share(drafted(world, {{0.1F, 1}, {0.9F, 1}}, o)), 0.2);
  EXPECT_GT(share(drafted(world, {{0.9F, 1}, {0.1F, 1}}, o)), 0.8);
  EXPECT_LT(share(drafted(world, {{0.3F, 0.3}, {0.3F, 3}}, o)), 0.2) << "as good, and ten times as expensive";
}

TEST(Engine, StatisticsTellWhoOfTheDraftersNamedWhat) {
  World world;
  world.more_drafts = {0.6F};
  Rig rig(world);
  SessionOptions o = options(Mode::kTree, 0, 1, 80);
  o.speculation.history = false;
  Stats sum;
  o.on_step = [&](const StepView& v) {
    const TokenTree& tree = v.hypotheses.tree();
    std::array<std::int64_t, 2> verified{};
    for (std::int32_t i = 1; i < tree.size(); ++i) {
      const DrafterSet by = tree.drafters[static_cast<std::size_t>(i)];
      EXPECT_NE(by, 0) << "only drafters are asked";
      for (int d = 0; d < 2; ++d) verified[static_cast<std::size_t>(d)] += contains(by, d) ? 1 : 0;
    }
    for (std::size_t d = 0; d < 2; ++d) EXPECT_EQ(v.stats.drafter[d].verified, verified[d]);
    sum.add(v.stats);
  };
  rig.run(o, {1, 2, 3});
  const auto& by = rig.stats.drafter;
  EXPECT_EQ(by[0].name, "model");
  EXPECT_EQ(by[1].name, "second");
  EXPECT_TRUE(by[2].name.empty());
  EXPECT_EQ(by[0].forwards + by[1].forwards, rig.stats.draft_forwards);
  EXPECT_EQ(by[0].nodes + by[1].nodes, rig.stats.draft_nodes);
  for (std::size_t d = 0; d < 2; ++d) {
    EXPECT_GT(by[d].forwards, 20) << "a mode set by hand asks all";
    EXPECT_GT(by[d].accepted, 0);
    EXPECT_LE(by[d].accepted, by[d].verified);
    EXPECT_EQ(by[d].verified, sum.drafter[d].verified);
  }
  EXPECT_GT(by[0].verified + by[1].verified, rig.stats.verified) << "much is named by both";
  world.more_drafts.resize(kMaxDrafters);
  EXPECT_THROW(Rig{world}, Error);
}

TEST(Engine, WhatOneWayOfDecodingLearnsDoesNotSteerAnother) {
  const auto verified = [](Rig& rig) {
    SessionOptions o;
    o.speculation.mode = Mode::kAuto;
    o.max_tokens = 60;
    rig.run(std::move(o), {1, 2, 3});
    return rig.stats.verified;
  };
  Rig alone({});
  const std::int64_t first = verified(alone);
  const std::int64_t second = verified(alone);
  ASSERT_NE(first, second) << "the engine learns, or this test proves nothing";
  Rig shared({});
  Learned a;
  Learned b;
  for (Learned* learned : {&a, &b}) {  // both like the first run of an engine of their own
    shared.engine.state().exchange(*learned);
    EXPECT_EQ(verified(shared), first);
    shared.engine.state().exchange(*learned);
  }
  shared.engine.state().exchange(a);
  EXPECT_EQ(verified(shared), second) << "and like its second";
}

TEST(Engine, RefusesToStepWhatIsNotPrefilled) {
  Rig rig({});
  auto s = rig.engine.open(options(Mode::kTree));
  Session* list[] = {s.get()};
  EXPECT_EQ(rig.engine.prefill_left(*s), 0U);
  EXPECT_THROW(rig.engine.step(list), Error) << "no prompt";
  rig.engine.set_prompt(*s, std::vector<Token>{1, 2, 3});
  EXPECT_THROW(rig.engine.step(list), Error) << "not prefilled";
}

// What was emitted before a callback threw stays; the memory is caught up by prefill.
TEST(Engine, GoesOnAfterACallbackThatThrows) {
  const auto want = Rig({}).run(options(Mode::kPlain), {1, 2, 3});
  Rig rig({});
  auto o = options(Mode::kTree);
  int seen = 0;
  o.on_token = [&](Token) {
    if (++seen % 7 == 0) throw std::runtime_error("enough for now");
    return true;
  };
  auto s = rig.engine.open(o);
  rig.engine.set_prompt(*s, std::vector<Token>{1, 2, 3});
  Session* list[] = {s.get()};
  while (!s->finished()) {
    while (rig.engine.prefill(*s) > 0) {
    }
    try {
      rig.engine.step(list);
    } catch (const std::runtime_error&) {
    }
  }
  EXPECT_EQ(std::vector<Token>(s->generated().begin(), s->generated().end()), want);
}

TEST(Engine, ANewPromptResetsTheConstraint) {
  Rig rig({});
  auto o = options(Mode::kGraph, 0, 0, 3);
  int count = 0;
  o.constraint = Constraint{[&](Token t) { return t == count + 1; }, [&](Token) { ++count; }, [&] { count = 0; }};
  auto s = rig.engine.open(o);
  for (int turn = 0; turn < 2; ++turn) {
    rig.engine.set_prompt(*s, std::vector<Token>{5, 6});
    while (rig.engine.prefill(*s) > 0) {
    }
    Session* list[] = {s.get()};
    while (!s->finished()) rig.engine.step(list);
    EXPECT_EQ(std::vector<Token>(s->generated().begin(), s->generated().end()), (std::vector<Token>{1, 2, 3}));
  }
}

std::vector<Token> continue_prompt(Engine& engine, Session& s, std::span<const Token> prompt) {
  engine.set_prompt(s, prompt);
  while (engine.prefill(s) > 0) {
  }
  Session* list[] = {&s};
  while (!s.finished()) engine.step(list);
  return {s.generated().begin(), s.generated().end()};
}

TEST(Engine, KeepsTheMemoryOfClosedSessionsForPromptsThatBeginAlike) {
  World world;
  world.n_seq = 3;
  world.engine.keep_prefixes = true;
  Rig rig(world);
  Rig fresh(World{});
  const auto ask = [&](std::vector<Token> prompt, Mode mode) {
    auto s = rig.engine.open(options(mode, 0, 0, 12), prompt);
    std::vector<Token> text = continue_prompt(rig.engine, *s, prompt);
    EXPECT_EQ(text, fresh.run(options(Mode::kPlain, 0, 0, 12), prompt));
    prompt.insert(prompt.end(), text.begin(), text.end());
    return std::pair(s->n_reused(), prompt);
  };
  const std::vector<Token> a{1, 2, 3, 4, 5, 6, 7, 8};
  const std::vector<Token> b{1, 9, 9, 4, 4, 3, 2, 5, 6, 6, 1};  // alike in less than a tenth
  const auto [none, a_turn] = ask(a, Mode::kGraph);
  EXPECT_EQ(none, 0U);
  const auto [one, b_turn] = ask(b, Mode::kPlain);
  EXPECT_EQ(one, 0U) << "an unused slot";
  std::vector<Token> next = a_turn;
  next.push_back(5);
  const auto [reused, longer] = ask(next, Mode::kAuto);
  EXPECT_EQ(reused, a_turn.size() - 1) << "all but the last generated token";
  next = b_turn;
  next.push_back(5);
  EXPECT_EQ(ask(next, Mode::kGraph).first, b_turn.size() - 1) << "memory that plain steps left, now with a draft";
  EXPECT_EQ(ask(longer, Mode::kGraph).first, longer.size() - 1) << "the same text again: its last token is scored anew";
}

TEST(Engine, ASlotLeftInThePrefillOrWithoutAPromptIsReusedCorrectly) {
  World world;
  world.engine.keep_prefixes = true;
  world.engine.prefill_chunk = 4;
  Rig rig(world);
  Rig fresh(World{});
  std::vector<Token> prompt(30);
  for (std::size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<Token>(i * i % 11);
  {
    auto s = rig.engine.open(options(Mode::kGraph), prompt);
    rig.engine.set_prompt(*s, prompt);
    rig.engine.prefill(*s);
    rig.engine.prefill(*s);
  }
  { auto s = rig.engine.open(options(Mode::kGraph)); }
  auto s = rig.engine.open(options(Mode::kGraph), prompt);
  EXPECT_EQ(continue_prompt(rig.engine, *s, prompt), fresh.run(options(Mode::kPlain), prompt));
  EXPECT_EQ(s->n_reused(), 8U);
}

TEST(Engine, WhereTheTargetCannotBranchTheDraftNamesOneCandidateAPass) {
  World world;
  world.max_leaves = 1;
  world.drift = 0.2F;
  Rig rig(world);
  for (const Mode mode : {Mode::kChain, Mode::kTree, Mode::kGraph, Mode::kAuto}) {
    SessionOptions o = options(mode);
    o.speculation.path_threshold = 0.001F;
    EXPECT_EQ(rig.run(o, {1, 2, 3}), Rig(World{}).run(options(Mode::kPlain), {1, 2, 3}));
    EXPECT_GT(rig.stats.draft_forwards, 0);
    EXPECT_LE(rig.stats.drafted, rig.stats.draft_forwards);
  }
}

// A recurrent model's memory goes back to few places: what lies between is taken in again.
TEST(Engine, WhatTheMemoryCannotGoBackToIsTakenInAgain) {
  World world;
  world.engine.keep_prefixes = true;
  world.engine.prefill_chunk = 4;
  world.max_leaves = 1;
  world.max_rollback = 5;
  Rig rig(world);
  rig.target.go_back_to_multiples_of(8);
  rig.draft().go_back_to_multiples_of(6);
  std::vector<Token> prompt(30);
  for (std::size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<Token>(i * i % 11);
  const std::pair<std::size_t, std::size_t> cases[] = {{30, 0}, {30, 24}, {21, 16}, {27, 16}, {7, 0}, {30, 0}};
  for (const auto& [length, reused] : cases) {
    std::vector<Token> text(prompt.begin(), prompt.begin() + static_cast<std::ptrdiff_t>(length));
    text.push_back(3);  // a change at the end
    auto s = rig.engine.open(options(Mode::kAuto, 0, 0, 20), text);
    EXPECT_EQ(continue_prompt(rig.engine, *s, text), Rig(World{}).run(options(Mode::kPlain, 0, 0, 20), text));
    EXPECT_EQ(s->n_reused(), reused) << length;
  }
}

// Whichever pass of whichever model fails, and whatever of the prefix it loses by that, the text is the same once the
// session is prefilled and stepped again.
TEST(Engine, AFailedPassCostsTimeAndNoToken) {
  World world;
  world.n_seq = 2;
  world.engine.prefill_chunk = 4;
  const std::vector<Token> prompt{1, 2, 3, 4, 5, 6, 7, 8, 9};
  const auto want = Rig(world).run(options(Mode::kPlain, 0, 0, 24), prompt);
  for (const bool target : {true, false}) {
    for (const std::size_t multiple : {1, 4, 1000}) {
      bool failed = true;
      for (int nth = 1; failed; ++nth) {
        SCOPED_TRACE(nth);
        Rig rig(world);
        ScriptedBackend& broken = target ? rig.target : rig.draft();
        broken.go_back_to_multiples_of(multiple);
        broken.break_at(nth);
        failed = false;
        auto a = rig.engine.open(options(Mode::kGraph, 0, 0, 24));
        auto b = rig.engine.open(options(Mode::kAuto, 0, 0, 24));
        for (Session* s : {a.get(), b.get()}) rig.engine.set_prompt(*s, prompt);
        while (!a->finished() || !b->finished()) {
          try {
            std::vector<Session*> list;
            for (Session* s : {a.get(), b.get()}) {
              if (s->finished()) continue;
              while (rig.engine.prefill(*s) > 0) {
              }
              list.push_back(s);
            }
            rig.engine.step(list);
          } catch (const Error& e) {
            ASSERT_EQ(e.code(), ErrorCode::kBackend) << e.what();
            ASSERT_FALSE(failed) << "one pass was told to fail";
            failed = true;
          }
        }
        for (const Session* s : {a.get(), b.get()})
          ASSERT_EQ(std::vector<Token>(s->generated().begin(), s->generated().end()), want);
        ASSERT_LT(nth, 1000);
      }
    }
  }
}

// A slot whose text was decoded plainly leaves the draft far behind.
TEST(Engine, CatchingUpTheDraftTakesOneChunkAtATime) {
  World world;
  world.n_ctx = 8192;
  world.n_seq = 2;
  world.engine.keep_prefixes = true;
  world.engine.prefill_chunk = 64;
  std::vector<Token> prompt(4000);
  for (std::size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<Token>(i * i % 11);
  const auto want = Rig(world).run(options(Mode::kPlain, 0, 0, 600), prompt);
  for (const bool no_room : {false, true}) {
    Rig rig(world);
    {
      auto s = rig.engine.open(options(Mode::kPlain, 0, 0, 1), prompt);
      continue_prompt(rig.engine, *s, prompt);
    }
    EXPECT_EQ(rig.draft().n_forwards(), 0);
    SessionOptions o = options(Mode::kChain, 0, 0, 600);
    o.speculation.history = false;
    auto s = rig.engine.open(o, prompt);
    rig.engine.set_prompt(*s, prompt);
    EXPECT_EQ(s->n_reused(), prompt.size() - 1);
    EXPECT_EQ(rig.engine.prefill(*s), 0U);
    EXPECT_LE(rig.draft().n_forwards(), 1);
    Session* list[] = {s.get()};
    int steps_without = 0;
    while (!s->finished()) {
      const auto before = rig.draft().n_forwards();
      if (no_room && s->generated().size() % 50 == 10) rig.draft().fail_next(1);
      rig.engine.step(list);
      const bool lagged = s->stats().draft_forwards == 0;
      steps_without += lagged ? 1 : 0;
      if (lagged) {
        ASSERT_LE(rig.draft().n_forwards() - before, 1);
      }
    }
    EXPECT_GE(steps_without, 4000 / 64 - 3);
    EXPECT_GT(s->stats().draft_forwards, 0) << "in the end it drafts";
    EXPECT_EQ(std::vector<Token>(s->generated().begin(), s->generated().end()), want);
  }
}

TEST(Engine, NoMemoryIsReusedInExactModeOrWhereTheSessionDeclines) {
  for (const bool exact : {true, false}) {
    World world;
    world.engine.keep_prefixes = true;
    world.engine.exact = exact;
    Rig rig(world);
    for (int round = 0; round < 2; ++round) {
      SessionOptions o = options(Mode::kGraph);
      o.reuse_prefix = exact;
      auto s = rig.engine.open(o, std::vector<Token>{1, 2, 3, 4});
      continue_prompt(rig.engine, *s, std::vector<Token>{1, 2, 3, 4});
      EXPECT_EQ(s->n_reused(), 0U);
      s.reset();
      EXPECT_EQ(rig.target.n_committed(0), 0) << "nothing is left behind";
    }
  }
}

TEST(Engine, AStepShowsTheLogitsThatEachTokenWasDrawnFrom) {
  World world;
  world.seed = 5;
  Rig rig(world);
  const Script script = random_script(5, 2, 6);
  SessionOptions o = options(Mode::kGraph);
  int accepted = 0;
  o.on_step = [&](const StepView& v) {
    std::vector<float> expected(12);
    const auto all = v.session.tokens();
    for (std::size_t i = 0; i < v.acceptance.token.size(); ++i) {
      script(all.subspan(all.size() - v.acceptance.token.size() + i - 2, 2), expected);
      ASSERT_TRUE(std::equal(expected.begin(), expected.end(), v.logits(i).begin())) << "token " << i;
      accepted += i > 0 ? 1 : 0;
    }
  };
  rig.run(o, {1, 2, 3});
  EXPECT_GT(accepted, 10);
}

// --- several sessions with wishes of their own

// Sessions with `wishes`, stepped together until the first has ended.
struct Company {
  Company(Rig& rig, const std::vector<SessionOptions>& wishes) {
    for (const SessionOptions& o : wishes) {
      sessions.push_back(rig.engine.open(o));
      rig.engine.set_prompt(*sessions.back(), std::vector<Token>{static_cast<Token>(sessions.size()), 2, 3});
      while (rig.engine.prefill(*sessions.back()) > 0) {
      }
    }
    rig.engine.reset_stats();
    std::vector<Session*> list;
    for (const auto& s : sessions) list.push_back(s.get());
    while (std::none_of(list.begin(), list.end(), [](const Session* s) { return s->finished(); })) {
      rig.engine.step(list);
      ++steps;
    }
    step_ms = rig.engine.stats().modelled_ms / steps;
  }
  double per_step(std::int64_t n) const { return static_cast<double>(n) / steps; }

  std::vector<std::unique_ptr<Session>> sessions;
  int steps = 0;
  double step_ms = 0;
};

World company_world() {
  World world;
  world.n_seq = 4;
  world.n_vocab = 40;
  world.n_ctx = 1024;
  return world;
}

TEST(Engine, AWishSetByHandLeavesTheOthersLevelsToThePlanner) {
  World world = company_world();
  world.drift = 0.8F;
  const auto draft_nodes = [&](Mode other) {
    Rig rig(world);
    rig.engine.state().planner_.draft_cost().freeze(false);
    rig.engine.state().planner_.draft_cost().load({{1, 4}, {16, 8}});
    rig.engine.state().planner_.draft_cost().freeze(true);
    const Company c(rig, {options(Mode::kAuto, 0, 1, 150), options(other, 0, 2, 400)});
    return c.per_step(c.sessions[0]->stats().draft_nodes);
  };
  const double beside_auto = draft_nodes(Mode::kAuto);
  EXPECT_LT(draft_nodes(Mode::kGraph), beside_auto + 1);
  EXPECT_LT(draft_nodes(Mode::kChain), beside_auto + 1);
}

TEST(Engine, TheLargestWishDoesNotSlowTheOthers) {
  SessionOptions largest = options(Mode::kTree, 0, 4, 400);
  largest.speculation.depth = 64;
  largest.speculation.top_k = 16;
  largest.speculation.path_threshold = 0;
  largest.speculation.frontier = 64;
  largest.speculation.max_nodes = 1024;
  largest.speculation.max_width = 64;
  const auto step_ms = [&](const SessionOptions& fourth) {
    Rig rig(company_world());
    const SessionOptions automatic = options(Mode::kAuto, 0, 1, 150);
    const Company c(rig, {automatic, automatic, automatic, fourth});
    return c.step_ms;
  };
  EXPECT_LT(step_ms(largest), 1.2 * step_ms(options(Mode::kAuto, 0, 4, 400)));
}

TEST(Engine, WishesThatAgreeAreObeyedInCompany) {
  World world = company_world();
  world.drift = 0.9F;
  Rig rig(world);
  SessionOptions chain = options(Mode::kChain, 0, 1, 100);
  chain.speculation.depth = 4;
  chain.speculation.path_threshold = 0;
  const Company c(rig, {chain, chain});
  EXPECT_GT(c.per_step(rig.engine.stats().draft_forwards), 3.8);
}

// --- parts that texts alone do not show

TEST(Engine, TheDraftsBacklogIsPriced) {
  World world;
  world.drift = 0;
  world.n_ctx = 1024;
  Rig rig(world);
  rig.engine.state().planner_.draft_cost().freeze(false);
  rig.engine.state().planner_.draft_cost().load({{1, 6}, {16, 90}});
  rig.engine.state().planner_.draft_cost().freeze(true);
  SessionOptions o = options(Mode::kAuto, 0, 0, 200);
  o.speculation.depth = 1;  // what is accepted was never evaluated: the next pass takes two tokens
  o.speculation.history = false;
  rig.run(o, {1, 2, 3});
  EXPECT_GT(rig.stats.draft_forwards, 0);
  EXPECT_LT(rig.stats.draft_forwards, 20);
}

// What the target said where its bits did not count stands first in the next step, and only there.
TEST(Engine, ExactModeProposesFirstWhatItVerifiedOffThePath) {
  World world;
  world.engine.exact = true;
  world.drift = 0.6F;
  world.n_ctx = 1024;
  Rig rig(world);
  SessionOptions o = options(Mode::kTree, 0, 0, 400);
  o.speculation.history = false;
  std::vector<Token> hint;
  int hints = 0;
  o.on_step = [&](const StepView& v) {
    const TokenTree& t = v.hypotheses.tree();
    const auto room = std::min<std::size_t>(hint.size(), static_cast<std::size_t>(t.primary));
    EXPECT_EQ(room, hint.size());
    for (std::size_t i = 0; i < room; ++i) {
      EXPECT_EQ(t.token[i + 1], hint[i]);
      EXPECT_EQ(t.origin[i + 1], Origin::kHint);
    }
    EXPECT_EQ(std::count(t.origin.begin(), t.origin.end(), Origin::kHint), static_cast<std::ptrdiff_t>(hint.size()));
    hint = v.acceptance.tentative;
    hints += hint.empty() ? 0 : 1;
  };
  rig.run(o, {1, 2, 3});
  EXPECT_GT(hints, 5);
}

// Beyond the path the constraint's state would be another token's.
TEST(Accept, DoesNotAskTheConstraintBeyondTheExactPath) {
  const BackendInfo info{.n_vocab = 4, .n_ctx = 16, .n_seq = 1, .max_batch = 16, .max_outputs = 16, .max_leaves = 4};
  const auto always_two = [](std::span<const Token>, std::span<float> logits) {
    std::fill(logits.begin(), logits.end(), 0.0F);
    logits[2] = 5;
  };
  ScriptedBackend backend(info, always_two, 1);
  TokenTree tree;
  tree.add(0, -1, 1, Origin::kRoot, 0);
  tree.add(1, 0, 0.9F, Origin::kDraft, -1);
  tree.primary = 1;
  tree.add(2, 0, 0.1F, Origin::kDraft, -1);
  const std::vector<NodeInput> batch{{0, 0, -1, true}, {0, 1, 0, true}, {0, 2, 0, true}};
  backend.forward(batch);
  int emitted = 0;
  const Constraint constraint{[&](Token) {
                                EXPECT_EQ(emitted, 0) << "asked for a token that is not emitted";
                                return true;
                              },
                              [&](Token) { ++emitted; }};
  Sampler sampler({});
  std::vector<Token> tokens{0};
  Acceptance out;
  const std::function<bool(Token)> none;
  accept({.tree = tree,
          .backend = backend,
          .first_row = 0,
          .on_token = none,
          .constraint = &constraint,
          .position = 0,
          .max_tokens = 10,
          .primary_only = true,
          .ignore_eog = false},
         sampler, tokens, out);
  EXPECT_EQ(out.token, (std::vector<Token>{2}));
  EXPECT_EQ(out.tentative, (std::vector<Token>{2}));
  EXPECT_EQ(emitted, 1);
}

// One session's hypotheses, driven by hand.
struct Proposals {
  explicit Proposals(bool history) : hypotheses(params(history), sampler, calibration, {is_eog.data(), 12}, 64) {}
  static SpeculationParams params(bool history) {
    SpeculationParams p;
    p.mode = Mode::kChain;
    p.path_threshold = 0;
    p.history = history;
    return p;
  }
  // Drafts `token` at the frontier's first node, or the root.
  void draft(std::int32_t node, Token token, int drafter = 0, float logit = 9) {
    std::array<float, 12> logits{};
    logits[static_cast<std::size_t>(token)] = logit;
    hypotheses.expand(node, logits, drafter);
  }

  std::array<bool, 12> is_eog{};
  Sampler sampler{SamplingParams{.temperature = 0}};
  Calibration calibration{true};
  Hypotheses hypotheses;
};

TEST(Hypotheses, ProposesAgainWhatWasDraftedAndNotAccepted) {
  Proposals p(true);
  std::vector<Token> text{5, 6, 7, 8};
  p.hypotheses.begin(text, 0);
  p.draft(0, 9);
  p.draft(1, 10);
  p.hypotheses.build(p.hypotheses.unroll(8, 8, 1));
  p.hypotheses.learn({}, std::vector<Token>{1});
  text = {2, 6, 7, 8};
  p.hypotheses.begin(text, 1);
  const TokenTree& tree = p.hypotheses.build(p.hypotheses.unroll(8, 8, 1));
  EXPECT_EQ(tree.token, (std::vector<Token>{8, 9, 10}));
  EXPECT_EQ(tree.origin[1], Origin::kRecycled);
  EXPECT_EQ(tree.origin[2], Origin::kRecycled);
}

// Two drafters that agree are right more often than the surer of them thinks; one that is alone less often.
TEST(Hypotheses, WhatTwoDraftersNameIsOneNodeAsProbableAsBothTogether) {
  Proposals p(false);
  const std::vector<Token> text{5, 6, 7};
  const auto probability = [&](Token other) {
    p.hypotheses.begin(text, 0);
    p.draft(0, 9, 0, 4);
    p.draft(0, other, 1, 4);
    const TokenTree& tree = p.hypotheses.build(p.hypotheses.unroll(8, 8, 8));
    EXPECT_EQ(std::count(tree.token.begin(), tree.token.end(), 9), 1);
    const auto node = static_cast<std::size_t>(tree.find_child(0, 9));
    EXPECT_EQ(tree.drafters[node], only(0) | (other == 9 ? only(1) : 0) | (tree.drafters[node] & only(1)));
    return tree.probability[node];
  };
  EXPECT_EQ(probability(9), probability(8)) << "nothing is known yet";
  for (int i = 0; i < 200; ++i) {
    probability(i % 2 == 0 ? 9 : 8);
    p.hypotheses.learn({}, std::vector<Token>{i % 2 == 0 ? 9 : 3});
  }
  EXPECT_GT(probability(9), 0.9);
  EXPECT_LT(probability(8), 0.5);
}

TEST(Hypotheses, ADrafterGoesOnBelowWhatItHasExpanded) {
  Proposals p(false);
  const std::vector<Token> text{5, 6, 7};
  p.hypotheses.begin(text, 0);
  p.draft(0, 9, 0);
  EXPECT_EQ(p.hypotheses.frontier(0).size(), 1U);
  EXPECT_TRUE(p.hypotheses.frontier(1).empty()) << "it has not seen the root";
  EXPECT_EQ(p.hypotheses.next_to_expand(1, 8), -1);
  p.draft(0, 8, 1);
  EXPECT_EQ(p.hypotheses.frontier(1).size(), 2U) << "its own node and the other's";
  p.draft(1, 3, 1);
  EXPECT_EQ(p.hypotheses.graph().node(p.hypotheses.next_to_expand(0, 8)).token, 9);
  EXPECT_EQ(p.hypotheses.next_to_expand(0, 1), -1) << "no node is less than one token below the root";
  p.hypotheses.graph().check_integrity();
}

// A chain takes what is the likelier one after all, which is then due at its own level.
TEST(Hypotheses, WhatIsRevisedTakesThePlaceOfWhatWasNamedBefore) {
  Proposals p(false);
  const std::vector<Token> text{5, 6, 7};
  p.hypotheses.begin(text, 0);
  p.draft(0, 9);
  p.draft(1, 10);
  const float before = p.hypotheses.graph().node(2).probability;
  const std::vector<Token> tokens{9, 0, 4};  // a chain's root names two
  const std::vector<float> log_q{-3, -9, -0.1F};
  p.hypotheses.revise(0, tokens, log_q, 0);
  p.hypotheses.graph().check_integrity();
  EXPECT_LT(p.hypotheses.graph().node(2).probability, 0.2F * before) << "the path below is as much less probable";
  ASSERT_EQ(p.hypotheses.frontier().size(), 1U);
  const std::int32_t node = p.hypotheses.frontier().front();
  EXPECT_EQ(p.hypotheses.graph().node(node).token, 4);
  EXPECT_EQ(p.hypotheses.graph().node(node).depth, 1);
  p.draft(node, 3);
  EXPECT_EQ(p.hypotheses.build(p.hypotheses.unroll(8, 8, 1)).token, (std::vector<Token>{7, 4, 3}));
  p.hypotheses.learn({}, std::vector<Token>{1});
}

TEST(Hypotheses, TheHistoryForetellsSomethingOnlyWhereItIsDrawnOnAndMatches) {
  const std::vector<Token> text{5, 6, 7, 1, 5, 6, 7};
  for (const bool history : {true, false}) {
    Proposals p(history);
    p.hypotheses.begin(text, 0);
    EXPECT_EQ(p.hypotheses.source_probability(), 0) << "nothing is remembered";
    for (const Token t : text) p.hypotheses.remember(t);
    p.hypotheses.begin(text, 0);
    EXPECT_EQ(p.hypotheses.source_probability() > 0, history);
  }
}

}  // namespace
}  // namespace gsd
