// Tiles of the IQ1 to IQ3 formats, whose blocks of 256 weights hold numbers of a codebook's entries.
//
// An entry is looked up once for all columns, for the rows of a tile at once (a gather, out of the first-level cache):
// that is why these formats, whose looking up takes ggml longer than its multiplications, gain most here.
#pragma once

#include "codebooks.h"
#include "tile_quant.h"

namespace {

// Signs: bit i of a byte belongs to weight i of eight. `twice` is twice what weights are too large by.
GSD_INLINE Ints with_signs(Ints w, Ints eight, int half, uint32_t twice) {
  return subtract_where(eight, splat(half == 0 ? 0x08040201 : static_cast<int32_t>(0x80402010)), splat(bytes4(twice)),
                        w);
}

// The eighth sign of eight is not stored: there is an even number of them.
GSD_INLINE Ints with_eighth_sign(Ints seven) {
  constexpr int8_t kOdd[16] = {0, -128, -128, 0, -128, 0, 0, -128, -128, 0, 0, -128, 0, -128, -128, 0};
  const Ints odd = table_of(kOdd);
  return or_(seven, xor_(look_up(odd, low_nibbles(seven)), look_up(odd, high_nibbles(seven))));
}

// Four times seven signs in the low 28 bits.
GSD_INLINE Ints packed_signs(Ints a) {
  const Ints two = select_bits(splat(0x7f), a, shift_left(a, 1));
  const Ints four = select_bits(splat(0x7fff), two, select_bits(splat(0x7fffff), shift_left(a, 2), shift_left(a, 3)));
  return with_eighth_sign(and_(four, splat(bytes4(0x7f))));
}

GSD_INLINE Ints odd_scale(Ints s) { return add_ints(add_ints(s, s), splat(1)); }
GSD_INLINE Ints byte_of(Ints a, int n) { return and_(shift_right(a, 8 * n), splat(0xff)); }

// The l-th index of a dword: a byte, and above it the bits of `high`, as far as `mask` goes.
GSD_INLINE Ints index_of(Ints bytes, int l, Ints high, int mask) {
  return and_(select_bits(splat(0xff), shift_right(bytes, 8 * l), high), splat(mask));
}

// Eight weights of IQ2, 64 too large.
GSD_INLINE void look_up_eight(const uint32_t* codebook, Ints index, Ints signs, int byte, Ints w[2]) {
  constexpr int8_t kMagnitudes[16] = {64 + 8, 64 + 25, 64 + 43};
  const Ints magnitudes = table_of(kMagnitudes);
  const Ints entry = gather(codebook, index);
  const Ints eight = spread_byte(signs, byte);
  w[0] = with_signs(look_up(magnitudes, low_nibbles(entry)), eight, 0, 128);
  w[1] = with_signs(look_up(magnitudes, high_nibbles(entry)), eight, 1, 128);
}

// Blocks with a scale for every 32 weights: what all weights are too large by is taken off in the end.
template <size_t kBytes_, int kOffset>
struct CodebookTile {
  static constexpr size_t kBytes = kBytes_;
  static constexpr bool kSigned = false;
  static constexpr int kParts = 1;
  using Column = PackedQ8K;
  static GSD_INLINE Ints start(const Column&, int) { return zero_ints(); }
  GSD_INLINE Floats finish(Floats sum, const Column* x, int) const {
    return fma(to_floats(dot_sums(scales, x)), mul(d, splat(-static_cast<float>(kOffset))), sum);
  }

 protected:
  // The half at the start of each row, times `factor`.
  GSD_INLINE void load_scale(const uint8_t* p, size_t row_stride, float factor) {
    Ints first[4];
    load_dwords<1>(p, row_stride, first);
    d = mul(halves_to_floats(first[0]), splat(factor));
    weights = p;
    stride = row_stride;
  }
  GSD_INLINE void set_scale(int n, Ints scale, Piece& piece) {
    scales[n] = scale;
    piece.scale[0] = mul(to_floats(scale), d);
  }

  const uint8_t* weights;
  size_t stride;
  Floats d;
  Ints scales[kBlocksK];
  Ints raw[kQuads];
};

// The same, taken in two halves, with the indices right after the scale.
template <size_t kBytes, int kOffset>
struct CodebookHalves : CodebookTile<kBytes, kOffset> {
  static constexpr int kSections = 2;
  static constexpr int kSectionPieces = 4;

