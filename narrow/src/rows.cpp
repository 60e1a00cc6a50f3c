#include "rows.h"

#include <algorithm>
#include <cmath>

#include "isa.h"

namespace gsd::narrow {
namespace {

// f(i, whole): elements i to i + kRows, or one at a time behind the last whole register.
template <class Wide, class One>
GSD_INLINE void each(int64_t n, Wide&& wide, One&& one) {
  int64_t i = 0;
  for (; i + kRows <= n; i += kRows) wide(i);
  for (; i < n; ++i) one(i);
}

// 1 / (1 + e^-x), by e^-|x|, which cannot overflow
GSD_INLINE Floats sigmoid(Floats x) {
  const Floats sign = splat(-0.0F);
  const Floats e = exp_of_negative(_mm256_or_ps(x, sign));
  const Floats upper = _mm256_blendv_ps(splat(1.0F), e, x);  // of a negative x, e^x / (1 + e^x)
  return _mm256_div_ps(upper, add(e, splat(1.0F)));
}

}  // namespace

void add_row(const float* a, const float* b, float* out, int64_t n) {
  each(
      n, [&](int64_t i) { store_floats(out + i, add(load_floats(a + i), load_floats(b + i))); },
      [&](int64_t i) { out[i] = a[i] + b[i]; });
}

void multiply_row(const float* a, const float* b, float* out, int64_t n) {
  each(
      n, [&](int64_t i) { store_floats(out + i, mul(load_floats(a + i), load_floats(b + i))); },
      [&](int64_t i) { out[i] = a[i] * b[i]; });
}

void scale_row(const float* x, float factor, float* out, int64_t n) {
  each(
      n, [&](int64_t i) { store_floats(out + i, mul(load_floats(x + i), splat(factor))); },
      [&](int64_t i) { out[i] = x[i] * factor; });
}

void rms_norm_row(const float* x, float epsilon, float* out, int64_t n) {
  constexpr int kSums = 4;  // enough to hide the addition's latency
  Floats sums[kSums] = {zero(), zero(), zero(), zero()};
  int64_t i = 0;
  for (; i + kSums * kRows <= n; i += kSums * kRows) {
    for (int s = 0; s < kSums; ++s) {
      const Floats v = load_floats(x + i + s * kRows);
      sums[s] = fma(v, v, sums[s]);
    }
  }
  float sum = sum_of(add(add(sums[0], sums[1]), add(sums[2], sums[3])));
  for (; i < n; ++i) sum += x[i] * x[i];
  const float factor = 1.0F / std::sqrt(sum / static_cast<float>(n) + epsilon);
  scale_row(x, factor, out, n);
}

void swiglu_row(const float* gate, const float* up, float* out, int64_t n) {
  each(
      n,
      [&](int64_t i) {
        const Floats x = load_floats(gate + i);
        store_floats(out + i, mul(mul(x, sigmoid(x)), load_floats(up + i)));
      },
      [&](int64_t i) { out[i] = gate[i] / (1.0F + std::exp(-gate[i])) * up[i]; });
}

void swiglu_oai_row(const float* a, const float* b, float alpha, float limit, float* out, int64_t n) {
  each(  // a NaN is the second of two, which stays
      n,
      [&](int64_t i) {
        const Floats x = _mm256_min_ps(splat(limit), load_floats(a + i));
        const Floats y = _mm256_min_ps(splat(limit), max_or_second(splat(-limit), load_floats(b + i)));
        store_floats(out + i, mul(mul(x, sigmoid(mul(splat(alpha), x))), add(y, splat(1.0F))));
      },
      [&](int64_t i) {
        const float x = std::min(a[i], limit);
        const float y = std::clamp(b[i], -limit, limit);
        out[i] = x / (1.0F + std::exp(-alpha * x)) * (y + 1.0F);
      });
}

void half_row(const float* x, uint16_t* out, int64_t n) {
  each(
      n,
      [&](int64_t i) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i),
                         _mm256_cvtps_ph(load_floats(x + i), _MM_FROUND_TO_NEAREST_INT));
      },
      [&](int64_t i) { out[i] = static_cast<uint16_t>(_cvtss_sh(x[i], _MM_FROUND_TO_NEAREST_INT)); });
}

void fill_rotation(const Rotation& rotation, int32_t position, float* table) {
  const int64_t pairs = rotation.dims / 2;
  float* cosines = table;
  float* sines = table + rotation.dims;
  const float step = std::pow(rotation.base, -2.0F / static_cast<float>(rotation.dims));
  auto angle = static_cast<float>(position);
  for (int64_t i = 0; i < pairs; ++i, angle *= step) {
    const float turned = (rotation.factors == nullptr ? angle : angle / rotation.factors[i]) * rotation.scale;
    const float c = std::cos(turned) * rotation.magnitude;
    const float s = std::sin(turned) * rotation.magnitude;
    const int64_t first = rotation.halves ? i : 2 * i;
    const int64_t second = rotation.halves ? i + pairs : 2 * i + 1;
    cosines[first] = cosines[second] = c;
    sines[first] = -s;
    sines[second] = s;
  }
}

void rotate_row(const Rotation& rotation, const float* table, const float* x, float* out, int64_t n) {
  const int64_t dims = rotation.dims;
  const float* cosines = table;
  const float* sines = table + dims;
  if (rotation.halves) {
    const int64_t half = dims / 2;
    each(
        half,
        [&](int64_t i) {
          const Floats low = load_floats(x + i);
          const Floats high = load_floats(x + half + i);
          store_floats(out + i, fma(high, load_floats(sines + i), mul(low, load_floats(cosines + i))));
          store_floats(out + half + i,
                       fma(low, load_floats(sines + half + i), mul(high, load_floats(cosines + half + i))));
        },
        [&](int64_t i) {
          const float low = x[i];
          const float high = x[half + i];
          out[i] = low * cosines[i] + high * sines[i];
          out[half + i] = high * cosines[half + i] + low * sines[half + i];
        });
  } else {
    int64_t i = 0;
    for (; i + kRows <= dims; i += kRows) {
      const Floats v = load_floats(x + i);
      const Floats neighbours = _mm256_permute_ps(v, 0xb1);
      store_floats(out + i, fma(neighbours, load_floats(sines + i), mul(v, load_floats(cosines + i))));
    }
    for (; i < dims; i += 2) {
      const float a = x[i];
      const float b = x[i + 1];
      out[i] = a * cosines[i] + b * sines[i];
      out[i + 1] = b * cosines[i + 1] + a * sines[i + 1];
    }
  }
  if (out != x) {
    for (int64_t i = dims; i < n; ++i) out[i] = x[i];
  }
}

}  // namespace gsd::narrow
