// Backend over libllama for models with a KV cache. Source of the rules kept here: llama.h, and experiments with
// libllama 0.7 (docs/architecture.md, section 4).
//
// A root-to-leaf path of a tree is a sequence id of libllama; a KV cell carries the ids of all paths through it. Each
// sequence of ours owns a block of ids. One of them, `main`, carries the whole committed prefix; the others are brought
// up to date only when a tree needs them, and only for the range they lack: one call per id, no walk per token.
//
// Sliding windows: libllama gives a cell that carries a single id and has left that id's window to other tokens, even
// of other sequences, and then forgets everything older of that id. What is left is enough to go on, but not to go back
// (prefix reuse), and ids that share a path no longer agree. A cell with two ids is never taken, so that every
// committed cell of such a model carries two at least.
//
// The same backend runs heads, which are fed a state beside each token (states.h): their memory may begin in the middle
// of the text.
#include <algorithm>
#include <bit>

#include "../core/stopwatch.h"
#include "adapters.h"
#include "block_drafter.h"
#include "heads.h"
#include "states.h"

namespace gsd {
namespace {

using Mask = std::uint64_t;  // leaf ids of one sequence

// States of a target's text that are kept for a head that was not asked for a while, in largest passes.
constexpr std::int32_t kPassesRemembered = 2;

// A saved text with windows can be had at as many places, evenly over it.
constexpr std::int32_t kPlaces = 8;

Mask bit(std::int32_t leaf) { return Mask{1} << leaf; }

class LlamaBackend final : public Backend {
 public:
  // `states` are told of all passes. `head`, unless null: what the model's passes are fed, in a context that belongs to
  // the target's `other`.
  LlamaBackend(const Model& model, const ContextOptions& options, StatesOfHeads states = {},
               std::unique_ptr<HeadStates> head = {}, llama_context* other = nullptr);

  llama_context* first_context() const { return contexts_.front().get(); }
  const BackendInfo& info() const override { return info_; }
  bool is_eog(Token token) const override { return llama_vocab_is_eog(vocab_, token); }
  void forward(std::span<const NodeInput> nodes) override;
  std::span<const float> logits(std::int32_t row) const override;
  void commit(std::int32_t seq, std::span<const std::int32_t> path) override;
  std::int32_t truncate(std::int32_t seq, std::int32_t n_tokens) override;
  std::optional<SavedPrefix> save(std::int32_t seq, std::size_t most) override;
  std::int32_t restore(std::int32_t seq, const SavedPrefix& saved, std::span<const Token> text) override;
  void adapt(std::span<const float> scales) override { adapt_contexts(model_, contexts_, scales); }
  std::int32_t n_committed(std::int32_t seq) const override {
    const std::int32_t committed = sequences_[static_cast<std::size_t>(seq)].committed;
    return head_ ? head_->known(seq, committed) : committed;
  }
  std::int32_t n_speculative(std::int32_t seq) const override {
    return static_cast<std::int32_t>(sequences_[static_cast<std::size_t>(seq)].nodes.size());
  }
  double sequence_ms() const override { return sequence_ms_; }

