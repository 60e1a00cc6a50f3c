#include "../src/core/topk.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "isa.h"
#include "random.h"

namespace gsd {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

// Everything in double, sorted.
void check_here(const std::vector<float>& row, float inv_t, std::size_t k) {
  std::vector<Token> tokens(k);
  std::vector<float> log_p(k);
  const int n = top_k_log_softmax(row, inv_t, tokens, log_p);
  std::vector<Token> order;
  for (std::size_t i = 0; i < row.size(); ++i) {
    if (row[i] > -kInf) order.push_back(static_cast<Token>(i));
  }
  const auto value = [&](Token t) { return row[static_cast<std::size_t>(t)]; };
  std::stable_sort(order.begin(), order.end(), [&](Token a, Token b) { return value(a) > value(b); });
  ASSERT_EQ(n, static_cast<int>(std::min(k, order.size())));
  double sum = 0;
  for (const Token t : order) sum += std::exp((static_cast<double>(value(t)) - value(order[0])) * inv_t);
  for (int i = 0; i < n; ++i) {
    const auto at = static_cast<std::size_t>(i);
    ASSERT_EQ(tokens[at], order[at]);
    const double want = (static_cast<double>(value(order[at])) - value(order[0])) * inv_t - std::log(sum);
    ASSERT_NEAR(log_p[at], want, 1e-4 * (1 + std::abs(want)));
  }
}

void check(const std::vector<float>& row, float inv_t, std::size_t k) {
  test::for_each_isa([&] { check_here(row, inv_t, k); });
}

TEST(TopK, AgreesWithSortingOnRandomRows) {
  for (int round = 0; round < 300; ++round) {
    GSD_SEEDED(rng, round);
    std::vector<float> row(1 + rng() % 3000);
    std::normal_distribution<float> normal(static_cast<float>(rng() % 200) - 100, static_cast<float>(1 + rng() % 30));
    for (float& x : row) x = normal(rng);
    if (round % 3 == 0) std::sort(row.begin(), row.end());  // the maximum keeps rising
    if (round % 5 == 0)
      std::fill(row.begin(), row.begin() + static_cast<std::ptrdiff_t>(row.size() / 2), row[0]);  // ties
    check(row, round % 2 ? 1.0F : 0.3F, 1 + rng() % 40);
  }
}

TEST(TopK, PassesOverNanAndMinusInfinity) {
  GSD_SEEDED(rng, 0);
  std::vector<float> row(1000);
  for (float& x : row) x = static_cast<float>(rng() % 1000) / 100;
  for (std::size_t i = 0; i < row.size(); i += 3) row[i] = i % 2 ? -kInf : std::numeric_limits<float>::quiet_NaN();
  check(row, 1, 8);
  std::fill(row.begin(), row.end(), -kInf);
  std::vector<Token> t(4);
  std::vector<float> p(4);
  EXPECT_EQ(top_k_log_softmax(row, 1, t, p), 0);
}

TEST(TopK, SurvivesLargeRanges) {
  std::vector<float> row(100, -1000);
  row[50] = 1000;
  row[70] = 990;
  check(row, 1, 3);
}

TEST(ArgMax, LowestOfEqualsAndTheRunnerUp) {
  for (int round = 0; round < 200; ++round) {
    GSD_SEEDED(rng, round);
    std::vector<float> row(2 + rng() % 300);
    for (float& x : row) x = static_cast<float>(rng() % 50);
    if (round % 2) row[rng() % 2] = std::numeric_limits<float>::quiet_NaN();  // counts as -inf
    auto clean = row;
    for (float& x : clean) x = x > -kInf ? x : -kInf;
    const auto it = std::max_element(clean.begin(), clean.end());
    auto rest = clean;
    rest.erase(rest.begin() + (it - clean.begin()));
    test::for_each_isa([&] {
      float second = 0;
      ASSERT_EQ(arg_max(row, &second), it - clean.begin());
      ASSERT_EQ(second, *std::max_element(rest.begin(), rest.end()));
    });
  }
}

}  // namespace
}  // namespace gsd
