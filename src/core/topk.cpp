#include "topk.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstddef>
#include <limits>

#include "isa.h"

namespace gsd {
namespace {

constexpr float kLowest = -std::numeric_limits<float>::infinity();
// The normaliser is summed relative to a reference that is at most this far below the running maximum: e^60 fits a
// float, and a rescale is rare.
constexpr float kReferenceSlack = 60.0F;

// The k best so far, sorted descending. Insertion is rare (k ln(n / k) times on random rows), so a sorted array wins
// over a heap.
struct Best {
  Token* token;
  float* value;
  int k;
  int n = 0;
  float threshold() const { return n < k ? kLowest : value[k - 1]; }
  void offer(Token t, float v) {
    if (!(v > threshold())) return;
    int at = n < k ? n++ : k - 1;
    for (; at > 0 && value[at - 1] < v; --at) {
      value[at] = value[at - 1];
      token[at] = token[at - 1];
    }
    value[at] = v;
    token[at] = t;
  }
};

// Sum of exp((x - reference) * inv_temperature), reference following the maximum.
struct Normaliser {
  float reference = kLowest;
  double sum = 0;
  void raise(float value, float inv_temperature) {
    if (reference != kLowest) sum *= std::exp(static_cast<double>(reference - value) * inv_temperature);
    reference = value;
  }
};

void scan_scalar(const float* row, std::size_t begin, std::size_t end, float inv_t, Best& best, Normaliser& z) {
  for (std::size_t i = begin; i < end; ++i) {
    const float x = row[i];
    if (!(x > kLowest)) continue;
    if (z.reference == kLowest || (x - z.reference) * inv_t > kReferenceSlack) z.raise(x, inv_t);
    z.sum += std::exp((x - z.reference) * inv_t);
    best.offer(static_cast<Token>(i), x);
  }
}

#if defined(__x86_64__)

// exp on eight lanes: 2^n * p(r), r in [-ln2/2, ln2/2], degree 5 minimax; relative error below 2e-6, which is far
// inside what a draft's probability means.
GSD_AVX2 inline __m256 exp8(__m256 x) {
  x = _mm256_min_ps(_mm256_max_ps(x, _mm256_set1_ps(-87.0F)), _mm256_set1_ps(88.0F));
  const __m256 n =
      _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504F)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375F), x);
  r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4F), r);
  __m256 p = _mm256_set1_ps(8.3333333e-3F);
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(4.1666667e-2F));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0.16666667F));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0.5F));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0F));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0F));
  const __m256i e = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
  return _mm256_mul_ps(p, _mm256_castsi256_ps(e));
}

// Lanes that are NaN or -inf become "far below": they weigh nothing and beat no threshold.
GSD_AVX2 inline __m256 load_clean(const float* at) {
  const __m256 x = _mm256_loadu_ps(at);
  return _mm256_blendv_ps(_mm256_set1_ps(kLowest), x, _mm256_cmp_ps(x, _mm256_set1_ps(kLowest), _CMP_GT_OQ));
}

// A block of 16 in one go: raise the reference if needed, add the weights, then look for lanes above the threshold.
GSD_AVX2 std::size_t scan_avx2(const float* row, std::size_t n, float inv_t, Best& best, Normaliser& z) {
  constexpr std::size_t kBlock = 16;
  constexpr std::size_t kFlush = 1024;  // the float sums go into the double one before they lose digits
  const __m256 scale = _mm256_set1_ps(inv_t);
  std::size_t i = 0;
  while (i + kBlock <= n) {
    const std::size_t stop = std::min(n - n % kBlock, i + kFlush);
    __m256 sum0 = _mm256_setzero_ps();
    __m256 sum1 = _mm256_setzero_ps();
    bool restart = false;
    for (; i + kBlock <= stop && !restart; i += kBlock) {
      const __m256 a = load_clean(row + i);
      const __m256 b = load_clean(row + i + 8);
      const float limit = z.reference == kLowest ? kLowest : z.reference + kReferenceSlack / inv_t;
      const __m256 top = _mm256_max_ps(a, b);
      const int above = _mm256_movemask_ps(_mm256_cmp_ps(top, _mm256_set1_ps(limit), _CMP_GT_OQ));
      const int good = _mm256_movemask_ps(_mm256_cmp_ps(top, _mm256_set1_ps(best.threshold()), _CMP_GT_OQ));
      if (above) {  // rare: hand the block to the scalar code after the sums so far are safe
        restart = true;
        alignas(32) float part[8];
        _mm256_store_ps(part, _mm256_add_ps(sum0, sum1));
        for (const float p : part) z.sum += p;
        sum0 = sum1 = _mm256_setzero_ps();
        scan_scalar(row, i, i + kBlock, inv_t, best, z);
        continue;
      }
      const __m256 reference = _mm256_set1_ps(z.reference == kLowest ? 0.0F : z.reference);
      sum0 = _mm256_add_ps(sum0, exp8(_mm256_mul_ps(_mm256_sub_ps(a, reference), scale)));
      sum1 = _mm256_add_ps(sum1, exp8(_mm256_mul_ps(_mm256_sub_ps(b, reference), scale)));
      if (good) {
        for (std::size_t j = i; j < i + kBlock; ++j) best.offer(static_cast<Token>(j), row[j]);
      }
    }
    alignas(32) float part[8];
    _mm256_store_ps(part, _mm256_add_ps(sum0, sum1));
    for (const float p : part) z.sum += p;
  }
  return i;
}

