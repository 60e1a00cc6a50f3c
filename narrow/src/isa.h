// The few vector operations the kernels need, for the instruction set this translation unit is compiled for.
//
// A register holds kRows elements of 32 bits: 16 with AVX-512, 8 with AVX2. Included only by the kernels' translation
// units; everything is in an anonymous namespace, so that code compiled for one instruction set can never be merged by
// the linker into another.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#define GSD_INLINE inline __attribute__((always_inline))
#define GSD_LAMBDA_INLINE __attribute__((always_inline))

namespace {

GSD_INLINE void prefetch_second_level(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1); }

// Holds x in a register from here on. Left alone, the compiler reads what is used twice from memory twice, and loads
// are what the kernels have none to spare of.
template <class Register>
GSD_INLINE void keep_loaded(Register& x) {
  __asm__("" : "+v"(x));
}

GSD_INLINE int32_t read_dword(const void* p) {
  int32_t v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

#if defined(__AVX512F__)

using Ints = __m512i;
using Floats = __m512;
constexpr int kRows = 16;

GSD_INLINE Ints splat(int32_t v) { return _mm512_set1_epi32(v); }
GSD_INLINE Floats splat(float v) { return _mm512_set1_ps(v); }
GSD_INLINE Floats zero() { return _mm512_setzero_ps(); }
GSD_INLINE Ints zero_ints() { return _mm512_setzero_si512(); }
GSD_INLINE Ints and_(Ints a, Ints b) { return _mm512_and_si512(a, b); }
GSD_INLINE Ints or_(Ints a, Ints b) { return _mm512_or_si512(a, b); }
GSD_INLINE Ints xor_(Ints a, Ints b) { return _mm512_xor_si512(a, b); }
// The bits of a where those of mask are set, else b's.
GSD_INLINE Ints select_bits(Ints mask, Ints a, Ints b) { return _mm512_ternarylogic_epi32(mask, a, b, 0xca); }
// Bytes of a table of 16, repeated in every 128 bits, by the low four bits of each byte of `index`, whose highest is 0.
GSD_INLINE Ints look_up(Ints table, Ints index) { return _mm512_shuffle_epi8(table, index); }
GSD_INLINE Ints table_of(const int8_t bytes[16]) {
  return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
}
// Those of table[0..] that a register of indices names.
GSD_INLINE Ints gather(const uint32_t* table, Ints index) { return _mm512_i32gather_epi32(index, table, 4); }
// a - b in the bytes where s has a bit of `bits`, else b.
GSD_INLINE Ints subtract_where(Ints s, Ints bits, Ints a, Ints b) {
  return _mm512_mask_sub_epi8(b, _mm512_test_epi8_mask(s, bits), a, b);
}
GSD_INLINE Ints load_bytes(const uint8_t* p) {  // widened
  return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
GSD_INLINE Ints load_ints(const uint8_t* p) { return _mm512_loadu_si512(p); }
GSD_INLINE Ints largest_ints(Ints a, Ints b) { return _mm512_max_epi32(a, b); }
GSD_INLINE Ints shift_right(Ints a, int n) { return _mm512_srli_epi32(a, static_cast<unsigned>(n)); }
GSD_INLINE Ints shift_left(Ints a, int n) { return _mm512_slli_epi32(a, static_cast<unsigned>(n)); }
template <int kCount>
GSD_INLINE Ints arithmetic_right(Ints a) {
  return _mm512_srai_epi32(a, kCount);
}
GSD_INLINE Floats to_floats(Ints a) { return _mm512_cvtepi32_ps(a); }
GSD_INLINE Floats as_floats(Ints a) { return _mm512_castsi512_ps(a); }
GSD_INLINE Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
GSD_INLINE Floats mul(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
GSD_INLINE Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
GSD_INLINE Floats div(Floats a, Floats b) { return _mm512_div_ps(a, b); }
GSD_INLINE Floats sign_of(Floats a) { return _mm512_and_ps(a, splat(-0.0F)); }  // the bit alone
GSD_INLINE Floats with_sign(Floats a, Floats sign) { return _mm512_xor_ps(a, sign); }
GSD_INLINE Floats halves_to_floats(Ints a) { return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(a)); }  // low 16 bits
GSD_INLINE Floats load_floats(const void* p) { return _mm512_loadu_ps(p); }
GSD_INLINE void store_floats(float* p, Floats v) { _mm512_storeu_ps(p, v); }
GSD_INLINE Ints add_ints(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
GSD_INLINE Ints to_ints(Floats a) { return _mm512_cvtps_epi32(a); }  // nearest
GSD_INLINE Floats sub(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
GSD_INLINE Floats max_or_second(Floats a, Floats b) { return _mm512_max_ps(a, b); }  // b where either is NaN
GSD_INLINE uint32_t unequal_lanes(Floats a, Floats b) { return _mm512_cmp_ps_mask(a, b, _CMP_NEQ_UQ); }
GSD_INLINE Floats where_equal(Floats a, Floats b, Floats then, Floats otherwise) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ), otherwise, then);
}
GSD_INLINE Floats zero_where_less(Floats a, Floats b, Floats v) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a, b, _CMP_NLT_UQ), v);
}
GSD_INLINE float first_lane(Floats a) { return _mm512_cvtss_f32(a); }
GSD_INLINE float sum_of(Floats a) { return _mm512_reduce_add_ps(a); }
GSD_INLINE float largest(Floats a) { return _mm512_reduce_max_ps(a); }
GSD_INLINE Floats load_f16(const uint8_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
GSD_INLINE Floats load_bf16(const uint8_t* p) {
  const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return as_floats(shift_left(_mm512_cvtepu16_epi32(halves), 16));
}
GSD_INLINE void store_lanes(float* out, Floats v, int first, int lanes) {
  const __mmask16 keep = static_cast<__mmask16>(((1U << lanes) - 1U) << first);
  _mm512_mask_storeu_ps(out - first, keep, v);
}

GSD_INLINE Ints load_rows(const uint8_t* p, size_t stride) {  // 16 bytes of rows 0, 4, 8, 12
  auto lane = [&](size_t l) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 4 * l * stride)); };
  const Ints two = _mm512_inserti32x4(_mm512_castsi128_si512(lane(0)), lane(1), 1);
  return _mm512_inserti32x4(_mm512_inserti32x4(two, lane(2), 2), lane(3), 3);
}
GSD_INLINE Ints load_two_rows(const uint8_t* p, size_t stride) {  // 32 bytes of rows 0 and 4
  auto lane = [&](size_t l) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 4 * l * stride)); };
  return _mm512_inserti64x4(_mm512_castsi256_si512(lane(0)), lane(1), 1);
}
GSD_INLINE Ints even_quarters(Ints a, Ints b) { return _mm512_shuffle_i32x4(a, b, 0x88); }  // of a, then of b
GSD_INLINE Ints odd_quarters(Ints a, Ints b) { return _mm512_shuffle_i32x4(a, b, 0xdd); }
// fold_x(a, b) adds each x of a register to its neighbour: of every two places one sum is a's and the next is b's.
GSD_INLINE Floats fold_halves(Floats a, Floats b) {
  return add(_mm512_mask_blend_ps(0xff00, a, b), _mm512_shuffle_f32x4(a, b, 0x4e));
}
GSD_INLINE Floats fold_quarters(Floats a, Floats b) {
  const Floats others = _mm512_mask_blend_ps(0x0f0f, a, b);
  return add(_mm512_mask_blend_ps(0xf0f0, a, b), _mm512_shuffle_f32x4(others, others, 0xb1));
}
GSD_INLINE Floats fold_pairs(Floats a, Floats b) {
  return add(_mm512_mask_blend_ps(0xcccc, a, b), _mm512_shuffle_ps(a, b, 0x4e));
}
GSD_INLINE Floats fold_elements(Floats a, Floats b) {
  return add(_mm512_mask_blend_ps(0xaaaa, a, b), _mm512_permute_ps(_mm512_mask_blend_ps(0x5555, a, b), 0xb1));
}
GSD_INLINE Ints zip_low(Ints a, Ints b) { return _mm512_unpacklo_epi32(a, b); }
GSD_INLINE Ints zip_high(Ints a, Ints b) { return _mm512_unpackhi_epi32(a, b); }
GSD_INLINE Ints zip_low_pairs(Ints a, Ints b) { return _mm512_unpacklo_epi64(a, b); }
GSD_INLINE Ints zip_high_pairs(Ints a, Ints b) { return _mm512_unpackhi_epi64(a, b); }

