// Tiles of quantised weights.
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
  Floats scale[2];  // of weights 0..15 and 16..31 where the format has two, else scale[0] of all
  Floats minimum;   // of PieceTile::kMinimum
};

// Low and high nibbles of each byte.
GSD_INLINE Ints low_nibbles(Ints a) { return and_(a, splat(bytes4(0x0f))); }
GSD_INLINE Ints high_nibbles(Ints a) { return and_(shift_right(a, 4), splat(bytes4(0x0f))); }

// 16 bytes of each row hold weights i and i + 16 in the low and high half of byte i.
GSD_INLINE void load_nibbles(const uint8_t* p, size_t stride, Ints w[kQuads]) {
  Ints chunk[4];
  load_dwords<1>(p, stride, chunk);
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    w[j] = low_nibbles(chunk[j]);
    w[4 + j] = high_nibbles(chunk[j]);
  }
}

// The values that the nibbles of IQ4_NL and IQ4_XS stand for, 128 too large where dot products are of unsigned bytes.
GSD_INLINE Ints iq4_values() {
  constexpr int8_t kValues[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
  return kUnsignedDot ? xor_(table_of(kValues), splat(bytes4(0x80))) : table_of(kValues);
}

// Integer sums of kCount columns times quads first to first + kLength of a piece.
template <class Tile, int kCount, int kLength>
GSD_INLINE void dot_quads(const Ints* w, int first, const typename Tile::Column* x, Ints s[kCount]) {
#pragma GCC unroll 8
  for (int j = first; j < first + kLength; ++j) {
#pragma GCC unroll 8
    for (int n = 0; n < kCount; ++n) s[n] = dot_bytes<Tile::kSigned>(s[n], w[j], x[n].q + 4 * j);
  }
}

// What stands before the weights in the blocks of a tile's rows, kWidth bytes at kAt, collected kAhead blocks before it
// is needed: a copy of a few bytes keeps no vector unit busy, and by then the copies have left the store buffer, so
// that one wide load may read them all. It also has the rows' next cache line fetched from the second level.
template <size_t kBytes, size_t kAt, size_t kWidth, int64_t kWeights = 32>
class RowQueue {
 public:
  GSD_INLINE explicit RowQueue(const TileArgs& t)
      : p_(t.weights + kAt), stride_(t.row_stride), blocks_(t.k / kWeights) {
    for (int64_t i = 0; i < kAhead && i < blocks_; ++i) copy(i);
  }
  // To be called for i = 0, 1, 2, ...: kWidth bytes of each row of block i, and some more that may be read.
  GSD_INLINE const uint8_t* get(int64_t i) {
    if (i + kAhead < blocks_) copy(i + kAhead);
    return bytes_[i % kSlots];
  }

 private:
  static constexpr int64_t kAhead = 4;
  static constexpr int64_t kSlots = 8;

  GSD_INLINE void copy(int64_t i) {
    const size_t stride = stride_;  // in a register: for all the compiler knows, bytes are stored over the member
    const uint8_t* four = p_ + static_cast<size_t>(i) * kBytes;
    uint8_t* out = bytes_[i % kSlots];
#pragma GCC unroll 4
    for (size_t r = 0; r < kRows; r += 4, four += 4 * stride, out += 4 * kWidth) {
#pragma GCC unroll 4
      for (size_t j = 0; j < 4; ++j) std::memcpy(out + kWidth * j, four + j * stride, kWidth);
    }
  }

  const uint8_t* p_;
  size_t stride_;
  int64_t blocks_;
  alignas(64) uint8_t bytes_[kSlots][kWidth * kRows];
};

// Formats whose blocks, of kBytes, are one piece. decode() is called for i = 0, 1, 2, ... with block i of the first
// row.

template <size_t kBytes_>
struct PieceTile {
  static constexpr size_t kBytes = kBytes_;
  static constexpr bool kSigned = false;
  static constexpr bool kMinimum = false;
  static constexpr int kParts = 1;
  using Column = PackedQ8;
};

// { half scale; int8 w[32]; }
struct TileQ8_0 : PieceTile<34> {
  static constexpr bool kSigned = !kUnsignedDot;
  static GSD_INLINE Ints start(const Column& x, int) { return kSigned ? zero_ints() : splat(x.start_128); }

  GSD_INLINE explicit TileQ8_0(const TileArgs& t) : scales(t) {}
  GSD_INLINE void decode(int64_t i, const uint8_t* p, size_t stride, Piece& piece) {
    load_dwords<2>(p + 2, stride, piece.w);
    if constexpr (!kSigned) {
      for (int j = 0; j < kQuads; ++j) piece.w[j] = xor_(piece.w[j], splat(bytes4(0x80)));
    }
    piece.scale[0] = load_f16(scales.get(i));
  }

  RowQueue<kBytes, 0, 2> scales;
};

// { half scale; uint8 w[16]; } 8 too large
struct TileQ4_0 : PieceTile<18> {
  static GSD_INLINE Ints start(const Column& x, int) { return splat(x.start_8); }

  GSD_INLINE explicit TileQ4_0(const TileArgs& t) : scales(t) {}
  GSD_INLINE void decode(int64_t i, const uint8_t* p, size_t stride, Piece& piece) {
    load_nibbles(p + 2, stride, piece.w);
    piece.scale[0] = load_f16(scales.get(i));
  }

  RowQueue<kBytes, 0, 2> scales;
};

// The same, standing for values of a table.
struct TileIQ4_NL : PieceTile<18> {
  static constexpr bool kSigned = !kUnsignedDot;
  static GSD_INLINE Ints start(const Column& x, int) { return kSigned ? zero_ints() : splat(x.start_128); }

  GSD_INLINE explicit TileIQ4_NL(const TileArgs& t) : scales(t) {}
  GSD_INLINE void decode(int64_t i, const uint8_t* p, size_t stride, Piece& piece) {
    load_nibbles(p + 2, stride, piece.w);
    const Ints values = iq4_values();
    for (int j = 0; j < kQuads; ++j) piece.w[j] = look_up(values, piece.w[j]);
    piece.scale[0] = load_f16(scales.get(i));
  }

  RowQueue<kBytes, 0, 2> scales;
};

// The values that the nibbles of MXFP4 and NVFP4 stand for, doubled and 12 too large.
GSD_INLINE Ints fp4_values() {
  constexpr int8_t kValues[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};
  return table_of(kValues);
}

// { uint8 exponent; uint8 w[16]; } with values doubled, the scale is 2^(exponent - 128).
struct TileMXFP4 : PieceTile<17> {
  static GSD_INLINE Ints start(const Column& x, int) { return splat(x.start_12); }

  GSD_INLINE explicit TileMXFP4(const TileArgs& t) : exponents(t) {}
  GSD_INLINE void decode(int64_t i, const uint8_t* p, size_t stride, Piece& piece) {
    load_nibbles(p + 1, stride, piece.w);
    const Ints values = fp4_values();
    for (int j = 0; j < kQuads; ++j) piece.w[j] = look_up(values, piece.w[j]);
    // Exponents 0 and 1, which would make denormal floats, count as zero.
    const Ints e = largest_ints(load_bytes(exponents.get(i)), splat(1));
    piece.scale[0] = as_floats(shift_left(add_ints(e, splat(-1)), 23));
  }

  RowQueue<kBytes, 0, 1> exponents;
};

// { uint8 scales[4]; uint8 w[32]; } 64 weights, a scale for every 16, which are in the low and high halves of 8 bytes.
// A block is two pieces.
struct TileNVFP4 : PieceTile<18> {
  static constexpr int kParts = 2;
  static GSD_INLINE Ints start(const Column& x, int part) { return splat(x.start_12_of[part]); }

  GSD_INLINE explicit TileNVFP4(const TileArgs& t) : queue(t) {}
  GSD_INLINE void decode(int64_t i, const uint8_t* p, size_t stride, Piece& piece) {
    if (i % 2 == 0) scales = load_ints(queue.get(i / 2));
    Ints chunk[4];
    load_dwords<1>(p + 4 - 2 * (i % 2), stride, chunk);
    const Ints values = fp4_values();
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const int first = j + j / 2 * 2;
      piece.w[first] = look_up(values, low_nibbles(chunk[j]));
      piece.w[first + 2] = look_up(values, high_nibbles(chunk[j]));
    }
    for (Floats& s : piece.scale) {
      s = scale(and_(scales, splat(0xff)));
      scales = shift_right(scales, 8);
    }
  }

 private:
  // Four bits of exponent and three of mantissa are the middle of a half; 127 stands for zero, as it does in ggml.
  static GSD_INLINE Floats scale(Ints byte) {
    const Floats s = halves_to_floats(shift_left(and_(byte, splat(0x7f)), 7));
    return where_equal(to_floats(byte), splat(127.0F), zero(), mul(s, splat(128.0F)));
  }

  RowQueue<36, 0, 4, 64> queue;
  Ints scales;
};