GSD_AVX2 std::size_t exp_avx2(const float* row, std::size_t n, float scale, float shift, float* out, double& sum) {
  __m256 all = _mm256_setzero_ps();
  std::size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m256 e = exp8(_mm256_fmsub_ps(load_clean(row + i), _mm256_set1_ps(scale), _mm256_set1_ps(shift)));
    _mm256_storeu_ps(out + i, e);
    all = _mm256_add_ps(all, e);
  }
  alignas(32) float part[8];
  _mm256_store_ps(part, all);
  for (const float p : part) sum += static_cast<double>(p);
  return i;
}

// exp on sixteen lanes as exp8; NaN gives e^-87.
GSD_AVX512 inline __m512 exp16(__m512 x) {
  x = _mm512_max_ps(x, _mm512_set1_ps(-87.0F));
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504F)),
                                        _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375F), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4F), r);
  __m512 p = _mm512_set1_ps(8.3333333e-3F);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1666667e-2F));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.16666667F));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5F));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0F));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0F));
  return _mm512_scalef_ps(p, n);
}

GSD_AVX512 std::size_t exp_avx512(const float* row, std::size_t n, float scale, float shift, float* out, double& sum) {
  __m512 all = _mm512_setzero_ps();
  std::size_t i = 0;
  for (; i + 16 <= n; i += 16) {
    const __m512 x = _mm512_fmsub_ps(_mm512_loadu_ps(row + i), _mm512_set1_ps(scale), _mm512_set1_ps(shift));
    const __m512 e = exp16(_mm512_min_ps(_mm512_set1_ps(88.0F), x));  // NaN stays
    _mm512_storeu_ps(out + i, e);
    all = _mm512_add_ps(all, e);
  }
  sum += static_cast<double>(_mm512_reduce_add_ps(all));
  return i;
}

// As scan_avx2, 32 at a time.
GSD_AVX512 std::size_t scan_avx512(const float* row, std::size_t n, float inv_t, Best& best, Normaliser& z) {
  constexpr std::size_t kBlock = 32;
  constexpr std::size_t kFlush = 2048;
  const __m512 scale = _mm512_set1_ps(inv_t);
  std::size_t i = 0;
  while (i + kBlock <= n) {
    const std::size_t stop = std::min(n - n % kBlock, i + kFlush);
    __m512 sum0 = _mm512_setzero_ps();
    __m512 sum1 = _mm512_setzero_ps();
    const __m512 reference = _mm512_set1_ps(z.reference == kLowest ? 0.0F : z.reference);
    const __m512 limit = _mm512_set1_ps(z.reference == kLowest ? kLowest : z.reference + kReferenceSlack / inv_t);
    bool above = false;
    for (; i + kBlock <= stop; i += kBlock) {
      const __m512 a = _mm512_loadu_ps(row + i);
      const __m512 b = _mm512_loadu_ps(row + i + 16);
      const auto over = [&](__m512 bound) GSD_AVX512 {
        return (_mm512_cmp_ps_mask(a, bound, _CMP_GT_OQ) | _mm512_cmp_ps_mask(b, bound, _CMP_GT_OQ)) != 0;
      };
      above = over(limit);
      if (above) break;
      sum0 = _mm512_add_ps(sum0, exp16(_mm512_mul_ps(_mm512_sub_ps(a, reference), scale)));
      sum1 = _mm512_add_ps(sum1, exp16(_mm512_mul_ps(_mm512_sub_ps(b, reference), scale)));
      if (over(_mm512_set1_ps(best.threshold()))) {
        for (std::size_t j = i; j < i + kBlock; ++j) best.offer(static_cast<Token>(j), row[j]);
      }
    }
    z.sum += static_cast<double>(_mm512_reduce_add_ps(_mm512_add_ps(sum0, sum1)));
    if (above) {  // rare
      scan_scalar(row, i, i + kBlock, inv_t, best, z);
      i += kBlock;
    }
  }
  return i;
}

