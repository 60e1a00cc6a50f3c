// What the target verifies in one forward pass: the unrolled token graph as flat arrays.
#pragma once

#include <cstdint>
#include <vector>

#include "gsd/types.h"

namespace gsd {

// Where a tree node's token was proposed.
enum class Origin : std::uint8_t {
  kRoot,      // the last emitted token
  kDraft,     // a candidate of a drafter
  kMerged,    // a candidate of a drafter, inherited through a merge edge
  kHistory,   // the continuation of an n-gram of the prompt or the generated text
  kRecycled,  // the continuation of an n-gram that was drafted in an earlier step and not accepted
  kLookup,    // the continuation of an n-gram of a text that was given to look things up in
  kHint,      // verified in the previous step in a place where its bits were not exact (see Engine, exact mode)
};

const char* origin_name(Origin origin);

// A rooted tree in parallel arrays, parents before children; element 0 is the root (the last emitted token).
// Siblings have distinct tokens. The first `primary` + 1 nodes are one path: the root and the most probable chain.
struct TokenTree {
  std::vector<Token> token;              // [n]
  std::vector<std::int32_t> parent;      // [n] index into these arrays, -1 for the root
  std::vector<std::int32_t> depth;       // [n] root = 0
  std::vector<float> probability;        // [n] calibrated probability that the path to this node is accepted
  std::vector<Origin> origin;            // [n]
  std::vector<std::int32_t> graph_node;  // [n] node of the TokenGraph, or -1
  std::vector<DrafterSet> drafters;      // [n] who of the drafters named it
  std::int32_t primary = 0;              // length of the primary path below the root

  int size() const { return static_cast<int>(token.size()); }
  void clear();
  void reserve(int n);
  // Adds a node below node `below` (-1: the root) and returns its index.
  std::int32_t add(Token t, std::int32_t below, float p, Origin o, std::int32_t graph_id, DrafterSet by = 0);
  // Child of `node` with that token, or -1.
  std::int32_t find_child(std::int32_t node, Token t) const;
  // Throws Error(kInternal) naming the violated invariant. For tests; O(n^2).
  void check_integrity() const;
};

}  // namespace gsd
