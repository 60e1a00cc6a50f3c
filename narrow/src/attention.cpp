#include "attention.h"

#include <algorithm>

namespace gsd::narrow {

AttentionWork::AttentionWork(const Attention& attention)
    : a_(attention),
      queries_(attention.tokens * (attention.heads / attention.kv_heads)),
      groups_((queries_ + kAttentionColumns - 1) / kAttentionColumns) {}

void AttentionWork::attend(std::byte* scratch) {
  const int64_t units = a_.streams * a_.kv_heads * groups_;
  for (int64_t unit; (unit = next_.fetch_add(1, std::memory_order_relaxed)) < units;) attend_group(unit, scratch);
}

void AttentionWork::attend_group(int64_t unit, std::byte* scratch) const {
  const int64_t group = unit % groups_;
  const auto kv_head = static_cast<size_t>(unit / groups_ % a_.kv_heads);
  const auto stream = static_cast<size_t>(unit / groups_ / a_.kv_heads);
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
    queries[c] = {reinterpret_cast<const float*>(q), reinterpret_cast<const uint16_t*>(mask),
                  a_.out + row * static_cast<size_t>(a_.v_size)};
  }
  a_.values->attend({.scores = a_.keys,
                     .k = a_.k + stream * a_.k_stream + kv_head * a_.k_head,
                     .v = a_.v + stream * a_.v_stream + kv_head * a_.v_head,
                     .k_stride = a_.k_cell,
                     .v_stride = a_.v_cell,
                     .k_size = a_.k_size,
                     .v_size = a_.v_size,
                     .cells = a_.cells,
                     .queries = queries,
                     .columns = columns,
                     .scale = a_.scale,
                     .scratch = scratch});
}

}  // namespace gsd::narrow
