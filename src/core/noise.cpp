#include "noise.h"

#include <algorithm>
#include <cassert>
#include <cmath>

#include "isa.h"

namespace gsd {
namespace {

constexpr std::uint32_t kMul0 = 0xD2511F53;
constexpr std::uint32_t kMul1 = 0xCD9E8D57;
constexpr std::uint32_t kWeyl0 = 0x9E3779B9;
constexpr std::uint32_t kWeyl1 = 0xBB67AE85;
constexpr std::uint32_t kTag = 0x67736421;

std::uint32_t high(std::uint64_t x) { return static_cast<std::uint32_t>(x >> 32); }
std::uint32_t low(std::uint64_t x) { return static_cast<std::uint32_t>(x); }

// Ten rounds of two 32x32->64 multiplications.
Noise::Quad philox(Noise::Quad c, std::uint32_t k0, std::uint32_t k1) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{kMul0} * c[0];
    const std::uint64_t p1 = std::uint64_t{kMul1} * c[2];
    c = {high(p1) ^ c[1] ^ k0, low(p1), high(p0) ^ c[3] ^ k1, low(p0)};
    k0 += kWeyl0;
    k1 += kWeyl1;
  }
  return c;
}

// Counters {x, position, choice, kTag} differ in x only, so of the first two rounds only the two products that x takes
// part in are left:
//   p = kMul0 * x, q = kMul1 * (high(p) ^ third)
//   after round 2: {high(q) ^ first, low(q), low(p) ^ second, last}
Noise::Schedule make_schedule(std::uint32_t position, std::uint32_t choice, std::uint32_t k0, std::uint32_t k1) {
  Noise::Schedule s;
  const std::uint64_t p1 = std::uint64_t{kMul1} * choice;
  const std::uint64_t p0 = std::uint64_t{kMul0} * (high(p1) ^ position ^ k0);
  s.third = kTag ^ k1;
  s.first = low(p1) ^ (k0 + kWeyl0);
  s.second = high(p0) ^ (k1 + kWeyl1);
  s.last = low(p0);
  for (std::uint32_t i = 0; i < 8; ++i) {
    s.key0[i] = k0 + (i + 2) * kWeyl0;
    s.key1[i] = k1 + (i + 2) * kWeyl1;
  }
  return s;
}

#if defined(__x86_64__)

constexpr std::size_t kLook = 32;  // quads at a time

// 64-bit lanes, of which the low half counts: the multiplication looks at nothing else. x: counters; c[k]: the bits of
// each counter's token k. kChains registers of counters go through a round together: one alone waits for its own
// multiplications, and a processor does not look far enough ahead to find the next.

GSD_AVX512 inline __m512i high16(__m512i x) { return _mm512_shuffle_epi32(x, _MM_PERM_DDBB); }
GSD_AVX512 inline __m512i xor3(__m512i a, __m512i b, __m512i c) { return _mm512_ternarylogic_epi32(a, b, c, 0x96); }
GSD_AVX512 inline __m512i all16(std::uint32_t x) { return _mm512_set1_epi32(static_cast<int>(x)); }

template <std::size_t kChains>
GSD_AVX512 inline void philox_avx512(const Noise::Schedule& s, const __m512i x[kChains], __m512i c[kChains][kQuad]) {
#pragma GCC unroll 4
  for (std::size_t i = 0; i < kChains; ++i) {
    const __m512i p = _mm512_mul_epu32(x[i], all16(kMul0));
    const __m512i q = _mm512_mul_epu32(_mm512_xor_si512(high16(p), all16(s.third)), all16(kMul1));
    c[i][0] = _mm512_xor_si512(high16(q), all16(s.first));
    c[i][1] = q;
    c[i][2] = _mm512_xor_si512(p, all16(s.second));
    c[i][3] = all16(s.last);
  }
#pragma GCC unroll 8
  for (std::size_t round = 0; round < 8; ++round) {
#pragma GCC unroll 4
    for (std::size_t i = 0; i < kChains; ++i) {
      const __m512i p0 = _mm512_mul_epu32(c[i][0], all16(kMul0));
      const __m512i p1 = _mm512_mul_epu32(c[i][2], all16(kMul1));
      c[i][0] = xor3(high16(p1), c[i][1], all16(s.key0[round]));
      c[i][2] = xor3(high16(p0), c[i][3], all16(s.key1[round]));
      c[i][1] = p1;
      c[i][3] = p0;
    }
  }
}

