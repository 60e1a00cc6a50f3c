// Attention of up to kAttentionColumns queries over the cells of one key-value head (attention.h).
//
// Keys are weights: 16 cells are a tile of tile_float.h, whose results are scores. Values are added up with lanes along
// the vector: a register of values, widened as it is loaded, serves several queries.
#pragma once

#include <limits>

#include "tile_float.h"

namespace {

using gsd::narrow::AttentionArgs;
using gsd::narrow::kAttentionColumns;
using gsd::narrow::kAttentionSlab;
using gsd::narrow::kAttentionStep;
using gsd::narrow::Query;

constexpr int kSlabTiles = kAttentionSlab / kAttentionStep;
constexpr int kMixRegisters = 4;                    // of a value vector, added up together
constexpr int kMixColumns = kRows / kMixRegisters;  // queries that share them: half the registers are sums
constexpr int64_t kNextCells = 32;                  // of the next head, streamed in before it begins
constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

template <class Tile>
constexpr size_t kRegisterBytes = Tile::kBytes / kBlockParts;  // of values, before they are widened

// What is known of a query so far.
struct Softmax {
  float highest = kMinusInfinity;  // score
  float total = 0;                 // of e^(score - highest)
};

// A slab of the cache for a group of queries.
struct Slab {
  int64_t first;  // cell
  int tiles;
  uint16_t live[kAttentionColumns][kSlabTiles];  // bit i: the query sees cell i of the tile

