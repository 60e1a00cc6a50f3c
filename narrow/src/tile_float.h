// Tiles of floating-point weights: F32, F16, BF16.
#pragma once

#include "tile_common.h"

namespace {

constexpr int kSteps = 16;         // dwords of a packed block
constexpr size_t kLoadBytes = 64;  // of each row at a time: a cache line, for the reason given at load_dwords

// A format: what one load holds in weights and packed blocks, how it is decoded to a register for each step of each
// block, and what a step adds to a sum.
struct TileF32 {
  static constexpr int kWeights = 16;
  static constexpr int kBlocks = 1;
  static GSD_INLINE void decode(const uint8_t* p, size_t stride, Floats w[kSteps]) {
    Ints dwords[kSteps];
    load_dwords<4>(p, stride, dwords);
    for (int d = 0; d < kSteps; ++d) w[d] = as_floats(dwords[d]);
  }
  static GSD_INLINE Floats step(Floats s, Floats w, const std::byte* x) {
    return fma(w, as_floats(splat(read_dword(x))), s);
  }
};

struct TileF16 : TileF32 {
  static constexpr int kWeights = 32;
  static constexpr int kBlocks = 2;
  static GSD_INLINE void decode(const uint8_t* p, size_t stride, Floats w[kBlocks * kSteps]) {
    Ints pairs[kSteps];
    load_dwords<4>(p, stride, pairs);
    for (int d = 0; d < kSteps; ++d) {
      w[2 * d] = halves_to_floats(pairs[d]);
      w[2 * d + 1] = halves_to_floats(shift_right(pairs[d], 16));
    }
  }
};

// BF16 on machines without an instruction for it: the weights widened, the activations not rounded.
struct TileBF16Widened : TileF16 {
  static GSD_INLINE void decode(const uint8_t* p, size_t stride, Floats w[kBlocks * kSteps]) {
    Ints pairs[kSteps];
    load_dwords<4>(p, stride, pairs);
    for (int d = 0; d < kSteps; ++d) {
      w[2 * d] = as_floats(shift_left(pairs[d], 16));
      w[2 * d + 1] = as_floats(and_(pairs[d], splat(static_cast<int32_t>(0xffff0000U))));
    }
  }
};

#if defined(__AVX512BF16__)
struct TileBF16 : TileF32 {
  static constexpr int kWeights = 32;
  static GSD_INLINE Floats step(Floats s, Floats w, const std::byte* x) {
    return dot_bf16(s, _mm512_castps_si512(w), splat(read_dword(x)));
  }
};
#endif

// Adds one block of weights times kCount columns to their sums. Two half-length chains a column, added at the end.
template <class Tile, int kCount>
GSD_INLINE void add_block(const Floats w[kSteps], const std::byte* x, Floats* sums) {
  Floats even[kCount];
  Floats odd[kCount];
  for (int n = 0; n < kCount; ++n) even[n] = odd[n] = zero();
#pragma GCC unroll 16
  for (int j = 0; j < kSteps; j += 2) {
#pragma GCC unroll 4
    for (int n = 0; n < kCount; ++n) {
      const std::byte* column = x + static_cast<size_t>(n) * kBlockBytes + 4 * static_cast<size_t>(j);
      even[n] = Tile::step(even[n], w[j], column);
      odd[n] = Tile::step(odd[n], w[j + 1], column + 4);
    }
  }
  for (int n = 0; n < kCount; ++n) sums[n] = add(sums[n], add(even[n], odd[n]));
}

// Multiplies what one load holds by all columns, of its first `blocks` packed blocks.
template <class Tile>
GSD_INLINE void multiply_load(const uint8_t* p, size_t stride, const std::byte* x, int blocks, int columns,
                              Floats* sums, Prefetcher& prefetch) {
  Floats w[Tile::kBlocks * kSteps];
  Tile::decode(p, stride, w);
#pragma GCC unroll 1
  for (int b = 0; b < blocks; ++b, x += static_cast<size_t>(columns) * kBlockBytes) {
    for_columns(columns, [&](int c, auto count) GSD_LAMBDA_INLINE {
      prefetch.step();
      add_block<Tile, decltype(count)::kCount>(w + b * kSteps, x + static_cast<size_t>(c) * kBlockBytes, sums + c);
    });
  }
}

// The last load of a row whose length is no multiple of it: copied out, so that nothing past the row is read.
template <class Tile>
__attribute__((noinline)) void multiply_tail(const TileArgs& t, int64_t load, const std::byte* x, Floats* sums,
                                             Prefetcher& prefetch) {
  alignas(64) uint8_t rows[kRows][kLoadBytes] = {};
  const int64_t weights = t.k - load * Tile::kWeights;
  const size_t rest = static_cast<size_t>(weights) * kLoadBytes / Tile::kWeights;
  for (size_t r = 0; r < kRows; ++r) {
    std::memcpy(rows[r], t.weights + r * t.row_stride + static_cast<size_t>(load) * kLoadBytes, rest);
  }
  constexpr int kBlockWeights = Tile::kWeights / Tile::kBlocks;
  const auto blocks = static_cast<int>((weights + kBlockWeights - 1) / kBlockWeights);
  multiply_load<Tile>(rows[0], kLoadBytes, x, blocks, t.columns, sums, prefetch);
}

// Rows are added up in stretches of about the square root of their number of loads, so that rounding grows no faster
// than in a sum split over many lanes. The length depends on the row alone.
template <class Tile>
void float_tile(const TileArgs& t) {
  const int64_t stretch_mask = t.k < 2048 ? 7 : 15;
  Floats sums[kMaxColumns];
  Floats stretch[kMaxColumns];
  for (int c = 0; c < t.columns; ++c) sums[c] = stretch[c] = zero();
  const int64_t loads = t.k / Tile::kWeights;
  const size_t load_packed = static_cast<size_t>(Tile::kBlocks * t.columns) * kBlockBytes;
  Prefetcher prefetch(t, kRows, (loads + 1) * Tile::kBlocks);
  const std::byte* x = t.packed;
  for (int64_t i = 0; i < loads; ++i, x += load_packed) {
    multiply_load<Tile>(t.weights + static_cast<size_t>(i) * kLoadBytes, t.row_stride, x, Tile::kBlocks, t.columns,
                        stretch, prefetch);
    if ((i & stretch_mask) != stretch_mask) continue;
    for (int c = 0; c < t.columns; ++c) {
      sums[c] = add(sums[c], stretch[c]);
      stretch[c] = zero();
    }
  }
  if (loads * Tile::kWeights < t.k) multiply_tail<Tile>(t, loads, x, stretch, prefetch);
  for (int c = 0; c < t.columns; ++c) sums[c] = add(sums[c], stretch[c]);
  store_tile<1>(t, sums);
}

}  // namespace
