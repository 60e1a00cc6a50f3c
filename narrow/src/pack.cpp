// Packing of activations (kernels.h). Compiled for AVX2 and used with every instruction set: it touches each
// activation once per group of products, so wider registers would change nothing that can be measured.
#include <immintrin.h>

#include <cstddef>
#include <cstring>

#include "kernels.h"

namespace gsd::narrow {
namespace {

// n is mostly the constant that a whole block holds: inlined, these are a few wide instructions then.
inline void pack_f32(const float* x, int64_t n, std::byte* out) {
  float block[16] = {};
  std::memcpy(block, x, static_cast<size_t>(n) * sizeof(float));
  std::memcpy(out, block, sizeof block);
}

// Round to nearest even; a NaN keeps its sign and stays one.
uint16_t to_bf16(float f) {
  uint32_t bits;
  std::memcpy(&bits, &f, sizeof bits);
  if ((bits & 0x7fffffffU) > 0x7f800000U) return static_cast<uint16_t>((bits >> 16) | 0x40U);
  return static_cast<uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
}

inline void pack_bf16(const float* x, int64_t n, std::byte* out) {
  uint16_t block[32] = {};
  for (int64_t i = 0; i < n; ++i) block[i] = to_bf16(x[i]);
  std::memcpy(out, block, sizeof block);
}

template <int kCount>
float largest_magnitude(const float* x) {
  // As integers, magnitudes are ordered like floats and NaN above infinity: a NaN among them is never lost.
  const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
  __m256i m8 = _mm256_setzero_si256();
  for (int i = 0; i < kCount; i += 8) {
    const __m256i bits = _mm256_and_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + i)), magnitude);
    m8 = _mm256_max_epu32(m8, bits);
  }
  __m128i m = _mm_max_epu32(_mm256_castsi256_si128(m8), _mm256_extracti128_si256(m8, 1));
  m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0x4e));
  m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0xb1));
  return _mm_cvtss_f32(_mm_castsi128_ps(m));
}

// Multiplying by inverse, rounding and multiplying by scale restores a value whose magnitude is at most largest.
struct Scale {
  explicit Scale(float largest) {
    // Below this, 127 / largest is infinite; such a block is zero beside anything a float can hold with precision.
    constexpr float kTiny = 1e-36F;
    if (largest < kTiny) return;
    inverse = 127.0F / largest;
    scale = largest / 127.0F;
  }
  float inverse = 0;
  float scale = 0;
};

// Writes 32 rounded values; the sums of the first half and of the second, twice. They wrap where the scale is not
// finite.
inline __m128i round_32(const float* x, float inverse, int8_t out[32]) {
  const __m256 factor = _mm256_set1_ps(inverse);
  __m256i q[4];
  for (int i = 0; i < 4; ++i) q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8 * i), factor));
  __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
  bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
  _mm256_store_si256(reinterpret_cast<__m256i*>(out), bytes);
  __m256i sums = _mm256_hadd_epi32(_mm256_add_epi32(q[0], q[1]), _mm256_add_epi32(q[2], q[3]));
  sums = _mm256_hadd_epi32(sums, sums);
  return _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
}

// What follows the values is computed and stored as one: nine small stores a block took as long as the values.
inline void pack_q8(const float* x, PackedQ8* out) {
  const Scale scale(largest_magnitude<32>(x));
  const __m128i halves = round_32(x, scale.inverse, out->q);
  const __m128i all = _mm_add_epi32(halves, _mm_shuffle_epi32(halves, 0xb1));
  const __m128 sum = _mm_mul_ps(_mm_set1_ps(scale.scale), _mm_cvtepi32_ps(all));
  const __m256i of = _mm256_setr_m128i(all, _mm_blend_epi32(all, halves, 0b1100));
  const __m256i starts = _mm256_mullo_epi32(of, _mm256_setr_epi32(0, -8, -12, -16, -128, 0, -12, -12));
  const __m256 floats = _mm256_setr_m128(_mm_set1_ps(scale.scale), sum);
  constexpr int kFloats = 0b00100001;
  _mm256_store_ps(&out->scale, _mm256_blend_ps(_mm256_castsi256_ps(starts), floats, kFloats));
}
static_assert(offsetof(PackedQ8, scale) == 32 && offsetof(PackedQ8, start_8) == 36 &&
              offsetof(PackedQ8, start_12) == 40 && offsetof(PackedQ8, start_16) == 44 &&
              offsetof(PackedQ8, start_128) == 48 && offsetof(PackedQ8, sum) == 52 &&
              offsetof(PackedQ8, start_12_of) == 56);

// kBlocksK blocks, stride bytes apart.
inline void pack_q8k(const float* x, std::byte* out, size_t stride) {
  const Scale scale(largest_magnitude<32 * kBlocksK>(x));
  int16_t block_sums[kBlocksK];
  for (int b = 0; b < kBlocksK; ++b, out += stride) {
    auto* block = reinterpret_cast<PackedQ8K*>(out);
    const __m128i halves = round_32(x + 32 * b, scale.inverse, block->q);
    const uint32_t sums[2] = {static_cast<uint32_t>(_mm_cvtsi128_si32(halves)),
                              static_cast<uint32_t>(_mm_extract_epi32(halves, 1))};
    block->scale = scale.scale;
    for (int i = 0; i < 2; ++i) {
      block->start_32[i] = static_cast<int32_t>(0U - 32U * sums[i]);
      block->halves[i] = static_cast<int16_t>(sums[i]);
    }
    block_sums[b] = static_cast<int16_t>(sums[0] + sums[1]);
    if (b + 1 < kBlocksK) continue;
    for (int i = 0; i < 4; ++i) {
      const int first = i / 2 * 4 + i % 2;
      block->sums[i][0] = block_sums[first];
      block->sums[i][1] = block_sums[first + 2];
    }
  }
}

}  // namespace

// Written in the order of memory, which other threads have just read: a line given up by them comes at the speed of a
// stream, one in every few pages does not.
void pack(Packing packing, const float* const* x, int columns, int64_t k, int64_t first, int64_t last, std::byte* out,
          size_t stride) {
  const int64_t step = block_weights(packing);
  for (int64_t b = first; b < last; b += packing == Packing::kQ8K ? kBlocksK : 1) {
    const int64_t n = k - b * step < step ? k - b * step : step;
    std::byte* to = out + static_cast<size_t>(b) * stride;
    for (int c = 0; c < columns; ++c, to += kBlockBytes) {
      const float* from = x[c] + b * step;
      switch (packing) {
        case Packing::kF32:
          n == 16 ? pack_f32(from, 16, to) : pack_f32(from, n, to);
          break;
        case Packing::kBF16:
          n == 32 ? pack_bf16(from, 32, to) : pack_bf16(from, n, to);
          break;
        case Packing::kQ8:
          pack_q8(from, reinterpret_cast<PackedQ8*>(to));
          break;
        case Packing::kQ8K:
          pack_q8k(from, to, stride);
          break;
      }
    }
  }
}

}  // namespace gsd::narrow
