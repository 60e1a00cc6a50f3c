#include "gsd/scripted_backend.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "gsd/error.h"

namespace gsd {
namespace {

void require(bool ok, const char* what) {
  if (!ok) throw Error(ErrorCode::kInternal, std::string("scripted backend: ") + what);
}

std::uint64_t splitmix(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

float unit(std::uint64_t h) { return static_cast<float>(splitmix(h) >> 40) * 0x1p-24F; }

}  // namespace

Script random_script(std::uint64_t seed, int order, float sharpness, float drift) {
  return [=](std::span<const Token> context, std::span<float> logits) {
    std::uint64_t h = splitmix(seed);
    std::uint64_t other = splitmix(seed + 1);
    const std::size_t n = std::min(context.size(), static_cast<std::size_t>(order));
    for (const Token t : context.last(n)) {
      h = splitmix(h ^ static_cast<std::uint32_t>(t));
      other = splitmix(other ^ static_cast<std::uint32_t>(t));
    }
    for (std::size_t i = 0; i < logits.size(); ++i) {
      logits[i] = sharpness * ((1 - drift) * unit(h + i) + drift * unit(other + i));
    }
  };
}

ScriptedBackend::ScriptedBackend(BackendInfo info, Script script, int order, Token eog)
    : info_(info),
      script_(std::move(script)),
      order_(order),
      eog_(eog),
      sequences_(static_cast<std::size_t>(info.n_seq)) {
  logits_.resize(static_cast<std::size_t>(info.max_outputs) * static_cast<std::size_t>(info.n_vocab));
  for (Sequence& s : sequences_) {
    s.prefix.reserve(static_cast<std::size_t>(info.n_ctx));
    s.nodes.reserve(static_cast<std::size_t>(info.n_ctx));
  }
}

ScriptedBackend::Sequence& ScriptedBackend::sequence(std::int32_t seq) {
  require(seq >= 0 && seq < info_.n_seq, "no such sequence");
  return sequences_[static_cast<std::size_t>(seq)];
}

const ScriptedBackend::Sequence& ScriptedBackend::sequence(std::int32_t seq) const {
  return const_cast<ScriptedBackend*>(this)->sequence(seq);
}

void ScriptedBackend::add(const NodeInput& in) {
  Sequence& s = sequence(in.seq);
  const auto index = static_cast<std::int32_t>(s.nodes.size());
  if (s.prefix.empty() && index == 0) s.scales = scales_;
  require(s.scales == scales_, "a prefix that was made with other adapters");
  require(in.parent >= -1 && in.parent < index, "a parent does not stand before its child");
  require(in.token >= 0 && in.token < info_.n_vocab, "a token is out of range");
  for (const Node& n : s.nodes) require(n.parent != in.parent || n.token != in.token, "equal siblings");
  const bool extends_leaf = in.parent >= 0 ? s.nodes[static_cast<std::size_t>(in.parent)].children++ == 0 : false;
  s.leaves += extends_leaf ? 0 : 1;
  require(s.leaves <= info_.max_leaves, "too many leaves");
  std::int32_t depth = 1;
  for (std::int32_t at = in.parent; at >= 0; at = s.nodes[static_cast<std::size_t>(at)].parent) ++depth;
  require(static_cast<std::int32_t>(s.prefix.size()) + depth <= info_.n_ctx, "a position beyond the context");
  require(!in.certain || in.parent == -1 || s.nodes[static_cast<std::size_t>(in.parent)].certain,
          "a certain node below one that is not");
  s.nodes.push_back({in.token, in.parent, 0, in.certain});
  if (!in.want_logits) return;
  require(n_rows_ < info_.max_outputs, "too many rows of logits");
  context_.clear();
  for (std::int32_t at = index; at >= 0 && static_cast<int>(context_.size()) < order_;
       at = s.nodes[static_cast<std::size_t>(at)].parent) {
    context_.push_back(s.nodes[static_cast<std::size_t>(at)].token);
  }
  for (std::size_t i = s.prefix.size(); i > 0 && static_cast<int>(context_.size()) < order_; --i)
    context_.push_back(s.prefix[i - 1]);
  std::reverse(context_.begin(), context_.end());
  const auto n = static_cast<std::size_t>(info_.n_vocab);
  const auto row = std::span(logits_).subspan(static_cast<std::size_t>(n_rows_++) * n, n);
  script_(context_, row);
  std::ptrdiff_t turn = 0;
  for (std::size_t i = 0; i < scales_.size(); ++i)
    turn += std::lround(8 * scales_[i]) * static_cast<std::ptrdiff_t>(i + 1);
  const auto size = std::ssize(row);
  std::rotate(row.begin(), row.begin() + (turn % size + size) % size, row.end());
}

void ScriptedBackend::adapt(std::span<const float> scales) {
  const auto end = std::find_if(scales.rbegin(), scales.rend(), [](float s) { return s != 0; }).base();
  scales_.assign(scales.begin(), end);
}

void ScriptedBackend::forward(std::span<const NodeInput> nodes) {
  require(!nodes.empty() && static_cast<std::int32_t>(nodes.size()) <= info_.max_batch,
          "a batch that is empty or too large");
  if (fail_ > 0) {
    --fail_;
    throw Error(ErrorCode::kNoKvSlot, "The scripted backend was told to have no room.");
  }
  if (break_in_ > 0 && --break_in_ == 0) {
    for (const NodeInput& in : nodes) {
      Sequence& s = sequence(in.seq);
      s.nodes.clear();
      s.leaves = 0;
      s.prefix.resize(s.prefix.size() / go_back_to_ * go_back_to_);
    }
    throw Error(ErrorCode::kBackend, "The scripted backend was told to fail.");
  }
  ++n_forwards_;
  n_rows_ = 0;
  for (const NodeInput& in : nodes) add(in);
}

std::span<const float> ScriptedBackend::logits(std::int32_t row) const {
  require(row >= 0 && row < n_rows_, "no such row of logits");
  const auto n = static_cast<std::size_t>(info_.n_vocab);
  return std::span(logits_).subspan(static_cast<std::size_t>(row) * n, n);
}

void ScriptedBackend::commit(std::int32_t seq, std::span<const std::int32_t> path) {
  Sequence& s = sequence(seq);
  std::int32_t parent = -1;
  for (const std::int32_t id : path) {
    require(id >= 0 && id < static_cast<std::int32_t>(s.nodes.size()), "no such speculative node");
    const Node& n = s.nodes[static_cast<std::size_t>(id)];
    require(n.parent == parent, "the committed nodes are no path");
    s.prefix.push_back(n.token);
    parent = id;
  }
  if (!path.empty() && info_.max_rollback != INT32_MAX) {
    const auto certain = std::count_if(s.nodes.begin(), s.nodes.end(), [](const Node& n) { return n.certain; });
    require(std::ssize(path) >= certain, "a certain node is dropped");
    require(std::ssize(s.nodes) - std::ssize(path) <= info_.max_rollback, "more nodes are dropped than can be");
  }
  s.nodes.clear();
  s.leaves = 0;
}

std::int32_t ScriptedBackend::truncate(std::int32_t seq, std::int32_t n_tokens) {
  Sequence& s = sequence(seq);
  require(n_tokens >= 0 && n_tokens <= static_cast<std::int32_t>(s.prefix.size()), "truncation beyond the prefix");
  auto left = static_cast<std::size_t>(n_tokens);
  if (left < s.prefix.size()) left = left / go_back_to_ * go_back_to_;
  s.prefix.resize(left);
  s.nodes.clear();
  s.leaves = 0;
  return static_cast<std::int32_t>(left);
}

std::optional<SavedPrefix> ScriptedBackend::save(std::int32_t seq, std::size_t most) {
  const Sequence& s = sequence(seq);
  require(s.nodes.empty(), "a prefix is saved beside speculative nodes");
  const auto bytes = std::as_bytes(std::span(s.prefix));
  if (s.prefix.empty() || bytes.size() > most) return std::nullopt;
  SavedPrefix out{.n = static_cast<std::int32_t>(s.prefix.size()), .ends = {}, .bytes = {}};
  out.bytes.resize(bytes.size());
  std::memcpy(out.bytes.data(), bytes.data(), bytes.size());
  if (go_back_to_ == 1) return out;
  for (auto end = static_cast<std::int32_t>(go_back_to_); end < out.n; end += static_cast<std::int32_t>(go_back_to_))
    out.ends.push_back(end);
  out.ends.push_back(out.n);
  return out;
}

std::int32_t ScriptedBackend::restore(std::int32_t seq, const SavedPrefix& saved, std::span<const Token> text) {
  Sequence& s = sequence(seq);
  s = {};
  s.prefix.reserve(static_cast<std::size_t>(info_.n_ctx));
  s.scales = scales_;
  if (refuse_) return 0;
  require(saved.reach(static_cast<std::int32_t>(text.size())) == std::ssize(text), "a place that cannot be put back");
  require(std::memcmp(text.data(), saved.bytes.data(), text.size_bytes()) == 0, "the state of another text");
  s.prefix.assign(text.begin(), text.end());
  return static_cast<std::int32_t>(text.size());
}

std::int32_t ScriptedBackend::n_committed(std::int32_t seq) const {
  return static_cast<std::int32_t>(sequence(seq).prefix.size());
}
std::int32_t ScriptedBackend::n_speculative(std::int32_t seq) const {
  return static_cast<std::int32_t>(sequence(seq).nodes.size());
}

}  // namespace gsd
