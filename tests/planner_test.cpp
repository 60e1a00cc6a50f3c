#include "../src/core/planner.h"

#include <gtest/gtest.h>

#include <vector>

#include "../src/core/calibration.h"
#include "gsd/error.h"
#include "random.h"

namespace gsd {
namespace {

TEST(CostModel, InterpolatesAndNeverFalls) {
  CostModel m(16);
  m.load({{1, 10}, {4, 16}, {8, 15}, {16, 40}});
  EXPECT_DOUBLE_EQ(m.ms(0), 0);
  EXPECT_DOUBLE_EQ(m.ms(1), 10);
  EXPECT_DOUBLE_EQ(m.ms(4), 15.5) << "4 and 8 are pooled";
  EXPECT_DOUBLE_EQ(m.ms(8), 15.5);
  for (int w = 2; w <= 16; ++w) EXPECT_GE(m.ms(w), m.ms(w - 1));
  EXPECT_THROW(m.load({{17, 1}}), Error);
  EXPECT_THROW(m.load({{1, -1}}), Error);
}

TEST(CostModel, OneOutlierMovesLittleAndFrozenNothing) {
  CostModel m(8);
  m.load({{1, 10}, {8, 20}});
  m.observe(1, 1000);
  EXPECT_LT(m.ms(1), 10.5);
  m.observe(4, 1000);  // first sight of a width
  EXPECT_LT(m.ms(4), 25);
  m.freeze(true);
  const double before = m.ms(4);
  m.observe(4, 1);
  EXPECT_EQ(m.ms(4), before);
}

TEST(CostModel, OnePassScalesWhatWasOnlyLoaded) {
  CostModel m(32);
  m.load({{1, 100}, {8, 180}, {32, 400}});
  m.observe(1, 10);
  EXPECT_NEAR(m.ms(8), 18, 1e-9);
  EXPECT_NEAR(m.ms(32), 40, 1e-9);
  EXPECT_TRUE(m.confirmed(1, 1));
  EXPECT_FALSE(m.confirmed(2, 32));
  m.observe(8, 9);  // half of what is expected, and no pass is faster than it can be; less than one token, though
  EXPECT_LE(m.ms(8), 10);
}

TEST(CostModel, KeepsTheShapeBetweenConfirmedWidths) {
  CostModel m(32);
  m.load({{1, 10}, {4, 10}, {5, 15}, {8, 15}, {9, 30}, {32, 30}});
  for (int i = 0; i < 5; ++i) {
    m.observe(1, 20);
    m.observe(9, 60);
  }
  EXPECT_NEAR(m.ms(4), 20, 0.5);
  EXPECT_NEAR(m.ms(5), 30, 0.5);
  EXPECT_NEAR(m.ms(8), 30, 0.5);
}

TEST(CostModel, FollowsAMachineThatChanges) {
  CostModel m(16);
  m.load({{1, 10}, {8, 20}});
  for (int i = 0; i < 20; ++i) m.observe(1 + 7 * (i % 2), 10.0 + 10 * (i % 2));
  EXPECT_NEAR(m.ms(8), 20, 0.1);
  for (int i = 0; i < 3; ++i) m.observe(8, 60);  // somebody else took two cores of three
  EXPECT_NEAR(m.ms(8), 60, 0.1);
  EXPECT_NEAR(m.ms(1), 30, 0.1) << "not seen since, so only its ratio counts";
  EXPECT_FALSE(m.confirmed(1, 1));
  m.observe(1, 10);
  EXPECT_NEAR(m.ms(1), 10, 0.1);
  EXPECT_NEAR(m.ms(8), 60, 0.1);
}

TEST(CostModel, ASingleAbsurdPointSpoilsNothingElse) {
  for (const double factor : {0.001, 0.1, 10.0, 1000.0}) {
    CostModel m(16);
    m.load({{1, 10}, {2, 11}, {4, 13 * factor}, {8, 18}, {16, 24}});
    EXPECT_NEAR(m.ms(1), 10, 1.1) << factor;
    EXPECT_NEAR(m.ms(8), 18, 6.1) << factor;
    EXPECT_NEAR(m.ms(16), 24, 0.1) << factor;
  }
}

TEST(CostModel, RandomObservationsStayMonotone) {
  for (int round = 0; round < 50; ++round) {
    GSD_SEEDED(rng, round);
    CostModel m(32);
    for (int i = 0; i < 200; ++i) {
      m.observe(1 + static_cast<int>(rng() % 40), static_cast<double>(rng() % 1000) / 10);
      for (int w = 1; w <= 32; ++w) ASSERT_GE(m.ms(w), m.ms(w - 1));
    }
  }
}

struct Machine {
  CostModel target{32};
  CostModel draft{32};
  Planner planner{target, {&draft, 1}};
};

std::vector<Planner::Item> items(std::vector<float> gains) {
  std::vector<Planner::Item> out;
  for (std::size_t i = 0; i < gains.size(); ++i) out.push_back({0, static_cast<std::int32_t>(i), gains[i]});
  return out;
}

TEST(Planner, VerifiesWhatPaysAndNothingWhereWidthCostsItsShare) {
  Machine m;
  m.target.load({{1, 10}, {32, 320}});
  EXPECT_EQ(m.planner.choose_width(items({0.9F, 0.8F, 0.7F}), 1, 1), 0U) << "every token costs a whole pass";
  m.target.load({{1, 10}, {32, 11}});
  EXPECT_EQ(m.planner.choose_width(items({0.9F, 0.8F, 0.7F, 0.0001F}), 1, 1), 3U) << "width is all but free";
}

TEST(Planner, CrossesAStepOfTheStaircaseOnlyForEnoughGain) {
  Machine m;
  m.target.load({{1, 10}, {4, 10}, {5, 15}, {8, 15}, {9, 30}, {32, 30}});
  EXPECT_EQ(m.planner.choose_width(items({0.3F, 0.2F, 0.1F, 0.05F, 0.01F, 0.01F, 0.01F}), 1, 1), 3U);
  EXPECT_EQ(m.planner.choose_width(items({0.9F, 0.8F, 0.7F, 0.6F, 0.5F, 0.4F, 0.3F, 0.2F}), 1, 1), 7U);
}

TEST(Planner, DraftsALevelOnlyWhereItPays) {
  Machine m;
  m.target.load({{1, 10}, {8, 12}});
  m.draft.load({{1, 1}, {8, 2}});
  EXPECT_EQ(m.planner.choose_level(items({0.7F}), 1, 1, 0, {0, 0}).count, 1U);
  EXPECT_EQ(m.planner.choose_level(items({0.05F}), 1, 1, 0, {0, 0}).count, 0U);
  m.draft.load({{1, 9}, {8, 10}});
  EXPECT_EQ(m.planner.choose_level(items({0.7F}), 1, 1, 0, {0, 0}).count, 0U) << "the draft is as dear as the target";
}

TEST(Planner, LooksBeyondADearFirstStep) {
  Machine m;
  m.target.load({{1, 10}, {2, 18}, {8, 20}});
  m.draft.load({{1, 0.2}, {8, 0.3}});
  EXPECT_EQ(m.planner.choose_level(items({0.7F}), 1, 1, 0, {0, 0}).count, 0U)
      << "the second token alone costs 0.8 of a pass";
  EXPECT_EQ(m.planner.choose_level(items({0.7F}), 1, 1, 0, {0.7F, 5}).count, 1U)
      << "the third and fourth are all but free";
}

TEST(Planner, WithoutRecentStepsTheRateIsPlainDecodings) {
  Machine m;
  m.target.load({{1, 10}, {4, 16}});
  EXPECT_DOUBLE_EQ(m.planner.rate(1), 0.1);
  EXPECT_DOUBLE_EQ(m.planner.rate(4), 0.25);
  m.planner.end_step(6, 20, 1, 8, true, true);
  EXPECT_DOUBLE_EQ(m.planner.rate(1), 0.3);
  EXPECT_DOUBLE_EQ(m.planner.rate(4), 0.3);
}

TEST(Planner, PricesWhatThePassTakesBesideTheItems) {
  Machine m;
  m.target.load({{1, 10}, {8, 12}});
  m.draft.load({{1, 1}, {16, 15}});
  EXPECT_EQ(m.planner.choose_level(items({0.7F}), 1, 1, 0, {0, 0}).count, 1U);
  EXPECT_EQ(m.planner.choose_level(items({0.7F}), 1, 1, 15, {0, 0}).count, 0U) << "a backlog";
}

TEST(Planner, PricesWhatMustBeComputedAgain) {
  for (const bool feeds_again : {false, true}) {
    Machine m;
    m.target.load({{1, 10}, {2, 13}, {32, 103}});  // 3 ms a token
    m.draft.load({{1, 0.1}, {8, 0.2}});
    Planner p(m.target, {&m.draft, 1}, feeds_again);
    // Half of the time one token is computed again.
    EXPECT_EQ(p.choose_width(items({0.4F}), 1, 1), feeds_again ? 0U : 1U);
    EXPECT_EQ(p.choose_level(items({0.4F}), 1, 1, 0, {0, 0}).count, feeds_again ? 0U : 1U);
    EXPECT_EQ(p.choose_width(items({0.6F}), 1, 1), 1U);
    // The fourth token is worth 0.4 tokens and costs 0.3; where it is not accepted the three before it are lost, too.
    EXPECT_EQ(p.choose_width(items({0.95F, 0.9F, 0.85F, 0.4F}), 1, 1), feeds_again ? 3U : 4U);
    EXPECT_EQ(p.choose_level(items({0.4F}), 1, 4, 0, {0.5F, 0}).count, feeds_again ? 0U : 1U);
  }
}

TEST(Planner, ProbesTheDraftNowAndThenAndLessAndLess) {
  Machine m;
  m.target.load({{1, 10}, {8, 12}});
  m.target.freeze(true);
  std::vector<int> gaps;
  for (int i = 0, last = 0; i < 400; ++i) {
    const bool probe = m.planner.probe(Planner::Probe::kDraft, 1);
    m.planner.end_step(1, 10, 1, 1, probe, false);
    if (probe) {
      gaps.push_back(i - last);
      last = i;
    }
  }
  ASSERT_GE(gaps.size(), 4U);
  EXPECT_LE(gaps.front(), 8);
  EXPECT_GE(gaps.back(), 64);
  m.planner.end_step(3, 12, 1, 4, true, true);
  for (int i = 0; i < 8; ++i) m.planner.end_step(1, 10, 1, 1, false, false);
  EXPECT_TRUE(m.planner.probe(Planner::Probe::kDraft, 1)) << "a level that paid resets the interval";
}

TEST(Calibration, LearnsFrequenciesAndFollowsAChange) {
  Calibration c(true);
  const auto cell = c.draft_cell(0, std::log(0.9F), 0);
  for (int i = 0; i < 500; ++i) c.observe(cell, i % 4 == 0);
  EXPECT_NEAR(c.probability(cell), 0.25, 0.03);
  for (int i = 0; i < 60; ++i) c.observe(cell, true);
  EXPECT_GT(c.probability(cell), 0.45);
}

TEST(Calibration, MergeCellsLearnTheShareOfThePrediction) {
  Calibration c(true);
  const auto cell = c.merge_cell(1);
  for (int i = 0; i < 1000; ++i) c.observe(cell, i % 10 < 4, 0.8);
  EXPECT_NEAR(c.probability(cell), 0.5, 0.08);
}

TEST(Calibration, ADepthNeverReachedIsThoughtToBeLikeTheOneAboveIt) {
  Calibration c(true);
  const double prior = c.expansion_gain(0);
  EXPECT_NEAR(c.expansion_gain(7), prior, 1e-9);
  for (int i = 0; i < 500; ++i) c.observe_expansion(0, true);
  EXPECT_GT(c.expansion_gain(0), 0.98);
  EXPECT_NEAR(c.expansion_gain(5), c.expansion_gain(0), 1e-9);
  for (int i = 0; i < 500; ++i) c.observe_expansion(3, i % 2 == 0);
  EXPECT_NEAR(c.expansion_gain(2), c.expansion_gain(0), 1e-9) << "what lies deeper says nothing about it";
  EXPECT_NEAR(c.expansion_gain(3), 0.5, 0.05);
  EXPECT_NEAR(c.expansion_gain(60), c.expansion_gain(3), 1e-9);
}

TEST(Calibration, StartsFromWhatAnEarlierRunLearnedAndStillFollowsAChange) {
  Calibration before(true);
  const auto cell = before.draft_cell(0, std::log(0.5F), 0);
  for (int i = 0; i < 1000; ++i) {
    before.observe(cell, i % 10 != 0);
    before.observe(before.merge_cell(1), true, 0.8);
    before.observe_expansion(2, i % 4 == 0);
  }
  const std::vector<double> counts = before.counts();
  Calibration after(true);
  ASSERT_TRUE(after.set_counts(counts));
  EXPECT_NEAR(after.probability(cell), before.probability(cell), 1e-9);
  EXPECT_NEAR(after.probability(after.merge_cell(1)), before.probability(before.merge_cell(1)), 1e-9);
  EXPECT_NEAR(after.expansion_gain(2), before.expansion_gain(2), 0.1);
  EXPECT_NEAR(after.probability(after.draft_cell(1, std::log(0.1F), 0)),
              before.probability(before.draft_cell(1, std::log(0.1F), 0)), 1e-9);
  for (int i = 0; i < 30; ++i) after.observe(cell, false);
  EXPECT_LT(after.probability(cell), 0.5) << "within a few dozen tokens";

  std::vector<std::vector<double>> bad(5, counts);
  bad[0].pop_back();
  bad[1][0] = -1;
  bad[2][1] = 0;
  bad[3][1] = 1e9;
  bad[4][0] = std::nan("");
  const std::vector<double> unchanged = after.counts();
  for (const auto& b : bad) EXPECT_FALSE(after.set_counts(b));
  EXPECT_FALSE(after.set_counts({}));
  EXPECT_EQ(after.counts(), unchanged);
}

TEST(Planner, ChargesEachDrafterItsOwnCostAndNothingForLevelsThatOnePassGives) {
  CostModel target(32);
  std::vector<CostModel> drafts(2, CostModel(32));
  Planner planner(target, drafts);
  target.load({{1, 10}, {8, 12}});
  drafts[0].load({{1, 1}});
  drafts[1].load({{1, 6}});
  const auto value = [&](Planner::Ahead ahead, int drafter) {
    return planner.choose_level(items({0.7F}), 1, 1, 0, ahead, drafter).value;
  };
  EXPECT_GT(value({0, 0}, 0), value({0, 0}, 1));
  EXPECT_GT(value({0, 0}, 1), 0);
  EXPECT_LT(value({0.8F, 6}, 1), value({0.8F, 6, 6}, 1));
  planner.end_step(1, 10, 1, 1, 0, 0);
  for (int step = 0; step < 40; ++step) planner.end_step(3, 12, 1, 6, only(0), only(0));
  EXPECT_FALSE(planner.probe(Planner::Probe::kDraft, 1, 0)) << "it was just asked";
  EXPECT_TRUE(planner.probe(Planner::Probe::kDraft, 1, 1)) << "the other one not for long";
}

TEST(Calibration, LearnsWhatAgreementOfDraftersIsWorthAndWhatAFurtherOneAdds) {
  using Voices = Calibration::Voices;
  Calibration c(true);
  for (const Voices v : {Voices::kAgree, Voices::kNamed, Voices::kAlone})
    EXPECT_NEAR(c.probability(c.voices_cell(v, 0.6)), 1, 1e-9) << "the surest is right, as far as is known";
  for (int i = 0; i < 400; ++i) {
    c.observe(c.voices_cell(Voices::kAgree, 0.6), i % 10 != 0, 0.6);
    c.observe(c.voices_cell(Voices::kAlone, 0.6), i % 10 < 3, 0.6);
    c.observe_further(1, i % 4 == 0);
  }
  EXPECT_NEAR(0.6 * c.probability(c.voices_cell(Voices::kAgree, 0.6)), 0.9, 0.05);
  EXPECT_NEAR(0.6 * c.probability(c.voices_cell(Voices::kAlone, 0.6)), 0.3, 0.05);
  EXPECT_NEAR(c.probability(c.voices_cell(Voices::kNamed, 0.6)), 1, 1e-9);
  EXPECT_NEAR(c.further_gain(1), 0.25, 0.05);
  EXPECT_NEAR(c.further_gain(0), Calibration(true).further_gain(0), 1e-9);
  for (int i = 0; i < 100; ++i) c.observe_expansion(0, false, 2);
  EXPECT_LT(c.expansion_gain(3, 2), 0.2);
  EXPECT_NEAR(c.expansion_gain(3, 1), Calibration(true).expansion_gain(3, 1), 1e-9);
  Calibration again(true);
  ASSERT_TRUE(again.set_counts(c.counts()));
  EXPECT_NEAR(again.further_gain(1), c.further_gain(1), 1e-9);
}

TEST(Calibration, CellsOfDifferentKindsDoNotMeet) {
  Calibration c(false);
  std::vector<Calibration::Cell> cells;
  for (int d = 0; d < kMaxDrafters; ++d)
    for (int rank = 0; rank < 4; ++rank) cells.push_back(c.draft_cell(rank, -1, 1, d));
  for (const auto v : {Calibration::Voices::kAgree, Calibration::Voices::kNamed, Calibration::Voices::kAlone})
    for (const double p : {0.95, 0.8, 0.6, 0.4, 0.2, 0.05}) cells.push_back(c.voices_cell(v, p));
  for (const Origin o : {Origin::kHistory, Origin::kRecycled, Origin::kLookup, Origin::kHint}) {
    for (const int length : {3, 4, 5, 6, 8, 12, 20}) cells.push_back(c.source_cell(o, length));
  }
  for (int a = 1; a <= 6; ++a) cells.push_back(c.merge_cell(a));
  std::sort(cells.begin(), cells.end());
  EXPECT_EQ(std::unique(cells.begin(), cells.end()), cells.end());
}

}  // namespace
}  // namespace gsd
