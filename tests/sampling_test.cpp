#include "gsd/sampling.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <set>
#include <vector>

#include "chi_square.h"
#include "gsd/error.h"
#include "random.h"

namespace gsd {
namespace {

std::vector<float> random_row(std::mt19937_64& rng, std::size_t n, float scale) {
  std::vector<float> row(n);
  std::normal_distribution<float> normal(0, scale);
  for (float& x : row) x = normal(rng);
  return row;
}

// The documented order, written down once more in the plainest way: bias and penalties are tested apart.
std::vector<double> expected(const std::vector<float>& row, const SamplingParams& p) {
  std::vector<std::size_t> order(row.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return row[a] > row[b]; });
  if (p.top_k > 0) order.resize(std::min(order.size(), static_cast<std::size_t>(p.top_k)));
  double total = 0;
  for (const auto i : order) total += std::exp(static_cast<double>(row[i]) - row[order[0]]);
  double sum = 0;
  std::size_t keep = 0;
  while (keep < order.size()) {
    sum += std::exp(static_cast<double>(row[order[keep++]]) - row[order[0]]);
    if (p.top_p < 1 && sum >= static_cast<double>(p.top_p) * total) break;
  }
  order.resize(keep);
  std::erase_if(order, [&](std::size_t i) { return p.min_p > 0 && row[i] < row[order[0]] + std::log(p.min_p); });
  std::vector<double> out(row.size());
  double z = 0;
  for (const auto i : order) z += out[i] = std::exp((static_cast<double>(row[i]) - row[order[0]]) / p.temperature);
  for (double& x : out) x /= z;
  return out;
}

TEST(Noise, IsAPureFunctionOfItsKeyAndFinite) {
  EXPECT_EQ(gumbel_noise(1, 2, 3, 4), gumbel_noise(1, 2, 3, 4));
  std::set<double> seen;
  for (std::uint64_t seed : {0ULL, 1ULL, 1ULL << 40}) {
    for (std::uint32_t choice : {0U, 1U}) {
      for (std::uint32_t position : {0U, 1U, 0xffffffffU}) {
        for (Token t : {0, 1, 2, 3, 4, 5}) seen.insert(gumbel_noise(seed, choice, position, t));
      }
    }
  }
  EXPECT_EQ(seen.size(), 3U * 2 * 3 * 6);
  for (const double g : seen) EXPECT_TRUE(std::isfinite(g));
}

TEST(Sampler, DrawsTheStatedDistribution) {
  const std::vector<SamplingParams> cases{
      {.temperature = 1},
      {.temperature = 0.7F},
      {.temperature = 1.5F, .top_k = 7},
      {.temperature = 1, .top_p = 0.8F},
      {.temperature = 1, .min_p = 0.1F},
      {.temperature = 0.8F, .top_k = 20, .top_p = 0.9F, .min_p = 0.02F},
      // Many are kept:
      {.temperature = 1, .top_k = 300},
      {.temperature = 1, .top_p = 0.99F},
      {.temperature = 1, .min_p = 0.001F},
  };
  for (std::size_t c = 0; c < cases.size(); ++c) {
    GSD_SEEDED(rng, c);
    const auto row = random_row(rng, c < 6 ? 100 : 600, c < 6 ? 2.0F : 1.0F);
    SamplingParams p = cases[c];
    p.seed = 99 + c;
    Sampler sampler(p);
    std::vector<long> count(row.size());
    for (std::uint32_t position = 0; position < 20000; ++position) {
      ++count[static_cast<std::size_t>(sampler.choose(row, position, {}, nullptr).token)];
    }
    test::expect_distribution(expected(row, p), count);
  }
}

TEST(Sampler, GreedyTakesTheBestAndReportsTheMargin) {
  Sampler sampler({});
  const std::vector<float> row{1, 5, 4.5F, 5};
  const Choice c = sampler.choose(row, 0, {}, nullptr);
  EXPECT_EQ(c.token, 1) << "the lowest of equals";
  EXPECT_EQ(c.margin, 0);
}

TEST(Sampler, PenaltiesActOnRecentTokensOnly) {
  SamplingParams p;
  p.repeat_penalty = 2;
  p.frequency_penalty = 0.5F;
  p.presence_penalty = 0.25F;
  p.penalty_last_n = 3;
  Sampler sampler(p);
  const std::vector<float> row{3, 2.9F, 2.8F, -1};
  // Token 0 twice among the last three: 3 / 2 - 2 * 0.5 - 0.25 = 0.25. Token 1 stands before them.
  EXPECT_EQ(sampler.choose(row, 0, std::vector<Token>{1, 0, 2, 0}, nullptr).token, 1);
  EXPECT_EQ(sampler.choose(row, 0, std::vector<Token>{1, 3, 3, 3}, nullptr).token, 0);
  EXPECT_EQ(sampler.choose(row, 0, std::vector<Token>{0, 1, 2}, nullptr).token, 0) << "3/2-0.75 beats 2.9/2-0.75";
}

TEST(Sampler, LogitBiasForbidsAndForces) {
  SamplingParams p;
  p.logit_bias = {{1, -std::numeric_limits<float>::infinity()}, {3, 100}, {77, 5}, {-1, 5}};
  Sampler sampler(p);
  EXPECT_EQ(sampler.choose(std::vector<float>{1, 9, 2, 0}, 0, {}, nullptr).token, 3);
}

TEST(Sampler, ConstraintTakesTheNextInOrderAndRenormalises) {
  GSD_SEEDED(rng, 0);
  const auto row = random_row(rng, 40, 2);
  const SamplingParams p{.temperature = 1, .top_k = 20, .seed = 5};
  const Constraint even{[](Token t) { return t % 2 == 0; }, [](Token) {}};
  auto want = expected(row, p);
  double z = 0;
  for (std::size_t i = 0; i < want.size(); ++i) z += i % 2 ? want[i] = 0 : want[i];
  for (double& x : want) x /= z;
  Sampler sampler(p);
  std::vector<long> count(row.size());
  for (std::uint32_t position = 0; position < 20000; ++position) {
    ++count[static_cast<std::size_t>(sampler.choose(row, position, {}, &even).token)];
  }
  test::expect_distribution(want, count);
}

TEST(Sampler, ConstraintFallsBackToTheBestAllowedTokenOrNone) {
  const std::vector<float> row{9, 8, 3, 2};
  const Constraint high{[](Token t) { return t >= 2; }, [](Token) {}};
  const Constraint none{[](Token) { return false; }, [](Token) {}};
  Sampler sampled({.temperature = 1, .top_k = 2});
  EXPECT_EQ(sampled.choose(row, 0, {}, &high).token, 2);
  EXPECT_EQ(sampled.choose(row, 0, {}, &none).token, -1);
  Sampler greedy({});
  EXPECT_EQ(greedy.choose(row, 0, {}, &high).token, 2);
  EXPECT_EQ(greedy.choose(row, 0, {}, &none).token, -1);
}

TEST(Sampler, DrawsNothingWhereEveryTokenIsBannedOrNoNumber) {
  const float inf = std::numeric_limits<float>::infinity();
  const Constraint any{[](Token) { return true; }, [](Token) {}};
  for (const std::size_t n : {3, 100, 1000}) {
    for (const float bad : {-inf, std::numeric_limits<float>::quiet_NaN()}) {
      const std::vector<float> row(n, bad);
      for (const SamplingParams& p : {SamplingParams{},
                                      {.temperature = 1},
                                      {.temperature = 1, .top_k = 5},
                                      {.temperature = 1, .top_p = 0.5F},
                                      {.temperature = 1, .min_p = 0.1F}}) {
        Sampler sampler(p);
        EXPECT_EQ(sampler.choose(row, 0, {}, nullptr).token, -1) << n << ", " << bad << ", " << p.temperature;
        EXPECT_EQ(sampler.choose(row, 0, {}, &any).token, -1) << n << ", " << bad << ", " << p.temperature;
      }
    }
  }
  SamplingParams p;
  for (Token t = 0; t < 40; ++t) p.logit_bias.emplace_back(t, -inf);
  EXPECT_EQ(Sampler(p).choose(std::vector<float>(40, 1), 0, {}, nullptr).token, -1);
}

TEST(Sampler, RefusesAbsurdParametersByName) {
  const auto message = [](SamplingParams p) -> std::string {
    try {
      Sampler s(p);
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kUsage);
      return e.what();
    }
    return "";
  };
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THAT(message({.temperature = -1}), testing::HasSubstr("temperature"));
  EXPECT_THAT(message({.temperature = nan}), testing::HasSubstr("temperature"));
  EXPECT_THAT(message({.top_k = -1}), testing::HasSubstr("top_k"));
  EXPECT_THAT(message({.top_p = 0}), testing::HasSubstr("top_p"));
  EXPECT_THAT(message({.min_p = 1}), testing::HasSubstr("min_p"));
  EXPECT_THAT(message({.repeat_penalty = 0}), testing::HasSubstr("repeat_penalty"));
  EXPECT_THAT(message({.presence_penalty = nan}), testing::HasSubstr("presence_penalty"));
  EXPECT_EQ(message({}), "");
}

