#include "groups.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <limits>

#include "isa.h"

namespace gsd {
namespace {

constexpr float kLowest = -std::numeric_limits<float>::infinity();

float largest(const float* x, std::size_t n) {
  float most = kLowest;
  for (std::size_t i = 0; i < n; ++i) most = x[i] > most ? x[i] : most;
  return most;
}

// `tokens` and `values` from `n` on; returns the new n.
std::size_t append(const float* row, std::size_t begin, std::size_t end, float floor, Token* tokens, float* values,
                   std::size_t n) {
  for (std::size_t i = begin; i < end; ++i) {  // without branches: a coin decides
    tokens[n] = static_cast<Token>(i);
    values[n] = row[i];
    n += row[i] >= floor ? 1 : 0;
  }
  return n;
}

#if defined(__x86_64__)

// Operand order in both: max gives the second operand when one is NaN, so NaN entries are passed over.
GSD_AVX2 std::size_t maxima_avx2(const float* row, std::size_t n, float* maxima) {
  std::size_t i = 0;
  for (; i + kGroup <= n; i += kGroup) {
    __m256 most = _mm256_set1_ps(kLowest);
    for (std::size_t j = 0; j < kGroup; j += 8) most = _mm256_max_ps(_mm256_loadu_ps(row + i + j), most);
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(most), _mm256_extractf128_ps(most, 1));
    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    maxima[i / kGroup] = _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
  }
  return i;
}

GSD_AVX512 inline __m512 largest_avx512(const float* x) {
  __m512 most = _mm512_set1_ps(kLowest);
  for (std::size_t j = 0; j < kGroup; j += 16) most = _mm512_max_ps(_mm512_loadu_ps(x + j), most);
  return most;
}
// Of two groups, in even and odd places.
GSD_AVX512 inline __m512d largest_of_two_avx512(const float* x) {
  const __m512 a = largest_avx512(x);
  const __m512 b = largest_avx512(x + kGroup);
  return _mm512_castps_pd(_mm512_max_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)));
}

// Four groups at a time: a fourth of the shuffles that each would take alone.
GSD_AVX512 std::size_t maxima_avx512(const float* row, std::size_t n, float* maxima) {
  std::size_t i = 0;
  for (; i + 4 * kGroup <= n; i += 4 * kGroup) {
    const __m512d a = largest_of_two_avx512(row + i);
    const __m512d b = largest_of_two_avx512(row + i + 2 * kGroup);
    const __m512 four =
        _mm512_max_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
    const __m256 half = _mm256_max_ps(_mm512_castps512_ps256(four), _mm512_extractf32x8_ps(four, 1));
    _mm_storeu_ps(maxima + i / kGroup, _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
  }
  for (; i + kGroup <= n; i += kGroup) maxima[i / kGroup] = _mm512_reduce_max_ps(largest_avx512(row + i));
  return i;
}

// Bit i: row[i] >= floor, i < kGroup.
GSD_AVX2 std::uint64_t reach_avx2(const float* row, float floor) {
  std::uint64_t bits = 0;
  for (int j = 0; j < 8; ++j) {
    const __m256 reached = _mm256_cmp_ps(_mm256_loadu_ps(row + 8 * j), _mm256_set1_ps(floor), _CMP_GE_OQ);
    bits |= static_cast<std::uint64_t>(_mm256_movemask_ps(reached)) << (8 * j);
  }
  return bits;
}

// A whole group's quads from `first` on, and beside each its bound.
GSD_AVX512 std::size_t quads_avx512(const float* row, float floor, std::uint32_t first, std::uint32_t bound,
                                    std::uint32_t* quads, std::uint32_t* bounds) {
  std::uint64_t bits = 0;
  for (int j = 0; j < 4; ++j) {
    const __mmask16 reached = _mm512_cmp_ps_mask(_mm512_loadu_ps(row + 16 * j), _mm512_set1_ps(floor), _CMP_GE_OQ);
    bits |= std::uint64_t{reached} << (16 * j);
  }
  bits |= bits >> 1;
  const auto keep = static_cast<__mmask16>(_pext_u64(bits | bits >> 2, 0x1111111111111111));
  const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  const __m512i quad = _mm512_add_epi32(_mm512_set1_epi32(static_cast<int>(first)), lane);
  _mm512_storeu_si512(quads, _mm512_maskz_compress_epi32(keep, quad));
  _mm512_storeu_si512(bounds, _mm512_set1_epi32(static_cast<int>(bound)));
  return static_cast<std::size_t>(__builtin_popcount(keep));
}

GSD_AVX512 std::size_t append_avx512(const float* row, std::size_t begin, float floor, Token* tokens, float* values,
                                     std::size_t n) {
  const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  for (std::size_t i = begin; i < begin + kGroup; i += 16) {
    const __m512 x = _mm512_loadu_ps(row + i);
    const __mmask16 keep = _mm512_cmp_ps_mask(x, _mm512_set1_ps(floor), _CMP_GE_OQ);
    if (keep == 0) continue;
    const __m512i token = _mm512_add_epi32(_mm512_set1_epi32(static_cast<int>(i)), lane);
    _mm512_storeu_ps(values + n, _mm512_maskz_compress_ps(keep, x));
    _mm512_storeu_si512(tokens + n, _mm512_maskz_compress_epi32(keep, token));
    n += static_cast<std::size_t>(__builtin_popcount(keep));
  }
  return n;
}

#endif

// Compilers make vectors of it, each of its own width.
[[gnu::always_inline]] inline void spread(const std::uint32_t* groups, const std::uint32_t* group_bounds, std::size_t n,
                                          std::uint32_t* quads, std::uint32_t* bounds) {
  constexpr std::uint32_t kQuads = kGroup / kQuad;
  for (std::size_t i = 0; i < n; ++i, quads += kQuads, bounds += kQuads) {
    for (std::uint32_t j = 0; j < kQuads; ++j) quads[j] = groups[i] * kQuads + j;
    for (std::uint32_t j = 0; j < kQuads; ++j) bounds[j] = group_bounds[i];
  }
}

#if defined(__x86_64__)
__attribute__((target("avx512f,prefer-vector-width=512"))) void spread_avx512(const std::uint32_t* groups,
                                                                              const std::uint32_t* group_bounds,
                                                                              std::size_t n, std::uint32_t* quads,
                                                                              std::uint32_t* bounds) {
  spread(groups, group_bounds, n, quads, bounds);
}
#endif

std::size_t whole_groups(const float* row, std::size_t n, float* maxima) {
#if defined(__x86_64__)
  if (isa() == Isa::kAvx512) return maxima_avx512(row, n, maxima);
  if (isa() == Isa::kAvx2) return maxima_avx2(row, n, maxima);
#endif
  constexpr std::size_t kLanes = 16;  // compilers make vectors of them
  std::size_t i = 0;
  for (; i + kGroup <= n; i += kGroup) {
    std::array<float, kLanes> most;
    most.fill(kLowest);
    for (std::size_t j = i; j < i + kGroup; j += kLanes) {
      for (std::size_t lane = 0; lane < kLanes; ++lane)
        most[lane] = row[j + lane] > most[lane] ? row[j + lane] : most[lane];
    }
    maxima[i / kGroup] = largest(most.data(), kLanes);
  }
  return i;
}

}  // namespace

