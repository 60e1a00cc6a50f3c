// The walk of a verified tree: what the target agrees with is emitted.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "gsd/backend.h"
#include "gsd/sampling.h"
#include "gsd/token_tree.h"

namespace gsd {

enum class FinishReason : std::uint8_t {
  kNone,         // not finished
  kEndOfText,    // the target drew an end-of-generation token
  kLength,       // the token limit is reached
  kContextFull,  // no room for another position
  kStopped,      // the caller's on_token said so (stop string, cancelled)
  kConstraint,   // the grammar, or the logit bias, allows no token of the vocabulary
};

const char* finish_reason_name(FinishReason reason);

// What the walk needs to know. All references must be valid during accept().
struct AcceptInput {
  const TokenTree& tree;
  const Backend& backend;                      // holds the logits of the tree
  std::int32_t first_row;                      // row of the root; node i of the tree is row first_row + i
  const std::function<bool(Token)>& on_token;  // may be empty; called for each emitted token in order; false = stop
  const Constraint* constraint;                // may be null
  std::uint32_t position;                      // index of the first token drawn
  std::int64_t max_tokens;                     // at most this many are emitted, >= 1
  bool primary_only;                           // exact mode: rows off the primary path do not count
  bool ignore_eog;                             // an end-of-generation token is emitted like any other
};

struct Acceptance {
  std::vector<std::int32_t> path;  // accepted tree nodes below the root, in order
  std::vector<Token> token;        // emitted: the accepted nodes' tokens and the target's own last one
  std::vector<float> margin;       // [token.size()] distance to the runner-up, see Choice
  std::vector<Token> tentative;    // primary_only: what the target said after the node where the walk left the path
  FinishReason finish = FinishReason::kNone;
  void clear();
};

// At each node, from the root down, draws the target's token; emits it; descends if a child has it, otherwise stops.
// Exact for any tree, however it was chosen (design note in docs/architecture.md), since the draw looks only at the
// target's logits, the noise of the position and the emitted tokens.
// Appends to `tokens` what is emitted; `tokens` must hold everything before.
void accept(const AcceptInput& in, Sampler& sampler, std::vector<Token>& tokens, Acceptance& out);

}  // namespace gsd