// The two largest of a row, and where the first of the largest stands.
struct Largest {
  float first, second;
  std::size_t at;
};

// REQUIRES: n >= 32
GSD_AVX2 Largest largest_avx2(const float* row, std::size_t n) {
  __m256 first[4];
  __m256 second[4];
  for (std::size_t j = 0; j < 4; ++j) first[j] = second[j] = _mm256_set1_ps(kLowest);
  std::size_t i = 0;
  for (; i + 32 <= n; i += 32) {
    // Operand order: min_ps and max_ps return the second operand when one is NaN, so NaN entries are passed over.
    for (std::size_t j = 0; j < 4; ++j) {
      const __m256 x = _mm256_loadu_ps(row + i + 8 * j);
      second[j] = _mm256_max_ps(_mm256_min_ps(first[j], x), second[j]);
      first[j] = _mm256_max_ps(x, first[j]);
    }
  }
  Largest out{kLowest, kLowest, 0};
  const auto offer = [&out](float x) {
    out.second = std::max(out.second, std::min(out.first, x));
    out.first = std::max(out.first, x);
  };
  alignas(32) float part[8];
  for (const __m256* all : {first, second}) {
    for (std::size_t j = 0; j < 4; ++j) {
      _mm256_store_ps(part, all[j]);
      for (const float x : part) offer(x);
    }
  }
  for (; i < n; ++i) {
    if (row[i] > kLowest) offer(row[i]);
  }
  const __m256 wanted = _mm256_set1_ps(out.first);
  for (i = 0; i + 32 <= n; i += 32) {
    __m256 found = _mm256_cmp_ps(_mm256_loadu_ps(row + i), wanted, _CMP_EQ_OQ);
    for (std::size_t j = 1; j < 4; ++j)
      found = _mm256_or_ps(found, _mm256_cmp_ps(_mm256_loadu_ps(row + i + 8 * j), wanted, _CMP_EQ_OQ));
    if (_mm256_movemask_ps(found) != 0) break;
  }
  out.at = i;
  while (out.at < n - 1 && row[out.at] != out.first) ++out.at;
  return out;
}

#endif

}  // namespace

int top_k_log_softmax(std::span<const float> row, float inv_temperature, std::span<Token> tokens,
                      std::span<float> log_p) {
  assert(tokens.size() == log_p.size() && tokens.size() <= 256 && inv_temperature > 0);
  Best best{tokens.data(), log_p.data(), static_cast<int>(std::min(tokens.size(), row.size()))};
  Normaliser z;
  std::size_t done = 0;
#if defined(__x86_64__)
  if (isa() == Isa::kAvx512)
    done = scan_avx512(row.data(), row.size(), inv_temperature, best, z);
  else if (isa() == Isa::kAvx2)
    done = scan_avx2(row.data(), row.size(), inv_temperature, best, z);
#endif
  scan_scalar(row.data(), done, row.size(), inv_temperature, best, z);
  const auto log_sum = static_cast<float>(std::log(z.sum));
  for (int i = 0; i < best.n; ++i)
    log_p[static_cast<std::size_t>(i)] = (best.value[i] - z.reference) * inv_temperature - log_sum;
  return best.n;
}

double exp_shifted(std::span<const float> row, float scale, float shift, std::span<float> out) {
  assert(out.size() == row.size());
  std::size_t i = 0;
  double sum = 0;
#if defined(__x86_64__)
  if (isa() == Isa::kAvx512)
    i = exp_avx512(row.data(), row.size(), scale, shift, out.data(), sum);
  else if (isa() == Isa::kAvx2)
    i = exp_avx2(row.data(), row.size(), scale, shift, out.data(), sum);
#endif
  for (; i < row.size(); ++i) {
    const float x = row[i] * scale - shift;
    out[i] = std::exp(x > -87.0F ? std::min(x, 88.0F) : -87.0F);
    sum += static_cast<double>(out[i]);
  }
  return sum;
}

Token arg_max(std::span<const float> row, float* second) {
  assert(!row.empty());
#if defined(__x86_64__)
  if (isa() >= Isa::kAvx2 && row.size() >= 32) {
    const Largest found = largest_avx2(row.data(), row.size());
    if (second) *second = found.second;
    return static_cast<Token>(found.at);
  }
#endif
  std::size_t best = 0;
  float first = kLowest;
  float runner_up = kLowest;
  for (std::size_t i = 0; i < row.size(); ++i) {
    if (row[i] > first) {
      runner_up = first;
      first = row[i];
      best = i;
    } else if (row[i] > runner_up) {
      runner_up = row[i];
    }
  }
  if (second) *second = runner_up;
  return static_cast<Token>(best);
}

}  // namespace gsd