 private:
  struct Node {
    std::int32_t parent;
    std::int32_t depth;  // 1 = first position below the prefix
    Mask leaves;         // ids that carry its cell
  };
  struct Leaf {
    std::int32_t synced = 0;  // leading positions of the prefix that carry this id
    std::int32_t tip = -1;    // deepest speculative node that carries it, or -1
  };
  struct Sequence {
    std::size_t context = 0;  // index into contexts_
    llama_seq_id first_id = 0;
    std::int32_t committed = 0;
    std::int32_t base = 0;          // first position of the prefix that the memory holds; 0 but for heads
    std::int32_t window_begin = 0;  // the same of layers with a window; 0 but after restore()
    std::int32_t main = 0;          // leaf that carries the whole prefix
    std::vector<Leaf> leaves;       // [n_ids_]
    std::vector<Node> nodes;
  };
  llama_memory_t memory(const Sequence& s) const { return llama_get_memory(contexts_[s.context].get()); }
  llama_seq_id id(const Sequence& s, std::int32_t leaf) const { return s.first_id + leaf; }
  void skip_unknown(std::span<const NodeInput> nodes);
  void add_nodes(std::span<const NodeInput> nodes);
  void prepare_head(std::span<const NodeInput> nodes);
  void assign_leaves(Sequence& s, std::size_t first_new);
  std::int32_t leaf_for(Sequence& s, std::int32_t attach, Mask taken);
  void decode(std::size_t context, std::span<const NodeInput> nodes, std::span<const std::int32_t> index);
  void run(std::size_t context, std::span<const NodeInput> nodes, std::span<const std::int32_t> index, bool all_logits);
  void require_window(std::span<const NodeInput> nodes) const;
  void undo(Sequence& s, std::size_t first_new);
  void cut_to_prefix(Sequence& s);
  void cut(Sequence& s, std::int32_t leaf, std::int32_t from);
  void lose(Sequence& s);
  void keep_window(Sequence& s);

