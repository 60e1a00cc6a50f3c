// Inner states on their way from a target to the head that drafts from them.
//
// A head's memory holds a row for each token t[p] of the text, made of the token and of what the target computed for
// the one before it, t[p-1]. Nodes of a draft go on from the head's own states instead, since the target has not seen
// them; once it has, they are fed again.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "context.h"
#include "state_functions.h"

namespace gsd {

// Rows of `width` floats by number; what was not set since the last clear() has none.
class StateRows {
 public:
  explicit StateRows(std::size_t width) : width_(width) {}
  void set(std::size_t i, const float* row);
  // Empty if there is none.
  std::span<const float> get(std::size_t i) const;
  void clear() { set_.clear(); }

 private:
  std::size_t width_;
  std::vector<float> rows_;
  std::vector<bool> set_;
};

// The states of a target's tokens: those of the last passes' nodes, and of the newest `capacity` positions of each
// sequence's committed text. Belongs to the target's backend, which tells it of each pass and of what became of its
// nodes; a head reads it.
class TargetStates {
 public:
  // `layers`: whose inputs make up a state, one after the other; the number of layers stands for what the last one
  // gives. Empty: the states that MTP layers go on from.
  TargetStates(const Model& target, std::span<const std::int32_t> layers, std::int32_t n_seq, std::int32_t capacity);

  std::int32_t width() const { return width_; }  // floats of a state
  std::size_t n_seq() const { return sequences_.size(); }
  // Lets the context's passes give what states are made of.
  void attach(llama_context* context) const;

  // Takes the state of token `token` of the context's last pass for speculative node `node` of `seq`.
  void take(std::int32_t seq, std::int32_t node, llama_context* context, std::int32_t token);
  // The nodes of `path` became the positions from `position` on; the others are gone.
  void commit(std::int32_t seq, std::span<const std::int32_t> path, std::int32_t position);
  // Nothing from position `n` on counts any more.
  void truncate(std::int32_t seq, std::int32_t n);

  // Positions of the text whose states are held: [begin, end).
  std::int32_t begin(std::int32_t seq) const { return at(seq).begin; }
  std::int32_t end(std::int32_t seq) const { return at(seq).end; }
  // Empty if it is not held.
  std::span<const float> state(std::int32_t seq, std::int32_t position) const;

 private:
  struct Sequence {
    StateRows nodes;
    std::vector<float> ring;  // the state of position p in row p % capacity
    std::int32_t begin = 0;
    std::int32_t end = 0;
  };
  const Sequence& at(std::int32_t seq) const { return sequences_[static_cast<std::size_t>(seq)]; }
  Sequence& at(std::int32_t seq) { return sequences_[static_cast<std::size_t>(seq)]; }
  std::size_t row_of(std::int32_t position) const {
    return static_cast<std::size_t>(position % capacity_) * static_cast<std::size_t>(width_);
  }

  const StateFunctions& functions_;
  std::vector<std::int32_t> layers_;
  std::int32_t n_layer_;
  std::int32_t n_embd_;
  std::int32_t capacity_;
  std::int32_t width_;
  std::vector<Sequence> sequences_;
  std::vector<float> row_;
};

// What the rows of a head's passes are fed beside their tokens.
class HeadStates {
 public:
  struct Node {
    std::int32_t seq;
    std::int32_t index;     // among the sequence's speculative nodes
    std::int32_t parent;    // the same of its parent, or -1
    std::int32_t position;  // in the text
    bool certain;
    llama_seq_id id;  // of libllama, whose memory ends where the sequence's committed text does
  };

  HeadStates(const Model& head, DraftType type, std::shared_ptr<const TargetStates> target);

  // Lets the context's passes give the head's own states.
  void attach(llama_context* context) const;
  // Tokens of the text that a head with `committed` of them need not be fed: those too old for the target to hold their
  // states count as known.
  std::int32_t known(std::int32_t seq, std::int32_t committed) const;

  // Makes ready what is fed for the nodes of a pass; input(i) is that of the i-th. May run a pass of its own, and
  // throws what that throws.
  void prepare(llama_context* context, std::span<const Node> nodes);
  std::span<const float> input(std::size_t i) const { return {inputs_.data() + i * width_, width_}; }
  StateInput kind() const { return type_ == DraftType::kMtp ? StateInput::kState : StateInput::kEmbedding; }
  // Takes the head's own state of a node from token `token` of the last pass, which had logits.
  void take(const Node& node, llama_context* context, std::int32_t token);
  // What follows on the committed text goes on from the node's own state.
  void commit(std::int32_t seq, std::span<const std::int32_t> path);

 private:
  struct Sequence {
    StateRows nodes;
    std::vector<float> last;  // own state of the last committed token; empty: none
  };
  std::span<const float> own_state(const Node& node) const;

  const StateFunctions& functions_;
  DraftType type_;
  std::shared_ptr<const TargetStates> target_;
  std::size_t width_;
  std::vector<Sequence> sequences_;
  std::vector<float> inputs_;  // [nodes of the pass, width]
  std::vector<float> none_;    // stands for a state that is not held, [target's width]
  Batch encoding_;
  std::vector<std::size_t> encoded_;  // which of the nodes
};

}  // namespace gsd