#else

using Ints = __m256i;
using Floats = __m256;
constexpr int kRows = 8;

GSD_INLINE Ints splat(int32_t v) { return _mm256_set1_epi32(v); }
GSD_INLINE Floats splat(float v) { return _mm256_set1_ps(v); }
GSD_INLINE Floats zero() { return _mm256_setzero_ps(); }
GSD_INLINE Ints zero_ints() { return _mm256_setzero_si256(); }
GSD_INLINE Ints and_(Ints a, Ints b) { return _mm256_and_si256(a, b); }
GSD_INLINE Ints or_(Ints a, Ints b) { return _mm256_or_si256(a, b); }
GSD_INLINE Ints xor_(Ints a, Ints b) { return _mm256_xor_si256(a, b); }
GSD_INLINE Ints select_bits(Ints mask, Ints a, Ints b) { return or_(and_(mask, a), _mm256_andnot_si256(mask, b)); }
GSD_INLINE Ints look_up(Ints table, Ints index) { return _mm256_shuffle_epi8(table, index); }
GSD_INLINE Ints table_of(const int8_t bytes[16]) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
}
GSD_INLINE Ints gather(const uint32_t* table, Ints index) {
  return _mm256_i32gather_epi32(reinterpret_cast<const int*>(table), index, 4);
}
GSD_INLINE Ints subtract_where(Ints s, Ints bits, Ints a, Ints b) {
  const Ints unset = _mm256_cmpeq_epi8(and_(s, bits), zero_ints());
  return _mm256_blendv_epi8(_mm256_sub_epi8(a, b), b, unset);
}
GSD_INLINE Ints load_bytes(const uint8_t* p) {
  return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}
