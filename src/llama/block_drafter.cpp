// Source: DFlash (arXiv 2602.06036) as libllama 0.7 computes it. The head's memory holds a row for each token of the
// text, made of the target's states there and of nothing else. A block is the last token and masks in its place and the
// next ones, computed without an order (each sees all); the row at a mask names what may stand there. A block leaves
// nothing behind.
#include "block_drafter.h"

#include <algorithm>

#include "../core/stopwatch.h"
#include "../draft/lattice.h"
#include "heads.h"
#include "states.h"

namespace gsd {
namespace {

class BlockDrafter final : public Drafter {
 public:
  BlockDrafter(const Model& head, const ContextOptions& options, std::shared_ptr<const TargetStates> states,
               llama_context* target, std::int32_t n_vocab);

  const DrafterInfo& info() const override { return info_; }
  std::int32_t n_known(std::int32_t slot) const override;
  double sequence_ms() const override { return sequence_ms_; }

  bool catch_up(std::int32_t slot, std::span<const Token> text, std::int32_t end) override;
  bool roots(std::span<const Root> roots) override;
  bool level(std::vector<Node>& nodes) override {
    nodes.clear();
    return false;
  }
  void commit(std::int32_t, const Hypotheses&, std::span<const std::int32_t>) override {}
  void truncate(std::int32_t slot, std::int32_t n) override;

 private:
  struct Slot {
    std::int32_t held = 0;     // tokens of the text up to which the memory holds rows
    std::int32_t learned = 0;  // the same of those that the pairs were learned of
  };
  Slot& at(std::int32_t slot) { return slots_[static_cast<std::size_t>(slot)]; }
  llama_memory_t memory() const { return llama_get_memory(context_); }
  std::int32_t add_states(std::int32_t slot, std::int32_t end);
  bool decode(Batch& batch, std::span<const std::int32_t> slots);
  void learn_pairs(Slot& s, std::span<const Token> text);
  void forget(std::int32_t slot);
  void cut(std::int32_t slot, std::int32_t from);

