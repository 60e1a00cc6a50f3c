// The engine's corpus again under configurations that do everything the hard way (verifying.h).
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "../src/core/engine_state.h"
#include "engine_rig.h"
#include "random.h"
#include "verifying.h"

namespace gsd {
namespace {

using Text = std::vector<Token>;
using test::FaultyBackend;

enum class Way { kWidthOne, kRollBack, kNoMerging, kSwap, kRandomPlanner, kRubbishDrafter, kRubbishSources, kAll };

struct Name {
  Way way;
  const char* name;
};
constexpr Name kWays[] = {{Way::kWidthOne, "WidthOne"},
                          {Way::kRollBack, "RollBackEveryStep"},
                          {Way::kNoMerging, "NoMerging"},
                          {Way::kSwap, "SlotsSwappedEveryStep"},
                          {Way::kRandomPlanner, "PlannerAtRandom"},
                          {Way::kRubbishDrafter, "RubbishDrafter"},
                          {Way::kRubbishSources, "RubbishSources"},
                          {Way::kAll, "AllTogether"}};

// What a way did, so that a test can tell that it did it.
struct Marks {
  std::int64_t failed = 0;
  std::int64_t moves = 0;
  std::int64_t confused = 0;
  std::int64_t verified = 0;
};

// Three sessions of different modes and seeds over the case's models, decoded together in the given way.
class Company {
 public:
  Company(const Case& c, Way way, std::uint64_t seed)
      : way_(way),
        case_(c),
        rng_(seed),
        info_{.n_vocab = c.world.n_vocab,
              .n_ctx = c.world.n_ctx,
              .n_seq = 3,
              .max_batch = c.world.max_batch,
              .max_outputs = 64,
              .max_leaves = c.world.max_leaves,
              .max_rollback = c.world.max_rollback},
        target_(info_, random_script(c.world.seed, c.world.order, c.world.sharpness), c.world.order, c.world.eog),
        draft_(draft_info(info_), random_script(c.world.seed, c.world.order, c.world.sharpness, c.world.drift),
               c.world.order, c.world.eog),
        moving_(target_, seed),
        moving_draft_(draft_, seed + 1),
        faulty_(does(Way::kSwap) ? static_cast<Backend&>(moving_) : target_, seed,
                [this](auto nodes) { return decide(nodes); }),
        drafts_(c.world, info_),
        engine_(faulty_, drafters(), c.world.engine) {
    if (does(Way::kRubbishSources)) {
      engine_.add_source(std::make_shared<test::RubbishSource>(info_.n_vocab, seed));
      engine_.add_source(std::make_shared<test::RubbishSource>(info_.n_vocab, seed + 1));
    }
    engine_.state().planner_.target_cost().load({{1, 10}, {8, 12}, {16, 16}, {32, 40}});
    for (CostModel& cost : engine_.state().planner_.draft_costs()) cost.load({{1, 0.5}, {16, 1}});
  }

  std::vector<Text> run() {
    std::vector<std::unique_ptr<Session>> sessions;
    for (std::uint32_t i = 0; i < 3; ++i) {
      SessionOptions o = case_.options;
      o.speculation.mode = kSpeculative[rng_() % 4];
      o.sampling.choice = i;
      if (does(Way::kNoMerging)) o.speculation.mode = Mode::kTree;
      if (does(Way::kWidthOne)) o.speculation.max_width = 1;
      sessions.push_back(engine_.open(std::move(o)));
      engine_.set_prompt(*sessions.back(), case_.prompt);
    }
    for (int rounds = 0; rounds < 4000; ++rounds) {
      std::vector<Session*> list;
      for (const auto& s : sessions) {
        if (!s->finished() && rng_() % 4 != 0) list.push_back(s.get());
      }
      try {
        for (Session* s : list) {
          while (engine_.prefill(*s) > 0) {
          }
        }
        if (!list.empty()) engine_.step(list);
      } catch (const Error& e) {
        if (e.code() != ErrorCode::kBackend) throw;
      }
      if (std::all_of(sessions.begin(), sessions.end(), [](const auto& s) { return s->finished(); })) break;
    }
    std::vector<Text> out;
    for (const auto& s : sessions) {
      EXPECT_TRUE(s->finished());
      marks.verified += s->stats().verified;
      out.emplace_back(s->generated().begin(), s->generated().end());
    }
    marks.moves = moving_.n_moves() + moving_draft_.n_moves();
    return out;
  }

  Marks marks;

 private:
  bool does(Way way) const {
    return way_ == way || (way_ == Way::kAll && way != Way::kWidthOne && way != Way::kNoMerging);
  }

  std::vector<std::unique_ptr<Drafter>> drafters() {
    std::vector<std::unique_ptr<Drafter>> out = drafts_.drafters();
    if (!out.empty() && does(Way::kSwap)) out.front() = make_model_drafter(moving_draft_, info_.n_vocab);
    if (does(Way::kRubbishDrafter)) {
      if (!out.empty()) out.erase(out.begin());
      out.insert(out.begin() + static_cast<std::ptrdiff_t>(rng_() % (out.size() + 1)),
                 std::make_unique<test::RubbishDrafter>(info_, rng_()));
    }
    return out;
  }

  // Every step fails once, after its pass was made, and costs a part of the memory.
  FaultyBackend::Fate decide(std::span<const NodeInput> nodes) {
    if (does(Way::kRandomPlanner)) {
      test::confuse(engine_.state().planner_, rng_);
      ++marks.confused;
    }
    if (!nodes.back().want_logits) return FaultyBackend::Fate::kWorks;  // a prompt is taken in
    failed_ = does(Way::kRollBack) && !failed_;
    marks.failed += failed_ ? 1 : 0;
    return failed_ ? FaultyBackend::Fate::kBreaks : FaultyBackend::Fate::kWorks;
  }

  Way way_;
  const Case& case_;
  std::mt19937_64 rng_;
  BackendInfo info_;
  ScriptedBackend target_;
  ScriptedBackend draft_;
  test::MovingBackend moving_;
  test::MovingBackend moving_draft_;
  FaultyBackend faulty_;
  Drafts drafts_;
  Engine engine_;
  bool failed_ = false;
};

class Verifying : public testing::TestWithParam<Name> {};

TEST_P(Verifying, NothingChangesATextOfTheCorpus) {
  Marks sum;
  for (int round = 0; round < 60; ++round) {
    GSD_SEEDED(rng, round);
    const Case c = random_case(rng);
    Company company(c, GetParam().way, rng());
    const std::vector<Text> texts = company.run();
    for (std::uint32_t i = 0; i < texts.size(); ++i) {
      SessionOptions alone = c.options;
      alone.sampling.choice = i;
      ASSERT_EQ(texts[i], Rig(c.world).run(alone, c.prompt)) << "session " << i;
    }
    sum.failed += company.marks.failed;
    sum.moves += company.marks.moves;
    sum.confused += company.marks.confused;
    sum.verified += company.marks.verified;
  }
  const Way way = GetParam().way;
  const bool all = way == Way::kAll;
  EXPECT_EQ(sum.failed > 1000, way == Way::kRollBack || all);
  EXPECT_EQ(sum.moves > 500, way == Way::kSwap || all);
  EXPECT_EQ(sum.confused > 1000, way == Way::kRandomPlanner || all);
  EXPECT_EQ(sum.verified == 0, way == Way::kWidthOne);
}

INSTANTIATE_TEST_SUITE_P(Ways, Verifying, testing::ValuesIn(kWays),
                         [](const auto& way) { return std::string(way.param.name); });

}  // namespace
}  // namespace gsd