  GSD_INLINE void load_section(int section) {
    load_dwords<2>(this->weights + 2 + 32 * section, this->stride, this->raw);
  }
};

// { half d; 8 of { uint8 index[4]; uint32 signs : 28, scale : 4; } }
struct TileIQ2_XXS : CodebookHalves<66, 64> {
  GSD_INLINE void load(const uint8_t* p, size_t row_stride) { load_scale(p, row_stride, 0.125F); }
  GSD_INLINE void get(int section, int i, Piece& piece) {
    const Ints signs = packed_signs(raw[2 * i + 1]);
#pragma GCC unroll 4
    for (int l = 0; l < 4; ++l) look_up_eight(codebook, byte_of(raw[2 * i], l), signs, l, piece.w + 2 * l);
    set_scale(4 * section + i, odd_scale(shift_right(raw[2 * i + 1], 28)), piece);
  }

  const uint32_t* codebook = gsd::narrow::codebooks().iq2_xxs;
};

// { half d; uint8 index[64]; uint32 signs : 28, scale : 4 [8]; } four weights an index
struct TileIQ3_XXS : CodebookHalves<98, 32> {
  GSD_INLINE void load(const uint8_t* p, size_t row_stride) {
    load_scale(p, row_stride, 0.5F);
    load_dwords<2>(p + 66, row_stride, signs_and_scales);
  }
  GSD_INLINE void get(int section, int i, Piece& piece) {
    const Ints both = signs_and_scales[4 * section + i];
    const Ints signs = packed_signs(both);
#pragma GCC unroll 8
    for (int j = 0; j < kQuads; ++j) {
      const Ints w = gather(codebook, byte_of(raw[2 * i + j / 4], j % 4));
      piece.w[j] = with_signs(w, spread_byte(signs, j / 2), j % 2, 64);
    }
    set_scale(4 * section + i, odd_scale(shift_right(both, 28)), piece);
  }

  Ints signs_and_scales[kBlocksK];
  const uint32_t* codebook = gsd::narrow::codebooks().iq3_xxs;
};

// { half d; uint8 index[64]; uint8 ninth_bits[8]; uint8 signs[32]; uint8 scales[4]; } four weights an index
struct TileIQ3_S : CodebookHalves<110, 32> {
  GSD_INLINE void load(const uint8_t* p, size_t row_stride) {
    load_scale(p, row_stride, 1);
    Ints tail[4];  // ends with the block
    load_dwords<1>(p + 94, row_stride, tail);
    four_bits = tail[3];
    load_dwords<1>(p + 66, row_stride, ninth);
    load_dwords<2>(p + 74, row_stride, signs);
  }
  GSD_INLINE void get(int section, int i, Piece& piece) {
    const int n = 4 * section + i;
    const Ints high = shift_right(ninth[section], 8 * i);
#pragma GCC unroll 8
    for (int j = 0; j < kQuads; ++j) {
      const Ints index = index_of(raw[2 * i + j / 4], j % 4, shift_left(high, 8 - j), 0x1ff);
      piece.w[j] = with_signs(gather(codebook, index), spread_byte(signs[n], j / 2), j % 2, 64);
    }
    set_scale(n, odd_scale(and_(shift_right(four_bits, 4 * n), splat(0x0f))), piece);
  }

  Ints four_bits;
  Ints ninth[4];
  Ints signs[kBlocksK];
  const uint32_t* codebook = gsd::narrow::codebooks().iq3_s;
};

// Weights of IQ1: -1, 0 or 1 plus or minus an eighth, times eight and 32 too large. The third bit of a nibble says
// minus.
GSD_INLINE void look_up_ternary(const uint32_t* codebook, Ints index, Ints minus, Ints w[2]) {
  constexpr int8_t kValues[16] = {32 - 7, 32 + 1, 32 + 9, 0, 32 - 9, 32 - 1, 32 + 7};
  const Ints values = table_of(kValues);
  const Ints entry = or_(gather(codebook, index), minus);
  w[0] = look_up(values, low_nibbles(entry));
  w[1] = look_up(values, high_nibbles(entry));
}

// { half d; uint8 index[32]; uint16 high_bits : 3 [4], scale : 3, minus : 1 [8]; }
struct TileIQ1_S : CodebookTile<50, 32> {
  static constexpr int kSections = 1;
  static constexpr int kSectionPieces = 8;

