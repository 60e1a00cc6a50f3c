// Tiles of quantised weights: Q8_0, Q4_0, Q4_K, Q5_K, Q6_K.
//
// Every format is cut into pieces of 32 weights of each row, decoded to unsigned bytes: eight registers, element r of
// register j holding weights 4j..4j+3 of row r. Multiplied by a column's 32 bytes, the sums are exact integers.
#pragma once

#include "tile_common.h"

namespace {

using gsd::narrow::kBlocksK;
using gsd::narrow::PackedQ8;
using gsd::narrow::PackedQ8K;

constexpr int kQuads = 8;  // registers of a piece: 32 weights, 4 to a dword

constexpr int32_t bytes4(uint32_t b) { return static_cast<int32_t>(b * 0x01010101U); }

struct Piece {
  Ints w[kQuads];
  Floats scale[2];  // of weights 0..15 and 16..31 in Q6_K, else scale[0] of all
};

// Integer sums of kCount columns times quads first to first + kLength of a piece.
template <class Tile, int kCount, int kLength>
GSD_INLINE void dot_quads(const Ints* w, int first, const typename Tile::Column* x, Ints s[kCount]) {
#pragma GCC unroll 8
  for (int j = first; j < first + kLength; ++j) {
#pragma GCC unroll 4
    for (int n = 0; n < kCount; ++n) s[n] = dot_bytes<Tile::kSigned>(s[n], w[j], x[n].q + 4 * j);
  }
}

// Formats whose blocks, of kBytes, are one piece: a half that scales it, then the weights, which decode() reads.

// { half scale; int8 w[32]; }
struct TileQ8_0 {
  static constexpr size_t kBytes = 34;
  static constexpr bool kSigned = !kUnsignedDot;
  using Column = PackedQ8;
  static GSD_INLINE Ints start(const Column& x) { return kSigned ? zero_ints() : splat(x.start_128); }

  static GSD_INLINE void decode(const uint8_t* p, size_t stride, Ints w[kQuads]) {
    load_dwords<2>(p, stride, w);
    if constexpr (!kSigned) {
      for (int j = 0; j < kQuads; ++j) w[j] = xor_(w[j], splat(bytes4(0x80)));
    }
  }
};

// { half scale; uint8 w[16]; } weights i and i + 16 in the low and high half of byte i, 8 too large.
struct TileQ4_0 {
  static constexpr size_t kBytes = 18;
  static constexpr bool kSigned = false;
  using Column = PackedQ8;
  static GSD_INLINE Ints start(const Column& x) { return splat(x.start_8); }

  static GSD_INLINE void decode(const uint8_t* p, size_t stride, Ints w[kQuads]) {
    Ints chunk[4];
    load_dwords<1>(p, stride, chunk);
    for (int j = 0; j < 4; ++j) {
      w[j] = and_(chunk[j], splat(bytes4(0x0f)));
      w[4 + j] = and_(shift_right(chunk[j], 4), splat(bytes4(0x0f)));
    }
  }
};

// The K formats' blocks of 256 weights: load() reads what belongs to the whole block, then for each of kSections
// load_section(), which holds kSectionPieces pieces, in the order of the weights.

// The scales and minima of Q4_K and Q5_K: 8 of each, 6 bits wide, in 12 bytes after the two halves that scale them.
struct ScalesK {
  Floats scale[8];
  Ints minima[4];  // 16-bit pairs, ordered like PackedQ8K::sums
  Floats minimum;  // their scale, negated

  GSD_INLINE void load(const uint8_t* p, size_t stride) {
    Ints h[4];  // the two halves; bytes 0-3, 4-7, 8-11 of the twelve
    load_dwords<1>(p, stride, h);
    const Floats d = halves_to_floats(h[0]);
    minimum = as_floats(xor_(reinterpret_cast<Ints>(halves_to_floats(shift_right(h[0], 16))), splat(INT32_MIN)));
    const Ints six = splat(bytes4(0x3f));
    const Ints four = splat(bytes4(0x0f));
    const Ints top = splat(bytes4(0x30));
    unpack(and_(h[1], six), d, scale);
    unpack(or_(and_(h[3], four), and_(shift_right(h[1], 2), top)), d, scale + 4);
    pair(and_(h[2], six), minima);
    pair(or_(and_(shift_right(h[3], 4), four), and_(shift_right(h[2], 2), top)), minima + 2);
  }