  const Model& model_;
  const llama_vocab* vocab_;
  const std::function<bool()> cancelled_;
  const std::int32_t n_window_;  // positions of the sliding window, 0 = none
  const std::int32_t n_ids_;     // sequence ids of libllama for each of our sequences
  StatesOfHeads states_;
  std::unique_ptr<HeadStates> head_;
  std::vector<ContextHandle> contexts_;
  BackendInfo info_;
  std::vector<Sequence> sequences_;
  Batch batch_;
  std::vector<std::int32_t> node_index_;  // of each input, within its sequence
  std::vector<std::size_t> first_new_;    // [n_seq] nodes before this pass
  std::vector<const float*> rows_;
  std::vector<std::int32_t> group_;  // inputs of one context
  std::vector<HeadStates::Node> head_nodes_;
  double sequence_ms_ = 0;
};

LlamaBackend::LlamaBackend(const Model& model, const ContextOptions& o, StatesOfHeads states,
                           std::unique_ptr<HeadStates> head, llama_context* other)
    : model_(model),
      vocab_(model.impl().vocab),
      cancelled_(o.cancelled),
      n_window_(llama_model_n_swa(model.impl().model.get())),
      n_ids_(n_window_ > 0 ? std::max(2, o.max_leaves) : o.max_leaves),
      states_(std::move(states)),
      head_(std::move(head)),
      contexts_(make_contexts(model, o, n_ids_, 0, other, head_ && head_->kind() == StateInput::kState)),
      info_(backend_info(model, o, contexts_.front().get())) {
  cancel_by(contexts_, cancelled_);
  info_.tentative = head_ != nullptr;
  if (head_) head_->attach(first_context());
  for (const ContextHandle& c : contexts_)
    for (const auto& states_of_head : states_) states_of_head->attach(c.get());
  sequences_.resize(static_cast<std::size_t>(o.n_seq));
  for (std::size_t i = 0; i < sequences_.size(); ++i) {
    sequences_[i].context = o.exact ? i : 0;
    sequences_[i].first_id = o.exact ? 0 : static_cast<llama_seq_id>(i) * n_ids_;
    sequences_[i].leaves.resize(static_cast<std::size_t>(n_ids_));
    sequences_[i].nodes.reserve(static_cast<std::size_t>(o.max_batch));
  }
  first_new_.resize(sequences_.size());
}

void LlamaBackend::forward(std::span<const NodeInput> nodes) {
  check_pass(nodes, info_);
  if (head_) skip_unknown(nodes);
  for (std::size_t i = 0; i < sequences_.size(); ++i) first_new_[i] = sequences_[i].nodes.size();
  add_nodes(nodes);
  rows_.clear();
  for (const NodeInput& in : nodes) {
    if (in.want_logits) rows_.push_back(nullptr);
  }
  try {
    require_window(nodes);
    const Stopwatch clock;
    for (std::size_t i = 0; i < sequences_.size(); ++i) {
      if (sequences_[i].nodes.size() > first_new_[i]) assign_leaves(sequences_[i], first_new_[i]);
    }
    sequence_ms_ += clock.ms();
    for (std::size_t c = 0; c < contexts_.size(); ++c) {
      group_.clear();
      for (std::size_t i = 0; i < nodes.size(); ++i) {
        if (sequences_[static_cast<std::size_t>(nodes[i].seq)].context == c)
          group_.push_back(static_cast<std::int32_t>(i));
      }
      if (!group_.empty()) decode(c, nodes, group_);
    }
  } catch (const Error& e) {
    for (const NodeInput& in : nodes) {
      Sequence& s = sequences_[static_cast<std::size_t>(in.seq)];
      if (e.code() == ErrorCode::kNoKvSlot) {
        undo(s, first_new_[static_cast<std::size_t>(in.seq)]);
      } else {
        cut_to_prefix(s);
      }
    }
    throw;
  }
}

// Lets a head's memory begin where the states of its target do.
void LlamaBackend::skip_unknown(std::span<const NodeInput> nodes) {
  for (const NodeInput& in : nodes) {
    Sequence& s = sequences_[static_cast<std::size_t>(in.seq)];
    const std::int32_t known = n_committed(in.seq);
    if (known == s.committed || !s.nodes.empty()) continue;
    lose(s);
    s.committed = s.base = known;
    for (Leaf& l : s.leaves) l.synced = known;
  }
}

// A draft's tree grows by several passes. Its cells carry one id each until they are committed: none of them may leave
// the window of the path it is on, or, where attention is in chunks as long as the window, its chunk.
void LlamaBackend::require_window(std::span<const NodeInput> nodes) const {
  if (n_window_ == 0) return;
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    const auto seq = static_cast<std::size_t>(nodes[i].seq);
    const Sequence& s = sequences_[seq];
    const std::int32_t last = s.committed + s.nodes[static_cast<std::size_t>(node_index_[i])].depth - 1;
    if (first_new_[seq] > 0 && (last - s.committed >= n_window_ || last / n_window_ != s.committed / n_window_))
      throw Error(ErrorCode::kNoKvSlot, "The tree is deeper than the model's attention window.");
  }
}

void LlamaBackend::add_nodes(std::span<const NodeInput> nodes) {
  node_index_.clear();
  for (const NodeInput& in : nodes) {
    Sequence& s = sequences_[static_cast<std::size_t>(in.seq)];
    node_index_.push_back(static_cast<std::int32_t>(s.nodes.size()));
    const std::int32_t depth = in.parent < 0 ? 1 : s.nodes[static_cast<std::size_t>(in.parent)].depth + 1;
    s.nodes.push_back({in.parent, depth, 0});
  }
}

// Gives every new leaf an id and every new node the ids of the leaves below it.
void LlamaBackend::assign_leaves(Sequence& s, std::size_t first_new) {
  Mask taken = 0;
  for (std::size_t i = s.nodes.size(); i-- > first_new;) {
    Node& n = s.nodes[i];
    if (n.leaves == 0) {  // no new child: a leaf
      std::int32_t attach = n.parent;
      while (attach >= static_cast<std::int32_t>(first_new)) attach = s.nodes[static_cast<std::size_t>(attach)].parent;
      const std::int32_t leaf = leaf_for(s, attach, taken);
      taken |= bit(leaf);
      n.leaves = bit(leaf);
      s.leaves[static_cast<std::size_t>(leaf)].tip = static_cast<std::int32_t>(i);
    }
    if (n.parent >= static_cast<std::int32_t>(first_new))
      s.nodes[static_cast<std::size_t>(n.parent)].leaves |= n.leaves;
  }
}

// An id whose cells are exactly the prefix and the path to `attach` (-1: the prefix alone), not in `taken`.
std::int32_t LlamaBackend::leaf_for(Sequence& s, std::int32_t attach, Mask taken) {
  std::int32_t fresh = -1;
  for (std::int32_t leaf = 0; leaf < n_ids_; ++leaf) {
    const Leaf& l = s.leaves[static_cast<std::size_t>(leaf)];
    if ((taken & bit(leaf)) != 0 || l.tip != attach) {
      if ((taken & bit(leaf)) == 0 && l.tip < 0 && fresh < 0) fresh = leaf;
      continue;
    }
    if (attach >= 0 || l.synced == s.committed) return leaf;
    if (fresh < 0) fresh = leaf;
  }
  if (fresh < 0) throw Error(ErrorCode::kInternal, "A tree has more leaves than the backend was made for.");
  std::int32_t source = s.main;
  std::int32_t end = s.committed;
  if (attach >= 0) {
    const Node& a = s.nodes[static_cast<std::size_t>(attach)];
    source = std::countr_zero(a.leaves);
    end += a.depth;
  }
  Leaf& l = s.leaves[static_cast<std::size_t>(fresh)];
  llama_memory_seq_cp(memory(s), id(s, source), id(s, fresh), l.synced, end);
  l.synced = s.committed;
  l.tip = attach;
  for (std::int32_t at = attach; at >= 0; at = s.nodes[static_cast<std::size_t>(at)].parent)
    s.nodes[static_cast<std::size_t>(at)].leaves |= bit(fresh);
  return fresh;
}

void LlamaBackend::prepare_head(std::span<const NodeInput> nodes) {
  head_nodes_.clear();
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    const Sequence& s = sequences_[static_cast<std::size_t>(nodes[i].seq)];
    const Node& node = s.nodes[static_cast<std::size_t>(node_index_[i])];
    head_nodes_.push_back(
        {nodes[i].seq, node_index_[i], nodes[i].parent, s.committed + node.depth - 1, nodes[i].certain, id(s, s.main)});
  }
  head_->prepare(first_context(), head_nodes_);
}