  std::int32_t block_;  // tokens of a block, the last one of the text among them
  Token mask_;
  std::int32_t n_vocab_;
  bool windowed_;
  std::shared_ptr<const TargetStates> states_;
  std::vector<ContextHandle> contexts_;
  llama_context* context_;
  DrafterInfo info_;
  std::vector<Slot> slots_;
  PairTable pairs_;
  Lattice lattice_;
  Batch rows_;  // of states
  Batch blocks_;
  std::vector<float> none_;         // stands for a state that is not held
  std::vector<std::int32_t> pass_;  // slots of the pass in progress
  double sequence_ms_ = 0;
};

// All blocks of a pass have logits.
ContextOptions with_blocks(ContextOptions o, std::int32_t block) {
  o.exact = false;
  o.max_batch = std::max(o.max_batch, block);
  o.max_outputs = std::min(o.max_batch / block, o.n_seq) * block;
  return o;
}

BlockDrafter::BlockDrafter(const Model& head, const ContextOptions& options, std::shared_ptr<const TargetStates> states,
                           llama_context* target, std::int32_t n_vocab)
    : block_(block_of(head)),
      mask_(llama_vocab_mask(head.impl().vocab)),
      n_vocab_(std::min(n_vocab, head.n_vocab())),
      windowed_(llama_model_n_swa(head.impl().model.get()) > 0),
      states_(std::move(states)),
      contexts_(make_contexts(head, with_blocks(options, block_), 1, 0, target)),
      context_(contexts_.front().get()),
      slots_(static_cast<std::size_t>(options.n_seq)),
      none_(static_cast<std::size_t>(states_->width())) {
  const BackendInfo sizes = backend_info(head, with_blocks(options, block_), context_);
  info_ = {.n_seq = options.n_seq,
           .n_ctx = options.n_ctx,
           .max_batch = sizes.max_batch,
           .max_nodes = std::max(1, sizes.max_outputs / block_),
           .levels = block_ - 1,
           .beside = block_ - 1,
           .name = draft_type_name(DraftType::kDFlash)};
  llama_set_causal_attn(context_, false);
}

// What is too old for the target to hold its states counts as known.
std::int32_t BlockDrafter::n_known(std::int32_t slot) const {
  return std::max(slots_[static_cast<std::size_t>(slot)].held, states_->begin(slot));
}

// Adds the rows of text[n_known, end) to rows_; returns how many there are.
std::int32_t BlockDrafter::add_states(std::int32_t slot, std::int32_t end) {
  const std::int32_t begin = n_known(slot);
  if (begin > at(slot).held) forget(slot);
  for (std::int32_t p = begin; p < end; ++p) {
    const std::span<const float> state = states_->state(slot, p);
    rows_.add(-1, p, false);
    rows_.add_id(slot);
    rows_.add_state(state.empty() ? std::span<const float>(none_) : state, StateInput::kAlone);
  }
  return std::max(0, end - begin);
}

// Runs the pass of `batch` for the slots; false if there is no room. What the slots hold is lost if it fails.
bool BlockDrafter::decode(Batch& batch, std::span<const std::int32_t> slots) {
  try {
    batch.decode(context_);
  } catch (const Error& e) {
    if (e.code() == ErrorCode::kNoKvSlot) return false;
    for (const std::int32_t slot : slots) forget(slot);
    throw;
  }
  return true;
}

bool BlockDrafter::catch_up(std::int32_t slot, std::span<const Token> text, std::int32_t end) {
  rows_.clear();
  end = std::min(end, n_known(slot) + info_.max_batch);
  if (add_states(slot, end) == 0) return true;
  if (!decode(rows_, {&slot, 1})) return false;
  at(slot).held = end;
  learn_pairs(at(slot), text.first(static_cast<std::size_t>(end)));
  return true;
}

bool BlockDrafter::roots(std::span<const Root> roots) {
  rows_.clear();
  blocks_.clear();
  pass_.clear();
  for (const Root& r : roots) {
    const auto last = static_cast<std::int32_t>(r.text.size()) - 1;
    pass_.push_back(r.slot);
    add_states(r.slot, last);
    for (std::int32_t i = 0; i < block_; ++i) {
      // The first row is not used; libllama takes the first of all where fewer are asked for.
      blocks_.add(i == 0 ? r.text.back() : mask_, last + i, true);
      blocks_.add_id(r.slot);
    }
  }
  if (rows_.size() > 0 && !decode(rows_, pass_)) return false;
  for (const Root& r : roots) at(r.slot).held = static_cast<std::int32_t>(r.text.size()) - 1;
  if (!decode(blocks_, pass_)) return false;
  std::int32_t row = 0;
  for (const Root& r : roots) {
    learn_pairs(at(r.slot), r.text);
    lattice_.clear();
    for (std::int32_t i = 1; i < block_; ++i)
      lattice_.add(*r.hypotheses, {llama_get_logits_ith(context_, row + i), static_cast<std::size_t>(n_vocab_)});
    row += block_;
    cut(r.slot, at(r.slot).held);
    lattice_.expand(*r.hypotheses, pairs_, r.drafter);
  }
  return true;
}

void BlockDrafter::learn_pairs(Slot& s, std::span<const Token> text) {
  for (std::size_t i = std::max<std::size_t>(1, static_cast<std::size_t>(s.learned)); i < text.size(); ++i)
    pairs_.learn(text[i - 1], text[i]);
  s.learned = static_cast<std::int32_t>(text.size());
}

// Drops the rows of positions from `from` on.
void BlockDrafter::cut(std::int32_t slot, std::int32_t from) {
  const Stopwatch clock;
  if (!llama_memory_seq_rm(memory(), slot, from, -1)) forget(slot);
  sequence_ms_ += clock.ms();
}

void BlockDrafter::forget(std::int32_t slot) {
  at(slot).held = 0;
  remove_sequence(memory(), slot);
}

void BlockDrafter::truncate(std::int32_t slot, std::int32_t n) {
  Slot& s = at(slot);
  s.learned = std::min(s.learned, n);
  if (s.held <= n) return;
  // Rows that have left a window are gone: what is older than it cannot be gone back to.
  if (windowed_) return forget(slot);
  s.held = n;
  cut(slot, n);
}

}  // namespace

std::unique_ptr<Drafter> make_block_drafter(const Model& head, const ContextOptions& options,
                                            std::shared_ptr<const TargetStates> states, llama_context* target,
                                            std::int32_t n_vocab) {
  return std::make_unique<BlockDrafter>(head, options, std::move(states), target, n_vocab);
}

}  // namespace gsd
