// Every kernel of every instruction set on this machine: against double precision, on adversarial data, and bit for bit
// across widths, positions and thread counts.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "matrices.h"

namespace gsd::narrow::test {
namespace {

class Kernels : public testing::TestWithParam<Case> {
 protected:
  const Kernel& kernel() const { return GetParam().kernel; }
  const FormatInfo& info() const { return GetParam().info; }

  // Compares all results with the reference.
  void check(const Matrix& w, const std::vector<float>& x, int64_t columns) {
    const std::vector<float> out = multiply(kernel(), w, x, columns);
    std::vector<std::vector<double>> rounded;
    for (int64_t c = 0; c < columns; ++c) rounded.push_back(rounding(kernel().packing, x.data() + c * w.k, w.k));
    for (int64_t r = 0; r < w.rows; ++r) {
      const std::vector<float> row = w.row(r);
      for (int64_t c = 0; c < columns; ++c) {
        const Expected e = expect(row, x.data() + c * w.k, rounded[static_cast<size_t>(c)]);
        ASSERT_NEAR(out[static_cast<size_t>(c * w.rows + r)], e.exact, e.tolerance)
            << "row " << r << " of " << w.rows << ", column " << c << " of " << columns << ", k " << w.k;
      }
    }
  }

  void check_random(int64_t k, int64_t rows, int64_t columns, size_t offset = 0) {
    const Matrix w = make_matrix(info().type, normal(random_, rows * k), k, offset);
    check(w, normal(random_, columns * k), columns);
  }

  std::mt19937 random_{20241117};
};

TEST_P(Kernels, EveryWidth) {
  const int64_t k = info().block == 1 ? 75 : info().block == 32 ? 96 : 256;
  for (int64_t columns = 1; columns <= kMaxColumns; ++columns) check_random(k, 17, columns);
  check_random(k, 17, 130);
}

TEST_P(Kernels, EveryRemainderOfRows) {
  for (int64_t rows = 1; rows <= 34; ++rows) check_random(info().block == 1 ? 40 : info().block, rows, 3);
}

TEST_P(Kernels, EveryRemainderOfRowLength) {
  const int64_t longest = info().block == 1 ? 70 : info().block == 32 ? 35 : 5;
  for (int64_t k = 1; k <= longest; ++k) check_random(k * info().block, 17, 5);
}

TEST_P(Kernels, LongRows) {
  check_random(11264, 20, 3);
  check_random(info().block == 1 ? 1599 : 1536, 20, 11);
}

TEST_P(Kernels, UnalignedWeights) {
  for (size_t offset : {1U, 2U, 7U, 34U}) check_random(info().block == 1 ? 48 : info().block * 2, 19, 9, offset);
}

TEST_P(Kernels, ZeroWeightsAndActivations) {
  const int64_t k = 512;
  std::vector<float> values = normal(random_, 20 * k);
  std::fill(values.begin() + 3 * k, values.begin() + 5 * k, 0.0F);
  std::fill(values.begin() + 6 * k + 32, values.begin() + 6 * k + 96, 0.0F);
  std::vector<float> x = normal(random_, 5 * k);
  std::fill(x.begin() + k, x.begin() + 2 * k, 0.0F);
  const Matrix w = make_matrix(info().type, values, k);
  check(w, x, 5);
  const std::vector<float> out = multiply(kernel(), w, x, 5);
  for (int64_t r = 0; r < 20; ++r) EXPECT_EQ(out[static_cast<size_t>(20 + r)], 0.0F) << "a column of zeros, row " << r;
}

TEST_P(Kernels, ExtremeScales) {
  const int64_t k = 256;
  for (const float weight : {1e-7F, 1e-3F, 100.0F}) {
    for (const float activation : {1e-42F, 1e-38F, 1e-20F, 1e-5F, 1e6F, 1e30F}) {
      const Matrix w = make_matrix(info().type, normal(random_, 18 * k, weight), k);
      check(w, normal(random_, 3 * k, activation), 3);
    }
  }
}

TEST_P(Kernels, OutlierActivations) {
  const int64_t k = 768;
  std::vector<float> x = normal(random_, 4 * k);
  for (size_t i = 5; i < x.size(); i += 97) x[i] *= 3000.0F;
  check(make_matrix(info().type, normal(random_, 16 * k), k), x, 4);
}

// Every byte pattern that can stand in a block, scales aside: weights at both ends of their range in particular.
TEST_P(Kernels, ArbitraryQuantisedBytes) {
  if (info().block == 1) GTEST_SKIP() << "no quantised bytes";
  const int64_t k = 512;
  for (const int fill : {-1, 0x00, 0x80, 0x7f, 0xff}) {
    Matrix w = make_matrix(info().type, normal(random_, 20 * k), k);
    const Matrix original = w;
    for (uint8_t& b : w.bytes) b = static_cast<uint8_t>(fill < 0 ? random_() : static_cast<unsigned>(fill));
    const size_t block = ggml_type_size(info().type);
    for (size_t at = info().scales_at; at < w.bytes.size(); at += block)
      std::memcpy(w.bytes.data() + at, original.bytes.data() + at, info().scales_bytes);
    check(w, normal(random_, 3 * k), 3);
    check(w, std::vector<float>(static_cast<size_t>(2 * k), -1.0F), 2);
  }
  if (info().format != Format::kNVFP4) return;
  Matrix w = make_matrix(info().type, normal(random_, 64 * 64), 64);
  for (size_t i = 0; i < 256; ++i)  // every scale, some of which no quantiser writes
    w.data()[i / 4 * w.row_bytes() + i % 4] = static_cast<uint8_t>(i);
  check(w, normal(random_, 5 * 64), 5);
}

TEST_P(Kernels, NotANumberAndInfinityStayInTheirColumn) {
  const int64_t k = 256;
  const Matrix w = make_matrix(info().type, normal(random_, 40 * k), k);
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity()}) {
    std::vector<float> x = normal(random_, 6 * k);
    const std::vector<float> clean = multiply(kernel(), w, x, 6);
    x[static_cast<size_t>(2 * k + 100)] = bad;
    const std::vector<float> out = multiply(kernel(), w, x, 6);
    for (size_t i = 0; i < out.size(); ++i) {
      if (i / 40 == 2) {
        EXPECT_FALSE(std::isfinite(out[i])) << "row " << i % 40;
      } else {
        EXPECT_EQ(out[i], clean[i]);
      }
    }
  }
}