void LlamaBackend::decode(std::size_t context, std::span<const NodeInput> nodes, std::span<const std::int32_t> index) {
  if (!head_) return run(context, nodes, index, false);
  prepare_head(nodes);
  // Some graphs give the state of each token, some of those with logits, and libllama reads them in one way: where one
  // token has logits, all must.
  if (static_cast<std::int32_t>(index.size()) <= info_.max_outputs) return run(context, nodes, index, true);
  const auto silent = [&](std::int32_t i) { return !nodes[static_cast<std::size_t>(i)].want_logits; };
  const auto middle = std::stable_partition(group_.begin(), group_.end(), silent);
  run(context, nodes, {group_.begin(), middle}, false);
  if (middle != group_.end()) run(context, nodes, {middle, group_.end()}, true);
}

// One pass of libllama over the nodes of `index`. `all_logits`: each has logits if one of them has.
void LlamaBackend::run(std::size_t context, std::span<const NodeInput> nodes, std::span<const std::int32_t> index,
                       bool all_logits) {
  const auto wants = [&](std::int32_t i) { return nodes[static_cast<std::size_t>(i)].want_logits; };
  const bool all = all_logits && std::any_of(index.begin(), index.end(), wants);
  batch_.clear();
  for (const std::int32_t i : index) {
    const NodeInput& in = nodes[static_cast<std::size_t>(i)];
    const Sequence& s = sequences_[static_cast<std::size_t>(in.seq)];
    const Node& node = s.nodes[static_cast<std::size_t>(node_index_[static_cast<std::size_t>(i)])];
    batch_.add(in.token, s.committed + node.depth - 1, in.want_logits || all);
    for (Mask m = node.leaves; m != 0; m &= m - 1) batch_.add_id(id(s, std::countr_zero(m)));
    if (head_) batch_.add_state(head_->input(static_cast<std::size_t>(i)), head_->kind());
  }
  llama_context* ctx = contexts_[context].get();
  batch_.decode(ctx);
  std::size_t row = 0;
  for (std::size_t i = 0, done = 0; i < nodes.size(); ++i) {
    const bool mine = done < index.size() && index[done] == static_cast<std::int32_t>(i);
    const auto token = static_cast<std::int32_t>(done);
    if (mine && nodes[i].want_logits) {
      rows_[row] = logits_of(ctx, token);
      if (head_) head_->take(head_nodes_[i], ctx, token);
    }
    for (const auto& states : states_)
      if (mine) states->take(nodes[i].seq, node_index_[i], ctx, token);
    done += mine ? 1 : 0;
    row += nodes[i].want_logits ? 1 : 0;
  }
}

