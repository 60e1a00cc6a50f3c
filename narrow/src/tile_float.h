// Tiles of floating-point weights: F32, F16, BF16.
//
// Lanes run along the row. A register of weights, widened as it is loaded, is multiplied by a register of activations
// of each column: no weight is moved between lanes. The row is cut into chunks whose activations stay in the
// first-level cache while all rows of the tile are multiplied by them. When a chunk ends, half the lanes are folded
// onto the others, and when the row ends, the rest are added up.
#pragma once

#include <bit>

#include "tile_common.h"

namespace {

constexpr int kTileRows = 16;
constexpr int kGroupColumns = kRows / 2;  // multiplied together: 8 with AVX-512, 4 with AVX2's 16 registers
constexpr int kBlockParts = static_cast<int>(kBlockBytes / sizeof(Floats));  // registers of a packed block

// A format: the bytes of a row that belong to a packed block, how the weights of a register are loaded, and what they
// add to a sum with the activations x.
struct TileF32 {
  static constexpr size_t kBytes = 64;
  static constexpr auto kPacking = gsd::narrow::Packing::kF32;
  // Of a chunk, at most. Short, as each lane is added up one by one within a chunk, and ggml's four sums a row round
  // less than one.
  static constexpr int64_t kChunkBlocks = 12;
  static GSD_INLINE Floats load(const uint8_t* p) { return load_floats(p); }
  static GSD_INLINE Floats step(Floats s, Floats w, Floats x) { return fma(w, x, s); }
};

struct TileF16 : TileF32 {
  static constexpr size_t kBytes = 32;
  static constexpr int64_t kChunkBlocks = 48;  // 24 KB of activations for eight columns
  static GSD_INLINE Floats load(const uint8_t* p) { return load_f16(p); }
};

// BF16 on machines without an instruction for it: the weights widened, the activations not rounded.
struct TileBF16Widened : TileF32 {
  static constexpr size_t kBytes = 32;
  static constexpr int64_t kChunkBlocks = 48;
  static GSD_INLINE Floats load(const uint8_t* p) { return load_bf16(p); }
};

#if defined(__AVX512BF16__)
struct TileBF16 : TileF32 {
  static constexpr auto kPacking = gsd::narrow::Packing::kBF16;
  static constexpr int64_t kChunkBlocks = 48;
  static GSD_INLINE Floats step(Floats s, Floats w, Floats x) { return dot_bf16(s, w, x); }
};
#endif

// A chunk of the rows of a tile.
struct Chunk {
  const uint8_t* weights;  // of the first row
  size_t row_stride;
  const uint8_t* ahead;  // what is to be streamed in, laid out like it
  const std::byte* x;    // of the first column
  size_t x_stride;       // bytes from block to block
  int64_t blocks;
};

constexpr int kFolded = kRows / 2;  // rows whose sums share registers with the kFolded rows after them

// Adds kCount columns times kHeight rows to their sums, [row % kFolded][column]: the kHeight / 2 rows from `row` on and
// those kFolded behind them, folded together.
template <class Tile, int kHeight, int kCount>
GSD_INLINE void multiply_rows(const Chunk& chunk, const uint8_t* ahead, int row, bool first, Floats* sums) {
  Floats acc[kHeight][kCount];
#pragma GCC unroll 8
  for (int r = 0; r < kHeight; ++r) {
#pragma GCC unroll 8
    for (int n = 0; n < kCount; ++n) acc[r][n] = zero();
  }
  constexpr int kHalf = kHeight / 2;
  const size_t stride = chunk.row_stride;
  const auto row_offset = [&](int r) { return static_cast<size_t>(r < kHalf ? r : r - kHalf + kFolded) * stride; };
  const uint8_t* p = chunk.weights + static_cast<size_t>(row) * stride;
  ahead += static_cast<size_t>(row) * stride;
  const std::byte* x = chunk.x;
  for (int64_t b = 0; b < chunk.blocks; ++b, p += Tile::kBytes, ahead += Tile::kBytes, x += chunk.x_stride) {
    // One cache line for every line that is read; with two blocks to a line, the halves of the rows take turns.
    constexpr bool kTurns = Tile::kBytes < kBlockBytes;
    const uint8_t* line = kTurns && b % 2 == 1 ? ahead + kFolded * stride : ahead;
#pragma GCC unroll 8
    for (int r = 0; r < (kTurns ? kHalf : kHeight); ++r) prefetch_second_level(line + row_offset(r));
#pragma GCC unroll 2
    for (int part = 0; part < kBlockParts; ++part) {
      Floats w[kHeight];
#pragma GCC unroll 8
      for (int r = 0; r < kHeight; ++r)
        w[r] = Tile::load(p + row_offset(r) + static_cast<size_t>(part) * Tile::kBytes / kBlockParts);
#pragma GCC unroll 8
      for (int n = 0; n < kCount; ++n) {
        Floats column =
            load_floats(x + static_cast<size_t>(n) * kBlockBytes + static_cast<size_t>(part) * sizeof(Floats));
        keep_loaded(column);
#pragma GCC unroll 8
        for (int r = 0; r < kHeight; ++r) acc[r][n] = Tile::step(acc[r][n], w[r], column);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kHalf; ++r) {
#pragma GCC unroll 8
    for (int n = 0; n < kCount; ++n) {
      const Floats two = fold_halves(acc[r][n], acc[r + kHalf][n]);
      sums[r * kCount + n] = first ? two : add(sums[r * kCount + n], two);
    }
  }
}

// The blocks of a row whose length is no multiple of them end in one that is copied, so that nothing past the row is
// read.
template <class Tile>
__attribute__((noinline)) void copy_tail(const TileArgs& t, int64_t weights, uint8_t rows[kTileRows][kBlockBytes]) {
  constexpr size_t kWeightBytes = Tile::kBytes / static_cast<size_t>(gsd::narrow::block_weights(Tile::kPacking));
  const size_t bytes = static_cast<size_t>(weights) * kWeightBytes;
  const size_t at = static_cast<size_t>(t.k) * kWeightBytes - bytes;
  for (size_t r = 0; r < kTileRows; ++r) {
    std::memset(rows[r], 0, kBlockBytes);
    std::memcpy(rows[r], t.weights + r * t.row_stride + at, bytes);
  }
}

// kCount columns from `column` on. Which rows and columns share a loop changes nothing for any of them: each is added
// up block by block within a chunk, the halves of the lanes then, chunk by chunk, and last over the other lanes.
template <class Tile, int kCount>
__attribute__((noinline)) void columns_tile(const TileArgs& t, int column) {
  // kRows sums at most, half the registers; others hold the weights of a block and one register of activations.
  constexpr int kSums = kRows / static_cast<int>(std::bit_ceil(static_cast<unsigned>(kCount)));
  constexpr int kHeight = kSums < 8 ? kSums : 8;
  Floats sums[kTileRows / kRows][kFolded * kCount];
  // One pass over the tile streams in the chunk after each; of several, which find all but the first chunk's weights in
  // the second-level cache, each streams in its share of the rows of the next tile.
  const int passes = (t.columns + kGroupColumns - 1) / kGroupColumns;
  const int pass = column / kGroupColumns;
  const auto multiply = [&](const Chunk& chunk, bool first) GSD_LAMBDA_INLINE {
    int turn = 0;
#pragma GCC unroll 1
    for (int group = 0; group < kTileRows / kRows; ++group) {
#pragma GCC unroll 1
      for (int row = 0; row < kFolded; row += kHeight / 2) {
        const uint8_t* ahead = turn == pass ? chunk.ahead : chunk.weights;
        turn = turn + 1 < passes ? turn + 1 : 0;
        multiply_rows<Tile, kHeight, kCount>(chunk, ahead, group * kRows + row, first, sums[group] + row * kCount);
      }
    }
  };
  constexpr int64_t kBlockWeights = gsd::narrow::block_weights(Tile::kPacking);
  const int64_t blocks = t.k / kBlockWeights;
  const int64_t rest = t.k % kBlockWeights;
  constexpr int kPackColumns = gsd::narrow::pack_columns(Tile::kPacking);
  static_assert(kPackColumns % kGroupColumns == 0 && kMaxColumns % kPackColumns == 0);
  const int packed_with = column - column % kPackColumns;
  const int neighbours = t.columns - packed_with < kPackColumns ? t.columns - packed_with : kPackColumns;
  const size_t x_stride = static_cast<size_t>(neighbours) * kBlockBytes;
  const std::byte* x = t.packed + (static_cast<size_t>(packed_with * (blocks + (rest > 0 ? 1 : 0))) +
                                   static_cast<size_t>(column - packed_with)) *
                                      kBlockBytes;
  const bool whole_tile_follows = t.row_stride > 0 && t.next_bytes >= kTileRows * t.row_stride;
  const uint8_t* next_tile = whole_tile_follows ? t.next : t.weights;
  // Chunks as equal as can be, because each streams in as much as it reads.
  const int64_t chunks = (blocks + Tile::kChunkBlocks - 1) / Tile::kChunkBlocks;
  for (int64_t i = 0, begin = 0; i < chunks; ++i) {
    const int64_t end = blocks * (i + 1) / chunks;
    const uint8_t* weights = t.weights + static_cast<size_t>(begin) * Tile::kBytes;
    const bool in_tile = passes == 1 && i + 1 < chunks;
    const uint8_t* ahead = in_tile ? t.weights + static_cast<size_t>(end) * Tile::kBytes
                                   : next_tile + static_cast<size_t>(passes == 1 ? 0 : begin) * Tile::kBytes;
    multiply({weights, t.row_stride, ahead, x + static_cast<size_t>(begin) * x_stride, x_stride, end - begin}, i == 0);
    begin = end;
  }
  if (rest > 0) {
    alignas(kBlockBytes) uint8_t tail[kTileRows][kBlockBytes];
    copy_tail<Tile>(t, rest, tail);
    multiply({tail[0], kBlockBytes, tail[0], x + static_cast<size_t>(blocks) * x_stride, x_stride, 1}, blocks == 0);
  }
  constexpr int kRegisters = kTileRows / kRows;
  Floats totals[kCount * kRegisters];  // [column][group of rows]
  for (int n = 0; n < kCount; ++n) {
    for (int g = 0; g < kRegisters; ++g) {
      Floats folded[kFolded];
#pragma GCC unroll 8
      for (int r = 0; r < kFolded; ++r) folded[r] = sums[g][r * kCount + n];
      totals[n * kRegisters + g] = sum_folded(folded);
    }
  }
  store_tile<kRegisters>(t, column, kCount, totals);
}

template <class Tile>
void float_tile(const TileArgs& t) {
  for (int c = 0; c < t.columns; c += kGroupColumns) {
    with_count<kGroupColumns>(t.columns - c,
                              [&](auto count) GSD_LAMBDA_INLINE { columns_tile<Tile, decltype(count)::kCount>(t, c); });
  }
}

}  // namespace