// Two halves of each row, kept as one dword.
struct ScaleAndMinimum {
  Floats scale, minimum;
  GSD_INLINE explicit ScaleAndMinimum(const uint8_t* rows) {
    const Ints both = load_ints(rows);
    scale = halves_to_floats(both);
    minimum = halves_to_floats(shift_right(both, 16));
  }
};

// { half scale, minimum; uint8 w[16]; }
struct TileQ4_1 : PieceTile<20> {
  static constexpr bool kMinimum = true;
  static GSD_INLINE Ints start(const Column&, int) { return zero_ints(); }

  GSD_INLINE explicit TileQ4_1(const TileArgs& t) : scales(t) {}
  GSD_INLINE void decode(int64_t i, const uint8_t* p, size_t stride, Piece& piece) {
    load_nibbles(p + 4, stride, piece.w);
    const ScaleAndMinimum s(scales.get(i));
    piece.scale[0] = s.scale;
    piece.minimum = s.minimum;
  }

  RowQueue<kBytes, 0, 4> scales;
};

// Byte n of each dword, in all of its four places.
GSD_INLINE Ints spread_byte(Ints a, int n) {
  constexpr int8_t kFirst[16] = {0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12};
  return look_up(a, add_ints(table_of(kFirst), splat(bytes4(static_cast<uint32_t>(n)))));
}