// Takes back the nodes from `first_new` on.
void LlamaBackend::undo(Sequence& s, std::size_t first_new) {
  if (s.nodes.size() == first_new) return;
  for (std::int32_t leaf = 0; leaf < n_ids_; ++leaf) {
    Leaf& l = s.leaves[static_cast<std::size_t>(leaf)];
    if (l.tip < static_cast<std::int32_t>(first_new)) continue;
    while (l.tip >= static_cast<std::int32_t>(first_new)) l.tip = s.nodes[static_cast<std::size_t>(l.tip)].parent;
    cut(s, leaf, s.committed + (l.tip < 0 ? 0 : s.nodes[static_cast<std::size_t>(l.tip)].depth));
  }
  s.nodes.resize(std::min(s.nodes.size(), first_new));
}

// After a pass that failed half-way nothing is known of the cells beyond the prefix, whichever id they carry.
void LlamaBackend::cut_to_prefix(Sequence& s) {
  if (s.nodes.empty()) return;
  for (std::int32_t leaf = 0; leaf < n_ids_; ++leaf) {
    Leaf& l = s.leaves[static_cast<std::size_t>(leaf)];
    l.tip = -1;
    cut(s, leaf, l.synced);
  }
  s.nodes.clear();
}

// Removes `leaf` from its cells at `from` and later.
void LlamaBackend::cut(Sequence& s, std::int32_t leaf, std::int32_t from) {
  if (!llama_memory_seq_rm(memory(s), id(s, leaf), from, -1)) lose(s);
}

// Gives up what a sequence's memory holds: it cannot be trusted.
void LlamaBackend::lose(Sequence& s) {
  s.nodes.clear();
  s.committed = s.base = s.window_begin = 0;
  std::fill(s.leaves.begin(), s.leaves.end(), Leaf());
  for (std::int32_t leaf = 0; leaf < n_ids_; ++leaf) remove_sequence(memory(s), id(s, leaf));
}

// See "Sliding windows" above. Brings the id that lacks least of the prefix up to date.
void LlamaBackend::keep_window(Sequence& s) {
  if (n_window_ == 0) return;
  std::int32_t second = -1;
  for (std::int32_t leaf = 0; leaf < n_ids_; ++leaf) {
    if (leaf == s.main) continue;
    const Leaf& l = s.leaves[static_cast<std::size_t>(leaf)];
    if (second < 0 || l.synced > s.leaves[static_cast<std::size_t>(second)].synced) second = leaf;
  }
  Leaf& l = s.leaves[static_cast<std::size_t>(second)];
  if (l.synced < s.committed) llama_memory_seq_cp(memory(s), id(s, s.main), id(s, second), l.synced, s.committed);
  l.synced = s.committed;
  if (s.committed > s.base && (llama_memory_seq_pos_min(memory(s), id(s, s.main)) != std::max(s.base, s.window_begin) ||
                               llama_memory_seq_pos_max(memory(s), id(s, s.main)) != s.committed - 1))
    lose(s);
}