// Writes which of `quads` have a token whose bits are at least the quad's bound to `out`, in order; n is a multiple of
// kLook.
GSD_AVX512 std::size_t look_avx512(const Noise::Schedule& s, const std::uint32_t* quads, const std::uint32_t* bounds,
                                   std::size_t n, std::uint32_t* out) {
  std::size_t found = 0;
  constexpr std::size_t kChains = 4;  // the counters in even places of 16 and those in odd ones, twice
  for (std::size_t i = 0; i < n; i += kLook) {
    __m512i x[kChains];
    for (std::size_t half = 0; half < 2; ++half) {
      x[2 * half] = _mm512_loadu_si512(quads + i + 16 * half);
      x[2 * half + 1] = _mm512_srli_epi64(x[2 * half], 32);
    }
    __m512i c[kChains][kQuad];
    philox_avx512<kChains>(s, x, c);
    const auto most = [&](std::size_t chain) GSD_AVX512 {
      return _mm512_max_epu32(_mm512_max_epu32(c[chain][0], c[chain][1]), _mm512_max_epu32(c[chain][2], c[chain][3]));
    };
    const auto hits = [&](std::size_t half) GSD_AVX512 -> std::uint32_t {
      const __m512i all = _mm512_mask_blend_epi32(0xAAAA, most(2 * half), _mm512_slli_epi64(most(2 * half + 1), 32));
      return _mm512_cmpge_epu32_mask(all, _mm512_loadu_si512(bounds + i + 16 * half));
    };
    for (std::uint32_t hit = hits(0) | hits(1) << 16; hit != 0; hit &= hit - 1)
      out[found++] = static_cast<std::uint32_t>(i) + static_cast<std::uint32_t>(__builtin_ctz(hit));
  }
  return found;
}

GSD_AVX2 inline __m256i high8(__m256i x) { return _mm256_shuffle_epi32(x, 0xF5); }
GSD_AVX2 inline __m256i all8(std::uint32_t x) { return _mm256_set1_epi32(static_cast<int>(x)); }

GSD_AVX2 inline void philox_avx2(const Noise::Schedule& s, __m256i x, __m256i c[kQuad]) {
  const __m256i p = _mm256_mul_epu32(x, all8(kMul0));
  const __m256i q = _mm256_mul_epu32(_mm256_xor_si256(high8(p), all8(s.third)), all8(kMul1));
  c[0] = _mm256_xor_si256(high8(q), all8(s.first));
  c[1] = q;
  c[2] = _mm256_xor_si256(p, all8(s.second));
  c[3] = all8(s.last);
  for (std::size_t round = 0; round < 8; ++round) {
    const __m256i p0 = _mm256_mul_epu32(c[0], all8(kMul0));
    const __m256i p1 = _mm256_mul_epu32(c[2], all8(kMul1));
    c[0] = _mm256_xor_si256(_mm256_xor_si256(high8(p1), all8(s.key0[round])), c[1]);
    c[2] = _mm256_xor_si256(_mm256_xor_si256(high8(p0), all8(s.key1[round])), c[3]);
    c[1] = p1;
    c[3] = p0;
  }
}