  GSD_INLINE bool any(int tile, int columns) const {
    uint32_t all = 0;
    for (int c = 0; c < columns; ++c) all |= live[c][tile];
    return all != 0;
  }
};

constexpr int kTileRegisters = kAttentionStep / kRows;  // of the scores of a tile

GSD_INLINE Floats mask_register(const uint16_t* mask, int i) {
  return load_f16(reinterpret_cast<const uint8_t*>(mask + i * kRows));
}

// Which cells of the slab each query sees.
GSD_INLINE void find_live(const AttentionArgs& a, Slab& slab) {
  for (int c = 0; c < a.columns; ++c) {
    const uint16_t* mask = a.queries[c].mask + slab.first;
    for (int t = 0; t < slab.tiles; ++t, mask += kAttentionStep) {
      uint32_t live = 0;
      for (int i = 0; i < kTileRegisters; ++i)
        live |= unequal_lanes(mask_register(mask, i), splat(kMinusInfinity)) << (i * kRows);
      slab.live[c][t] = static_cast<uint16_t>(live);
    }
  }
}

GSD_INLINE void prefetch_cells(const uint8_t* p, size_t stride, int64_t cells, size_t bytes) {
  for (int64_t i = 0; i < cells; ++i, p += stride) {
    for (size_t at = 0; at < bytes; at += kBlockBytes) prefetch_second_level(p + at);
  }
}

// scores [column][kAttentionSlab] of the tiles that any query sees. Their values are streamed in meanwhile.
GSD_INLINE void score(const AttentionArgs& a, const Slab& slab, size_t value_bytes, const std::byte* packed,
                      float* scores) {
  const size_t key_bytes = a.k_stride * kAttentionStep;
  for (int t = 0; t < slab.tiles; ++t) {
    if (!slab.any(t, a.columns)) continue;
    const int64_t cell = slab.first + t * kAttentionStep;
    const uint8_t* keys = a.k + static_cast<size_t>(cell) * a.k_stride;
    const bool more = cell + 2 * kAttentionStep <= a.cells;
    prefetch_cells(a.v + static_cast<size_t>(cell) * a.v_stride, a.v_stride, kAttentionStep, value_bytes);
    a.scores->tile({.weights = keys,
                    .row_stride = a.k_stride,
                    .k = a.k_size,
                    .packed = packed,
                    .columns = a.columns,
                    .out = scores + t * kAttentionStep,
                    .out_stride = kAttentionSlab,
                    .first_lane = 0,
                    .lanes = kAttentionStep,
                    .next = keys + key_bytes,
                    .next_bytes = more ? key_bytes : 0});
  }
}

// Turns a query's scores of a slab into e^(score - highest), and what was added up before to the new highest score.
GSD_INLINE void soften(const AttentionArgs& a, const Query& query, const Slab& slab, const uint16_t* live,
                       float* scores, Softmax& state, float* sums) {
  const auto each_live = [&](auto&& f) GSD_LAMBDA_INLINE {
    for (int t = 0; t < slab.tiles; ++t) {
      if (live[t] == 0) continue;
      for (int i = 0; i < kTileRegisters; ++i) f(t * kAttentionStep + i * kRows);
    }
  };
  Floats top = splat(state.highest);
  const Floats factor = splat(a.scale);
  const Floats slope = splat(query.slope);
  bool none = true;
  each_live([&](int at) GSD_LAMBDA_INLINE {
    const Floats mask = mask_register(query.mask + slab.first + at, 0);
    const Floats left_out = splat(kMinusInfinity);
    const Floats bias = mul(slope, mask);
    const Floats dot = load_floats(scores + at);
    const Floats score = a.cap > 0 ? fma(splat(a.cap), tanh_of(mul(dot, factor)), bias) : fma(dot, factor, bias);
    const Floats s = where_equal(mask, left_out, left_out, score);
    store_floats(scores + at, s);
    top = max_or_second(s, top);
    none = false;
  });
  if (none) return;
  const float highest = largest(top);
  const Floats shift = splat(highest);
  Floats total = zero();
  each_live([&](int at) GSD_LAMBDA_INLINE {
    const Floats p = exp_of_negative(sub(load_floats(scores + at), shift));
    store_floats(scores + at, p);
    total = add(total, p);
  });
  const Floats decay = exp_of_negative(sub(splat(state.highest), shift));
  state = {highest, first_lane(fma(splat(state.total), decay, splat(sum_of(total))))};
  for (int64_t d = 0; d < a.v_size; d += kRows) store_floats(sums + d, mul(load_floats(sums + d), decay));
}

// Adds the values of `tiles` tiles from `tile` on, of the cells in `live`, times their weights, to the sums of kCount
// queries. Cells are added one after the other: which queries or tiles share a call changes nothing.
template <class Tile, int kCount, int kRegisters>
GSD_INLINE void mix_registers(const uint8_t* values, size_t stride, int tiles, uint32_t live, const float* weights,
                              float* sums, int64_t v_size) {
  Floats acc[kCount][kRegisters];
  const auto sum = [&](int c, int r) GSD_LAMBDA_INLINE { return sums + c * v_size + r * kRows; };
#pragma GCC unroll 4
  for (int c = 0; c < kCount; ++c) {
#pragma GCC unroll 4
    for (int r = 0; r < kRegisters; ++r) acc[c][r] = load_floats(sum(c, r));
  }
  for (int t = 0; t < tiles; ++t) {
    for (uint32_t bits = live; bits != 0; bits &= bits - 1) {
      const int cell = t * kAttentionStep + std::countr_zero(bits);
      const uint8_t* p = values + static_cast<size_t>(cell) * stride;
      Floats v[kRegisters];
#pragma GCC unroll 4
      for (int r = 0; r < kRegisters; ++r) v[r] = Tile::load(p + static_cast<size_t>(r) * kRegisterBytes<Tile>);
#pragma GCC unroll 4
      for (int c = 0; c < kCount; ++c) {
        const Floats w = splat(weights[c * kAttentionSlab + cell]);
#pragma GCC unroll 4
        for (int r = 0; r < kRegisters; ++r) acc[c][r] = fma(w, v[r], acc[c][r]);
      }
    }
  }
#pragma GCC unroll 4
  for (int c = 0; c < kCount; ++c) {
#pragma GCC unroll 4
    for (int r = 0; r < kRegisters; ++r) store_floats(sum(c, r), acc[c][r]);
  }
}

template <class Tile, int kCount>
__attribute__((noinline)) void mix_cells(const AttentionArgs& a, int64_t cell, int tiles, uint32_t live,
                                         const float* weights, float* sums) {
  const uint8_t* values = a.v + static_cast<size_t>(cell) * a.v_stride;
  const auto step = [&]<int kRegisters>(std::integral_constant<int, kRegisters>) GSD_LAMBDA_INLINE {
    mix_registers<Tile, kCount, kRegisters>(values, a.v_stride, tiles, live, weights, sums, a.v_size);
    values += kRegisters * kRegisterBytes<Tile>;
    sums += kRegisters * kRows;
  };
  int64_t left = a.v_size / kRows;
  for (; left >= kMixRegisters; left -= kMixRegisters) step(std::integral_constant<int, kMixRegisters>{});
  for (; left > 0; --left) step(std::integral_constant<int, 1>{});
}

// kCount queries from `column` on. Tiles that all of them see alike are done together, others query by query.
template <class Tile, int kCount>
GSD_INLINE void mix(const AttentionArgs& a, const Slab& slab, int column, const float* scores, float* sums) {
  const auto live = [&](int c, int t) GSD_LAMBDA_INLINE { return uint32_t{slab.live[column + c][t]}; };
  const auto alike = [&](int t) GSD_LAMBDA_INLINE {
    for (int c = 1; c < kCount; ++c) {
      if (live(c, t) != live(0, t)) return false;
    }
    return true;
  };
  const float* weights = scores + column * kAttentionSlab;
  float* sum = sums + column * a.v_size;
  for (int t = 0; t < slab.tiles;) {
    const int64_t cell = slab.first + t * kAttentionStep;
    const float* w = weights + t * kAttentionStep;
    if (!alike(t)) {
      for (int c = 0; c < kCount; ++c) {
        if (live(c, t) != 0) mix_cells<Tile, 1>(a, cell, 1, live(c, t), w + c * kAttentionSlab, sum + c * a.v_size);
      }
      ++t;
      continue;
    }
    const int first = t++;
    while (t < slab.tiles && live(0, first) == live(0, t) && alike(t)) ++t;
    if (live(0, first) != 0) mix_cells<Tile, kCount>(a, cell, t - first, live(0, first), w, sum);
  }
}

template <class Tile>
void attend(const AttentionArgs& a) {
  const gsd::narrow::Packing packing = a.scores->packing;
  const int64_t blocks = gsd::narrow::blocks(packing, a.k_size);
  std::byte* packed = a.scratch;
  auto* scores = reinterpret_cast<float*>(packed + static_cast<size_t>(blocks * a.columns) * kBlockBytes);
  float* sums = scores + kAttentionColumns * kAttentionSlab;  // [column][v_size]
  const float* queries[kAttentionColumns];
  for (int c = 0; c < a.columns; ++c) queries[c] = a.queries[c].q;
  gsd::narrow::pack(packing, queries, a.columns, a.k_size, 0, blocks, packed,
                    static_cast<size_t>(a.columns) * kBlockBytes);
  std::memset(sums, 0, static_cast<size_t>(a.columns * a.v_size) * sizeof(float));
  const size_t value_bytes = static_cast<size_t>(a.v_size / kRows) * kRegisterBytes<Tile>;
  if (a.next_k != nullptr) {  // what the next head starts with; it goes on by itself
    const int64_t cells = a.cells < kNextCells ? a.cells : kNextCells;
    prefetch_cells(a.next_k, a.k_stride, cells, static_cast<size_t>(a.k_size) * sizeof(uint16_t));
    prefetch_cells(a.next_v, a.v_stride, cells, value_bytes);
  }
  Softmax state[kAttentionColumns];
  for (int c = 0; c < a.columns; ++c) {
    if (a.queries[c].sink != kMinusInfinity) state[c] = {a.queries[c].sink, 1};
  }
  Slab slab{};
  for (slab.first = 0; slab.first < a.cells; slab.first += kAttentionSlab) {
    const int64_t left = a.cells - slab.first;
    slab.tiles = static_cast<int>((left < kAttentionSlab ? left : kAttentionSlab) / kAttentionStep);
    find_live(a, slab);
    score(a, slab, value_bytes, packed, scores);
    for (int c = 0; c < a.columns; ++c)
      soften(a, a.queries[c], slab, slab.live[c], scores + c * kAttentionSlab, state[c], sums + c * a.v_size);
    for (int c = 0; c < a.columns; c += kMixColumns) {
      with_count<kMixColumns>(a.columns - c, [&](auto count) GSD_LAMBDA_INLINE {
        mix<Tile, decltype(count)::kCount>(a, slab, c, scores, sums);
      });
    }
  }
  for (int c = 0; c < a.columns; ++c) {
    const Floats share = splat(state[c].total == 0 ? 0.0F : 1.0F / state[c].total);
    for (int64_t d = 0; d < a.v_size; d += kRows)
      store_floats(a.queries[c].out + d, mul(load_floats(sums + c * a.v_size + d), share));
  }
}

// Values are widened whatever the machine can multiply.
template <class Tile, class Values = Tile>
constexpr gsd::narrow::Kernel float_kernel() {
  return {float_tile<Tile>, kTileRows, Tile::kPacking, attend<Values>};
}

// The formats whose arithmetic is in F32.
GSD_INLINE void add_float_kernels(gsd::narrow::KernelTable& table) {
  using gsd::narrow::Format;
  table[Format::kF32] = float_kernel<TileF32>();
  table[Format::kF16] = float_kernel<TileF16>();
  table[Format::kBF16] = float_kernel<TileBF16Widened>();
}

}  // namespace
