#include "states.h"

#include <algorithm>
#include <cassert>

namespace gsd {

void StateRows::set(std::size_t i, const float* row) {
  if (i >= set_.size()) set_.resize(i + 1, false);
  if (rows_.size() < (i + 1) * width_) rows_.resize((i + 1) * width_);
  std::copy_n(row, width_, rows_.begin() + static_cast<std::ptrdiff_t>(i * width_));
  set_[i] = true;
}

std::span<const float> StateRows::get(std::size_t i) const {
  if (i >= set_.size() || !set_[i]) return {};
  return {rows_.data() + i * width_, width_};
}

// ---- TargetStates

TargetStates::TargetStates(const Model& target, std::span<const std::int32_t> layers, std::int32_t n_seq,
                           std::int32_t capacity)
    : functions_(*state_functions()),
      layers_(layers.begin(), layers.end()),
      n_layer_(target.n_layers()),
      n_embd_(llama_model_n_embd_out(target.impl().model.get())),
      capacity_(capacity),
      width_(layers_.empty() ? n_embd_ : n_embd_ * static_cast<std::int32_t>(layers_.size())),
      sequences_(static_cast<std::size_t>(n_seq), Sequence{StateRows(static_cast<std::size_t>(width_)), {}, 0, 0}),
      row_(static_cast<std::size_t>(width_)) {}

void TargetStates::attach(llama_context* context) const {
  if (layers_.empty()) functions_.set_nextn(context, true, false);
  for (const std::int32_t layer : layers_) {
    if (layer < n_layer_) {
      functions_.set_layer_input(context, static_cast<std::uint32_t>(layer), true);
    } else {
      functions_.set_nextn(context, true, false);
    }
  }
}

void TargetStates::take(std::int32_t seq, std::int32_t node, llama_context* context, std::int32_t token) {
  const float* state = row_.data();
  if (layers_.empty()) state = functions_.nextn_ith(context, token);
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const float* part = layers_[i] == n_layer_
                            ? functions_.nextn_ith(context, token)
                            : functions_.layer_input(context, static_cast<std::uint32_t>(layers_[i]));
    if (part == nullptr) return;
    if (layers_[i] != n_layer_) part += static_cast<std::ptrdiff_t>(token) * n_embd_;
    std::copy_n(part, n_embd_, row_.begin() + static_cast<std::ptrdiff_t>(i) * n_embd_);
  }
  if (state != nullptr) at(seq).nodes.set(static_cast<std::size_t>(node), state);
}

void TargetStates::commit(std::int32_t seq, std::span<const std::int32_t> path, std::int32_t position) {
  Sequence& s = at(seq);
  for (const std::int32_t node : path) {
    const std::span<const float> state = s.nodes.get(static_cast<std::size_t>(node));
    if (position != s.end || state.empty()) s.begin = position + (state.empty() ? 1 : 0);
    s.end = ++position;
    s.begin = std::max(s.begin, s.end - capacity_);
    if (state.empty()) continue;
    s.ring.resize(static_cast<std::size_t>(capacity_) * static_cast<std::size_t>(width_));
    std::copy(state.begin(), state.end(), s.ring.begin() + static_cast<std::ptrdiff_t>(row_of(position - 1)));
  }
  s.nodes.clear();
}

void TargetStates::truncate(std::int32_t seq, std::int32_t n) {
  Sequence& s = at(seq);
  s.nodes.clear();
  s.end = std::min(s.end, n);
  s.begin = std::min(s.begin, s.end);
}

std::span<const float> TargetStates::state(std::int32_t seq, std::int32_t position) const {
  const Sequence& s = at(seq);
  if (position < s.begin || position >= s.end) return {};
  return {s.ring.data() + row_of(position), static_cast<std::size_t>(width_)};
}

// ---- HeadStates

HeadStates::HeadStates(const Model& head, DraftType type, std::shared_ptr<const TargetStates> target)
    : functions_(*state_functions()),
      type_(type),
      target_(std::move(target)),
      width_(static_cast<std::size_t>(type == DraftType::kMtp ? target_->width()
                                                              : llama_model_n_embd(head.impl().model.get()))),
      sequences_(target_->n_seq(), Sequence{StateRows(width_), {}}),
      none_(static_cast<std::size_t>(target_->width())) {}

void HeadStates::attach(llama_context* context) const { functions_.set_nextn(context, true, true); }

std::int32_t HeadStates::known(std::int32_t seq, std::int32_t committed) const {
  const std::int32_t begin = target_->begin(seq);
  const std::int32_t end = target_->end(seq);
  // One missing state is no reason to give up what the memory holds. Nothing comes before the first token, which a head
  // is therefore not fed if there is another.
  if (committed >= begin && (committed > 0 || end == 0)) return committed;
  return begin < end ? begin + 1 : std::max(committed, end);
}

std::span<const float> HeadStates::own_state(const Node& node) const {
  const Sequence& s = sequences_[static_cast<std::size_t>(node.seq)];
  return node.parent < 0 ? std::span<const float>(s.last) : s.nodes.get(static_cast<std::size_t>(node.parent));
}

void HeadStates::prepare(llama_context* context, std::span<const Node> nodes) {
  inputs_.assign(nodes.size() * width_, 0);
  encoding_.clear();
  encoded_.clear();
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    const Node& n = nodes[i];
    const std::span<const float> state = n.certain ? target_->state(n.seq, n.position - 1) : own_state(n);
    if (n.certain && type_ == DraftType::kEagle3) {
      // Its encoder wants the positions that follow on the memory's.
      encoding_.add(-1, n.position, true);
      encoding_.add_id(n.id);
      encoding_.add_state(state.empty() ? std::span<const float>(none_) : state, StateInput::kAlone);
      encoded_.push_back(i);
    } else {
      std::copy(state.begin(), state.end(), inputs_.begin() + static_cast<std::ptrdiff_t>(i * width_));
    }
  }
  if (encoded_.empty()) return;
  encoding_.encode(context);
  const float* rows = functions_.nextn(context);
  if (rows == nullptr) throw Error(ErrorCode::kBackend, "The head's encoder gave no rows.");
  for (std::size_t k = 0; k < encoded_.size(); ++k)
    std::copy_n(rows + k * width_, width_, inputs_.begin() + static_cast<std::ptrdiff_t>(encoded_[k] * width_));
}

void HeadStates::take(const Node& node, llama_context* context, std::int32_t token) {
  if (const float* state = functions_.nextn_ith(context, token))
    sequences_[static_cast<std::size_t>(node.seq)].nodes.set(static_cast<std::size_t>(node.index), state);
}

void HeadStates::commit(std::int32_t seq, std::span<const std::int32_t> path) {
  Sequence& s = sequences_[static_cast<std::size_t>(seq)];
  if (!path.empty()) {
    const std::span<const float> state = s.nodes.get(static_cast<std::size_t>(path.back()));
    s.last.assign(state.begin(), state.end());
  }
  s.nodes.clear();
}

}  // namespace gsd
