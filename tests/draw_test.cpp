// Draws from rows of all kinds under every instruction set, against sorting and noise for every token.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "../src/core/cut.h"
#include "../src/core/groups.h"
#include "../src/core/noise.h"
#include "gsd/sampling.h"
#include "isa.h"
#include "random.h"

namespace gsd {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

float at(const std::vector<float>& row, Token t) { return row[static_cast<std::size_t>(t)]; }

constexpr int kKinds = 12;

std::vector<float> make_row(std::mt19937_64& rng, int kind) {
  const std::size_t n = rng() % 4 == 0 ? 1 + rng() % 200 : rng() % 16 == 0 ? 20000 + rng() % 20000 : 1 + rng() % 5000;
  std::vector<float> row(n);
  std::normal_distribution<float> normal(0, std::array{0.01F, 1.0F, 3.0F, 12.0F}[rng() % 4]);
  for (float& x : row) x = normal(rng);
  const auto some = [&](float value, std::size_t every) {
    for (float& x : row) x = rng() % every == 0 ? value : x;
  };
  switch (kind) {
    case 0:
      row[rng() % n] += 20;
      break;  // as a trained model's
    case 1:
      std::fill(row.begin(), row.end(), 3.5F);
      break;  // all equal
    case 2:
      for (float& x : row) x = std::round(x * 2) / 2;
      break;  // many equal ones, both zeros
    case 3:
      some(kNan, 3);
      break;
    case 4:
      some(-kInf, 2);
      break;
    case 5:
      row[rng() % n] = kInf;
      break;
    case 6:
      some(kInf, 100);
      break;
    case 7:
      for (float& x : row) x *= 1e30F;
      break;
    case 8:
      for (float& x : row) x += 1e5F;
      break;  // few digits are left
    case 9:
      std::sort(row.begin(), row.end());
      break;
    case 10:
      some(std::numeric_limits<float>::lowest(), 2);
      break;
    default:
      break;
  }
  return row;
}

SamplingParams make_params(std::mt19937_64& rng) {
  SamplingParams p{.temperature = std::array{0.001F, 0.3F, 0.8F, 1.0F, 2.0F, 100.0F}[rng() % 6], .seed = rng()};
  p.choice = static_cast<std::uint32_t>(rng() % 3);
  if (rng() % 3 == 0) p.top_k = static_cast<int>(std::array{1UL, 2UL, 40UL, 1 + rng() % 500}[rng() % 4]);
  if (rng() % 2 == 0) p.top_p = std::array{0.01F, 0.5F, 0.9F, 0.95F, 0.9999F}[rng() % 5];
  if (rng() % 3 == 0) p.min_p = std::array{1e-6F, 0.05F, 0.9F}[rng() % 3];
  return p;
}

Cut cut_of(const std::vector<float>& row, const SamplingParams& p) {
  std::vector<float> maxima(group_count(row.size()));
  group_maxima(row, maxima);
  return Cutter().cut(row, maxima, p);
}

// Every token and its score, the best first: what the draw and a grammar's way through it are defined by.
std::vector<std::pair<double, Token>> scores(const std::vector<float>& row, const Cut& cut, const SamplingParams& p,
                                             std::uint32_t position) {
  std::vector<std::pair<double, Token>> out;
  for (Token t = 0; t < static_cast<Token>(row.size()); ++t) {
    if (cut.keeps(at(row, t), t))
      out.emplace_back(static_cast<double>(at(row, t)) / static_cast<double>(p.temperature) +
                           gumbel_noise(p.seed, p.choice, position, t),
                       t);
  }
  std::sort(out.begin(), out.end(), [](const auto& a, const auto& b) {
    return a.first > b.first || (a.first == b.first && a.second < b.second);
  });
  return out;
}

TEST(Noise, IsPhiloxAndTheSameForOneTokenAndForMany) {
  // Worked out apart from this code.
  EXPECT_EQ(Noise(0, 0, 0).bits(0), 0xa2fab5f7U);
  EXPECT_EQ(Noise(1, 0, 5).bits(7), 0x18cf4ddaU);
  EXPECT_EQ(Noise(0x123456789abcdef0ULL, 3, 1000).bits(262143), 0xe2c3b634U);
  EXPECT_EQ(Noise(~0ULL, ~0U, ~0U).bits(151935), 0xd4ab6114U);
  EXPECT_LT(to_gumbel(~0U), kMostNoise);
  EXPECT_GT(to_gumbel(0), -kMostNoise);
  test::for_each_isa([] {
    for (int round = 0; round < 200; ++round) {
      GSD_SEEDED(rng, round);
      const Noise noise(rng(), static_cast<std::uint32_t>(rng()), static_cast<std::uint32_t>(rng()));
      std::vector<std::uint32_t> quads(1 + rng() % 100);
      std::vector<std::uint32_t> bounds(quads.size());
      std::vector<std::pair<Token, std::uint32_t>> want;
      for (std::size_t i = 0; i < quads.size(); ++i) {
        quads[i] = static_cast<std::uint32_t>(rng() % 65536);
        const auto bits = [&](std::uint32_t k) { return noise.bits(static_cast<Token>(quads[i] * 4 + k)); };
        const std::uint32_t most = std::max(std::max(bits(0), bits(1)), std::max(bits(2), bits(3)));
        // Just reached, just missed, and what is always and nearly never reached.
        bounds[i] = std::array{most, most + 1, 0U, ~0U}[rng() % 4];
        for (std::uint32_t k = 0; k < 4; ++k) {
          if (bits(k) >= bounds[i]) want.emplace_back(static_cast<Token>(quads[i] * 4 + k), bits(k));
        }
      }
      std::vector<Noise::Hit> hits(4 * quads.size());
      hits.resize(noise.find(quads, bounds, hits));
      ASSERT_EQ(hits.size(), want.size());
      for (std::size_t i = 0; i < hits.size(); ++i) ASSERT_EQ(std::pair(hits[i].token, hits[i].bits), want[i]);
    }
  });
}

TEST(Groups, MaximaAndEntriesAboveAFloor) {
  test::for_each_isa([] {
    for (int round = 0; round < 200; ++round) {
      GSD_SEEDED(rng, round);
      const auto row = make_row(rng, round % kKinds);
      std::vector<float> maxima(group_count(row.size()));
      group_maxima(row, maxima);
      for (std::size_t g = 0; g < maxima.size(); ++g) {
        float most = -kInf;
        for (std::size_t i = g * kGroup; i < std::min(row.size(), (g + 1) * kGroup); ++i)
          most = row[i] > most ? row[i] : most;
        ASSERT_EQ(maxima[g], most);
      }
      const float floor = std::isnan(row[0]) ? 0 : row[0];
      std::vector<Token> tokens(row.size() + 16);
      std::vector<float> values(row.size() + 16);
      const std::size_t n = at_least(row, maxima, floor, tokens, values);
      std::size_t i = 0;
      for (Token t = 0; t < static_cast<Token>(row.size()); ++t) {
        if (!(at(row, t) >= floor)) continue;
        ASSERT_LT(i, n);
        ASSERT_EQ(tokens[i], t);
        ASSERT_EQ(values[i++], at(row, t));
      }
      ASSERT_EQ(i, n);
      std::vector<std::uint32_t> groups;
      std::vector<std::uint32_t> group_bounds;
      std::vector<std::pair<std::uint32_t, std::uint32_t>> want;
      for (std::uint32_t g = 0; g < maxima.size(); ++g) {
        if (rng() % 2) continue;
        groups.push_back(g);
        group_bounds.push_back(static_cast<std::uint32_t>(rng()));
        for (std::size_t t = g * kGroup; t < std::min(row.size(), (g + 1) * kGroup); ++t) {
          const std::pair quad(static_cast<std::uint32_t>(t / kQuad), group_bounds.back());
          if (row[t] >= floor && (want.empty() || want.back() != quad)) want.push_back(quad);
        }
      }
      std::vector<std::uint32_t> quads(groups.size() * kGroup / kQuad);
      std::vector<std::uint32_t> bounds(quads.size());
      quads.resize(quads_at_least(row, floor, groups, group_bounds, quads, bounds));
      ASSERT_EQ(quads.size(), want.size());
      for (i = 0; i < quads.size(); ++i) ASSERT_EQ(std::pair(quads[i], bounds[i]), want[i]);
    }
  });
}

// How many of the row's order top-k, top-p and min-p keep, as few and as many as rounding of the masses allows.
std::pair<std::size_t, std::size_t> kept(const std::vector<float>& row, const std::vector<Token>& order,
                                         const SamplingParams& p) {
  std::size_t n = p.top_k > 0 ? std::min(order.size(), static_cast<std::size_t>(p.top_k)) : order.size();
  std::size_t few = n;
  std::size_t many = n;
  const auto top = static_cast<double>(at(row, order[0]));
  if (p.top_p < 1 && top == static_cast<double>(kInf)) {
    few = many = 1;
  } else if (p.top_p < 1) {
    const auto weight = [&](std::size_t i) { return std::exp(static_cast<double>(at(row, order[i])) - top); };
    double total = 0;
    for (std::size_t i = 0; i < n; ++i) total += weight(i);
    const auto reach = [&](double mass) {
      double sum = 0;
      for (std::size_t i = 0; i < n; ++i) {
        if ((sum += weight(i)) >= mass) return i + 1;
      }
      return n;
    };
    constexpr double kRounding = 1e-5;
    few = reach(static_cast<double>(p.top_p) * total * (1 - kRounding));
    many = reach(static_cast<double>(p.top_p) * total * (1 + kRounding));
  }
  const auto probable = static_cast<std::size_t>(std::count_if(order.begin(), order.end(), [&](Token t) {
    return p.min_p == 0 || at(row, t) >= at(row, order[0]) + std::log(p.min_p);
  }));
  return {std::min(few, probable), std::min(many, probable)};
}

TEST(Cut, KeepsWhatSortingKeeps) {
  test::for_each_isa([] {
    for (int round = 0; round < 1500; ++round) {
      GSD_SEEDED(rng, round);
      const auto row = make_row(rng, round % kKinds);
      const SamplingParams p = make_params(rng);
      const Cut cut = cut_of(row, p);
      std::vector<Token> order;
      for (Token t = 0; t < static_cast<Token>(row.size()); ++t) {
        if (at(row, t) > -kInf) order.push_back(t);
      }
      std::stable_sort(order.begin(), order.end(), [&](Token a, Token b) { return at(row, a) > at(row, b); });
      std::size_t n = 0;
      for (Token t = 0; t < static_cast<Token>(row.size()); ++t) n += cut.keeps(at(row, t), t) ? 1 : 0;
      if (order.empty()) {
        ASSERT_EQ(n, 0U);
        continue;
      }
      const auto [few, many] = kept(row, order, p);
      ASSERT_GE(n, few);
      ASSERT_LE(n, many);
      for (std::size_t i = 0; i < n; ++i) ASSERT_TRUE(cut.keeps(at(row, order[i]), order[i])) << i << " of " << n;
    }
  });
}

TEST(Draw, IsThatOfNoiseForEveryToken) {
  test::for_each_isa([] {
    for (int round = 0; round < 1500; ++round) {
      GSD_SEEDED(rng, round);
      const auto row = make_row(rng, round % kKinds);
      const SamplingParams p = make_params(rng);
      const auto position = static_cast<std::uint32_t>(rng() % 1000);
      const auto order = scores(row, cut_of(row, p), p, position);
      const Choice c = Sampler(p).choose(row, position, {}, nullptr);
      if (order.empty()) {
        ASSERT_EQ(c.token, -1);
        continue;
      }
      ASSERT_EQ(c.token, order[0].second);
      const double second = order.size() > 1 ? order[1].first : -static_cast<double>(kInf);
      const double margin =
          order[0].first == second ? 0 : (order[0].first - second) * static_cast<double>(p.temperature);
      ASSERT_EQ(c.margin, static_cast<float>(margin));
    }
  });
}

TEST(Draw, UnderAConstraintIsTheFirstItAllows) {
  test::for_each_isa([] {
    for (int round = 0; round < 600; ++round) {
      GSD_SEEDED(rng, round);
      const auto row = make_row(rng, round % kKinds);
      SamplingParams p = make_params(rng);
      if (rng() % 4 == 0) p = {};
      const std::uint64_t every = std::array{2UL, 50UL, 1000UL, 1UL << 40}[rng() % 4];
      const std::uint64_t salt = rng();
      std::vector<int> asked(row.size());
      const Constraint constraint{[&](Token t) {
                                    ++asked[static_cast<std::size_t>(t)];
                                    return Noise(salt, 0, 0).bits(t) % every == 0;
                                  },
                                  [](Token) {}};
      Token want = -1;
      if (p.temperature > 0) {
        for (const auto& [score, t] : scores(row, cut_of(row, p), p, 7)) {
          if (want < 0 && constraint.allows(t)) want = t;
        }
      }
      if (want < 0) {
        for (Token t = 0; t < static_cast<Token>(row.size()); ++t) {
          if (at(row, t) > (want < 0 ? -kInf : at(row, want)) && constraint.allows(t)) want = t;
        }
      }
      std::fill(asked.begin(), asked.end(), 0);
      ASSERT_EQ(Sampler(p).choose(row, 7, {}, &constraint).token, want);
      EXPECT_LE(*std::max_element(asked.begin(), asked.end()), 4) << "asking is expensive";
    }
  });
}

}  // namespace
}  // namespace gsd
