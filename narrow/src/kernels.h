// The arithmetic of the backend: what a kernel is, and the tables of them per instruction set.
//
// A product is out[c][r] = sum over k of weights[r][k] * x[c][k], with weights as they stand in a GGUF file and few
// columns c. Work is done in two steps. *Packing* converts the activations once into blocks of one cache line.
// A *tile* multiplies kernel.tile_rows consecutive rows by the columns of a slab.
//
// Everything here is stateless and may be called from any number of threads.
#pragma once

#include <cstddef>
#include <cstdint>

namespace gsd::narrow {

enum class Format : uint8_t {
  kF32,
  kF16,
  kBF16,
  kQ8_0,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kIQ4_NL,
  kMXFP4,
  kQ2_K,
  kQ3_K,
  kQ4_K,
  kQ5_K,
  kQ6_K,
  kIQ4_XS,
  kNVFP4,
  kIQ3_S,
  kIQ3_XXS,
  kIQ2_S,
  kIQ2_XS,
  kIQ2_XXS,
  kIQ1_M,
  kIQ1_S
};
inline constexpr int kFormats = 24;

// How activations are packed. Products that share activations and a packing can share one packed copy.
enum class Packing : uint8_t {
  kF32,   // 16 floats a block
  kBF16,  // 32 bfloat16 a block, rounded to nearest even
  kQ8,    // 32 signed bytes, their scale and their sums a block (PackedQ8)
  kQ8K,   // the same with one scale for 256 (PackedQ8K)
};

constexpr bool is_quantised(Packing packing) { return packing == Packing::kQ8 || packing == Packing::kQ8K; }

// Columns that one tile call can hold accumulators for; wider products are cut into slabs.
inline constexpr int kMaxColumns = 64;
// Columns whose packed blocks lie side by side. Further ones follow behind all blocks of these.
constexpr int pack_columns(Packing packing) { return is_quantised(packing) ? kMaxColumns : 8; }
inline constexpr size_t kBlockBytes = 64;  // of every packing

// 32 activations x[i] ~ scale * q[i]. The sums let unsigned weights stand for signed ones: with weights stored as
// w + offset, sum(w * q) = sum((w + offset) * q) - offset * sum(q), so a dot product starts at -offset * sum(q).
struct alignas(kBlockBytes) PackedQ8 {
  int8_t q[32];
  float scale;             // NaN if one of the 32 is
  int32_t start_8;         // -8 * sum(q), for Q4_0
  int32_t start_12;        // and so on, for MXFP4
  int32_t start_16;        // for Q5_0
  int32_t start_128;       // for Q8_0 and IQ4_NL
  float sum;               // scale * sum(q), for Q4_1 and Q5_1
  int32_t start_12_of[2];  // of each half, for NVFP4
};
static_assert(sizeof(PackedQ8) == kBlockBytes);

// 32 activations of 256 that share a scale, as the K formats' weights are scaled in blocks of 256.
struct alignas(kBlockBytes) PackedQ8K {
  int8_t q[32];
  float scale;          // NaN if one of the 256 is
  int32_t start_32[2];  // -32 * sum of each half, for Q6_K, Q3_K, IQ2_S, IQ2_XS, IQ1_M
  int16_t halves[2];    // the sum of each half, for Q2_K
  int16_t sums[4][2];   // in the last of the 8: sum(q) of blocks {0, 2}, {1, 3}, {4, 6}, {5, 7}, for Q4_K, Q5_K, IQ
};
static_assert(sizeof(PackedQ8K) == kBlockBytes);
inline constexpr int kBlocksK = 8;  // blocks that share a scale

// A quantised tile of at most so many bytes is streamed in as a whole; of a larger one, the next tile's start only.
inline constexpr size_t kStreamedTile = 160 << 10;

struct TileArgs {
  const uint8_t* weights;   // first row of the tile
  size_t row_stride;        // bytes from row to row; 0 reads one row again and again
  int64_t k;                // length of a row in weights, >= 1
  const std::byte* packed;  // [group of pack_columns][blocks(k)][columns] blocks of kBlockBytes, aligned to them
  int columns;              // 1..kMaxColumns
  float* out;               // out[c * out_stride + i] receives row first_lane + i
  int64_t out_stride;       // floats from column to column
  int first_lane, lanes;    // the lanes to store
  const uint8_t* next;      // bytes that will be needed after this tile, streamed in while it computes
  size_t next_bytes;        // 0: nothing
};

// One query: a token's vector of one head.
struct Query {
  const float* q;        // [k_size]
  const uint16_t* mask;  // [cells] half-precision floats added to the scores; -infinity leaves a cell out
  float* out;            // [v_size]
  float slope;           // of the mask: positions as a bias (ALiBi); above 0, 1 without
  float sink;            // the score of one more cell, whose value is zeros; -infinity: there is none
};

// Queries that read the same keys and values: out = sum over cells of softmax(score + slope * mask) * v, where the
// score is scale * q . k, or with a cap above 0, cap * tanh of that (scale is then 1 / cap of the model's). A cell that
// is left out has no effect on that query, whatever it holds. A query without any cell gets zeros.
struct AttentionArgs {
  const struct Kernel* scores;  // of the keys' format
  const uint8_t* k;             // of cell 0
  const uint8_t* v;
  size_t k_stride, v_stride;  // bytes from cell to cell
  int64_t k_size, v_size;     // multiples of kAttentionStep
  int64_t cells;              // a multiple of kAttentionStep
  const Query* queries;
  int columns;  // queries, 1..kAttentionColumns
  float scale, cap;
  const uint8_t *next_k, *next_v;  // laid out like k and v, and needed next; null: nothing
  std::byte* scratch;              // attention_scratch(k_size, v_size) bytes, aligned to kBlockBytes
};
inline constexpr int kAttentionStep = 16;
inline constexpr int kAttentionColumns = 8;
inline constexpr int64_t kAttentionSlab = 256;  // cells whose scores are held at once

// A multiple of kBlockBytes, as the sizes are multiples of kAttentionStep.
constexpr size_t attention_scratch(int64_t k_size, int64_t v_size) {
  return sizeof(float) * kAttentionColumns * static_cast<size_t>(k_size + kAttentionStep + v_size + kAttentionSlab);
}

struct Kernel {
  void (*tile)(const TileArgs&) = nullptr;
  int tile_rows = 0;
  Packing packing = Packing::kF32;
  void (*attend)(const AttentionArgs&) = nullptr;  // with values of this format; floating-point formats only
};

// One entry per Format; tile == nullptr where the instruction set has no kernel of its own.
struct KernelTable {
  Kernel of[kFormats];