 private:
  static GSD_INLINE void unpack(Ints four_bytes, Floats factor, Floats* out) {
    for (int i = 0; i < 4; ++i) {
      out[i] = mul(to_floats(and_(shift_right(four_bytes, 8 * i), splat(0xff))), factor);
    }
  }
  static GSD_INLINE void pair(Ints four_bytes, Ints* out) {
    for (int i = 0; i < 2; ++i) out[i] = and_(shift_right(four_bytes, 8 * i), splat(0x00ff00ff));
  }
};

// { half d, dmin; uint8 scales[12]; uint8 w[128]; } pieces 2i and 2i + 1 in the low and high halves of w[32i..32i+31].
struct TileQ4_K {
  static constexpr size_t kBytes = 144;
  static constexpr int kSections = 4;
  static constexpr int kSectionPieces = 2;
  static constexpr bool kSigned = false;
  static constexpr int kParts = 1;
  using Column = PackedQ8K;
  static GSD_INLINE Ints start(const Column&, int) { return zero_ints(); }

  GSD_INLINE void load(const uint8_t* p, size_t row_stride) {
    scales.load(p, row_stride);
    weights = p + 16;
    stride = row_stride;
  }
  GSD_INLINE void load_section(int section) { load_dwords<2>(weights + 32 * section, stride, raw); }
  GSD_INLINE void get(int section, int high, Piece& piece) const {
    for (int j = 0; j < kQuads; ++j) {
      piece.w[j] = and_(high == 0 ? raw[j] : shift_right(raw[j], 4), splat(bytes4(0x0f)));
    }
    piece.scale[0] = scales.scale[2 * section + high];
  }
  // A block's sum less what its minima take.
  GSD_INLINE Floats finish(Floats sum, const Column& x) const {
    Ints s = zero_ints();
    for (int i = 0; i < 4; ++i) s = dot_words(s, scales.minima[i], x.sums[i]);
    return fma(to_floats(s), scales.minimum, sum);
  }

  ScalesK scales;
  const uint8_t* weights;
  size_t stride;
  Ints raw[kQuads];
};

// Q4_K with 32 bytes before w that hold, in bit i of byte j, the fifth bit of weight j of piece i.
struct TileQ5_K : TileQ4_K {
  static constexpr size_t kBytes = 176;

  GSD_INLINE void load(const uint8_t* p, size_t row_stride) {
    TileQ4_K::load(p, row_stride);
    load_dwords<2>(p + 16, row_stride, fifth);
    weights = p + 48;
  }
  GSD_INLINE void get(int section, int high, Piece& piece) const {
    piece.scale[0] = scales.scale[2 * section + high];
    for (int j = 0; j < kQuads; ++j) {
      const Ints nibble = high == 0 ? raw[j] : shift_right(raw[j], 4);
      const Ints top = shift_left(shift_right(fifth[j], 2 * section + high), 4);
      piece.w[j] = and_(join_nibbles(nibble, top), splat(bytes4(0x1f)));
    }
  }

  Ints fifth[kQuads];
};

// { uint8 low[128]; uint8 high[64]; int8 scales[16]; half d; } 6-bit weights, 32 too large, a scale for every 16.
// In each half of 128 weights, piece i takes nibble i / 2 of low[32 * (i % 2) ..] and bits 2i, 2i + 1 of high[..].
struct TileQ6_K {
  static constexpr size_t kBytes = 210;
  static constexpr int kSections = 2;
  static constexpr int kSectionPieces = 4;
  static constexpr bool kSigned = false;
  static constexpr int kParts = 2;
  using Column = PackedQ8K;
  static GSD_INLINE Ints start(const Column& x, int part) { return splat(x.start_32[part]); }
  static GSD_INLINE Floats finish(Floats sum, const Column&) { return sum; }

