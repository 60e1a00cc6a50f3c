#include "gsd/token_graph.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <optional>
#include <set>
#include <vector>

#include "gsd/error.h"
#include "random.h"

namespace gsd {
namespace {

std::int32_t child(TokenGraph& g, std::int32_t parent, Token t) { return g.add_child(parent, g.find_edge(parent, t)); }

void expand(TokenGraph& g, std::int32_t node, std::vector<Token> tokens, int drafter = 0) {
  std::vector<float> log_q;
  for (std::size_t i = 0; i < tokens.size(); ++i) log_q.push_back(-static_cast<float>(i + 1));
  g.expand(node, tokens, log_q, drafter);
}

TEST(TokenGraph, MergesAnEqualTokenAndInheritsItsSubtree) {
  TokenGraph g(16, 0);
  const std::vector<Token> context{7};
  g.reset(context);
  expand(g, 0, {1, 2});
  const auto a = child(g, 0, 1);
  const auto b = child(g, 0, 2);
  expand(g, a, {3});
  const auto c = child(g, a, 3);
  expand(g, b, {3});
  EXPECT_EQ(child(g, b, 3), c);
  EXPECT_EQ(g.n_merges(), 1);
  EXPECT_EQ(g.size(), 4);
  EXPECT_TRUE(g.reaches(b, c));
  g.check_integrity();
}

TEST(TokenGraph, LongerMergeLengthAsksForTheTokensBefore) {
  TokenGraph g(16, 1);
  const std::vector<Token> context{7};
  g.reset(context);
  expand(g, 0, {1, 2});
  const auto a = child(g, 0, 1);
  const auto b = child(g, 0, 2);
  expand(g, a, {3});
  expand(g, b, {3});
  EXPECT_NE(child(g, a, 3), child(g, b, 3)) << "2-grams (1 3) and (2 3) differ";
  EXPECT_EQ(g.n_merges(), 0);
  g.check_integrity();
}

TEST(TokenGraph, NeverClosesACycleEvenByTwoMerges) {
  TokenGraph g(16, 0);
  const std::vector<Token> context{7};
  g.reset(context);
  expand(g, 0, {1, 2});
  const auto a = child(g, 0, 1);
  const auto b = child(g, 0, 2);
  expand(g, a, {2});
  EXPECT_EQ(child(g, a, 2), b);
  expand(g, b, {1});  // a -> b stands; b -> a would close a cycle that creation parents do not show
  EXPECT_NE(child(g, b, 1), a);
  g.check_integrity();
}

TEST(TokenGraph, SeveralMergeEdgesIntoOneNode) {
  TokenGraph g(16, 0);
  const std::vector<Token> context{7};
  g.reset(context);
  expand(g, 0, {1, 2, 3});
  const auto a = child(g, 0, 1);
  const auto b = child(g, 0, 2);
  const auto c = child(g, 0, 3);
  for (const auto parent : {a, b, c}) expand(g, parent, {9, 8});
  const auto nine = child(g, a, 9);
  const auto eight = child(g, a, 8);
  EXPECT_EQ(child(g, b, 9), nine);
  EXPECT_EQ(child(g, b, 8), eight);
  EXPECT_EQ(child(g, c, 9), nine);
  EXPECT_EQ(g.n_merges(), 3);
  g.check_integrity();
}

TEST(TokenGraph, GramsNearTheRootReachIntoTheContext) {
  TokenGraph g(16, 2);
  g.reset(std::vector<Token>{5, 6, 5, 6});
  expand(g, 0, {5});
  const auto a = child(g, 0, 5);  // 3-gram (5 6 5)
  expand(g, a, {6});
  const auto b = child(g, a, 6);
  expand(g, b, {5});
  EXPECT_NE(child(g, b, 5), a) << "the equal 3-gram stands above, a merge would close a cycle";
  g.check_integrity();
}

TEST(TokenGraph, FullGraphKeepsCandidatesWithoutNodes) {
  TokenGraph g(2, TokenGraph::kNoMerge);
  g.reset(std::vector<Token>{1});
  expand(g, 0, {1, 2});
  EXPECT_EQ(child(g, 0, 1), 1);
  EXPECT_EQ(child(g, 0, 2), -1);
  g.check_integrity();
}

TEST(TokenGraph, RefusesAbsurdSizes) {
  EXPECT_THROW(TokenGraph(0, 0), Error);
  EXPECT_THROW(TokenGraph(5000, 0), Error);
  EXPECT_THROW(TokenGraph(16, 17), Error);
  EXPECT_THROW(TokenGraph(16, -2), Error);
}

// A second model of the same rules: nodes as whole token strings, reachability by search.
struct Naive {
  struct Node {
    std::vector<Token> path;  // context and creation path
    std::set<int> children;
  };
  std::vector<Node> nodes;
  int m;