  Kernel& operator[](Format format) { return of[static_cast<int>(format)]; }
};

// Weights per packed block.
constexpr int block_weights(Packing packing) { return packing == Packing::kF32 ? 16 : 32; }
constexpr int64_t blocks(Packing packing, int64_t k) {
  return (k + block_weights(packing) - 1) / block_weights(packing);
}

// Packs blocks first to last (exclusive) of `columns` columns of k floats, x[c]: block b of column c goes to
// out + b * stride + c * kBlockBytes. Values past k are zero.
// REQUIRES: AVX2, FMA; for kQ8 k is a multiple of 32; for kQ8K k is one of 256, first and last are ones of kBlocksK.
void pack(Packing packing, const float* const* x, int columns, int64_t k, int64_t first, int64_t last, std::byte* out,
          size_t stride);

// Each is defined in a translation unit compiled for its instruction set; call only where the machine has it.
KernelTable kernels_avx2();        // AVX2, FMA, F16C: every format
KernelTable kernels_avxvnni();     // and AVX-VNNI: quantised formats
KernelTable kernels_avx512();      // AVX-512 F, BW, DQ, VL: floating-point formats
KernelTable kernels_avx512vnni();  // and VNNI: quantised formats
KernelTable kernels_avx512bf16();  // and BF16: that format

}  // namespace gsd::narrow