  GSD_INLINE void load(const uint8_t* p, size_t row_stride) {
    block = p;
    stride = row_stride;
    Ints tail[4];
    load_dwords<1>(p + 192, stride, scales);
    load_dwords<1>(p + 194, stride, tail);  // ends with the block: d is the upper half of its last dword
    d = halves_to_floats(shift_right(tail[3], 16));
  }
  GSD_INLINE void load_section(int half) {
    load_dwords<2>(block + 64 * half, stride, low[0]);
    load_dwords<2>(block + 64 * half + 32, stride, low[1]);
    load_dwords<2>(block + 128 + 32 * half, stride, high);
  }
  GSD_INLINE void get(int half, int i, Piece& piece) const {
    for (int j = 0; j < kQuads; ++j) {
      const Ints nibble = i < 2 ? low[i % 2][j] : shift_right(low[i % 2][j], 4);
      const Ints top = i < 2 ? shift_left(high[j], 4 - 2 * i) : i == 2 ? high[j] : shift_right(high[j], 2);
      piece.w[j] = and_(join_nibbles(nibble, top), splat(bytes4(0x3f)));
    }
    const Ints pair = shift_left(scales[2 * half + i / 2], 16 * (1 - i % 2));  // ours in the upper 16 bits
    piece.scale[0] = mul(to_floats(arithmetic_right<24>(shift_left(pair, 8))), d);
    piece.scale[1] = mul(to_floats(arithmetic_right<24>(pair)), d);
  }

  const uint8_t* block;
  size_t stride;
  Ints scales[4];
  Floats d;
  Ints low[2][kQuads];
  Ints high[kQuads];
};

// The scales of a tile's rows, collected kAhead blocks before they are needed: a copy of 2 bytes keeps no vector unit
// busy, and by then the copies have left the store buffer, so that one wide load may read them all. It also has the
// rows' next cache line fetched from the second level.
template <size_t kBytes>
class ScaleQueue {
 public:
  GSD_INLINE explicit ScaleQueue(const TileArgs& t) : p_(t.weights), stride_(t.row_stride), blocks_(t.k / 32) {
    for (int64_t i = 0; i < kAhead && i < blocks_; ++i) copy(i);
  }
  // To be called for i = 0, 1, 2, ...: scales of block i.
  GSD_INLINE Floats get(int64_t i) {
    if (i + kAhead < blocks_) copy(i + kAhead);
    return load_f16(halves_[i % kSlots]);
  }

 private:
  static constexpr int64_t kAhead = 4;
  static constexpr int64_t kSlots = 8;

  GSD_INLINE void copy(int64_t i) {
    const size_t stride = stride_;  // in a register: for all the compiler knows, bytes are stored over the member
    const uint8_t* four = p_ + static_cast<size_t>(i) * kBytes;
    uint8_t* out = halves_[i % kSlots];
#pragma GCC unroll 4
    for (size_t r = 0; r < kRows; r += 4, four += 4 * stride, out += 8) {
#pragma GCC unroll 4
      for (size_t j = 0; j < 4; ++j) std::memcpy(out + 2 * j, four + j * stride, 2);
    }
  }