GSD_AVX2 std::size_t look_avx2(const Noise::Schedule& s, const std::uint32_t* quads, const std::uint32_t* bounds,
                               std::size_t n, std::uint32_t* out) {
  std::size_t found = 0;
  for (std::size_t i = 0; i < n; i += 8) {
    const __m256i even = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(quads + i));
    __m256i most[2];
    for (int half = 0; half < 2; ++half) {
      __m256i c[kQuad];
      philox_avx2(s, half == 0 ? even : _mm256_srli_epi64(even, 32), c);
      most[half] = _mm256_max_epu32(_mm256_max_epu32(c[0], c[1]), _mm256_max_epu32(c[2], c[3]));
    }
    const __m256i all = _mm256_blend_epi32(most[0], _mm256_slli_epi64(most[1], 32), 0xAA);
    const __m256i bound = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bounds + i));
    const __m256i reached = _mm256_cmpeq_epi32(_mm256_max_epu32(all, bound), all);  // there is no unsigned >=
    for (auto hit = static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(reached))); hit != 0; hit &= hit - 1)
      out[found++] = static_cast<std::uint32_t>(i) + static_cast<std::uint32_t>(__builtin_ctz(hit));
  }
  return found;
}

#endif

}  // namespace

double to_gumbel(std::uint32_t bits) { return -std::log(-std::log((bits + 0.5) * 0x1p-32)); }

Noise::Noise(std::uint64_t seed, std::uint32_t choice, std::uint32_t position)
    : position_(position),
      choice_(choice),
      key_{low(seed), high(seed)},
      schedule_(make_schedule(position, choice, key_[0], key_[1])) {}

std::uint32_t Noise::bits(Token token) const {
  const auto t = static_cast<std::uint32_t>(token);
  return quad(t / kQuad)[t % kQuad];
}

Noise::Quad Noise::quad(std::uint32_t q) const { return philox({q, position_, choice_, kTag}, key_[0], key_[1]); }

std::size_t Noise::find(std::span<const std::uint32_t> quads, std::span<const std::uint32_t> bounds,
                        std::span<Hit> hits) const {
  assert(bounds.size() == quads.size() && hits.size() >= kQuad * quads.size());
  std::size_t n = 0;
  const auto look_into = [&](std::size_t i) {
    const Quad four = quad(quads[i]);
    for (std::uint32_t k = 0; k < kQuad; ++k) {
      if (four[k] >= bounds[i]) hits[n++] = {static_cast<Token>(quads[i] * kQuad + k), four[k]};
    }
  };
  std::size_t begin = 0;
#if defined(__x86_64__)
  constexpr std::size_t kMany = 16 * kLook;
  constexpr std::size_t kWorthwhile = 4;  // quads, for a look at kLook
  std::array<std::uint32_t, kMany> found;
  auto* const look = isa() == Isa::kAvx512 ? look_avx512 : isa() == Isa::kAvx2 ? look_avx2 : nullptr;
  while (look != nullptr && begin + kLook <= quads.size()) {
    const std::size_t some = std::min(kMany, (quads.size() - begin) / kLook * kLook);
    const std::size_t n_found = look(schedule_, &quads[begin], &bounds[begin], some, found.data());
    for (std::size_t i = 0; i < n_found; ++i) look_into(begin + found[i]);
    begin += some;
  }
  const std::size_t rest = quads.size() - begin;
  if (look != nullptr && rest >= kWorthwhile) {
    std::array<std::uint32_t, kLook> last{}, bound{};
    std::copy(quads.end() - static_cast<std::ptrdiff_t>(rest), quads.end(), last.begin());
    std::copy(bounds.end() - static_cast<std::ptrdiff_t>(rest), bounds.end(), bound.begin());
    std::fill(bound.begin() + static_cast<std::ptrdiff_t>(rest), bound.end(), ~0U);
    const std::size_t n_found = look(schedule_, last.data(), bound.data(), kLook, found.data());
    for (std::size_t i = 0; i < n_found && found[i] < rest; ++i) look_into(begin + found[i]);
    begin = quads.size();
  }
#endif
  for (; begin < quads.size(); ++begin) look_into(begin);
  return n;
}

}  // namespace gsd