TEST_P(Kernels, NotANumberInAWeightStaysInItsRow) {
  if (!info().scaled_by_float) GTEST_SKIP() << "its scale is always finite, or has no place of its own";
  const int64_t k = 256;
  Matrix w = make_matrix(info().type, normal(random_, 40 * k), k);
  const std::vector<float> x = normal(random_, 3 * k);
  const std::vector<float> clean = multiply(kernel(), w, x, 3);
  const uint8_t nan[4] = {0xff, 0xff, 0xff, 0x7f};  // the last two bytes of it are a NaN in half precision and bfloat16
  const size_t size = info().format == Format::kF32 ? 4 : 2;
  std::memcpy(w.data() + 7 * w.row_bytes() + info().scales_at, nan + 4 - size, size);
  const std::vector<float> out = multiply(kernel(), w, x, 3);
  for (size_t i = 0; i < out.size(); ++i) {
    if (i % 40 == 7) {
      EXPECT_TRUE(std::isnan(out[i]));
    } else {
      EXPECT_EQ(out[i], clean[i]);
    }
  }
}

// Width invariance: a column alone, and the same column anywhere in a batch of any width, on any number of threads.
TEST_P(Kernels, BitsDoNotDependOnTheBatch) {
  // Rows of floating-point weights in several chunks, the last block incomplete.
  const int64_t k = info().block == 1 ? 1599 : info().block * 2;
  const int64_t rows = 37;
  const Matrix w = make_matrix(info().type, normal(random_, rows * k), k);
  const std::vector<float> x = normal(random_, 70 * k);
  std::vector<float> alone;
  for (int64_t c = 0; c < 70; ++c) {
    const std::vector<float> column(x.begin() + c * k, x.begin() + (c + 1) * k);
    const std::vector<float> out = multiply(kernel(), w, column, 1);
    alone.insert(alone.end(), out.begin(), out.end());
  }
  for (const int64_t columns : {2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 16, 17, 23, 32, 47, 63, 64, 65, 70}) {
    const int64_t first = 70 - columns;
    const std::vector<float> batch(x.begin() + first * k, x.end());
    const std::vector<float> out = multiply(kernel(), w, batch, columns, 1 + static_cast<int>(columns % 5));
    ASSERT_EQ(std::memcmp(out.data(), alone.data() + first * rows, out.size() * sizeof(float)), 0)
        << columns << " columns";
  }
}

INSTANTIATE_TEST_SUITE_P(All, Kernels, testing::ValuesIn(all_cases()),
                         [](const auto& param_info) { return param_info.param.name; });
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(Kernels);

}  // namespace
}  // namespace gsd::narrow::test