  const uint8_t* p_;
  size_t stride_;
  int64_t blocks_;
  alignas(64) uint8_t halves_[kSlots][2 * kRows];
};

template <class Tile>
void piece_tile(const TileArgs& t) {
  Floats sums[kMaxColumns];
  for (int c = 0; c < t.columns; ++c) sums[c] = zero();
  const int64_t pieces = t.k / 32;
  Prefetcher prefetch(t, kRows, pieces);
  const auto* x = reinterpret_cast<const PackedQ8*>(t.packed);
  const uint8_t* p = t.weights + 2;
  ScaleQueue<Tile::kBytes> scales(t);
  for (int64_t i = 0; i < pieces; ++i, p += Tile::kBytes, x += t.columns) {
    Ints w[kQuads];
    Tile::decode(p, t.row_stride, w);
    const Floats scale = scales.get(i);
    for_columns(t.columns, [&](int c, auto count) GSD_LAMBDA_INLINE {
      constexpr int kCount = decltype(count)::kCount;
      prefetch.step();
      Ints s[kCount];
      for (int n = 0; n < kCount; ++n) s[n] = Tile::start(x[c + n]);
      dot_quads<Tile, kCount, kQuads>(w, 0, x + c, s);
      for (int n = 0; n < kCount; ++n) {
        sums[c + n] = fma(mul(to_floats(s[n]), scale), splat(x[c + n].scale), sums[c + n]);
      }
    });
  }
  store_tile<1>(t, 0, t.columns, sums);
}

template <class Tile>
void k_tile(const TileArgs& t) {
  struct Sum {
    Floats block, total;
  };
  Sum sums[kMaxColumns];
  for (int c = 0; c < t.columns; ++c) sums[c] = {zero(), zero()};
  const int64_t pieces = t.k / 32;
  Prefetcher prefetch(t, kRows, pieces);
  const auto* x = reinterpret_cast<const PackedQ8K*>(t.packed);
  const uint8_t* p = t.weights;
  for (int64_t b = 0; b < pieces; b += kBlocksK, p += Tile::kBytes) {
    Tile block;
    block.load(p, t.row_stride);
    for (int section = 0; section < Tile::kSections; ++section) {
      block.load_section(section);
      for (int i = 0; i < Tile::kSectionPieces; ++i, x += t.columns) {
        Piece piece;
        block.get(section, i, piece);
        const bool ends = section + 1 == Tile::kSections && i + 1 == Tile::kSectionPieces;
        for_columns(t.columns, [&](int c, auto count) GSD_LAMBDA_INLINE {
          constexpr int kCount = decltype(count)::kCount;
          prefetch.step();
          Floats sum[kCount];
          for (int n = 0; n < kCount; ++n) sum[n] = sums[c + n].block;
#pragma GCC unroll 2
          for (int part = 0; part < Tile::kParts; ++part) {
            constexpr int kLength = kQuads / Tile::kParts;
            Ints s[kCount];
            for (int n = 0; n < kCount; ++n) s[n] = Tile::start(x[c + n], part);
            dot_quads<Tile, kCount, kLength>(piece.w, part * kLength, x + c, s);
            for (int n = 0; n < kCount; ++n) sum[n] = fma(to_floats(s[n]), piece.scale[part], sum[n]);
          }
          if (ends) {
            for (int n = 0; n < kCount; ++n) {
              sums[c + n].total = fma(block.finish(sum[n], x[c + n]), splat(x[c + n].scale), sums[c + n].total);
              sum[n] = zero();
            }
          }
          for (int n = 0; n < kCount; ++n) sums[c + n].block = sum[n];
        });
      }
    }
  }
  Floats totals[kMaxColumns];
  for (int c = 0; c < t.columns; ++c) totals[c] = sums[c].total;
  store_tile<1>(t, 0, t.columns, totals);
}

GSD_INLINE void add_quant_kernels(gsd::narrow::KernelTable& table) {
  using gsd::narrow::Format;
  using gsd::narrow::Packing;
  table[Format::kQ8_0] = {piece_tile<TileQ8_0>, kRows, Packing::kQ8};
  table[Format::kQ4_0] = {piece_tile<TileQ4_0>, kRows, Packing::kQ8};
  table[Format::kQ4_K] = {k_tile<TileQ4_K>, kRows, Packing::kQ8K};
  table[Format::kQ5_K] = {k_tile<TileQ5_K>, kRows, Packing::kQ8K};
  table[Format::kQ6_K] = {k_tile<TileQ6_K>, kRows, Packing::kQ8K};
}

}  // namespace
