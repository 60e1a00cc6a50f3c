// The token graph of one step: what the drafters propose, with recurring n-grams merged.
//
// Source: Gong et al., "Graph-Structured Speculative Decoding", arXiv 2407.16207, section 3. Differences, each on
// purpose: the graph is acyclic by construction, a node may be reached by any number of merge edges, and every edge
// carries the draft's conditional probability.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "gsd/types.h"

namespace gsd {

// One candidate that drafters named as successor of a node.
//
// `child` is -1 while the candidate is only a token with a probability. It becomes a node of the graph by
// TokenGraph::add_child: a new one, or by a merge one that stood there already.
struct GraphEdge {
  Token token = -1;
  std::int32_t child = -1;  // node id, or -1
  // Next edge of the same parent, or -1: the first drafter's best first unless they were revised, then what is added.
  std::int32_t next = -1;
  bool merged = false;  // `child` existed before this edge
  DrafterSet named_by = 0;
  // Log of the conditional probability of `token` at the parent, by each drafter that named it.
  std::array<float, kMaxDrafters> log_q{};
};

struct GraphNode {
  Token token = -1;
  std::int32_t parent = -1;      // creation parent; -1 for the root
  std::int32_t depth = 0;        // along the creation parents; root = 0
  std::int32_t first_edge = -1;  // edges to candidates; -1 until expanded
  float probability = 1;         // calibrated path probability along the creation path, (0, 1]
  DrafterSet expanded = 0;       // the drafters that have named its candidates
};

// Directed acyclic graph of tokens with an n-gram index. Node 0 is the root: the last token already emitted.
//
// Not thread safe: one graph belongs to one session. Memory is bounded by `max_nodes`; after the first steps no
// operation allocates.
class TokenGraph {
 public:
  static constexpr int kNoMerge = -1;

  // `merge_length` m: a candidate is merged with a node whose (m+1)-gram (its token and the m tokens before it along
  // the creation parents, continued into the context before the root) is equal. kNoMerge makes a tree.
  // REQUIRES: max_nodes in [1, 4096], merge_length in [-1, 16]. Throws Error(kUsage) otherwise.
  explicit TokenGraph(int max_nodes = 256, int merge_length = 0);

  // Empties the graph and makes a root of `context.back()`; the tokens before it complete n-grams near the root.
  // REQUIRES: context is not empty.
  void reset(std::span<const Token> context);
  void reset(std::span<const Token> context, int merge_length);

  // Names `log_q.size()` candidates of `node` in descending order of log_q. Marks the node expanded by `drafter`.
  // REQUIRES: not expanded by it before; tokens are distinct. tokens: [k], log_q: [k].
  void expand(std::int32_t node, std::span<const Token> tokens, std::span<const float> log_q, int drafter = 0);

  // Names candidates of `node` again, which `drafter` has expanded: those that it had named have the new log_q, the
  // others are added. REQUIRES: tokens are distinct; those that it had named are among them.
  void revise(std::int32_t node, std::span<const Token> tokens, std::span<const float> log_q, int drafter);

  // Gives edge `edge` of `parent` a node: an equal n-gram is reused unless that would close a cycle, otherwise a new
  // node is made. Returns the node's id, or -1 when the graph is full (the edge stays a bare candidate).
  // REQUIRES: the edge has no child yet.
  std::int32_t add_child(std::int32_t parent, std::int32_t edge);

  int size() const { return static_cast<int>(nodes_.size()); }
  int n_edges() const { return static_cast<int>(edges_.size()); }
  int n_merges() const { return n_merges_; }
  int merge_length() const { return merge_length_; }
  bool full() const { return size() >= max_nodes_; }
  const GraphNode& node(std::int32_t id) const { return nodes_[static_cast<std::size_t>(id)]; }
  GraphNode& node(std::int32_t id) { return nodes_[static_cast<std::size_t>(id)]; }
  const GraphEdge& edge(std::int32_t id) const { return edges_[static_cast<std::size_t>(id)]; }

  // True if a path of edges leads from `from` to `to`. A node reaches itself.
  bool reaches(std::int32_t from, std::int32_t to) const;

  // Edge of `parent` with that token, or -1.
  std::int32_t find_edge(std::int32_t parent, Token token) const;

  // Throws Error(kInternal) naming the violated invariant: acyclic, distinct sibling tokens, creation parents older
  // than children, merge edges with equal n-grams, reachability equal to a fresh search. For tests; O(nodes * edges).
  void check_integrity() const;

 private:
  Token gram_token(std::int32_t parent, int back) const;  // the token `back` places before a child of `parent`
  std::uint64_t gram_hash(std::int32_t parent, Token token) const;
  bool gram_equal(std::int32_t parent, Token token, std::int32_t node) const;
  std::int32_t find_merge(std::int32_t parent, Token token, std::uint64_t hash) const;
  void link(std::int32_t parent, std::int32_t child);
  void name(std::int32_t node, std::span<const Token> tokens, std::span<const float> log_q, int drafter, bool anew);
  std::uint64_t* reach_row(std::int32_t id) { return &reach_[static_cast<std::size_t>(id) * words_]; }
  const std::uint64_t* reach_row(std::int32_t id) const { return &reach_[static_cast<std::size_t>(id) * words_]; }

  int max_nodes_;
  int merge_length_;
  int n_merges_ = 0;
  std::size_t words_;                      // 64-bit words of a reachability row
  std::vector<GraphNode> nodes_;           // [size]
  std::vector<GraphEdge> edges_;           // [n_edges]
  std::vector<std::uint64_t> reach_;       // [max_nodes, words]: bit j of row i = i reaches j
  std::vector<Token> context_;             // the tokens before the root, oldest first
  std::vector<std::int32_t> bucket_;       // n-gram hash -> newest node, [power of two]
  std::vector<std::int32_t> same_bucket_;  // [max_nodes] next older node in the bucket
};

}  // namespace gsd
