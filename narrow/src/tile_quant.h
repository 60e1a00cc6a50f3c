// Tiles of quantised weights: Q8_0, Q4_0, Q4_K, Q5_K, Q6_K.
//
// Every format is cut into pieces of 32 weights of each row, decoded to unsigned bytes: eight registers, element r of
// register j holding weights 4j..4j+3 of row r. Multiplied by a column's 32 bytes, the sums are exact integers.
#pragma once

#include "tile_common.h"

namespace {

using gsd::narrow::PackedQ8;

constexpr int kQuads = 8;  // registers of a piece: 32 weights, 4 to a dword

// Groups of kRows rows in a tile. Two share each activation that is read, and so need less than one load for each
// multiplication; with AVX2's 16 registers there is room for one.
#if defined(__AVX512F__)
constexpr int kGroups = 2;
#else
constexpr int kGroups = 1;
#endif

constexpr int32_t bytes4(uint32_t b) { return static_cast<int32_t>(b * 0x01010101U); }

// What a column's dot product starts with (PackedQ8).
enum class Start { kZero, kMinus8, kMinus128, kMinus32 };

struct Piece {
  Ints w[kQuads];
  Floats scale[2];  // of weights 0..15 and 16..31 with kHalves, else scale[0] of all
  Floats minimum;   // minus the format's minimum, where it has one
};

template <class Tile>
GSD_INLINE Ints start_of(const PackedQ8& x, int half) {
  if constexpr (Tile::kStart == Start::kMinus8) return splat(x.start_8);
  if constexpr (Tile::kStart == Start::kMinus128) return splat(x.start_128);
  if constexpr (Tile::kStart == Start::kMinus32) return splat(x.start_32[half]);
  return zero_ints();
}

// Adds one piece of kGroups groups of rows times kCount columns to their sums, [column][group].
template <class Tile, int kCount>
GSD_INLINE void add_piece(const Piece p[kGroups], const PackedQ8* x, Floats* sums) {
  constexpr int kParts = Tile::kHalves ? 2 : 1;
  constexpr int kPartQuads = kQuads / kParts;
  Floats scaled[kCount][kGroups];
#pragma GCC unroll 2
  for (int part = 0; part < kParts; ++part) {
    Ints s[kCount][kGroups];
    for (int n = 0; n < kCount; ++n) {
      for (int g = 0; g < kGroups; ++g) s[n][g] = start_of<Tile>(x[n], part);
    }
#pragma GCC unroll 8
    for (int j = 0; j < kPartQuads; ++j) {
      const int quad = part * kPartQuads + j;
#pragma GCC unroll 4
      for (int n = 0; n < kCount; ++n) {
        const Ints four = splat(read_dword(x[n].q + 4 * quad));
        for (int g = 0; g < kGroups; ++g) s[n][g] = dot_bytes<Tile::kSigned>(s[n][g], p[g].w[quad], four);
      }
    }
    for (int n = 0; n < kCount; ++n) {
      for (int g = 0; g < kGroups; ++g) {
        const Floats f = to_floats(s[n][g]);
        scaled[n][g] = part == 0 ? mul(f, p[g].scale[0]) : fma(f, p[g].scale[1], scaled[n][g]);
      }
    }
  }
  for (int n = 0; n < kCount; ++n) {
    for (int g = 0; g < kGroups; ++g) {
      Floats& sum = sums[n * kGroups + g];
      sum = fma(scaled[n][g], splat(x[n].scale), sum);
      if constexpr (Tile::kMinimum) sum = fma(p[g].minimum, splat(x[n].scaled_sum), sum);
    }
  }
}

template <class Tile>
GSD_INLINE void multiply_piece(const Piece p[kGroups], const PackedQ8* x, int columns, Floats* sums,
                               Prefetcher& prefetch) {
  for_columns(columns, [&](int c, auto count) GSD_LAMBDA_INLINE {
    prefetch.step();
    add_piece<Tile, decltype(count)::kCount>(p, x + c, sums + c * kGroups);
  });
}

// Formats whose blocks, of kBytes, are one piece: a half that scales it, then the weights, which decode() reads.

// { half scale; int8 w[32]; }
struct TileQ8_0 {
  static constexpr size_t kBytes = 34;
  static constexpr bool kSigned = !kUnsignedDot;
  static constexpr Start kStart = kUnsignedDot ? Start::kMinus128 : Start::kZero;
  static constexpr bool kHalves = false;
  static constexpr bool kMinimum = false;

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
  static constexpr Start kStart = Start::kMinus8;
  static constexpr bool kHalves = false;
  static constexpr bool kMinimum = false;

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
  Floats minimum[8];  // negated

  GSD_INLINE void load(const uint8_t* p, size_t stride) {
    Ints h[4];  // the two halves; bytes 0-3, 4-7, 8-11 of the twelve
    load_dwords<1>(p, stride, h);
    const Floats d = halves_to_floats(h[0]);
    const Floats m = negate(halves_to_floats(shift_right(h[0], 16)));
    const Ints six = splat(bytes4(0x3f));
    const Ints four = splat(bytes4(0x0f));
    const Ints top = splat(bytes4(0x30));
    unpack(and_(h[1], six), d, scale);
    unpack(and_(h[2], six), m, minimum);
    unpack(or_(and_(h[3], four), and_(shift_right(h[1], 2), top)), d, scale + 4);
    unpack(or_(and_(shift_right(h[3], 4), four), and_(shift_right(h[2], 2), top)), m, minimum + 4);
  }

