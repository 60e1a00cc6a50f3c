#include "replay_backend.h"

#include <algorithm>
#include <cmath>

namespace gsd {
namespace {
constexpr float kSure = 1000;  // logit of the target's recorded token; all others have 0
}  // namespace

ReplayBackend::ReplayBackend(const Replay& replay, Side side) : replay_(replay), side_(side) {
  const auto n_ctx = static_cast<std::int32_t>(replay.text.size()) + 256;
  info_ = {.n_vocab = replay.n_vocab,
           .n_ctx = n_ctx,
           .n_seq = 1,
           .max_batch = std::max(n_ctx, 128),
           .max_outputs = 128,
           .max_leaves = 64};
}

bool ReplayBackend::is_eog(Token token) const {
  return std::find(replay_.eog.begin(), replay_.eog.end(), token) != replay_.eog.end();
}

void ReplayBackend::forward(std::span<const NodeInput> nodes) {
  rows_.clear();
  for (const NodeInput& in : nodes) {
    // What is committed is text, but what follows it need not be.
    const Place parent = in.parent < 0 ? on_text(committed_ - 1) : nodes_[static_cast<std::size_t>(in.parent)];
    nodes_.push_back(below(parent, in.token));
    if (!in.want_logits) continue;
    rows_.push_back(nodes_.back());
    unknown_ += side_ == Side::kDraft && nodes_.back().node < 0 ? 1 : 0;
  }
  logits_.resize(std::max(logits_.size(), rows_.size()));
  for (std::vector<float>& row : logits_) row.clear();
}

std::span<const float> ReplayBackend::logits(std::int32_t row) const {
  const Place at = rows_[static_cast<std::size_t>(row)];
  std::vector<float>& out = logits_[static_cast<std::size_t>(row)];
  if (!out.empty()) return out;
  out.assign(static_cast<std::size_t>(replay_.n_vocab), 0);
  if (side_ == Side::kTarget) {
    const auto next = static_cast<std::size_t>(at.position + 1);
    if (at.position >= 0 && next < replay_.text.size()) out[static_cast<std::size_t>(replay_.text[next])] = kSure;
  } else if (at.node >= 0) {
    answer(replay_.nodes[static_cast<std::size_t>(at.node)], out);
  }
  return out;
}

void ReplayBackend::commit(std::int32_t, std::span<const std::int32_t> path) {
  committed_ += static_cast<std::int32_t>(path.size());
  nodes_.clear();
}

std::int32_t ReplayBackend::truncate(std::int32_t, std::int32_t n_tokens) {
  committed_ = std::min(committed_, n_tokens);
  nodes_.clear();
  return committed_;
}

ReplayBackend::Place ReplayBackend::on_text(std::int32_t position) const {
  const bool recorded = position >= 0 && static_cast<std::size_t>(position) < replay_.root.size();
  return {position, recorded ? replay_.root[static_cast<std::size_t>(position)] : -1};
}

ReplayBackend::Place ReplayBackend::below(Place parent, Token token) const {
  const auto next = static_cast<std::size_t>(parent.position + 1);
  if (parent.position != kOffText && next < replay_.text.size() && replay_.text[next] == token)
    return on_text(parent.position + 1);
  return {kOffText, parent.node < 0 ? -1 : replay_.find(parent.node, token)};
}

// The recorded candidates; what is left of the probability is shared evenly by all other tokens.
void ReplayBackend::answer(const Replay::Node& n, std::vector<float>& row) const {
  const float temperature = replay_.sampling.greedy() ? 1 : replay_.sampling.temperature;
  double left = 1;
  for (const float q : n.log_q) left -= std::exp(q);
  const double others = std::max(1, replay_.n_vocab - static_cast<std::int32_t>(n.log_q.size()));
  const auto rest = static_cast<float>(std::log(std::max(left, 1e-9) / others));
  std::fill(row.begin(), row.end(), rest * temperature);
  for (std::size_t i = 0; i < n.log_q.size(); ++i)
    row[static_cast<std::size_t>(n.candidates[i])] = n.log_q[i] * temperature;
}

}  // namespace gsd
