#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "gsd/backend.h"
#include "gsd/token_graph.h"

namespace gsd {

// Vocabularies may differ in additional ids at the end. A token that the backend does not know is fed as token 0: it
// only spoils the draft's guess, never the text.
inline Token known_token(const Backend& backend, Token t) { return t < backend.info().n_vocab ? t : 0; }

// Scores tokens [from, to) of a sequence without logits and commits them. `batch` and `path` are work buffers.
inline void feed(Backend& backend, std::int32_t slot, std::span<const Token> tokens, std::size_t from, std::size_t to,
                 std::vector<NodeInput>& batch, std::vector<std::int32_t>& path) {
  batch.clear();
  path.clear();
  for (std::size_t i = from; i < to; ++i) {
    const auto index = static_cast<std::int32_t>(i - from);
    batch.push_back({slot, known_token(backend, tokens[i]), index - 1, false, true});
    path.push_back(index);
  }
  backend.forward(batch);
  backend.commit(slot, path);
}

// True if the draft's memory has a leaf to spare for graph node `id`, and counts it in `leaves`: a first evaluated
// child goes on its parent's.
inline bool take_leaf(const Backend& draft, const TokenGraph& g, std::int32_t id, int& leaves) {
  bool first = true;
  for (std::int32_t other = 1; other < g.size(); ++other) {
    first &= g.node(other).parent != g.node(id).parent || g.node(other).draft_index < 0;
  }
  if (first) return true;
  if (leaves == draft.info().max_leaves) return false;
  ++leaves;
  return true;
}

}  // namespace gsd