  GSD_INLINE void load(const uint8_t* p, size_t row_stride) {
    load_scale(p, row_stride, 0.125F);
    load_dwords<1>(p + 34, row_stride, high);
  }
  GSD_INLINE void load_section(int) { load_dwords<2>(weights + 2, stride, raw); }
  GSD_INLINE void get(int, int i, Piece& piece) {
    const Ints top = shift_left(high[i / 2], 16 * (1 - i % 2));  // ours in the upper 16 bits
    const Ints minus = and_(arithmetic_right<31>(top), splat(0x44444444));
    const Ints ours = shift_right(top, 16);
#pragma GCC unroll 4
    for (int l = 0; l < 4; ++l) {
      const Ints bits = l == 3 ? shift_right(ours, 1) : shift_left(ours, 8 - 3 * l);
      look_up_ternary(codebook, index_of(raw[i], l, bits, 0x7ff), minus, piece.w + 2 * l);
    }
    set_scale(i, odd_scale(and_(shift_right(ours, 12), splat(7))), piece);
  }

  Ints high[4];
  const uint32_t* codebook = gsd::narrow::codebooks().iq1;
};

// Blocks with a scale for every 16 weights.
struct CodebookTile16 {
  static constexpr bool kSigned = false;
  static constexpr int kParts = 2;
  using Column = PackedQ8K;
  static GSD_INLINE Floats finish(Floats sum, const Column*, int) { return sum; }

 protected:
  GSD_INLINE void set_scales(Ints first, Ints second, Piece& piece) const {
    piece.scale[0] = mul(to_floats(odd_scale(first)), d);
    piece.scale[1] = mul(to_floats(odd_scale(second)), d);
  }

  Floats d;
  Ints raw[kQuads];
};

struct TileIQ2 : CodebookTile16 {
  static GSD_INLINE Ints start(const Column& x, int part) {
    const Ints start_32 = splat(x.start_32[part]);
    return add_ints(start_32, start_32);
  }

 protected:
  // The two at p[-2..], and eight bytes before them that end the block.
  GSD_INLINE void load_scales(const uint8_t* p, size_t row_stride, size_t bytes) {
    Ints first[4];
    load_dwords<1>(p, row_stride, first);
    d = mul(halves_to_floats(first[0]), splat(0.125F));
    load_dwords<1>(p + bytes - 16, row_stride, tail);
    weights = p + 2;
    stride = row_stride;
  }
  GSD_INLINE void get_scales(int n, Piece& piece) const {
    const Ints two = shift_right(tail[2 + n / 4], 8 * (n % 4));
    set_scales(and_(two, splat(0x0f)), and_(shift_right(two, 4), splat(0x0f)), piece);
  }

  const uint8_t* weights;
  size_t stride;
  Ints tail[4];
};

// { half d; uint16 index : 9, signs : 7 [32]; uint8 scales[8]; }
struct TileIQ2_XS : TileIQ2 {
  static constexpr size_t kBytes = 74;
  static constexpr int kSections = 2;
  static constexpr int kSectionPieces = 4;

  GSD_INLINE void load(const uint8_t* p, size_t row_stride) { load_scales(p, row_stride, kBytes); }
  GSD_INLINE void load_section(int section) { load_dwords<2>(weights + 32 * section, stride, raw); }
  GSD_INLINE void get(int section, int i, Piece& piece) const {
    const Ints two[2] = {raw[2 * i], raw[2 * i + 1]};
    // those of the four indices in bytes 0, 2, 1, 3
    const Ints seven = select_bits(splat(0x007f007f), shift_right(two[0], 9), shift_right(two[1], 1));
    const Ints signs = with_eighth_sign(and_(seven, splat(bytes4(0x7f))));
#pragma GCC unroll 4
    for (int l = 0; l < 4; ++l) {
      const Ints index = and_(shift_right(two[l / 2], 16 * (l % 2)), splat(0x1ff));
      look_up_eight(codebook, index, signs, l / 2 + 2 * (l % 2), piece.w + 2 * l);
    }
    get_scales(4 * section + i, piece);
  }