// Each case turns on one thing.
TEST(Sampler, EachPenaltyAlone) {
  const auto pick = [](SamplingParams p, std::vector<float> row, std::vector<Token> recent) {
    return Sampler(p).choose(row, 0, recent, nullptr).token;
  };
  SamplingParams repeat;
  repeat.repeat_penalty = 2;
  EXPECT_EQ(pick(repeat, {3, 2}, {0}), 1) << "3 / 2 < 2";
  EXPECT_EQ(pick(repeat, {3, 1}, {0}), 0) << "3 / 2 > 1";
  EXPECT_EQ(pick(repeat, {-1, -1.5F}, {0}), 1) << "-1 * 2 < -1.5: a negative logit is multiplied";
  SamplingParams window = repeat;
  window.penalty_last_n = 2;
  EXPECT_EQ(pick(window, {3, 2, 0}, {0, 2, 2}), 0) << "token 0 stands just outside the window";
  EXPECT_EQ(pick(window, {3, 2, 0}, {2, 0, 2}), 1) << "and here just inside";
  SamplingParams bias = repeat;
  bias.logit_bias = {{0, 3}};
  EXPECT_EQ(pick(bias, {1, 2.5F}, {0}), 1) << "bias before penalty: (1 + 3) / 2 < 2.5; the other order gives 3.5";
}

}  // namespace
}  // namespace gsd