std::span<const float> LlamaBackend::logits(std::int32_t row) const {
  return {rows_[static_cast<std::size_t>(row)], static_cast<std::size_t>(info_.n_vocab)};
}

void LlamaBackend::commit(std::int32_t seq, std::span<const std::int32_t> path) {
  const Stopwatch clock;
  Sequence& s = sequences_[static_cast<std::size_t>(seq)];
  for (const auto& states : states_)
    states->commit(seq, s.nodes.empty() ? std::span<const std::int32_t>() : path, s.committed);
  if (head_) head_->commit(seq, path);
  const auto kept = static_cast<std::int32_t>(path.size());
  for (std::int32_t leaf = 0; leaf < n_ids_; ++leaf) {
    Leaf& l = s.leaves[static_cast<std::size_t>(leaf)];
    if (l.tip < 0) continue;
    std::int32_t keep = 0;  // leading nodes of the path that carry this id
    while (keep < kept &&
           (s.nodes[static_cast<std::size_t>(path[static_cast<std::size_t>(keep)])].leaves & bit(leaf)) != 0)
      ++keep;
    const std::int32_t depth = s.nodes[static_cast<std::size_t>(l.tip)].depth;
    l.synced = s.committed + keep;
    l.tip = -1;
    if (depth > keep) cut(s, leaf, l.synced);
  }
  if (kept > 0 && !s.nodes.empty()) {
    s.committed += kept;
    const Mask carriers = s.nodes[static_cast<std::size_t>(path.back())].leaves;
    if ((carriers & bit(s.main)) == 0) s.main = std::countr_zero(carriers);
  }
  s.nodes.clear();
  keep_window(s);
  sequence_ms_ += clock.ms();
}

std::int32_t LlamaBackend::truncate(std::int32_t seq, std::int32_t n_tokens) {
  commit(seq, {});
  Sequence& s = sequences_[static_cast<std::size_t>(seq)];
  if (n_tokens < s.committed && n_tokens - n_window_ < s.window_begin && s.window_begin > 0) lose(s);
  for (std::int32_t leaf = 0; leaf < n_ids_; ++leaf) {
    Leaf& l = s.leaves[static_cast<std::size_t>(leaf)];
    if (l.synced <= n_tokens) continue;
    l.synced = n_tokens;
    cut(s, leaf, n_tokens);
  }
  s.committed = std::min(s.committed, n_tokens);
  s.base = std::min(s.base, s.committed);
  keep_window(s);
  for (const auto& states : states_) states->truncate(seq, s.committed);
  return n_committed(seq);
}

// A head's memory is made anew sooner than its states are. Of sliding windows libllama writes what the last token sees:
// what it takes to go on from earlier places too comes before the whole.
std::optional<SavedPrefix> LlamaBackend::save(std::int32_t seq, std::size_t most) {
  Sequence& s = sequences_[static_cast<std::size_t>(seq)];
  if (head_ || s.committed == 0) return std::nullopt;
  llama_context* const context = contexts_[s.context].get();
  SavedPrefix out;
  if (n_window_ > 0) {
    // An id that ends at the place; see keep_window() for why there is one more than `main`.
    const std::int32_t other = s.main == 0 ? 1 : 0;
    Leaf& leaf = s.leaves[static_cast<std::size_t>(other)];
    for (std::int32_t i = 1; i < kPlaces; ++i) {
      const std::int32_t n = s.committed / kPlaces * i;
      if (std::max(0, n - n_window_) < s.window_begin || n <= (out.ends.empty() ? 0 : out.ends.back())) continue;
      if (!llama_memory_seq_rm(memory(s), id(s, other), n, -1)) break;
      if (leaf.synced < n) llama_memory_seq_cp(memory(s), id(s, s.main), id(s, other), leaf.synced, n);
      leaf.synced = n;
      const auto state = copy_state(context, id(s, other), LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY);
      if (!state.empty()) add_state(out, n, state);
    }
    keep_window(s);
  }
  std::vector<std::uint8_t> whole = copy_state(context, id(s, s.main), 0, most - std::min(most, out.bytes.size()));
  if (whole.empty()) return std::nullopt;
  if (n_window_ == 0) return SavedPrefix{.n = s.committed, .ends = {}, .bytes = std::move(whole)};
  add_state(out, s.committed, whole);
  return out;
}

