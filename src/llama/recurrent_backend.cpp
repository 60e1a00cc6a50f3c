// Backend over libllama for recurrent and hybrid models: layers that keep one state of all the text so far, which every
// token changes. Source: llama.h, and experiments with libllama 0.7 (docs/architecture.md, section 4).
//
// Such a model cannot branch, so a tree is a chain. It can go back in two ways:
// - Snapshots (`n_rs_seq`), where the architecture has them: the states after each of the last tokens of a pass.
//   `llama_memory_seq_rm` then goes back by up to as many, but for the first token of the pass, once per pass. Asked
//   for more it answers true with a wrong state, so that it is asked for no more. A pass over other sequences of the
//   context may move a state but not its snapshots: what was gone back to must be settled before, and nothing can be
//   gone back to after. Sequences of one pass are made equally long by tokens that are dropped again, or libllama
//   splits it.
// - Copies of the state in our memory. After one is restored, the tokens since are fed again: together with the next
//   pass while they are few, since a pass costs little more by them, else in a pass of their own.
#include <algorithm>
#include <cassert>
#include <deque>

#include "../core/stopwatch.h"
#include "adapters.h"
#include "remote.h"
#include "states.h"

namespace gsd {
namespace {

constexpr int kSnapshots = 8;                      // libllama overflows a graph with more than about twenty
constexpr std::int32_t kFedTogether = 8;           // tokens fed again with the next pass; more get one of their own
constexpr std::int32_t kChunk = 32;                // text taken in that is worth a copy of the state to come back to
constexpr std::size_t kCopiesBytes = 128UL << 20;  // of the copies of one sequence
constexpr std::size_t kCopies = 8;

class RecurrentBackend final : public Backend {
 public:
  RecurrentBackend(const Model& model, const ContextOptions& options, StatesOfHeads states);

  llama_context* first_context() const { return contexts_.front().get(); }
  const BackendInfo& info() const override { return info_; }
  bool is_eog(Token token) const override { return llama_vocab_is_eog(vocab_, token); }
  void forward(std::span<const NodeInput> nodes) override;
  std::span<const float> logits(std::int32_t row) const override {
    return {rows_[static_cast<std::size_t>(row)], static_cast<std::size_t>(info_.n_vocab)};
  }
  void commit(std::int32_t seq, std::span<const std::int32_t> path) override;
  std::int32_t truncate(std::int32_t seq, std::int32_t n_tokens) override;
  std::optional<SavedPrefix> save(std::int32_t seq, std::size_t most) override;
  std::int32_t restore(std::int32_t seq, const SavedPrefix& saved, std::span<const Token> text) override;
  void adapt(std::span<const float> scales) override { adapt_contexts(model_, contexts_, scales); }
  std::int32_t n_committed(std::int32_t seq) const override { return at(seq).committed; }
  std::int32_t n_speculative(std::int32_t seq) const override { return n_tokens(at(seq)) - at(seq).committed; }
  std::int32_t n_extra() const override { return n_extra_; }
  double sequence_ms() const override { return sequence_ms_; }

 private:
  struct Copy {
    std::int32_t n = 0;    // tokens of the text it stands for
    bool of_step = false;  // made for one step; the others are for prompts that begin alike
    std::vector<std::uint8_t> state;
  };
  struct Sequence {
    std::size_t context = 0;  // index into contexts_
    llama_seq_id id = 0;
    std::vector<Token> tokens;   // committed ones, then a chain of speculative ones
    std::int32_t committed = 0;  // of them
    std::int32_t held = 0;       // of them in libllama's memory, dropped ones after them included; others are fed again
    std::int32_t last_pass = 0;  // tokens of the last pass that snapshots may reach into
    bool unsettled = false;      // went back by a snapshot since its last pass
    std::deque<Copy> copies;     // ascending
    // Of the pass being made.
    std::vector<std::int32_t> inputs;  // indices of its nodes in the pass
    std::int32_t certain = 0;          // the first of them
    std::int32_t padding = 0;          // tokens after them, to be dropped
  };
  using Group = std::vector<std::int32_t>;  // sequences

  Sequence& at(std::int32_t seq) { return sequences_[static_cast<std::size_t>(seq)]; }
  const Sequence& at(std::int32_t seq) const { return sequences_[static_cast<std::size_t>(seq)]; }
  llama_context* context(const Sequence& s) const { return contexts_[s.context].get(); }
  llama_memory_t memory(const Sequence& s) const { return llama_get_memory(context(s)); }
  static std::int32_t n_tokens(const Sequence& s) { return static_cast<std::int32_t>(s.tokens.size()); }
  // Tokens of a sequence in the pass being made, without padding.
  static std::int32_t in_pass(const Sequence& s) {
    return n_tokens(s) - s.held + static_cast<std::int32_t>(s.inputs.size());
  }
  static std::int32_t doubtful(const Sequence& s) { return static_cast<std::int32_t>(s.inputs.size()) - s.certain; }

