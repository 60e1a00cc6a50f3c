// Tiles of floating-point weights: F32, F16, BF16.
#pragma once

#include "tile_common.h"

namespace {

constexpr int kSteps = 16;         // dwords of a packed block
constexpr size_t kLoadBytes = 64;  // of each row at a time: a cache line, for the reason given at load_dwords

// A format: what one load holds in weights and packed blocks, how it is decoded to two registers for each two dwords of
// each packed block, and what a step adds to a sum, given a register and those two dwords.
struct TileF32 {
  static constexpr int kWeights = 16;
  static constexpr int kBlocks = 1;
  static constexpr bool kPairs = false;  // register j holds the weights of dword j, a row in each lane
  static GSD_INLINE void decode(const uint8_t* p, size_t stride, Floats w[kSteps]) {
    Ints dwords[kSteps];
    load_dwords<4>(p, stride, dwords);
    for (int d = 0; d < kSteps; ++d) w[d] = as_floats(dwords[d]);
  }
  static GSD_INLINE Floats step(Floats s, Floats w, const std::byte* x) {
    return fma(w, as_floats(splat(read_dword(x))), s);
  }
};

// With kPairs, neighbouring lanes hold the two weights of one row, as the conversion leaves them: registers 2i and
// 2i + 1 are the first and the second half of the rows, and a row's two sums are added at its end.
struct TileF16 {
  static constexpr int kWeights = 32;
  static constexpr int kBlocks = 2;
  static constexpr bool kPairs = true;
  static GSD_INLINE void decode(const uint8_t* p, size_t stride, Floats w[kBlocks * kSteps]) {
    Ints pairs[kSteps];
    load_dwords<4>(p, stride, pairs);
    for (int d = 0; d < kSteps; ++d) {
      w[2 * d] = widen_low(pairs[d]);
      w[2 * d + 1] = widen_high(pairs[d]);
    }
  }
  static GSD_INLINE Floats step(Floats s, Floats w, const std::byte* x) { return fma(w, splat(read_qword(x)), s); }
};

// BF16 on machines without an instruction for it: the weights widened, the activations not rounded.
struct TileBF16Widened : TileF32 {
  static constexpr int kWeights = 32;
  static constexpr int kBlocks = 2;
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

template <class Tile>
constexpr int kSums = Tile::kPairs ? 2 : 1;  // registers of a column

// Adds what one load holds of kCount columns to their sums, [column][kSums]. Two chains a column, which start at zero;
// x_stride: bytes from packed block to packed block.
template <class Tile, int kCount>
GSD_INLINE void add_load(const Floats* w, int blocks, const std::byte* x, size_t x_stride, Floats* sums) {
  Floats even[kCount];
  Floats odd[kCount];
  for (int n = 0; n < kCount; ++n) even[n] = odd[n] = zero();
#pragma GCC unroll 1
  for (int b = 0; b < blocks; ++b, x += x_stride, w += kSteps) {
#pragma GCC unroll 16
    for (int j = 0; j < kSteps; j += 2) {
#pragma GCC unroll 4
      for (int n = 0; n < kCount; ++n) {
        const std::byte* column = x + static_cast<size_t>(n) * kBlockBytes + 4 * static_cast<size_t>(j);
        even[n] = Tile::step(even[n], w[j], column);
        odd[n] = Tile::step(odd[n], w[j + 1], Tile::kPairs ? column : column + 4);
      }
    }
  }
  for (int n = 0; n < kCount; ++n) {
    if constexpr (Tile::kPairs) {
      sums[2 * n] = add(sums[2 * n], even[n]);
      sums[2 * n + 1] = add(sums[2 * n + 1], odd[n]);
    } else {
      sums[n] = add(sums[n], add(even[n], odd[n]));
    }
  }
}

// Multiplies what one load holds by all columns, of its first `blocks` packed blocks.
template <class Tile>
GSD_INLINE void multiply_load(const uint8_t* p, size_t stride, const std::byte* x, int blocks, int columns,
                              Floats* sums, Prefetcher& prefetch) {
  Floats w[Tile::kBlocks * kSteps];
  Tile::decode(p, stride, w);
  const size_t x_stride = static_cast<size_t>(columns) * kBlockBytes;
  for_columns(columns, [&](int c, auto count) GSD_LAMBDA_INLINE {
    prefetch.step();
    add_load<Tile, decltype(count)::kCount>(w, blocks, x + static_cast<size_t>(c) * kBlockBytes, x_stride,
                                            sums + c * kSums<Tile>);
  });
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
  const int registers = t.columns * kSums<Tile>;
  Floats sums[kMaxColumns * kSums<Tile>];
  Floats stretch[kMaxColumns * kSums<Tile>];
  for (int i = 0; i < registers; ++i) sums[i] = stretch[i] = zero();
  const int64_t loads = t.k / Tile::kWeights;
  const size_t load_packed = static_cast<size_t>(Tile::kBlocks * t.columns) * kBlockBytes;
  Prefetcher prefetch(t, kRows, loads + 1);
  const std::byte* x = t.packed;
  for (int64_t i = 0; i < loads; ++i, x += load_packed) {
    multiply_load<Tile>(t.weights + static_cast<size_t>(i) * kLoadBytes, t.row_stride, x, Tile::kBlocks, t.columns,
                        stretch, prefetch);
    if ((i & stretch_mask) != stretch_mask) continue;
    for (int s = 0; s < registers; ++s) {
      sums[s] = add(sums[s], stretch[s]);
      stretch[s] = zero();
    }
  }
  if (loads * Tile::kWeights < t.k) multiply_tail<Tile>(t, loads, x, stretch, prefetch);
  for (int s = 0; s < registers; ++s) sums[s] = add(sums[s], stretch[s]);
  if constexpr (Tile::kPairs) {
    for (int c = 0; c < t.columns; ++c) sums[c] = add_pairs(sums[2 * c], sums[2 * c + 1]);
  }
  store_tile<1>(t, sums);
}

// The formats whose arithmetic is in F32.
GSD_INLINE void add_float_kernels(gsd::narrow::KernelTable& table) {
  using gsd::narrow::Format;
  using gsd::narrow::Packing;
  table[Format::kF32] = {float_tile<TileF32>, kRows, Packing::kF32};
  table[Format::kF16] = {float_tile<TileF16>, kRows, Packing::kF32};
  table[Format::kBF16] = {float_tile<TileBF16Widened>, kRows, Packing::kF32};
}

}  // namespace