std::int32_t LlamaBackend::restore(std::int32_t seq, const SavedPrefix& saved, std::span<const Token> text) {
  truncate(seq, 0);
  Sequence& s = sequences_[static_cast<std::size_t>(seq)];
  lose(s);
  const auto n = static_cast<std::int32_t>(text.size());
  const llama_seq_id main = id(s, s.main);
  llama_context* const context = contexts_[s.context].get();
  const auto put = [&](std::span<const std::uint8_t> state, llama_state_seq_flags flags) {
    return put_state(context, main, flags, state);
  };
  const auto whole = n_window_ > 0 ? state_at(saved, saved.n) : std::span(saved.bytes);
  const bool there = !head_ && put(whole, 0) && (n == saved.n || llama_memory_seq_rm(memory(s), main, n, -1)) &&
                     (n == saved.n || n_window_ == 0 || put(state_at(saved, n), LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY));
  const std::int32_t latest = n_window_ > 0 ? std::max(0, n - n_window_ + 1) : 0;
  s.window_begin = llama_memory_seq_pos_min(memory(s), main);
  if (!there || s.window_begin > latest || llama_memory_seq_pos_max(memory(s), main) != n - 1) {
    lose(s);
    return 0;
  }
  s.committed = s.leaves[static_cast<std::size_t>(s.main)].synced = n;
  keep_window(s);
  return s.committed;
}

}  // namespace

std::unique_ptr<Backend> make_backend(const Model& model, const ContextOptions& options) {
  const llama_model* m = model.impl().model.get();
  if (llama_model_is_recurrent(m) || llama_model_is_hybrid(m))
    return make_recurrent_backend(model, options, {}, nullptr);
  return std::make_unique<LlamaBackend>(model, options);
}

BackendsWithHeads make_backends(const Model& target, std::span<const Head> heads, const ContextOptions& options,
                                const ContextOptions& head_options) {
  if (heads.empty()) return {make_backend(target, options), {}};
  StatesOfHeads states;
  for (const Head& head : heads) {
    const std::vector<std::int32_t> layers = layers_of_target(target, *head.model, head.type);
    states.push_back(
        std::make_shared<TargetStates>(target, layers, options.n_seq, kPassesRemembered * options.max_batch));
  }
  BackendsWithHeads out;
  llama_context* context = nullptr;
  const llama_model* m = target.impl().model.get();
  if (llama_model_is_recurrent(m) || llama_model_is_hybrid(m)) {
    out.target = make_recurrent_backend(target, options, states, &context);
  } else {
    auto backend = std::make_unique<LlamaBackend>(target, options, states);
    context = backend->first_context();
    out.target = std::move(backend);
  }
  for (std::size_t i = 0; i < heads.size(); ++i) {
    const Model& head = *heads[i].model;
    if (heads[i].type == DraftType::kDFlash) {
      out.heads.push_back({nullptr, make_block_drafter(head, head_options, states[i], context, target.n_vocab())});
      continue;
    }
    auto backend = std::make_unique<LlamaBackend>(
        head, head_options, StatesOfHeads{}, std::make_unique<HeadStates>(head, heads[i].type, states[i]), context);
    auto drafter = make_model_drafter(*backend, target.n_vocab(), draft_type_name(heads[i].type));
    out.heads.push_back({std::move(backend), std::move(drafter)});
  }
  return out;
}

}  // namespace gsd