// Adds the fifth bits of 32 weights, those of a row in one dword: each byte is brought to four places, keeps the bit of
// its place and looks up what that stands for.
GSD_INLINE void add_fifth_bits(Ints bits, Ints w[kQuads]) {
  constexpr int8_t kBit[16] = {0, 16, 16, 0, 16, 0, 0, 0, 16};
  const Ints bit = table_of(kBit);
  const Ints nibbles[2] = {low_nibbles(bits), high_nibbles(bits)};
#pragma GCC unroll 8
  for (int j = 0; j < kQuads; ++j) {
    w[j] = or_(w[j], look_up(bit, and_(spread_byte(nibbles[j % 2], j / 2), splat(0x08040201))));
  }
}

// { half scale; uint8 fifth[4]; uint8 w[16]; } 16 too large; bit i of `fifth` belongs to weight i
struct TileQ5_0 : PieceTile<22> {
  static GSD_INLINE Ints start(const Column& x, int) { return splat(x.start_16); }

  GSD_INLINE explicit TileQ5_0(const TileArgs& t) : scales(t), fifth(t) {}
  GSD_INLINE void decode(int64_t i, const uint8_t* p, size_t stride, Piece& piece) {
    load_nibbles(p + 6, stride, piece.w);
    add_fifth_bits(load_ints(fifth.get(i)), piece.w);
    piece.scale[0] = load_f16(scales.get(i));
  }

  RowQueue<kBytes, 0, 2> scales;
  RowQueue<kBytes, 2, 4> fifth;
};

// { half scale, minimum; uint8 fifth[4]; uint8 w[16]; }
struct TileQ5_1 : PieceTile<24> {
  static constexpr bool kMinimum = true;
  static GSD_INLINE Ints start(const Column&, int) { return zero_ints(); }