void group_maxima(std::span<const float> row, std::span<float> maxima) {
  assert(maxima.size() == group_count(row.size()));
  const std::size_t done = whole_groups(row.data(), row.size(), maxima.data());
  if (done < row.size()) maxima[done / kGroup] = largest(row.data() + done, row.size() - done);
}

std::size_t quads_at_least(std::span<const float> row, float floor, std::span<const std::uint32_t> groups,
                           std::span<const std::uint32_t> group_bounds, std::span<std::uint32_t> quads,
                           std::span<std::uint32_t> bounds) {
  constexpr std::size_t kQuads = kGroup / kQuad;
  assert(group_bounds.size() == groups.size() && quads.size() >= groups.size() * kQuads &&
         bounds.size() >= groups.size() * kQuads);
  const Isa set = isa();
  std::size_t found = 0;
  for (std::size_t i = 0; i < groups.size(); ++i) {
    const std::size_t begin = groups[i] * kGroup;
    const std::size_t n = std::min(kGroup, row.size() - begin);
    const auto first = static_cast<std::uint32_t>(groups[i] * kQuads);
    std::uint64_t reached = 0;
#if defined(__x86_64__)
    if (n == kGroup && set == Isa::kAvx512) {
      found += quads_avx512(&row[begin], floor, first, group_bounds[i], &quads[found], &bounds[found]);
      continue;
    }
    if (n == kGroup && set == Isa::kAvx2)
      reached = reach_avx2(&row[begin], floor);
    else
#endif
      for (std::size_t j = 0; j < n; ++j) reached |= std::uint64_t{row[begin + j] >= floor} << j;
    for (std::uint32_t quad = 0; quad < kQuads; ++quad) {  // without branches
      quads[found] = first + quad;
      bounds[found] = group_bounds[i];
      found += (reached >> (kQuad * quad) & 15) != 0 ? 1 : 0;
    }
  }
  return found;
}

void all_quads(std::span<const std::uint32_t> groups, std::span<const std::uint32_t> group_bounds,
               std::span<std::uint32_t> quads, std::span<std::uint32_t> bounds) {
  assert(group_bounds.size() == groups.size() && quads.size() >= groups.size() * kGroup / kQuad &&
         bounds.size() >= groups.size() * kGroup / kQuad);
#if defined(__x86_64__)
  if (isa() == Isa::kAvx512)
    return spread_avx512(groups.data(), group_bounds.data(), groups.size(), quads.data(), bounds.data());
#endif
  spread(groups.data(), group_bounds.data(), groups.size(), quads.data(), bounds.data());
}

std::size_t at_least(std::span<const float> row, std::span<const float> maxima, float floor, std::span<Token> tokens,
                     std::span<float> values) {
  assert(maxima.size() == group_count(row.size()) && tokens.size() >= row.size() + 16 &&
         values.size() >= tokens.size());
  [[maybe_unused]] const bool wide = isa() == Isa::kAvx512;
  std::size_t n = 0;
  for (std::size_t g = 0; g < maxima.size(); ++g) {
    if (!(maxima[g] >= floor)) continue;
    const std::size_t begin = g * kGroup;
#if defined(__x86_64__)
    if (wide && begin + kGroup <= row.size()) {
      n = append_avx512(row.data(), begin, floor, tokens.data(), values.data(), n);
      continue;
    }
#endif
    n = append(row.data(), begin, std::min(begin + kGroup, row.size()), floor, tokens.data(), values.data(), n);
  }
  return n;
}

}  // namespace gsd
