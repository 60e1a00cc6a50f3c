#include <algorithm>
#include <cassert>

#include "gsd/drafter.h"
#include "gsd/error.h"

namespace gsd {
namespace {

class ModelDrafter final : public Drafter {
 public:
  ModelDrafter(Backend& backend, std::int32_t n_vocab, std::string_view name)
      : backend_(backend),
        info_{.n_seq = backend.info().n_seq,
              .n_ctx = backend.info().n_ctx,
              .max_batch = backend.info().max_batch,
              .max_nodes = std::min(backend.info().max_batch, backend.info().max_outputs),
              .name = name},
        n_vocab_(std::min(n_vocab, backend.info().n_vocab)),
        slots_(static_cast<std::size_t>(info_.n_seq)) {
    batch_.reserve(static_cast<std::size_t>(info_.max_batch));
    path_.reserve(static_cast<std::size_t>(info_.max_batch));
  }

  const DrafterInfo& info() const override { return info_; }
  std::int32_t n_known(std::int32_t slot) const override { return backend_.n_committed(slot); }
  double sequence_ms() const override { return backend_.sequence_ms(); }

  bool catch_up(std::int32_t slot, std::span<const Token> text, std::int32_t end) override;
  bool roots(std::span<const Root> roots) override;
  bool level(std::vector<Node>& nodes) override;
  void commit(std::int32_t slot, const Hypotheses& hypotheses, std::span<const std::int32_t> path) override;
  void truncate(std::int32_t slot, std::int32_t n) override;

 private:
  struct Slot {
    std::vector<std::int32_t> index;  // [graph nodes seen] of the backend's speculative nodes, -1 = not evaluated
    std::int32_t leaves = 0;          // of the speculative tree
  };

  Slot& at(std::int32_t slot) { return slots_[static_cast<std::size_t>(slot)]; }
  static std::int32_t index_of(const Slot& s, std::int32_t id) {
    return id < static_cast<std::int32_t>(s.index.size()) ? s.index[static_cast<std::size_t>(id)] : -1;
  }
  std::int32_t add_text(std::int32_t slot, std::span<const Token> text, std::int32_t end, bool want_logits);
  void commit_text(std::int32_t slot, std::int32_t n);
  bool forward();
  bool take_leaf(Slot& s, const TokenGraph& graph, std::int32_t id);
  // A token beyond the draft's vocabulary is fed as token 0: it only spoils a guess, never the text.
  Token known(Token t) const { return t < backend_.info().n_vocab ? t : 0; }
  std::span<const float> row(std::int32_t i) const {
    return backend_.logits(i).first(static_cast<std::size_t>(n_vocab_));
  }