  GSD_INLINE explicit TileQ5_1(const TileArgs& t) : scales(t), fifth(t) {}
  GSD_INLINE void decode(int64_t i, const uint8_t* p, size_t stride, Piece& piece) {
    load_nibbles(p + 8, stride, piece.w);
    add_fifth_bits(load_ints(fifth.get(i)), piece.w);
    const ScaleAndMinimum s(scales.get(i));
    piece.scale[0] = s.scale;
    piece.minimum = s.minimum;
  }

  RowQueue<kBytes, 0, 4> scales;
  RowQueue<kBytes, 4, 4> fifth;
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
  // A block's sum less what its minima take. x: the column's last piece of it; pieces are `columns` apart.
  GSD_INLINE Floats finish(Floats sum, const Column* x, int) const {
    Ints s = zero_ints();
    for (int i = 0; i < 4; ++i) s = dot_words(s, scales.minima[i], x->sums[i]);
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
      piece.w[j] = and_(select_bits(splat(bytes4(0x0f)), nibble, top), splat(bytes4(0x1f)));
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
  static GSD_INLINE Floats finish(Floats sum, const Column*, int) { return sum; }

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
      piece.w[j] = and_(select_bits(splat(bytes4(0x0f)), nibble, top), splat(bytes4(0x3f)));
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

// The sums of a block's eight pieces times their scales. x: the column's last piece of it.
GSD_INLINE Ints dot_sums(const Ints scales[kBlocksK], const PackedQ8K* x) {
  Ints s = zero_ints();
  for (int i = 0; i < 4; ++i) {
    const int first = i / 2 * 4 + i % 2;
    const Ints pair = select_bits(splat(0xffff), scales[first], shift_left(scales[first + 2], 16));
    s = dot_words(s, pair, x->sums[i]);
  }
  return s;
}

// { half d; uint16 scales_high; uint8 scales_low[4]; uint8 w[128]; } w like IQ4_NL's, a piece in 16 bytes; scales of 6
// bits, 32 too large. Where values are 128 too large, finish() takes what they add.
struct TileIQ4_XS {
  static constexpr size_t kBytes = 136;
  static constexpr int kSections = 4;
  static constexpr int kSectionPieces = 2;
  static constexpr bool kSigned = !kUnsignedDot;
  static constexpr int kParts = 1;
  using Column = PackedQ8K;
  static GSD_INLINE Ints start(const Column&, int) { return zero_ints(); }

  GSD_INLINE void load(const uint8_t* p, size_t row_stride) {
    Ints h[4];
    load_dwords<1>(p, row_stride, h);
    d = halves_to_floats(h[0]);
#pragma GCC unroll 8
    for (int i = 0; i < kBlocksK; ++i) {
      const Ints low = shift_right(h[1], 4 * i);
      const Ints high = shift_right(h[0], 12 + 2 * i);
      scales[i] = add_ints(and_(select_bits(splat(0x0f), low, high), splat(0x3f)), splat(-32));
    }
    weights = p + 8;
    stride = row_stride;
  }
  GSD_INLINE void load_section(int section) { load_dwords<2>(weights + 32 * section, stride, raw); }
  GSD_INLINE void get(int section, int i, Piece& piece) const {
    const Ints values = iq4_values();
    for (int j = 0; j < 4; ++j) {
      piece.w[j] = look_up(values, low_nibbles(raw[4 * i + j]));
      piece.w[4 + j] = look_up(values, high_nibbles(raw[4 * i + j]));
    }
    piece.scale[0] = mul(to_floats(scales[2 * section + i]), d);
  }
  GSD_INLINE Floats finish(Floats sum, const Column* x, int) const {
    if constexpr (kSigned) return sum;
    return fma(to_floats(dot_sums(scales, x)), mul(d, splat(-128.0F)), sum);
  }

  const uint8_t* weights;
  size_t stride;
  Floats d;
  Ints scales[kBlocksK];
  Ints raw[kQuads];
};

// { uint8 high[32]; uint8 low[64]; uint8 scales[12]; half d; } 3-bit weights, 4 too large, a scale for every 16, of 6
// bits and 32 too large. In each half of 128 weights, piece i takes bits 2i, 2i + 1 of low[32 * half ..]; bit n of
// high[..] is that of piece n.
struct TileQ3_K {
  static constexpr size_t kBytes = 110;
  static constexpr int kSections = 2;
  static constexpr int kSectionPieces = 4;
  static constexpr bool kSigned = false;
  static constexpr int kParts = 2;
  using Column = PackedQ8K;
  static GSD_INLINE Ints start(const Column& x, int part) { return splat(x.start_32[part]); }
  static GSD_INLINE Floats finish(Floats sum, const Column*, int) { return sum; }

  GSD_INLINE void load(const uint8_t* p, size_t row_stride) {
    block = p;
    stride = row_stride;
    Ints tail[4];  // ends with the block
    load_dwords<1>(p + 94, stride, tail);
    const auto dword = [&](int i)
                           GSD_LAMBDA_INLINE { return or_(shift_right(tail[i], 16), shift_left(tail[i + 1], 16)); };
    const Ints low[2] = {dword(0), dword(1)};
    const Ints top = dword(2);
    const Ints four = splat(bytes4(0x0f));
    const Ints six = splat(bytes4(0x3f));
    scales[0] = and_(select_bits(four, low[0], shift_left(top, 4)), six);
    scales[1] = and_(select_bits(four, low[1], shift_left(top, 2)), six);
    scales[2] = and_(select_bits(four, shift_right(low[0], 4), top), six);
    scales[3] = and_(select_bits(four, shift_right(low[1], 4), shift_right(top, 2)), six);
    d = halves_to_floats(shift_right(tail[3], 16));
    load_dwords<2>(p, stride, high);
  }
  GSD_INLINE void load_section(int half) { load_dwords<2>(block + 32 + 32 * half, stride, raw); }
  GSD_INLINE void get(int half, int i, Piece& piece) const {
    const int n = 4 * half + i;
    for (int j = 0; j < kQuads; ++j) {
      const Ints top = shift_left(shift_right(high[j], n), 2);
      const Ints w = and_(select_bits(splat(bytes4(0x03)), shift_right(raw[j], 2 * i), top), splat(bytes4(0x07)));
      piece.w[j] = add_ints(w, splat(bytes4(28)));  // 32 too large, for which columns have their start
    }
    const Ints two = shift_right(scales[n / 2], 16 * (n % 2));
    const auto scale = [&](Ints s)
                           GSD_LAMBDA_INLINE { return mul(to_floats(add_ints(and_(s, splat(0x3f)), splat(-32))), d); };
    piece.scale[0] = scale(two);
    piece.scale[1] = scale(shift_right(two, 8));
  }

  const uint8_t* block;
  size_t stride;
  Ints scales[4];
  Floats d;
  Ints raw[kQuads];
  Ints high[kQuads];
};

// { uint8 scales[16]; uint8 w[64]; half d, dmin; } 2-bit weights, placed as in Q3_K; a scale and a minimum of 4 bits
// for every 16.
struct TileQ2_K {
  static constexpr size_t kBytes = 84;
  static constexpr int kSections = 2;
  static constexpr int kSectionPieces = 4;
  static constexpr bool kSigned = false;
  static constexpr int kParts = 2;
  using Column = PackedQ8K;
  static GSD_INLINE Ints start(const Column&, int) { return zero_ints(); }

  GSD_INLINE void load(const uint8_t* p, size_t row_stride) {
    block = p;
    stride = row_stride;
    Ints tail[4];  // ends with the block
    load_dwords<1>(p, stride, scales);
    load_dwords<1>(p + 68, stride, tail);
    d = halves_to_floats(tail[3]);
    minimum = as_floats(xor_(reinterpret_cast<Ints>(halves_to_floats(shift_right(tail[3], 16))), splat(INT32_MIN)));
  }
  GSD_INLINE void load_section(int half) { load_dwords<2>(block + 16 + 32 * half, stride, raw); }
  GSD_INLINE void get(int half, int i, Piece& piece) const {
    for (int j = 0; j < kQuads; ++j) piece.w[j] = and_(shift_right(raw[j], 2 * i), splat(bytes4(0x03)));
    const Ints two = two_scales(4 * half + i);
    piece.scale[0] = mul(to_floats(and_(two, splat(0x0f))), d);
    piece.scale[1] = mul(to_floats(and_(shift_right(two, 8), splat(0x0f))), d);
  }
  GSD_INLINE Floats finish(Floats sum, const Column* x, int columns) const {
    Ints s = zero_ints();
#pragma GCC unroll 8
    for (int i = 0; i < kBlocksK; ++i) {
      const Ints two = two_scales(i);
      const Ints minima = select_bits(splat(0x0f), shift_right(two, 4), and_(shift_left(two, 4), splat(0x0f0000)));
      s = dot_words(s, minima, x[static_cast<ptrdiff_t>(i + 1 - kBlocksK) * columns].halves);
    }
    return fma(to_floats(s), minimum, sum);
  }

 private:
  GSD_INLINE Ints two_scales(int piece) const { return shift_right(scales[piece / 2], 16 * (piece % 2)); }

  const uint8_t* block;
  size_t stride;
  Ints scales[4];
  Floats d, minimum;
  Ints raw[kQuads];
};

// kFixed: the number of columns, or 0 where it is t.columns.
template <class Tile, int kFixed>
void piece_tile_of(const TileArgs& t) {
  const int columns = kFixed > 0 ? kFixed : t.columns;
  Floats sums[kFixed > 0 ? kFixed : kMaxColumns];
#pragma GCC unroll 8
  for (int c = 0; c < columns; ++c) sums[c] = zero();
  const int64_t pieces = t.k / 32;
  Prefetcher prefetch(t, kRows, pieces);
  const auto* x = reinterpret_cast<const PackedQ8*>(t.packed);
  const uint8_t* p = t.weights;
  Tile tile(t);
  for (int64_t i = 0; i < pieces; ++i, p += Tile::kBytes, x += columns) {
    Piece piece;
    tile.decode(i, p, t.row_stride, piece);
    for_columns<kFixed>(columns, [&](int c, auto count) GSD_LAMBDA_INLINE {
      constexpr int kCount = decltype(count)::kCount;
      prefetch.step();
      Ints s[kCount];
#pragma GCC unroll 8
      for (int n = 0; n < kCount; ++n) s[n] = Tile::start(x[c + n], 0);
      dot_quads<Tile, kCount, kQuads / Tile::kParts>(piece.w, 0, x + c, s);
      Floats products[kCount];
#pragma GCC unroll 8
      for (int n = 0; n < kCount; ++n) products[n] = mul(to_floats(s[n]), piece.scale[0]);
      if constexpr (Tile::kParts == 2) {
#pragma GCC unroll 8
        for (int n = 0; n < kCount; ++n) s[n] = Tile::start(x[c + n], 1);
        dot_quads<Tile, kCount, kQuads / 2>(piece.w, kQuads / 2, x + c, s);
#pragma GCC unroll 8
        for (int n = 0; n < kCount; ++n) products[n] = fma(to_floats(s[n]), piece.scale[1], products[n]);
      }
#pragma GCC unroll 8
      for (int n = 0; n < kCount; ++n) {
        if constexpr (Tile::kMinimum) sums[c + n] = fma(piece.minimum, splat(x[c + n].sum), sums[c + n]);
        sums[c + n] = fma(products[n], splat(x[c + n].scale), sums[c + n]);
      }
    });
  }
  store_tile<1>(t, 0, columns, sums);
}

template <class Tile>
void piece_tile(const TileArgs& t) {
  with_fixed_columns(t.columns, [&](auto count) { piece_tile_of<Tile, decltype(count)::kCount>(t); });
}

// kFixed as above.
template <class Tile, int kFixed>
void k_tile_of(const TileArgs& t) {
  const int columns = kFixed > 0 ? kFixed : t.columns;
  constexpr int kMost = kFixed > 0 ? kFixed : kMaxColumns;
  Floats sums[kMost];  // of the block
  Floats totals[kMost];
#pragma GCC unroll 8
  for (int c = 0; c < columns; ++c) sums[c] = totals[c] = zero();
  const int64_t pieces = t.k / 32;
  Prefetcher prefetch(t, kRows, pieces);
  const auto* x = reinterpret_cast<const PackedQ8K*>(t.packed);
  const uint8_t* p = t.weights;
  for (int64_t b = 0; b < pieces; b += kBlocksK, p += Tile::kBytes) {
    Tile block;
    block.load(p, t.row_stride);
    for (int section = 0; section < Tile::kSections; ++section) {
      block.load_section(section);
      for (int i = 0; i < Tile::kSectionPieces; ++i, x += columns) {
        Piece piece;
        block.get(section, i, piece);
        const bool ends = section + 1 == Tile::kSections && i + 1 == Tile::kSectionPieces;
        for_columns<kFixed>(columns, [&](int c, auto count) GSD_LAMBDA_INLINE {
          constexpr int kCount = decltype(count)::kCount;
          prefetch.step();
          Floats sum[kCount];
#pragma GCC unroll 8
          for (int n = 0; n < kCount; ++n) sum[n] = sums[c + n];
#pragma GCC unroll 2
          for (int part = 0; part < Tile::kParts; ++part) {
            constexpr int kLength = kQuads / Tile::kParts;
            Ints s[kCount];
#pragma GCC unroll 8
            for (int n = 0; n < kCount; ++n) s[n] = Tile::start(x[c + n], part);
            dot_quads<Tile, kCount, kLength>(piece.w, part * kLength, x + c, s);
#pragma GCC unroll 8
            for (int n = 0; n < kCount; ++n) sum[n] = fma(to_floats(s[n]), piece.scale[part], sum[n]);
          }
          if (ends) {
#pragma GCC unroll 8
            for (int n = 0; n < kCount; ++n) {
              totals[c + n] = fma(block.finish(sum[n], x + c + n, columns), splat(x[c + n].scale), totals[c + n]);
              sum[n] = zero();
            }
          }
#pragma GCC unroll 8
          for (int n = 0; n < kCount; ++n) sums[c + n] = sum[n];
        });
      }
    }
  }
  store_tile<1>(t, 0, columns, totals);
}

template <class Tile>
void k_tile(const TileArgs& t) {
  with_fixed_columns(t.columns, [&](auto count) { k_tile_of<Tile, decltype(count)::kCount>(t); });
}

GSD_INLINE void add_quant_kernels(gsd::narrow::KernelTable& table) {
  using gsd::narrow::Format;
  using gsd::narrow::Packing;
  table[Format::kQ8_0] = {piece_tile<TileQ8_0>, kRows, Packing::kQ8};
  table[Format::kQ4_0] = {piece_tile<TileQ4_0>, kRows, Packing::kQ8};
  table[Format::kQ4_1] = {piece_tile<TileQ4_1>, kRows, Packing::kQ8};
  table[Format::kQ5_0] = {piece_tile<TileQ5_0>, kRows, Packing::kQ8};
  table[Format::kQ5_1] = {piece_tile<TileQ5_1>, kRows, Packing::kQ8};
  table[Format::kIQ4_NL] = {piece_tile<TileIQ4_NL>, kRows, Packing::kQ8};
  table[Format::kNVFP4] = {piece_tile<TileNVFP4>, kRows, Packing::kQ8};
  table[Format::kMXFP4] = {piece_tile<TileMXFP4>, kRows, Packing::kQ8};
  table[Format::kQ2_K] = {k_tile<TileQ2_K>, kRows, Packing::kQ8K};
  table[Format::kQ3_K] = {k_tile<TileQ3_K>, kRows, Packing::kQ8K};
  table[Format::kQ4_K] = {k_tile<TileQ4_K>, kRows, Packing::kQ8K};
  table[Format::kQ5_K] = {k_tile<TileQ5_K>, kRows, Packing::kQ8K};
  table[Format::kQ6_K] = {k_tile<TileQ6_K>, kRows, Packing::kQ8K};
  table[Format::kIQ4_XS] = {k_tile<TileIQ4_XS>, kRows, Packing::kQ8K};
}

}  // namespace
