#include "gsd/token_graph.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <string>

#include "gsd/error.h"

namespace gsd {
namespace {

constexpr int kMaxMergeLength = 16;

std::uint64_t mix(std::uint64_t h, std::uint64_t v) {
  h ^= v + 0x9e3779b97f4a7c15ULL + (h << 6) + (h >> 2);
  h *= 0xff51afd7ed558ccdULL;
  return h ^ (h >> 32);
}

void check_invariant(bool ok, const char* invariant) {
  if (!ok) throw Error(ErrorCode::kInternal, std::string("token graph: ") + invariant);
}

}  // namespace

TokenGraph::TokenGraph(int max_nodes, int merge_length) : max_nodes_(max_nodes), merge_length_(merge_length) {
  if (max_nodes < 1 || max_nodes > 4096 || merge_length < kNoMerge || merge_length > kMaxMergeLength) {
    throw Error(ErrorCode::kUsage, "The token graph takes 1 to 4096 nodes and a merge length from -1 to 16.");
  }
  const auto n = static_cast<std::size_t>(max_nodes);
  words_ = (n + 63) / 64;
  nodes_.reserve(n);
  edges_.reserve(n * 16);
  reach_.resize(n * words_);
  same_bucket_.resize(n);
  bucket_.resize(std::bit_ceil(n * 2));
  context_.reserve(kMaxMergeLength);
}

void TokenGraph::reset(std::span<const Token> context) { reset(context, merge_length_); }

void TokenGraph::reset(std::span<const Token> context, int merge_length) {
  assert(!context.empty());
  merge_length_ = merge_length;
  nodes_.clear();
  edges_.clear();
  n_merges_ = 0;
  std::fill(bucket_.begin(), bucket_.end(), -1);
  const std::size_t keep = std::min<std::size_t>(context.size() - 1, kMaxMergeLength);
  context_.assign(context.end() - 1 - static_cast<std::ptrdiff_t>(keep), context.end() - 1);
  nodes_.push_back(GraphNode{.token = context.back()});
  std::fill_n(reach_row(0), words_, 0);
  reach_row(0)[0] = 1;
  // The root is not indexed: an edge into it would always close a cycle.
}

void TokenGraph::expand(std::int32_t id, std::span<const Token> tokens, std::span<const float> log_q, int drafter) {
  GraphNode& n = node(id);
  assert(!contains(n.expanded, drafter));
  const bool first = n.expanded == 0;
  n.expanded |= only(drafter);
  name(id, tokens, log_q, drafter, first);
}

void TokenGraph::revise(std::int32_t id, std::span<const Token> tokens, std::span<const float> log_q, int drafter) {
  assert(contains(node(id).expanded, drafter));
  name(id, tokens, log_q, drafter, false);
}

// `anew`: the node has no candidates yet.
void TokenGraph::name(std::int32_t id, std::span<const Token> tokens, std::span<const float> log_q, int drafter,
                      bool anew) {
  GraphNode& n = node(id);
  const auto by = static_cast<std::size_t>(drafter);
  assert(tokens.size() == log_q.size());
  for (std::size_t i = 0; i < tokens.size(); ++i)
    assert(std::find(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(i), tokens[i]) ==
           tokens.begin() + static_cast<std::ptrdiff_t>(i));
  std::int32_t last = n.first_edge;
  while (last >= 0 && edge(last).next >= 0) last = edge(last).next;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    std::int32_t e = anew ? -1 : find_edge(id, tokens[i]);
    if (e < 0) {
      e = n_edges();
      edges_.push_back(GraphEdge{.token = tokens[i]});
      (last < 0 ? n.first_edge : edges_[static_cast<std::size_t>(last)].next) = e;
      last = e;
    }
    edges_[static_cast<std::size_t>(e)].named_by |= only(drafter);
    edges_[static_cast<std::size_t>(e)].log_q[by] = log_q[i];
  }
}

std::int32_t TokenGraph::add_child(std::int32_t parent, std::int32_t edge_id) {
  GraphEdge& e = edges_[static_cast<std::size_t>(edge_id)];
  assert(e.child < 0);
  std::uint64_t hash = 0;
  if (merge_length_ != kNoMerge) {
    hash = gram_hash(parent, e.token);
    const std::int32_t old = find_merge(parent, e.token, hash);
    if (old >= 0) {
      e.child = old;
      e.merged = true;
      ++n_merges_;
      link(parent, old);
      return old;
    }
  }
  if (full()) return -1;
  const std::int32_t id = size();
  nodes_.push_back(GraphNode{.token = e.token, .parent = parent, .depth = node(parent).depth + 1});
  e.child = id;
  std::fill_n(reach_row(id), words_, 0);
  reach_row(id)[static_cast<std::size_t>(id) / 64] |= 1ULL << (id % 64);
  link(parent, id);
  if (merge_length_ != kNoMerge) {
    std::int32_t& head = bucket_[hash & (bucket_.size() - 1)];
    same_bucket_[static_cast<std::size_t>(id)] = head;
    head = id;
  }
  return id;
}

