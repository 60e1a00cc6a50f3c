// Attention over a key-value cache for a few tokens: what ggml calls GGML_OP_FLASH_ATTN_EXT.
//
// Source: Dao et al., "FlashAttention", section 3.1 (softmax by blocks of the cache, with a running maximum).
//
// Each query is computed alone: blocks lie at fixed cells, cells are added up in their order, and those that the mask
// leaves out change nothing. So the bits of a token's result depend neither on the other tokens of the batch nor on
// threads, and cells behind the ones it sees may hold anything.
#pragma once

#include <atomic>
#include <cstdint>

#include "kernels.h"

namespace gsd::narrow {

// All strides in bytes. A stream is a set of sequences with a cache of its own.
struct Attention {
  const Kernel* keys;  // the kernels of their formats
  const Kernel* values;
  const uint8_t* q;  // [streams][heads][tokens] float vectors of k_size
  size_t q_stream, q_head, q_token;
  const uint8_t* k;  // [streams][kv_heads][cells] vectors of k_size
  size_t k_stream, k_head, k_cell;
  const uint8_t* v;  // [streams][kv_heads][cells] vectors of v_size
  size_t v_stream, v_head, v_cell;
  const uint8_t* mask;  // [streams or 1][tokens][cells] half-precision floats
  size_t mask_stream, mask_token;
  float* out;                                // [streams][tokens][heads][v_size]
  int64_t k_size, v_size, cells;             // multiples of kAttentionStep
  int64_t tokens, heads, kv_heads, streams;  // heads is a multiple of kv_heads
  float scale;
  float cap = 0;       // above 0: scores become cap * tanh(score / cap)
  float max_bias = 0;  // above 0: the mask holds distances, which each head weighs by a slope of its own (ALiBi)
  const float* sinks = nullptr;  // [heads], or null
};

// How attention is shared among threads: each calls attend() with scratch memory of its own. A thread takes several
// neighbouring heads at a time, whose vectors lie side by side in memory.
class AttentionWork {
 public:
  // Keeps a reference to `attention`, which must outlive it. REQUIRES: threads >= 1, those expected
  AttentionWork(const Attention& attention, int threads);

  // Returns when nothing is left to take. scratch: attention_scratch() bytes, aligned to kBlockBytes
  void attend(std::byte* scratch);

 private:
  void attend_group(int64_t unit, bool more, std::byte* scratch) const;

  const Attention& a_;
  int64_t queries_;  // that read the same keys: tokens * heads / kv_heads
  int64_t groups_;   // of at most kAttentionColumns of them
  int64_t units_;    // groups of all heads and streams
  int64_t run_;      // units taken at a time
  std::atomic<int64_t> next_{0};
};

}  // namespace gsd::narrow