GSD_INLINE Ints load_ints(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
GSD_INLINE Ints largest_ints(Ints a, Ints b) { return _mm256_max_epi32(a, b); }
GSD_INLINE Ints shift_right(Ints a, int n) { return _mm256_srli_epi32(a, n); }
GSD_INLINE Ints shift_left(Ints a, int n) { return _mm256_slli_epi32(a, n); }
template <int kCount>
GSD_INLINE Ints arithmetic_right(Ints a) {
  return _mm256_srai_epi32(a, kCount);
}
GSD_INLINE Floats to_floats(Ints a) { return _mm256_cvtepi32_ps(a); }
GSD_INLINE Floats as_floats(Ints a) { return _mm256_castsi256_ps(a); }
GSD_INLINE Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
GSD_INLINE Floats mul(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
GSD_INLINE Floats fma(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
GSD_INLINE Floats div(Floats a, Floats b) { return _mm256_div_ps(a, b); }
GSD_INLINE Floats sign_of(Floats a) { return _mm256_and_ps(a, splat(-0.0F)); }  // the bit alone
GSD_INLINE Floats with_sign(Floats a, Floats sign) { return _mm256_xor_ps(a, sign); }
GSD_INLINE Floats halves_to_floats(Ints a) {  // low 16 bits
  const Ints low = and_(a, splat(0xffff));
  const Ints packed = _mm256_packus_epi32(low, low);  // per 128-bit half: 4 values twice
  return _mm256_cvtph_ps(_mm_unpacklo_epi64(_mm256_castsi256_si128(packed), _mm256_extracti128_si256(packed, 1)));
}
GSD_INLINE Floats load_floats(const void* p) { return _mm256_loadu_ps(static_cast<const float*>(p)); }
GSD_INLINE void store_floats(float* p, Floats v) { _mm256_storeu_ps(p, v); }
GSD_INLINE Ints add_ints(Ints a, Ints b) { return _mm256_add_epi32(a, b); }
GSD_INLINE Ints to_ints(Floats a) { return _mm256_cvtps_epi32(a); }  // nearest
GSD_INLINE Floats sub(Floats a, Floats b) { return _mm256_sub_ps(a, b); }
GSD_INLINE Floats max_or_second(Floats a, Floats b) { return _mm256_max_ps(a, b); }  // b where either is NaN
GSD_INLINE uint32_t unequal_lanes(Floats a, Floats b) {
  return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_NEQ_UQ)));
}
GSD_INLINE Floats where_equal(Floats a, Floats b, Floats then, Floats otherwise) {
  return _mm256_blendv_ps(otherwise, then, _mm256_cmp_ps(a, b, _CMP_EQ_OQ));
}
GSD_INLINE Floats zero_where_less(Floats a, Floats b, Floats v) {
  return _mm256_and_ps(_mm256_cmp_ps(a, b, _CMP_NLT_UQ), v);
}
GSD_INLINE float first_lane(Floats a) { return _mm256_cvtss_f32(a); }
GSD_INLINE float sum_of(Floats a) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
GSD_INLINE float largest(Floats a) {
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
GSD_INLINE Floats load_f16(const uint8_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
GSD_INLINE Floats load_bf16(const uint8_t* p) {
  const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return as_floats(shift_left(_mm256_cvtepu16_epi32(halves), 16));
}
GSD_INLINE void store_lanes(float* out, Floats v, int first, int lanes) {
  if (first == 0 && lanes == kRows) {
    _mm256_storeu_ps(out, v);
    return;
  }
  alignas(32) float all[kRows];
  _mm256_store_ps(all, v);
  std::memcpy(out, all + first, static_cast<size_t>(lanes) * sizeof(float));
}

GSD_INLINE Ints load_rows(const uint8_t* p, size_t stride) {  // 16 bytes of rows 0 and 4
  auto lane = [&](size_t l) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 4 * l * stride)); };
  return _mm256_inserti128_si256(_mm256_castsi128_si256(lane(0)), lane(1), 1);
}
GSD_INLINE Ints zip_low(Ints a, Ints b) { return _mm256_unpacklo_epi32(a, b); }
GSD_INLINE Ints zip_high(Ints a, Ints b) { return _mm256_unpackhi_epi32(a, b); }
GSD_INLINE Ints zip_low_pairs(Ints a, Ints b) { return _mm256_unpacklo_epi64(a, b); }
GSD_INLINE Ints zip_high_pairs(Ints a, Ints b) { return _mm256_unpackhi_epi64(a, b); }
GSD_INLINE Floats fold_halves(Floats a, Floats b) {
  return add(_mm256_blend_ps(a, b, 0xf0), _mm256_permute2f128_ps(a, b, 0x21));
}
GSD_INLINE Floats fold_pairs(Floats a, Floats b) {
  return add(_mm256_blend_ps(a, b, 0xcc), _mm256_shuffle_ps(a, b, 0x4e));
}
GSD_INLINE Floats fold_elements(Floats a, Floats b) {
  return add(_mm256_blend_ps(a, b, 0xaa), _mm256_permute_ps(_mm256_blend_ps(a, b, 0x55), 0xb1));
}