// Everything that reaches `parent` now also reaches what `child` reaches.
void TokenGraph::link(std::int32_t parent, std::int32_t child) {
  const std::uint64_t* add = reach_row(child);
  for (std::int32_t u = 0; u < size(); ++u) {
    if (!reaches(u, parent)) continue;
    std::uint64_t* row = reach_row(u);
    for (std::size_t w = 0; w < words_; ++w) row[w] |= add[w];
  }
}

bool TokenGraph::reaches(std::int32_t from, std::int32_t to) const {
  return (reach_row(from)[static_cast<std::size_t>(to) / 64] >> (to % 64)) & 1;
}

std::int32_t TokenGraph::find_edge(std::int32_t parent, Token token) const {
  for (std::int32_t e = node(parent).first_edge; e >= 0; e = edge(e).next) {
    if (edge(e).token == token) return e;
  }
  return -1;
}

// back = 1 is the parent itself; beyond the root the context goes on; -1 where nothing is known.
Token TokenGraph::gram_token(std::int32_t parent, int back) const {
  std::int32_t at = parent;
  while (--back > 0) {
    const std::int32_t up = node(at).parent;
    if (up < 0) {
      const auto n = static_cast<int>(context_.size());
      return back <= n ? context_[static_cast<std::size_t>(n - back)] : -1;
    }
    at = up;
  }
  return node(at).token;
}

std::uint64_t TokenGraph::gram_hash(std::int32_t parent, Token token) const {
  std::uint64_t h = mix(0, static_cast<std::uint32_t>(token));
  for (int back = 1; back <= merge_length_; ++back) {
    h = mix(h, static_cast<std::uint32_t>(gram_token(parent, back)));
  }
  return h;
}

bool TokenGraph::gram_equal(std::int32_t parent, Token token, std::int32_t id) const {
  if (node(id).token != token) return false;
  for (int back = 1; back <= merge_length_; ++back) {
    if (gram_token(parent, back) != gram_token(node(id).parent, back)) return false;
  }
  return true;
}

std::int32_t TokenGraph::find_merge(std::int32_t parent, Token token, std::uint64_t hash) const {
  for (std::int32_t v = bucket_[hash & (bucket_.size() - 1)]; v >= 0; v = same_bucket_[static_cast<std::size_t>(v)]) {
    if (gram_equal(parent, token, v) && !reaches(v, parent)) return v;
  }
  return -1;
}

void TokenGraph::check_integrity() const {
  check_invariant(!nodes_.empty() && nodes_[0].parent == -1 && nodes_[0].depth == 0, "node 0 is not a root");
  std::vector<std::vector<std::int32_t>> children(nodes_.size());
  for (std::int32_t id = 0; id < size(); ++id) {
    const GraphNode& n = node(id);
    if (id > 0) {
      check_invariant(n.parent >= 0 && n.parent < id, "a creation parent is not older than its child");
      check_invariant(n.depth == node(n.parent).depth + 1, "a depth is not one more than the parent's");
      const std::int32_t e = find_edge(n.parent, n.token);
      check_invariant(e >= 0 && edge(e).child == id && !edge(e).merged, "a creation edge is missing");
    }
    for (std::int32_t e = n.first_edge; e >= 0; e = edge(e).next) {
      check_invariant(find_edge(id, edge(e).token) == e, "two candidates of one parent have the same token");
      check_invariant(edge(e).named_by != 0 && (edge(e).named_by & ~n.expanded) == 0,
                      "a candidate is named by nobody, or by who did not expand its parent");
      if (edge(e).child < 0) continue;
      const GraphNode& c = node(edge(e).child);
      check_invariant(c.token == edge(e).token, "an edge and its child differ in token");
      check_invariant(!edge(e).merged || gram_equal(id, c.token, edge(e).child), "a merge joins different n-grams");
      children[static_cast<std::size_t>(id)].push_back(edge(e).child);
    }
  }
  for (std::int32_t from = 0; from < size(); ++from) {
    std::vector<bool> seen(nodes_.size());
    std::vector<std::int32_t> todo{from};
    while (!todo.empty()) {
      const std::int32_t at = todo.back();
      todo.pop_back();
      for (const std::int32_t c : children[static_cast<std::size_t>(at)]) {
        check_invariant(c != from, "there is a cycle");
        if (!seen[static_cast<std::size_t>(c)]) todo.push_back(c);
        seen[static_cast<std::size_t>(c)] = true;
      }
    }
    for (std::int32_t to = 0; to < size(); ++to) {
      check_invariant(reaches(from, to) == (from == to || seen[static_cast<std::size_t>(to)]),
                      "reachability is out of date");
    }
  }
}

}  // namespace gsd
