// A language model that scores token trees for several sequences, and its memory of what it has seen.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "gsd/types.h"

namespace gsd {

// One token of a forward pass.
struct NodeInput {
  std::int32_t seq;     // sequence, [0, n_seq)
  Token token;          // [0, n_vocab)
  std::int32_t parent;  // index of a speculative node of the same sequence, or -1: the end of the committed prefix
  bool want_logits;     // whether a row of logits is made for it
  // Will be committed whatever the pass says: the last emitted token, or text that is only taken in. Such nodes come
  // first, each the parent of the next. Spares a model that cannot go back far a copy of its state.
  bool certain = false;
};

struct BackendInfo {
  std::int32_t n_vocab = 0;
  std::int32_t n_ctx = 0;        // positions of one sequence, committed and speculative together
  std::int32_t n_seq = 0;        // sequences
  std::int32_t max_batch = 0;    // tokens of one forward pass
  std::int32_t max_outputs = 0;  // rows of logits of one forward pass
  std::int32_t max_leaves = 0;   // leaves of one sequence's speculative tree; 1 = the model cannot branch
  // Nodes that are not certain, in one pass and sequence, that commit() can drop at little cost.
  std::int32_t max_rollback = INT32_MAX;
  // Where not all nodes of a chain are committed, those that are must be computed again with the next pass.
  bool feeds_again = false;
  // Nodes that are not certain are computed from guesses: only certain ones are worth committing, others are better fed
  // again.
  bool tentative = false;
};

// What a sequence's memory holds of its committed prefix, to be put back later.
struct SavedPrefix {
  std::int32_t n = 0;  // tokens
  // What can be had of them once they are put back, where not all are wanted: so many, ascending, `n` last. Empty: any.
  std::vector<std::int32_t> ends;
  std::vector<std::uint8_t> bytes;

  // The most that can be had of the first `wanted` tokens.
  std::int32_t reach(std::int32_t wanted) const;
};

// Each sequence is a committed prefix and a tree of speculative nodes below its end. forward() adds speculative
// nodes and scores them, commit() turns a path of them into prefix and drops the rest.
//
// Contract for all calls: a sequence's speculative nodes are numbered 0, 1, … in the order of forward(), until
// commit() or truncate() drops them. Siblings have distinct tokens (the caller's duty: libllama accepts equal ones and
// is silently wrong). Not thread safe: one thread owns a backend.
//
// A model may be unable to keep its memory: after a failed pass and after truncate() a sequence's prefix can be shorter
// than it was asked to be, down to nothing. n_committed() tells; what is missing is fed again.
class Backend {
 public:
  virtual ~Backend() = default;

  virtual const BackendInfo& info() const = 0;
  virtual bool is_eog(Token token) const = 0;

  // Scores `nodes`, parents before children, any number of sequences. Rows of logits are numbered in the order of the
  // nodes that want them. REQUIRES: nodes.size() in [1, max_batch].
  // Throws Error(kNoKvSlot) with nothing changed if the memory has no room: retry with fewer nodes.
  // Throws Error(kBackend) if the pass failed; the sequences of `nodes` then have no speculative nodes, and as much of
  // their prefix as could be kept.
  virtual void forward(std::span<const NodeInput> nodes) = 0;

  // Row `row` of the last forward pass, [n_vocab]. Valid until the next forward().
  virtual std::span<const float> logits(std::int32_t row) const = 0;

  // Appends the path of speculative nodes `path` (each the parent of the next, the first one below the prefix) to the
  // committed prefix of `seq` and drops its other speculative nodes. An empty path drops all.
  virtual void commit(std::int32_t seq, std::span<const std::int32_t> path) = 0;

  // Cuts the committed prefix of `seq` to at most `n_tokens` and drops its speculative nodes. Returns what is left:
  // less than min(n_tokens, n_committed(seq)) where the model's memory cannot go back to that place.
  virtual std::int32_t truncate(std::int32_t seq, std::int32_t n_tokens) = 0;

  // The memory of the committed prefix of `seq`, or of the greater part of it, in at most `most` bytes. Nothing where
  // that is not to be had. REQUIRES: no speculative nodes.
  virtual std::optional<SavedPrefix> save(std::int32_t seq, std::size_t most);
  // Puts what a backend of the same model and settings has saved in the place of all that `seq` holds: the first tokens
  // of it, `text`. Returns n_committed(): all of them, or 0 where they cannot be put back, because of room or bytes
  // that are none of its own. Only what is known to be whole may be given: libllama reads it. REQUIRES: saved.reach(n)
  // is n, for text's size.
  virtual std::int32_t restore(std::int32_t seq, const SavedPrefix& saved, std::span<const Token> text);

  // How strongly each of the model's adapters acts in the passes that follow; those left out do not. Memory that was
  // made with other scales is the caller's to tell apart. Throws Error(kUsage) for more than the model has.
  virtual void adapt(std::span<const float> scales);

  virtual std::int32_t n_committed(std::int32_t seq) const = 0;
  virtual std::int32_t n_speculative(std::int32_t seq) const = 0;

  // Tokens that the last forward() computed beside its nodes: text that had to be fed again, or what makes sequences of
  // one pass equally long.
  virtual std::int32_t n_extra() const { return 0; }
  // Milliseconds spent so far in keeping sequences in step (not in forward passes).
  virtual double sequence_ms() const { return 0; }
};

}  // namespace gsd