#endif

// e^x for x <= 0, to about one unit in the last place; 0 below -87, where floats end. A NaN stays one.
GSD_INLINE Floats exp_of_negative(Floats x) {
  const Floats least = splat(-87.0F);
  const Floats bounded = max_or_second(least, x);
  const Ints n = to_ints(mul(bounded, splat(1.44269504F)));
  // ln 2 in two parts, the first with so few bits that its product with n is exact
  const Floats whole = to_floats(n);
  const Floats r = fma(whole, splat(2.12194440e-4F), fma(whole, splat(-0.693359375F), bounded));
  Floats p = splat(1.0F / 720);  // the exponential series, |r| <= ln 2 / 2
  p = fma(p, r, splat(1.0F / 120));
  p = fma(p, r, splat(1.0F / 24));
  p = fma(p, r, splat(1.0F / 6));
  p = fma(p, r, splat(0.5F));
  p = fma(p, r, splat(1.0F));
  p = fma(p, r, splat(1.0F));
  const Floats power = as_floats(shift_left(add_ints(n, splat(127)), 23));
  return zero_where_less(x, least, mul(p, power));
}

// tanh x, to about 1e-7 (of 1, not of the result). A NaN stays one.
GSD_INLINE Floats tanh_of(Floats x) {
  const Floats sign = sign_of(x);
  const Floats one = splat(1.0F);
  const Floats e = exp_of_negative(mul(splat(-2.0F), with_sign(x, sign)));
  return with_sign(div(sub(one, e), add(one, e)), sign);
}

// Transposes dwords: element i of 128-bit lane l of out[d] is dword d of lane l of r[i].
GSD_INLINE void transpose_lanes(const Ints r[4], Ints out[4]) {
  const Ints low01 = zip_low(r[0], r[1]);
  const Ints low23 = zip_low(r[2], r[3]);
  const Ints high01 = zip_high(r[0], r[1]);
  const Ints high23 = zip_high(r[2], r[3]);
  out[0] = zip_low_pairs(low01, low23);
  out[1] = zip_high_pairs(low01, low23);
  out[2] = zip_low_pairs(high01, high23);
  out[3] = zip_high_pairs(high01, high23);
}

// Of registers f[i] = fold_halves(v[i], v[i + kRows / 2]): element r of the result is the sum of the elements of v[r],
// added up in the same order for every r.
GSD_INLINE Floats sum_folded(const Floats f[kRows / 2]) {
#if defined(__AVX512F__)
  const auto four = [&](int i) GSD_LAMBDA_INLINE { return fold_quarters(f[i], f[i + 4]); };
#else
  const auto four = [&](int i) GSD_LAMBDA_INLINE { return f[i]; };
#endif
  return fold_elements(fold_pairs(four(0), four(2)), fold_pairs(four(1), four(3)));
}

