#include "attention.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace gsd::narrow {
namespace {

constexpr int kRuns = 4;  // taken by each thread, if they are equally fast

// Source: Press et al., "Train Short, Test Long", section 3 and its code: a geometric series over as many heads as the
// largest power of two, and for further heads every second element of the finer one.
float slope_of(int64_t head, int64_t heads, float max_bias) {
  if (max_bias <= 0) return 1;
  const auto power = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(heads)));
  const bool first = head < power;
  const float base = std::pow(2.0F, -(first ? max_bias : max_bias / 2) / static_cast<float>(power));
  return std::pow(base, static_cast<float>(first ? head + 1 : 2 * (head - power) + 1));
}

}  // namespace

AttentionWork::AttentionWork(const Attention& attention, int threads)
    : a_(attention),
      queries_(attention.tokens * (attention.heads / attention.kv_heads)),
      groups_((queries_ + kAttentionColumns - 1) / kAttentionColumns),
      units_(attention.streams * attention.kv_heads * groups_),
      run_(std::max<int64_t>(1, units_ / (int64_t{threads} * kRuns))) {}

void AttentionWork::attend(std::byte* scratch) {
  for (int64_t first; (first = next_.fetch_add(run_, std::memory_order_relaxed)) < units_;) {
    const int64_t end = std::min(first + run_, units_);
    for (int64_t unit = first; unit < end; ++unit) attend_group(unit, unit + 1 < end, scratch);
  }
}

void AttentionWork::attend_group(int64_t unit, bool more, std::byte* scratch) const {
  const int64_t group = unit % groups_;
  const auto kv_head = static_cast<size_t>(unit / groups_ % a_.kv_heads);
  const auto stream = static_cast<size_t>(unit / groups_ / a_.kv_heads);
  // Of the unit's head, and of the next one's, which is streamed in meanwhile.
  const auto vectors = [&](int64_t of, const uint8_t* all, size_t stream_bytes, size_t head_bytes) {
    return all + static_cast<size_t>(of / groups_ / a_.kv_heads) * stream_bytes +
           static_cast<size_t>(of / groups_ % a_.kv_heads) * head_bytes;
  };
  const int64_t sharing = a_.heads / a_.kv_heads;  // heads that read the same keys
  Query queries[kAttentionColumns];
  const int columns = static_cast<int>(std::min<int64_t>(kAttentionColumns, queries_ - group * kAttentionColumns));
  for (int c = 0; c < columns; ++c) {
    const int64_t query = group * kAttentionColumns + c;
    const auto token = static_cast<size_t>(query / sharing);
    const size_t head = kv_head * static_cast<size_t>(sharing) + static_cast<size_t>(query % sharing);
    const uint8_t* q = a_.q + stream * a_.q_stream + head * a_.q_head + token * a_.q_token;
    const uint8_t* mask = a_.mask + stream * a_.mask_stream + token * a_.mask_token;
    const size_t row = (stream * static_cast<size_t>(a_.tokens) + token) * static_cast<size_t>(a_.heads) + head;
    queries[c] = {.q = reinterpret_cast<const float*>(q),
                  .mask = reinterpret_cast<const uint16_t*>(mask),
                  .out = a_.out + row * static_cast<size_t>(a_.v_size),
                  .slope = slope_of(static_cast<int64_t>(head), a_.heads, a_.max_bias),
                  .sink = a_.sinks == nullptr ? -std::numeric_limits<float>::infinity() : a_.sinks[head]};
  }
  a_.values->attend({.scores = a_.keys,
                     .k = vectors(unit, a_.k, a_.k_stream, a_.k_head),
                     .v = vectors(unit, a_.v, a_.v_stream, a_.v_head),
                     .k_stride = a_.k_cell,
                     .v_stride = a_.v_cell,
                     .k_size = a_.k_size,
                     .v_size = a_.v_size,
                     .cells = a_.cells,
                     .queries = queries,
                     .columns = columns,
                     .scale = a_.cap > 0 ? a_.scale / a_.cap : a_.scale,
                     .cap = a_.cap,
                     .next_k = more ? vectors(unit + 1, a_.k, a_.k_stream, a_.k_head) : nullptr,
                     .next_v = more ? vectors(unit + 1, a_.v, a_.v_stream, a_.v_head) : nullptr,
                     .scratch = scratch});
}

}  // namespace gsd::narrow