  bool reaches(int from, int to) const {
    if (from == to) return true;
    for (const int c : nodes[static_cast<std::size_t>(from)].children) {
      if (reaches(c, to)) return true;
    }
    return false;
  }
  // The nodes that a merge may take; empty = a new node is due.
  std::set<int> allowed(int parent, Token t) const {
    std::set<int> out;
    if (m < 0) return out;
    auto want = nodes[static_cast<std::size_t>(parent)].path;
    want.push_back(t);
    for (int v = 1; v < static_cast<int>(nodes.size()); ++v) {
      const auto& have = nodes[static_cast<std::size_t>(v)].path;
      bool equal = true;
      for (int back = 0; back <= m; ++back) {
        const auto at = [back](const auto& p) {
          return back < static_cast<int>(p.size()) ? p[p.size() - 1 - static_cast<std::size_t>(back)] : -1;
        };
        equal &= at(have) == at(want);
      }
      if (equal && !reaches(v, parent)) out.insert(v);
    }
    return out;
  }
};

TEST(TokenGraph, WhatTwoDraftersNameIsOneCandidate) {
  TokenGraph g(16, TokenGraph::kNoMerge);
  g.reset(std::vector<Token>{7});
  expand(g, 0, {1, 2});
  const auto a = child(g, 0, 1);
  expand(g, 0, {3, 1}, 2);
  EXPECT_EQ(g.n_edges(), 3);
  EXPECT_EQ(g.node(0).expanded, only(0) | only(2));
  const GraphEdge& both = g.edge(g.find_edge(0, 1));
  EXPECT_EQ(both.named_by, only(0) | only(2));
  EXPECT_EQ(both.child, a);
  EXPECT_EQ(both.log_q[0], -1);
  EXPECT_EQ(both.log_q[2], -2);
  EXPECT_EQ(g.edge(g.find_edge(0, 3)).named_by, only(2));
  g.check_integrity();
}

TEST(TokenGraph, WhatIsNamedAgainHasTheNewProbabilityAndKeepsItsNode) {
  TokenGraph g(16, TokenGraph::kNoMerge);
  const std::vector<Token> context{7};
  g.reset(context);
  expand(g, 0, {1, 2});
  const auto a = child(g, 0, 1);
  const std::vector<Token> tokens{2, 5, 1};
  const std::vector<float> log_q{-2, -0.5F, -4};
  g.revise(0, tokens, log_q, 0);
  EXPECT_EQ(g.n_edges(), 3);
  EXPECT_EQ(g.edge(g.find_edge(0, 1)).child, a);
  EXPECT_EQ(g.edge(g.find_edge(0, 1)).log_q[0], -4);
  EXPECT_EQ(g.edge(g.find_edge(0, 5)).log_q[0], -0.5F);
  EXPECT_EQ(g.edge(g.find_edge(0, 5)).named_by, only(0));
  EXPECT_NE(child(g, 0, 5), a);
  g.check_integrity();
}

TEST(TokenGraph, RandomOperationsAgreeWithANaiveModel) {
  for (int round = 0; round < 300; ++round) {
    GSD_SEEDED(rng, round);
    const int m = static_cast<int>(rng() % 4) - 1;
    const int vocab = 2 + static_cast<int>(rng() % 6);
    TokenGraph g(64, m);
    std::vector<Token> context(1 + rng() % 5);
    for (Token& t : context) t = static_cast<Token>(rng() % vocab);
    g.reset(context);
    Naive naive{{{context, {}}}, m};
    for (int op = 0; op < 40 && !g.full(); ++op) {
      const auto parent = static_cast<std::int32_t>(rng() % g.size());
      const auto drafter = static_cast<int>(rng() % 2);
      if (contains(g.node(parent).expanded, drafter)) continue;
      std::vector<Token> tokens;
      for (Token t = 0; t < vocab; ++t) {
        if (rng() % 2) tokens.push_back(t);
      }
      expand(g, parent, tokens, drafter);
      for (const Token t : tokens) {
        const bool stands = g.edge(g.find_edge(parent, t)).child >= 0;  // another drafter named it, too
        if (stands || rng() % 4 == 0) continue;                         // stays a bare candidate
        const auto allowed = naive.allowed(parent, t);
        const int before = g.size();
        const auto v = child(g, parent, t);
        if (v < 0) break;
        if (allowed.empty()) {
          ASSERT_EQ(v, before);
          auto path = naive.nodes[static_cast<std::size_t>(parent)].path;
          path.push_back(t);
          naive.nodes.push_back({path, {}});
        } else {
          ASSERT_TRUE(allowed.contains(v));
          ASSERT_EQ(g.size(), before);
        }
        naive.nodes[static_cast<std::size_t>(parent)].children.insert(v);
      }
    }
    g.check_integrity();
    for (int a = 0; a < g.size(); ++a) {
      for (int b = 0; b < g.size(); ++b) ASSERT_EQ(g.reaches(a, b), naive.reaches(a, b));
    }
  }
}

}  // namespace
}  // namespace gsd