// kChunks * 16 bytes at p of each row, as 4 * kChunks registers: element r of out[d] is dword d of row r.
//
// All chunks of a row are read before the next row's. Rows whose length is a multiple of 4096 bytes share one set of
// the first-level cache, which holds fewer lines than there are rows: a line read in several passes would be fetched
// again in each.
template <size_t kChunks>
GSD_INLINE void load_dwords(const uint8_t* p, size_t stride, Ints out[4 * kChunks]) {
  static_assert(kChunks == 1 || kChunks == 2);
#if defined(__AVX512F__)
  if constexpr (kChunks == 2) {  // loads are dearer than shuffles: 32 bytes of a row at a time
    Ints low[4];
    Ints high[4];
    const auto load_eight = [&](size_t row, Ints eight[4]) GSD_LAMBDA_INLINE {
      Ints r[4];
#pragma GCC unroll 4
      for (size_t i = 0; i < 4; ++i) r[i] = load_two_rows(p + (row + i) * stride, stride);
      transpose_lanes(r, eight);
    };
    load_eight(0, low);
    load_eight(8, high);
#pragma GCC unroll 4
    for (size_t d = 0; d < 4; ++d) {
      out[d] = even_quarters(low[d], high[d]);
      out[4 + d] = odd_quarters(low[d], high[d]);
    }
    return;
  }
#endif
  Ints r[kChunks][4];
#pragma GCC unroll 4
  for (size_t i = 0; i < 4; ++i) {
#pragma GCC unroll 2
    for (size_t c = 0; c < kChunks; ++c) r[c][i] = load_rows(p + i * stride + 16 * c, stride);
  }
#pragma GCC unroll 2
  for (size_t c = 0; c < kChunks; ++c) transpose_lanes(r[c], out + 4 * c);
}

// dot_bytes adds, in every 32-bit element, the four products of a byte of w and a signed byte at x to s. Bytes of w are
// unsigned, or with kSigned in -128..127 (and those at x in -127..127). dot_words does so with two signed 16-bit words.
#if defined(__AVX512VNNI__)
constexpr bool kUnsignedDot = true;  // bytes of w may be 0..255, so no format needs kSigned
// In assembly because GCC 12 broadcasts with an instruction of its own, to a register of its own: the instructions and
// registers that a processor can have in flight then hold a third fewer multiplications.
template <bool kSigned>
GSD_INLINE Ints dot_bytes(Ints s, Ints w, const int8_t* x) {
  static_assert(!kSigned);
  __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(s) : "v"(w), "m"(*reinterpret_cast<const int8_t(*)[4]>(x)));
  return s;
}
GSD_INLINE Ints dot_words(Ints s, Ints w, const int16_t* x) { return _mm512_dpwssd_epi32(s, w, splat(read_dword(x))); }
#elif defined(__AVXVNNI__)
constexpr bool kUnsignedDot = true;
template <bool kSigned>
GSD_INLINE Ints dot_bytes(Ints s, Ints w, const int8_t* x) {
  static_assert(!kSigned);
  return _mm256_dpbusd_avx_epi32(s, w, splat(read_dword(x)));
}
GSD_INLINE Ints dot_words(Ints s, Ints w, const int16_t* x) {
  return _mm256_dpwssd_avx_epi32(s, w, splat(read_dword(x)));
}
#elif !defined(__AVX512F__)
// vpmaddubsw saturates at 2^15: exact for bytes of w up to 127, which leaves signed ones to the wider format.
constexpr bool kUnsignedDot = false;
template <bool kSigned>
GSD_INLINE Ints dot_bytes(Ints s, Ints w, const int8_t* x) {
  const Ints four = splat(read_dword(x));
  const Ints pairs =
      kSigned ? _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(four, w)) : _mm256_maddubs_epi16(w, four);
  return _mm256_add_epi32(s, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
GSD_INLINE Ints dot_words(Ints s, Ints w, const int16_t* x) {
  return _mm256_add_epi32(s, _mm256_madd_epi16(w, splat(read_dword(x))));
}
#endif

#if defined(__AVX512BF16__)
// Adds the two products of bfloat16 pairs in every 32-bit element to s.
GSD_INLINE Floats dot_bf16(Floats s, Floats w, Floats x) {
  return _mm512_dpbf16_ps(s, reinterpret_cast<__m512bh>(w), reinterpret_cast<__m512bh>(x));
}
#endif

}  // namespace