 private:
  static GSD_INLINE Floats negate(Floats f) { return as_floats(xor_(reinterpret_cast<Ints>(f), splat(INT32_MIN))); }
  static GSD_INLINE void unpack(Ints four_bytes, Floats factor, Floats* out) {
    for (int i = 0; i < 4; ++i) {
      out[i] = mul(to_floats(and_(shift_right(four_bytes, 8 * i), splat(0xff))), factor);
    }
  }
};

// { half d, dmin; uint8 scales[12]; uint8 w[128]; } pieces 2i and 2i + 1 in the low and high halves of w[32i..32i+31].
struct TileQ4_K {
  static constexpr size_t kBytes = 144;
  static constexpr int kSections = 4;
  static constexpr int kSectionPieces = 2;
  static constexpr bool kSigned = false;
  static constexpr Start kStart = Start::kZero;
  static constexpr bool kHalves = false;
  static constexpr bool kMinimum = true;

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
    piece.minimum = scales.minimum[2 * section + high];
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
    TileQ4_K::get(section, high, piece);
    for (int j = 0; j < kQuads; ++j) {
      const Ints bit = and_(shift_right(fifth[j], 2 * section + high), splat(bytes4(0x01)));
      piece.w[j] = or_(piece.w[j], shift_left(bit, 4));
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
  static constexpr Start kStart = Start::kMinus32;
  static constexpr bool kHalves = true;
  static constexpr bool kMinimum = false;

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
      const Ints nibble = and_(shift_right(low[i % 2][j], 4 * (i / 2)), splat(bytes4(0x0f)));
      const Ints top = and_(shift_right(high[j], 2 * i), splat(bytes4(0x03)));
      piece.w[j] = or_(nibble, shift_left(top, 4));
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
  // To be called for i = 0, 1, 2, ...: scales of block i, for every group of rows.
  GSD_INLINE void get(int64_t i, Floats out[kGroups]) {
    if (i + kAhead < blocks_) copy(i + kAhead);
#pragma GCC unroll 2
    for (int g = 0; g < kGroups; ++g) out[g] = load_f16(halves_[i % kSlots] + static_cast<size_t>(g) * kRows * 2);
  }

 private:
  static constexpr int64_t kAhead = 2;
  static constexpr int64_t kSlots = 4;

  GSD_INLINE void copy(int64_t i) {
    const uint8_t* p = p_ + static_cast<size_t>(i) * kBytes;
    uint8_t* out = halves_[i % kSlots];
#pragma GCC unroll 32
    for (size_t r = 0; r < kGroups * kRows; ++r) std::memcpy(out + 2 * r, p + r * stride_, 2);
  }

  const uint8_t* p_;
  size_t stride_;
  int64_t blocks_;
  alignas(64) uint8_t halves_[kSlots][2 * kGroups * kRows];
};

template <class Tile>
void piece_tile(const TileArgs& t) {
  Floats sums[kMaxColumns * kGroups];
  for (int c = 0; c < t.columns * kGroups; ++c) sums[c] = zero();
  const int64_t pieces = t.k / 32;
  Prefetcher prefetch(t, kGroups * kRows, pieces);
  const PackedQ8* x = reinterpret_cast<const PackedQ8*>(t.packed);
  const uint8_t* p = t.weights + 2;
  ScaleQueue<Tile::kBytes> scales(t);
  for (int64_t i = 0; i < pieces; ++i, p += Tile::kBytes, x += t.columns) {
    Floats scale[kGroups];
    scales.get(i, scale);
    Piece piece[kGroups];
    for (size_t g = 0; g < kGroups; ++g) {
      Tile::decode(p + g * kRows * t.row_stride, t.row_stride, piece[g].w);
      piece[g].scale[0] = scale[g];
    }
    multiply_piece<Tile>(piece, x, t.columns, sums, prefetch);
  }
  store_tile<kGroups>(t, 0, t.columns, sums);
}

template <class Tile>
void k_tile(const TileArgs& t) {
  constexpr int kPieces = Tile::kSections * Tile::kSectionPieces;
  Floats sums[kMaxColumns * kGroups];
  for (int c = 0; c < t.columns * kGroups; ++c) sums[c] = zero();
  const int64_t pieces = t.k / 32;
  Prefetcher prefetch(t, kGroups * kRows, pieces);
  const PackedQ8* x = reinterpret_cast<const PackedQ8*>(t.packed);
  const uint8_t* p = t.weights;
  for (int64_t b = 0; b < pieces; b += kPieces, p += Tile::kBytes) {
    Tile block[kGroups];
    for (size_t g = 0; g < kGroups; ++g) block[g].load(p + g * kRows * t.row_stride, t.row_stride);
    for (int section = 0; section < Tile::kSections; ++section) {
      for (int g = 0; g < kGroups; ++g) block[g].load_section(section);
      for (int i = 0; i < Tile::kSectionPieces; ++i, x += t.columns) {
        Piece piece[kGroups];
        for (int g = 0; g < kGroups; ++g) block[g].get(section, i, piece[g]);
        multiply_piece<Tile>(piece, x, t.columns, sums, prefetch);
      }
    }
  }
  store_tile<kGroups>(t, 0, t.columns, sums);
}

GSD_INLINE void add_quant_kernels(gsd::narrow::KernelTable& table) {
  using gsd::narrow::Format;
  constexpr int kRowsPerTile = kGroups * kRows;
  constexpr auto kPacking = gsd::narrow::Packing::kQ8;
  table[Format::kQ8_0] = {piece_tile<TileQ8_0>, kRowsPerTile, kPacking};
  table[Format::kQ4_0] = {piece_tile<TileQ4_0>, kRowsPerTile, kPacking};
  table[Format::kQ4_K] = {k_tile<TileQ4_K>, kRowsPerTile, kPacking};
  table[Format::kQ5_K] = {k_tile<TileQ5_K>, kRowsPerTile, kPacking};
  table[Format::kQ6_K] = {k_tile<TileQ6_K>, kRowsPerTile, kPacking};
}

}  // namespace