  const uint32_t* codebook = gsd::narrow::codebooks().iq2_xs;
};

// { half d; uint8 index[32]; uint8 signs[32]; uint8 high_bits[8]; uint8 scales[8]; }
struct TileIQ2_S : TileIQ2 {
  static constexpr size_t kBytes = 82;
  static constexpr int kSections = 1;
  static constexpr int kSectionPieces = 8;

  GSD_INLINE void load(const uint8_t* p, size_t row_stride) { load_scales(p, row_stride, kBytes); }
  GSD_INLINE void load_section(int) {
    load_dwords<2>(weights, stride, raw);
    load_dwords<2>(weights + 32, stride, signs);
  }
  GSD_INLINE void get(int, int i, Piece& piece) const {
    const Ints high = shift_right(tail[i / 4], 8 * (i % 4));
#pragma GCC unroll 4
    for (int l = 0; l < 4; ++l) {
      const Ints index = index_of(raw[i], l, shift_left(high, 8 - 2 * l), 0x3ff);
      look_up_eight(codebook, index, signs[i], l, piece.w + 2 * l);
    }
    get_scales(i, piece);
  }

  Ints signs[kQuads];
  const uint32_t* codebook = gsd::narrow::codebooks().iq2_s;
};

// { uint8 index[32]; uint4 high_bits : 3, minus : 1 [32]; uint16 scale : 3 [4], d : 4 [4]; } d a half in four pieces
struct TileIQ1_M : CodebookTile16 {
  static constexpr size_t kBytes = 56;
  static constexpr int kSections = 1;
  static constexpr int kSectionPieces = 8;
  static GSD_INLINE Ints start(const Column& x, int part) { return splat(x.start_32[part]); }

  GSD_INLINE void load(const uint8_t* p, size_t row_stride) {
    load_dwords<2>(p, row_stride, raw);
    load_dwords<1>(p + 32, row_stride, high);
    Ints tail[4];
    load_dwords<1>(p + 40, row_stride, tail);
    for (int i = 0; i < 2; ++i) scales[i] = tail[2 + i];
    const Ints low = select_bits(splat(0x0f), shift_right(scales[0], 12), shift_right(scales[0], 24));
    const Ints top = select_bits(splat(0x0f00), shift_right(scales[1], 4), shift_right(scales[1], 16));
    d = mul(halves_to_floats(select_bits(splat(0xff), low, top)), splat(0.125F));
  }
  GSD_INLINE void load_section(int) {}
  GSD_INLINE void get(int, int i, Piece& piece) const {
    const Ints four = shift_right(high[i / 2], 16 * (i % 2));
#pragma GCC unroll 4
    for (int l = 0; l < 4; ++l) {
      const Ints bits = l == 3 ? shift_right(four, 4) : shift_left(four, 8 - 4 * l);
      const Ints minus = and_(arithmetic_right<31>(shift_left(four, 28 - 4 * l)), splat(0x44444444));
      look_up_ternary(codebook, index_of(raw[i], l, bits, 0x7ff), minus, piece.w + 2 * l);
    }
    const Ints two = shift_right(scales[i / 4], 16 * (i / 2 % 2) + 6 * (i % 2));
    set_scales(and_(two, splat(7)), and_(shift_right(two, 3), splat(7)), piece);
  }

  Ints high[4];
  Ints scales[2];
  const uint32_t* codebook = gsd::narrow::codebooks().iq1;
};

GSD_INLINE void add_codebook_kernels(gsd::narrow::KernelTable& table) {
  using gsd::narrow::Format;
  using gsd::narrow::Packing;
  table[Format::kIQ1_S] = {k_tile<TileIQ1_S>, kRows, Packing::kQ8K};
  table[Format::kIQ1_M] = {k_tile<TileIQ1_M>, kRows, Packing::kQ8K};
  table[Format::kIQ2_XXS] = {k_tile<TileIQ2_XXS>, kRows, Packing::kQ8K};
  table[Format::kIQ2_XS] = {k_tile<TileIQ2_XS>, kRows, Packing::kQ8K};
  table[Format::kIQ2_S] = {k_tile<TileIQ2_S>, kRows, Packing::kQ8K};
  table[Format::kIQ3_XXS] = {k_tile<TileIQ3_XXS>, kRows, Packing::kQ8K};
  table[Format::kIQ3_S] = {k_tile<TileIQ3_S>, kRows, Packing::kQ8K};
}

}  // namespace