  void sort_by_sequence(std::span<const NodeInput> nodes);
  void form_groups();
  bool can_pad(const Group& all) const;
  bool shares_pass(const Sequence& a, const Sequence& b) const { return in_pass(a) == in_pass(b) && !one_at_a_time_; }
  void leave_alone(std::size_t context, const Group& group);
  bool settle(Sequence& s);
  void feed_again(std::int32_t seq);
  void pass(std::span<const NodeInput> nodes, const Group& group);
  void keep_copy(Sequence& s, bool of_step);
  bool copy_state(const Sequence& s, std::vector<std::uint8_t>& out) const;
  bool put_state(const Sequence& s, const std::vector<std::uint8_t>& state) const;
  void go_back(Sequence& s, std::int32_t n);
  void restore(Sequence& s, std::int32_t n);
  void forget(Sequence& s);

  const Model& model_;
  const llama_vocab* vocab_;
  const std::function<bool()> cancelled_;
  const StatesOfHeads states_;
  // In a pass where one of several sequences has several tokens libllama mixes the token shifts of RWKV variants up,
  // and ends the process with an assertion on PLaMo 2.
  const bool one_at_a_time_;
  std::vector<ContextHandle> contexts_;
  std::int32_t n_snapshots_;
  BackendInfo info_;
  std::vector<Sequence> sequences_;
  Batch batch_;
  std::vector<Group> groups_;         // of the pass being made; each is one pass of libllama
  std::vector<std::int32_t> row_of_;  // [inputs] its row of logits, or -1
  std::vector<const float*> rows_;
  std::vector<std::uint8_t> settled_;
  std::vector<float> kept_rows_;  // where a pass has several groups, which overwrite each other's
  std::int32_t n_extra_ = 0;
  double sequence_ms_ = 0;
};

// Tokens that are fed again come on top of those of the pass. With snapshots libllama asserts that a pass could hold
// more tokens than there are of these and one.
ContextOptions with_room(ContextOptions o) {
  o.max_batch = std::max(o.max_batch + kFedTogether * (o.exact ? 1 : o.n_seq), kSnapshots + 2);
  return o;
}

RecurrentBackend::RecurrentBackend(const Model& model, const ContextOptions& o, StatesOfHeads states)
    : model_(model),
      vocab_(model.impl().vocab),
      cancelled_(o.cancelled),
      states_(std::move(states)),
      one_at_a_time_(model.architecture() == "arwkv7" || model.architecture() == "rwkv6qwen2" ||
                     model.architecture() == "plamo2"),
      contexts_(make_contexts(model, with_room(o), 1, kSnapshots)),
      n_snapshots_(static_cast<std::int32_t>(llama_n_rs_seq(contexts_.front().get()))),
      info_(backend_info(model, with_room(o), contexts_.front().get())) {
  info_.max_batch = std::max(1, std::min(o.max_batch, info_.max_batch - kFedTogether * (o.exact ? 1 : o.n_seq)));
  info_.max_outputs = std::min(o.max_outputs, info_.max_batch);
  info_.max_leaves = 1;
  if (n_snapshots_ > 0) info_.max_rollback = n_snapshots_;
  info_.feeds_again = n_snapshots_ == 0;
  cancel_by(contexts_, cancelled_);
  for (const ContextHandle& c : contexts_)
    for (const auto& states_of_head : states_) states_of_head->attach(c.get());
  sequences_.resize(static_cast<std::size_t>(o.n_seq));
  for (std::size_t i = 0; i < sequences_.size(); ++i) {
    sequences_[i].context = o.exact ? i : 0;
    sequences_[i].id = o.exact ? 0 : static_cast<llama_seq_id>(i);
    sequences_[i].tokens.reserve(static_cast<std::size_t>(o.n_ctx));
  }
}

void RecurrentBackend::forward(std::span<const NodeInput> nodes) {
  check_pass(nodes, info_);
  n_extra_ = 0;
  sort_by_sequence(nodes);
  std::size_t done = 0;
  try {
    form_groups();
    for (const Group& g : groups_) {
      pass(nodes, g);
      ++done;
    }
  } catch (const Error& e) {
    const bool unchanged = e.code() == ErrorCode::kNoKvSlot && done == 0;
    for (Sequence& s : sequences_) {
      if (s.inputs.empty() || unchanged) continue;
      s.tokens.resize(static_cast<std::size_t>(s.committed));
      restore(s, s.committed);
    }
    if (unchanged) throw;
    throw Error(ErrorCode::kBackend, e.what());
  }
}

void RecurrentBackend::sort_by_sequence(std::span<const NodeInput> nodes) {
  for (Sequence& s : sequences_) {
    s.inputs.clear();
    s.certain = 0;
    s.padding = 0;
  }
  rows_.clear();
  row_of_.clear();
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    const NodeInput& in = nodes[i];
    Sequence& s = at(in.seq);
    if (in.parent != n_tokens(s) - s.committed + static_cast<std::int32_t>(s.inputs.size()) - 1)
      throw Error(ErrorCode::kInternal, "A model that cannot branch was given a tree.");
    s.certain += in.certain ? 1 : 0;
    s.inputs.push_back(static_cast<std::int32_t>(i));
    row_of_.push_back(in.want_logits ? static_cast<std::int32_t>(rows_.size()) : -1);
    if (in.want_logits) rows_.push_back(nullptr);
  }
  kept_rows_.clear();
  kept_rows_.reserve(rows_.size() * static_cast<std::size_t>(info_.n_vocab));  // so that rows stay where they are
}

// Decides which sequences share a pass of libllama, and makes sure that each can come back from it.
void RecurrentBackend::form_groups() {
  const Stopwatch clock;
  groups_.clear();
  for (std::size_t c = 0; c < contexts_.size(); ++c) {
    Group all;
    for (std::int32_t seq = 0; seq < info_.n_seq; ++seq) {
      Sequence& s = at(seq);
      if (s.inputs.empty() || s.context != c) continue;
      go_back(s, n_tokens(s));  // padding of a pass whose nodes were not committed
      if (n_tokens(s) - s.held > kFedTogether) feed_again(seq);
      all.push_back(seq);
    }
    if (all.empty()) continue;
    const std::size_t first = groups_.size();
    if (can_pad(all)) {
      std::int32_t longest = 0;
      for (const std::int32_t seq : all) longest = std::max(longest, in_pass(at(seq)));
      for (const std::int32_t seq : all) at(seq).padding = longest - in_pass(at(seq));
      groups_.push_back(std::move(all));
    } else {
      for (const std::int32_t seq : all) {
        const auto alike = std::find_if(groups_.begin() + static_cast<std::ptrdiff_t>(first), groups_.end(),
                                        [&](const Group& g) { return shares_pass(at(g.front()), at(seq)); });
        if (alike != groups_.end()) {
          alike->push_back(seq);
        } else {
          groups_.push_back({seq});
        }
      }
    }
    for (std::size_t g = first; g < groups_.size(); ++g) {
      for (const std::int32_t seq : groups_[g]) {
        Sequence& s = at(seq);
        const bool by_snapshot = groups_.size() == first + 1 && s.certain > 0 && doubtful(s) <= n_snapshots_;
        if (doubtful(s) > 0 && n_tokens(s) == s.committed && !by_snapshot) keep_copy(s, true);
      }
    }
  }
  sequence_ms_ += clock.ms();
}

// True if snapshots can take back what makes all sequences as long as the longest.
bool RecurrentBackend::can_pad(const Group& all) const {
  if (one_at_a_time_ && all.size() > 1) return false;
  std::int32_t longest = 0;
  for (const std::int32_t seq : all) longest = std::max(longest, in_pass(at(seq)));
  return std::all_of(all.begin(), all.end(), [&](std::int32_t seq) {
    const Sequence& s = at(seq);
    const std::int32_t padding = longest - in_pass(s);
    return padding == 0 || (s.certain > 0 && doubtful(s) + padding <= n_snapshots_);
  });
}

// A pass over `group` is about to be made: what becomes of the context's other sequences, see the top of the file.
void RecurrentBackend::leave_alone(std::size_t context, const Group& group) {
  if (n_snapshots_ == 0) return;
  for (std::int32_t seq = 0; seq < info_.n_seq; ++seq) {
    Sequence& s = at(seq);
    if (s.context != context || std::find(group.begin(), group.end(), seq) != group.end()) continue;
    s.last_pass = 0;
    if (s.unsettled && !settle(s)) restore(s, s.held);
  }
}

// Makes the state that a sequence went back to the one that it has. False if that is not to be had.
bool RecurrentBackend::settle(Sequence& s) {
  s.unsettled = false;
  return copy_state(s, settled_) && put_state(s, settled_);
}

// Feeds what the memory lacks.
void RecurrentBackend::feed_again(std::int32_t seq) {
  Sequence& s = at(seq);
  leave_alone(s.context, {seq});
  while (s.held < n_tokens(s)) {
    const auto n = std::min(n_tokens(s) - s.held, info_.max_batch);
    batch_.clear();
    for (std::int32_t i = s.held; i < s.held + n; ++i) {
      batch_.add(s.tokens[static_cast<std::size_t>(i)], i, false);
      batch_.add_id(s.id);
    }
    batch_.decode(context(s));
    n_extra_ += n;
    s.held += n;
    s.last_pass = n;
    s.unsettled = false;
  }
}

// One pass of libllama over sequences that have equally many tokens in it.
void RecurrentBackend::pass(std::span<const NodeInput> nodes, const Group& group) {
  leave_alone(at(group.front()).context, group);
  batch_.clear();
  const auto add = [this](const Sequence& s, Token token, std::size_t position, bool logits) {
    batch_.add(token, static_cast<llama_pos>(position), logits);
    batch_.add_id(s.id);
  };
  for (const std::int32_t seq : group) {
    const Sequence& s = at(seq);
    for (auto i = static_cast<std::size_t>(s.held); i < s.tokens.size(); ++i) add(s, s.tokens[i], i, false);
    std::size_t position = s.tokens.size();
    for (const std::int32_t i : s.inputs) {
      const NodeInput& in = nodes[static_cast<std::size_t>(i)];
      add(s, in.token, position++, in.want_logits);
    }
    const Token last = nodes[static_cast<std::size_t>(s.inputs.back())].token;
    for (std::int32_t i = 0; i < s.padding; ++i) add(s, last, position++, false);
  }
  llama_context* ctx = context(at(group.front()));
  batch_.decode(ctx);
  std::int32_t index = 0;
  for (const std::int32_t seq : group) {
    Sequence& s = at(seq);
    index += n_tokens(s) - s.held;
    n_extra_ += n_tokens(s) - s.held + s.padding;
    s.last_pass = in_pass(s) + s.padding;
    s.unsettled = false;
    for (const std::int32_t i : s.inputs) {
      for (const auto& states : states_) states->take(seq, n_tokens(s) - s.committed, ctx, index);
      s.tokens.push_back(nodes[static_cast<std::size_t>(i)].token);
      if (const std::int32_t row = row_of_[static_cast<std::size_t>(i)]; row >= 0) {
        const float* logits = logits_of(ctx, index);
        if (groups_.size() > 1) {
          kept_rows_.insert(kept_rows_.end(), logits, logits + info_.n_vocab);
          logits = kept_rows_.data() + kept_rows_.size() - static_cast<std::size_t>(info_.n_vocab);
        }
        rows_[static_cast<std::size_t>(row)] = logits;
      }
      ++index;
    }
    index += s.padding;
    s.held = n_tokens(s) + s.padding;
  }
}

// Copies the state as it stands in the memory. REQUIRES: no speculative nodes, nothing to be dropped.
void RecurrentBackend::keep_copy(Sequence& s, bool of_step) {
  assert(n_tokens(s) == s.committed);
  if (s.held == 0 || (!s.copies.empty() && s.copies.back().n == s.held)) return;
  Copy copy;
  if (!s.copies.empty() && s.copies.back().of_step) {
    copy = std::move(s.copies.back());
    s.copies.pop_back();
  }
  copy.n = s.held;
  copy.of_step = of_step;
  // Where it fails, going back starts from an older copy, or from nothing.
  if (!copy_state(s, copy.state)) return;
  const std::size_t most = std::clamp<std::size_t>(kCopiesBytes / copy.state.size(), 2, kCopies);
  while (s.copies.size() >= most) s.copies.pop_front();
  s.copies.push_back(std::move(copy));
}

// Cuts the memory to the first `n` tokens, or fewer: what is missing then is fed again.
void RecurrentBackend::go_back(Sequence& s, std::int32_t n) {
  const std::int32_t drop = s.held - n;
  if (drop <= 0) return;
  if (drop <= std::min(n_snapshots_, s.last_pass - 1) && llama_memory_seq_rm(memory(s), s.id, n, -1)) {
    s.held = n;
    s.last_pass = 0;  // a second time needs a pass between
    s.unsettled = true;
    return;
  }
  restore(s, n);
}

// Puts back the newest copy of at most `n` tokens.
void RecurrentBackend::restore(Sequence& s, std::int32_t n) {
  while (!s.copies.empty() && s.copies.back().n > n) s.copies.pop_back();
  s.last_pass = 0;
  s.unsettled = false;
  if (s.copies.empty() || !put_state(s, s.copies.back().state) ||
      !llama_memory_seq_rm(memory(s), s.id, s.copies.back().n, -1))
    return forget(s);
  s.held = s.copies.back().n;
}

// The part of the memory that is no KV cache. False if libllama will not.
bool RecurrentBackend::copy_state(const Sequence& s, std::vector<std::uint8_t>& out) const {
  out.resize(llama_state_seq_get_size_ext(context(s), s.id, LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY));
  if (out.empty()) return false;
  bool copied = false;
  call_remote(is_remote(llama_get_model(context(s))), [&] {
    copied = llama_state_seq_get_data_ext(context(s), out.data(), out.size(), s.id,
                                          LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY) == out.size();
  });
  return copied;
}

bool RecurrentBackend::put_state(const Sequence& s, const std::vector<std::uint8_t>& state) const {
  return gsd::put_state(context(s), s.id, LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY, state);
}

void RecurrentBackend::forget(Sequence& s) {
  s.copies.clear();
  s.held = 0;
  s.last_pass = 0;
  s.unsettled = false;
  remove_sequence(memory(s), s.id);
}

void RecurrentBackend::commit(std::int32_t seq, std::span<const std::int32_t> path) {
  const Stopwatch clock;
  Sequence& s = at(seq);
  for (std::size_t i = 0; i < path.size(); ++i) {
    if (path[i] != static_cast<std::int32_t>(i) || static_cast<std::int32_t>(i) >= n_speculative(seq))
      throw Error(ErrorCode::kInternal, "The committed nodes are no path.");
  }
  for (const auto& states : states_) states->commit(seq, path, s.committed);
  s.committed += static_cast<std::int32_t>(path.size());
  s.tokens.resize(static_cast<std::size_t>(s.committed));
  go_back(s, s.committed);
  if (static_cast<std::int32_t>(path.size()) >= kChunk) keep_copy(s, false);
  sequence_ms_ += clock.ms();
}

std::int32_t RecurrentBackend::truncate(std::int32_t seq, std::int32_t n_tokens) {
  commit(seq, {});
  Sequence& s = at(seq);
  if (n_tokens >= s.committed) return s.committed;
  go_back(s, n_tokens);
  // A few tokens may be fed again on the way; more are the caller's to feed, who does it in pieces.
  s.committed = n_tokens - s.held <= kFedTogether ? n_tokens : s.held;
  s.tokens.resize(static_cast<std::size_t>(s.committed));
  while (!s.copies.empty() && s.copies.back().n > s.committed) s.copies.pop_back();
  for (const auto& states : states_) states->truncate(seq, s.committed);
  return s.committed;
}

// The copies of the part of the state that is no KV cache, then the whole.
std::optional<SavedPrefix> RecurrentBackend::save(std::int32_t seq, std::size_t most) {
  commit(seq, {});
  const Sequence& s = at(seq);
  if (s.held == 0) return std::nullopt;
  SavedPrefix out;
  for (const Copy& c : s.copies) {
    if (c.n < s.held) add_state(out, c.n, c.state);
  }
  const std::vector<std::uint8_t> whole = gsd::copy_state(context(s), s.id, 0, most - std::min(most, out.bytes.size()));
  if (whole.empty()) return std::nullopt;
  add_state(out, s.held, whole);
  return out;
}

std::int32_t RecurrentBackend::restore(std::int32_t seq, const SavedPrefix& saved, std::span<const Token> text) {
  truncate(seq, 0);
  Sequence& s = at(seq);
  leave_alone(s.context, {seq});
  const auto n = static_cast<std::int32_t>(text.size());
  if (!gsd::put_state(context(s), s.id, 0, state_at(saved, saved.n)) ||
      llama_memory_seq_pos_max(memory(s), s.id) != saved.n - 1) {
    forget(s);
    return 0;
  }
  for (const std::int32_t end : saved.ends) {
    const auto state = state_at(saved, end);
    if (end < saved.n && end <= n) s.copies.push_back({end, false, {state.begin(), state.end()}});
  }
  s.held = saved.n;
  if (n < saved.n) restore(s, n);
  s.committed = s.held;
  s.tokens.assign(text.begin(), text.begin() + s.held);
  return s.committed;
}

}  // namespace

std::unique_ptr<Backend> make_recurrent_backend(const Model& model, const ContextOptions& options, StatesOfHeads states,
                                                llama_context** context) {
  auto backend = std::make_unique<RecurrentBackend>(model, options, std::move(states));
  if (context != nullptr) *context = backend->first_context();
  return backend;
}

}  // namespace gsd
