// What a block drafter says, in the token graph; and what is known of which token follows which.
#include "../src/draft/lattice.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <tuple>
#include <vector>

#include "../src/core/calibration.h"
#include "random.h"

namespace gsd {
namespace {

constexpr int kVocab = 32;

struct Step {
  explicit Step(Mode mode, float temperature = 0)
      : sampler({.temperature = temperature}), calibration(temperature == 0) {
    SpeculationParams p;
    p.mode = mode;
    p.history = false;
    p.path_threshold = 0.02F;
    p.max_nodes = 128;
    hypotheses = std::make_unique<Hypotheses>(p, sampler, calibration, is_eog, 64);
    hypotheses->begin(text, 0);
  }
  std::vector<Token> text{3, 4, 5};
  std::array<bool, kVocab> is_eog{};
  Sampler sampler;
  Calibration calibration;
  std::unique_ptr<Hypotheses> hypotheses;
};

// Logits that are the higher the earlier a token stands in the list.
std::vector<float> row(const std::vector<Token>& best, float step) {
  std::vector<float> out(kVocab, -20);
  for (std::size_t i = 0; i < best.size(); ++i) out[static_cast<std::size_t>(best[i])] = -step * static_cast<float>(i);
  return out;
}

TEST(PairTable, CountsLikeAMapAndTakesTheGuessWhereItKnowsNothing) {
  GSD_SEEDED(rng, 0);
  PairTable table;
  EXPECT_FLOAT_EQ(table.probability(1, 2, 0.3F), 0.3F);
  std::map<Token, std::map<Token, int>> naive;
  for (int i = 0; i < 2000; ++i) {
    const auto before = static_cast<Token>(rng() % 20);
    const auto after = static_cast<Token>((before + rng() % 3) % 20);
    table.learn(before, after);
    ++naive[before][after];
  }
  for (auto& [before, followers] : naive) {
    float total = 0;
    int n = 0;
    for (const auto& [after, times] : followers) n += times;
    for (Token after = 0; after < 20; ++after) {
      const float p = table.probability(before, after, 0.05F);
      total += p;
      EXPECT_NEAR(p, (static_cast<float>(followers[after]) + 8 * 0.05F) / (static_cast<float>(n) + 8), 1e-4F);
    }
    EXPECT_NEAR(total, 1, 1e-3F) << "of a guess that is a distribution it makes one";
  }
}

TEST(PairTable, IsBoundedAndKeepsWhatIsFrequent) {
  PairTable table;
  for (int i = 0; i < 200; ++i) table.learn(7, 8);
  for (Token t = 100; t < 30000; ++t) table.learn(t, t + 1);
  EXPECT_GT(table.probability(7, 8, 0.01F), 0.5F);
}

TEST(Lattice, GivesEachPositionItsOwnCandidates) {
  for (const Mode mode : {Mode::kChain, Mode::kTree, Mode::kGraph, Mode::kAuto}) {
    for (const float temperature : {0.0F, 0.8F}) {
      SCOPED_TRACE(mode_name(mode));
      Step s(mode, temperature);
      Lattice lattice;
      for (Token first = 10; first < 25; first += 5) lattice.add(*s.hypotheses, row({first, first + 1, first + 2}, 1));
      lattice.expand(*s.hypotheses, PairTable(), 2);
      const TokenGraph& graph = s.hypotheses->graph();
      graph.check_integrity();
      int deepest = 0;
      for (std::int32_t id = 0; id < graph.size(); ++id) {
        const GraphNode& n = graph.node(id);
        deepest = std::max(deepest, n.depth);
        if (id > 0) {
          EXPECT_TRUE(n.token >= 5 + 5 * n.depth && n.token < 8 + 5 * n.depth) << n.token << " at depth " << n.depth;
        }
        if (n.depth == 3) {
          EXPECT_EQ(n.expanded, 0) << "beyond the block nothing is known";
        }
      }
      EXPECT_EQ(deepest, 3);
      EXPECT_TRUE(s.hypotheses->next_to_expand(2, 3) < 0 || graph.full());
      const TokenTree& tree = s.hypotheses->build(s.hypotheses->unroll(32, 8, 16));
      tree.check_integrity();
      EXPECT_GE(tree.size(), 4);
      if (mode == Mode::kChain) {
        EXPECT_EQ(tree.size(), 4);
      }
      for (std::int32_t i = 1; i < tree.size(); ++i) EXPECT_EQ(tree.drafters[static_cast<std::size_t>(i)], only(2));
    }
  }
}

// Two likely beginnings, and two continuations of which each belongs to one of them.
TEST(Lattice, RanksWhatFollowsByWhatStandsBefore) {
  Step s(Mode::kTree);
  PairTable pairs;
  for (int i = 0; i < 30; ++i) {
    pairs.learn(10, 21);
    pairs.learn(11, 20);
  }
  Lattice lattice;
  lattice.add(*s.hypotheses, row({10, 11}, 0.1F));
  lattice.add(*s.hypotheses, row({20, 21}, 0.1F));
  lattice.expand(*s.hypotheses, pairs, 0);
  const TokenGraph& graph = s.hypotheses->graph();
  const auto likeliest_after = [&](Token token) {
    const std::int32_t node = graph.edge(graph.find_edge(0, token)).child;
    Token best = -1;
    float log_q = -100;
    for (std::int32_t e = graph.node(node).first_edge; e >= 0; e = graph.edge(e).next)
      if (graph.edge(e).log_q[0] > log_q)
        std::tie(log_q, best) = std::tuple(graph.edge(e).log_q[0], graph.edge(e).token);
    return best;
  };
  EXPECT_EQ(likeliest_after(10), 21);
  EXPECT_EQ(likeliest_after(11), 20);
}

TEST(Lattice, ExpandsTheLikeliestPathsWhereTheGraphIsTooSmall) {
  Step s(Mode::kAuto);
  SpeculationParams p = s.hypotheses->params();
  p.max_nodes = 12;
  p.path_threshold = 0;
  s.hypotheses->set_params(p);
  s.hypotheses->begin(s.text, 0);
  Lattice lattice;
  for (int i = 0; i < 7; ++i) lattice.add(*s.hypotheses, row({2 * i, 2 * i + 1, 30, 31}, 4));
  lattice.expand(*s.hypotheses, PairTable(), 0);
  const TokenGraph& graph = s.hypotheses->graph();
  EXPECT_TRUE(graph.full());
  int deepest = 0;
  for (std::int32_t id = 0; id < graph.size(); ++id) deepest = std::max(deepest, graph.node(id).depth);
  EXPECT_GE(deepest, 3) << "breadth first the nodes would be used up by depth 2";
}

}  // namespace
}  // namespace gsd