  Backend& backend_;
  DrafterInfo info_;
  std::int32_t n_vocab_;
  std::vector<Slot> slots_;
  std::vector<NodeInput> batch_;
  std::vector<std::int32_t> path_;
};

// Adds text[n_known, end) to the batch; returns how many tokens that is.
std::int32_t ModelDrafter::add_text(std::int32_t slot, std::span<const Token> text, std::int32_t end,
                                    bool want_logits) {
  const std::int32_t begin = n_known(slot);
  for (std::int32_t i = begin; i < end; ++i)
    batch_.push_back(
        {slot, known(text[static_cast<std::size_t>(i)]), i - begin - 1, want_logits && i + 1 == end, true});
  return end - begin;
}

void ModelDrafter::commit_text(std::int32_t slot, std::int32_t n) {
  path_.clear();
  for (std::int32_t i = 0; i < n; ++i) path_.push_back(i);
  backend_.commit(slot, path_);
}

// False if the memory has no room for the batch.
bool ModelDrafter::forward() {
  try {
    backend_.forward(batch_);
  } catch (const Error& e) {
    if (e.code() != ErrorCode::kNoKvSlot) throw;
    return false;
  }
  return true;
}

bool ModelDrafter::catch_up(std::int32_t slot, std::span<const Token> text, std::int32_t end) {
  batch_.clear();
  const std::int32_t n = add_text(slot, text, std::min(end, n_known(slot) + info_.max_batch), false);
  if (n <= 0) return true;
  if (!forward()) return false;
  commit_text(slot, n);
  return true;
}

bool ModelDrafter::roots(std::span<const Root> roots) {
  batch_.clear();
  for (const Root& r : roots) add_text(r.slot, r.text, static_cast<std::int32_t>(r.text.size()), true);
  assert(static_cast<int>(batch_.size()) <= info_.max_batch);
  if (batch_.empty() || !forward()) return false;
  std::int32_t i = 0;
  for (const Root& r : roots) {
    r.hypotheses->expand(0, row(i++), r.drafter);
    commit_text(r.slot, static_cast<std::int32_t>(r.text.size()) - n_known(r.slot));
    at(r.slot).index.clear();
    at(r.slot).leaves = 1;
  }
  return true;
}

// True if the memory has a leaf to spare for graph node `id`, and counts it: a first evaluated child goes on its
// parent's.
bool ModelDrafter::take_leaf(Slot& s, const TokenGraph& graph, std::int32_t id) {
  bool first = true;
  for (std::int32_t other = 1; other < graph.size(); ++other)
    first &= graph.node(other).parent != graph.node(id).parent || index_of(s, other) < 0;
  if (first) return true;
  if (s.leaves == backend_.info().max_leaves) return false;
  ++s.leaves;
  return true;
}

bool ModelDrafter::level(std::vector<Node>& nodes) {
  batch_.clear();
  std::erase_if(nodes, [this](const Node& n) {
    Slot& s = at(n.slot);
    const TokenGraph& graph = n.hypotheses->graph();
    if (!take_leaf(s, graph, n.id)) return true;
    const std::int32_t parent = graph.node(n.id).parent;
    if (n.id >= static_cast<std::int32_t>(s.index.size())) s.index.resize(static_cast<std::size_t>(n.id) + 1, -1);
    const auto before =
        std::count_if(batch_.begin(), batch_.end(), [&](const NodeInput& b) { return b.seq == n.slot; });
    s.index[static_cast<std::size_t>(n.id)] = backend_.n_speculative(n.slot) + static_cast<std::int32_t>(before);
    batch_.push_back({n.slot, known(graph.node(n.id).token), parent == 0 ? -1 : index_of(s, parent), true});
    return false;
  });
  assert(static_cast<int>(batch_.size()) <= info_.max_nodes);
  if (batch_.empty() || !forward()) {
    for (const Node& n : nodes) at(n.slot).index[static_cast<std::size_t>(n.id)] = -1;
    return false;
  }
  for (std::size_t i = 0; i < nodes.size(); ++i)
    nodes[i].hypotheses->expand(nodes[i].id, row(static_cast<int>(i)), nodes[i].drafter);
  return true;
}

// A node reached through a merge was evaluated after other tokens: it is fed again with the next root.
void ModelDrafter::commit(std::int32_t slot, const Hypotheses& hypotheses, std::span<const std::int32_t> path) {
  const Slot& s = at(slot);
  path_.clear();
  std::int32_t parent = 0;
  if (backend_.info().tentative) path = {};
  for (const std::int32_t t : path) {
    const std::int32_t g = hypotheses.tree().graph_node[static_cast<std::size_t>(t)];
    if (g < 0 || hypotheses.graph().node(g).parent != parent || index_of(s, g) < 0) break;
    path_.push_back(index_of(s, g));
    parent = g;
  }
  backend_.commit(slot, path_);
}

void ModelDrafter::truncate(std::int32_t slot, std::int32_t n) {
  if (backend_.n_speculative(slot) > 0) backend_.commit(slot, {});
  if (n < backend_.n_committed(slot)) backend_.truncate(slot, n);
}

}  // namespace

std::unique_ptr<Drafter> make_model_drafter(Backend& backend, std::int32_t n_vocab, std::string_view name) {
  return std::make_unique<ModelDrafter>(backend, n_vocab, name);
}

}  // namespace gsd
