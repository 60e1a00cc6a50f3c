// Operations on rows against double precision: every length, in place, and on values at the ends of what floats hold.
#include "rows.h"

#include <ggml.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "matrices.h"

namespace gsd::narrow::test {
namespace {

constexpr int64_t kLongest = 70;

class Rows : public testing::Test {
 protected:
  void SetUp() override {
    if (!detect_machine(nullptr).avx2) GTEST_SKIP() << "no AVX2";
  }

  // f(x, y, out, n) on rows of every length, into memory of its own, and into that of x.
  void check(const std::function<void(const float*, const float*, float*, int64_t)>& f,
             const std::function<double(const std::vector<float>&, const std::vector<float>&, size_t)>& expected) {
    for (int64_t n = 1; n <= kLongest; ++n) {
      std::vector<float> x = normal(random_, n, 3);
      const std::vector<float> y = normal(random_, n, 3);
      std::vector<float> out(static_cast<size_t>(n) + 1, -777.0F);
      f(x.data(), y.data(), out.data(), n);
      EXPECT_EQ(out.back(), -777.0F) << "written past the end";
      const std::vector<float> before = x;
      f(x.data(), y.data(), x.data(), n);
      for (size_t i = 0; i < x.size(); ++i) {
        const double e = expected(before, y, i);
        ASSERT_NEAR(out[i], e, 1e-6 * std::abs(e) + 1e-30) << "element " << i << " of " << n;
        ASSERT_EQ(out[i], x[i]) << "in place, element " << i << " of " << n;
      }
    }
  }

  std::mt19937 random_{11};
};

TEST_F(Rows, SumsAndProducts) {
  check(add_row, [](const auto& x, const auto& y, size_t i) { return static_cast<double>(x[i] + y[i]); });
  check(multiply_row, [](const auto& x, const auto& y, size_t i) { return static_cast<double>(x[i]) * y[i]; });
}

TEST_F(Rows, Scaled) {
  check([](const float* x, const float*, float* out, int64_t n) { scale_row(x, 0.3F, out, n); },
        [](const auto& x, const auto&, size_t i) { return static_cast<double>(x[i] * 0.3F); });
}

TEST_F(Rows, BoundedSwiglu) {
  check([](const float* x, const float* y, float* out, int64_t n) { swiglu_oai_row(x, y, 1.7F, 2, out, n); },
        [](const auto& x, const auto& y, size_t i) {
          const double a = std::min(x[i], 2.0F);
          return a / (1 + std::exp(-1.7F * a)) * (std::clamp(y[i], -2.0F, 2.0F) + 1.0);
        });
}

TEST_F(Rows, RmsNorm) {
  check([](const float* x, const float*, float* out, int64_t n) { rms_norm_row(x, 1e-5F, out, n); },
        [](const auto& x, const auto&, size_t i) {
          double sum = 0;
          for (const float v : x) sum += static_cast<double>(v) * v;
          return x[i] / std::sqrt(sum / static_cast<double>(x.size()) + 1e-5F);
        });
}

TEST_F(Rows, Swiglu) {
  check(swiglu_row, [](const auto& x, const auto& y, size_t i) {
    return x[i] / (1 + std::exp(-static_cast<double>(x[i]))) * y[i];
  });
  const std::vector<float> gate = {0,     -0.0F,  88,  -88,  200,    -200,    1e30F, -1e30F,
                                   1e30F, -1e30F, 200, -200, 1e-30F, -1e-30F, 1,     std::nanf("")};  // two registers
  const std::vector<float> up(gate.size(), 1);
  std::vector<float> out(gate.size());
  swiglu_row(gate.data(), up.data(), out.data(), static_cast<int64_t>(gate.size()));
  for (size_t i = 0; i + 1 < gate.size(); ++i)
    EXPECT_NEAR(out[i], gate[i] > -80 ? gate[i] / (1 + std::exp(-static_cast<double>(gate[i]))) : 0,
                std::abs(gate[i]) * 1e-6)
        << gate[i];
  EXPECT_TRUE(std::isnan(out.back()));
}

TEST_F(Rows, Halves) {
  std::vector<float> x = normal(random_, kLongest);
  x[0] = 1e30F;
  x[1] = 1e-7F;
  x[2] = -std::numeric_limits<float>::infinity();
  x[3] = 2049;  // half way between two: to even
  std::copy(x.begin(), x.begin() + 4, x.end() - 4);
  std::vector<uint16_t> out(x.size());
  half_row(x.data(), out.data(), kLongest);
  for (size_t i = 0; i < x.size(); ++i) EXPECT_EQ(out[i], ggml_fp32_to_fp16(x[i])) << x[i];
}

TEST_F(Rows, Rotations) {
  const std::vector<float> factors = [&] {
    std::vector<float> f = normal(random_, kLongest / 2);
    for (float& v : f) v = 1 + std::abs(v);
    return f;
  }();
  for (const bool halves : {false, true}) {
    for (int64_t dims = 2; dims <= kLongest; dims += 2) {
      const Rotation r{.dims = dims,
                       .halves = halves,
                       .base = 10000,
                       .scale = 0.5F,
                       .magnitude = 1.25F,
                       .factors = dims % 4 == 0 ? factors.data() : nullptr};
      const int64_t n = kLongest;
      std::vector<float> x = normal(random_, n);
      std::vector<float> table(static_cast<size_t>(2 * dims));
      std::vector<float> out(x.size());
      fill_rotation(r, 37, table.data());
      rotate_row(r, table.data(), x.data(), out.data(), n);
      for (int64_t i = 0; i < dims / 2; ++i) {
        const double angle = 37 * 0.5 * std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(dims)) /
                             (r.factors == nullptr ? 1 : factors[static_cast<size_t>(i)]);
        const auto a = static_cast<size_t>(halves ? i : 2 * i);
        const auto b = static_cast<size_t>(halves ? i + dims / 2 : 2 * i + 1);
        EXPECT_NEAR(out[a], 1.25 * (x[a] * std::cos(angle) - x[b] * std::sin(angle)), 1e-5) << dims << " " << i;
        EXPECT_NEAR(out[b], 1.25 * (x[a] * std::sin(angle) + x[b] * std::cos(angle)), 1e-5) << dims << " " << i;
      }
      for (auto i = static_cast<size_t>(dims); i < x.size(); ++i) EXPECT_EQ(out[i], x[i]);
      rotate_row(r, table.data(), x.data(), x.data(), n);
      EXPECT_EQ(x, out) << "in place";
    }
  }
}

}  // namespace
}  // namespace gsd::narrow::test
