// The split of a job over threads, under std::thread, where ThreadSanitizer can follow it.
#include "work.h"

#include <gtest/gtest.h>

#include <barrier>
#include <cstring>
#include <new>
#include <thread>

#include "matrices.h"

namespace gsd::narrow::test {
namespace {

// Matrices of unequal size over the same activations, as q, k and v are.
class WorkSplit : public testing::Test {
 protected:
  void SetUp() override {
    const KernelTable table = select_kernels(detect_machine(nullptr));
    kernel_ = table.of[static_cast<int>(Format::kQ4_0)];
    other_ = table.of[static_cast<int>(Format::kQ8_0)];
    if (kernel_.tile == nullptr) GTEST_SKIP() << "no AVX2";
    for (const int64_t rows : {300, 5, 64, 17, 1}) {
      const bool q8 = rows == 64;  // products of different formats share packed activations
      matrices_.push_back(make_matrix(q8 ? GGML_TYPE_Q8_0 : GGML_TYPE_Q4_0, normal(random_, rows * kK), kK));
    }
  }

  std::vector<std::vector<float>> run(const std::vector<float>& x, int64_t columns, int threads, int present) {
    std::vector<std::vector<float>> out;
    std::vector<Product> products;
    for (const Matrix& m : matrices_) out.emplace_back(static_cast<size_t>(m.rows * columns));
    for (size_t i = 0; i < matrices_.size(); ++i) {
      const Matrix& m = matrices_[i];
      products.push_back(
          {m.type == GGML_TYPE_Q8_0 ? other_ : kernel_, m.data(), m.row_bytes(), m.rows, out[i].data(), m.rows});
    }
    std::vector<PackedQ8> packed(packed_bytes(Packing::kQ8, kK, columns, threads) / sizeof(PackedQ8));
    const Job job{products, x.data(), kK, kK, columns, reinterpret_cast<std::byte*>(packed.data())};
    Work work(job, threads);
    work.followed_by(work);
    std::barrier barrier(present);
    std::vector<std::thread> pool;
    for (int t = 0; t < present; ++t) {
      pool.emplace_back([&, t] {
        work.pack(t, present);
        barrier.arrive_and_wait();
        work.multiply(t);
      });
    }
    for (std::thread& t : pool) t.join();
    return out;
  }

  static constexpr int64_t kK = 512;
  std::mt19937 random_{7};
  Kernel kernel_, other_;
  std::vector<Matrix> matrices_;
};

TEST_F(WorkSplit, AnyNumberOfThreadsGivesTheSameBits) {
  for (const int64_t columns : {1, 6, 64, 600}) {  // activations of 600 are too many for each thread to pack them all
    const std::vector<float> x = normal(random_, columns * kK);
    const auto one = run(x, columns, 1, 1);
    for (const int threads : {2, 3, 8, 40}) EXPECT_EQ(run(x, columns, threads, threads), one) << threads << " threads";
  }
}

TEST_F(WorkSplit, FewerThreadsThanAskedForDoAllTheWork) {
  const std::vector<float> x = normal(random_, 4 * kK);
  const auto one = run(x, 4, 1, 1);
  EXPECT_EQ(run(x, 4, 8, 3), one);
  EXPECT_EQ(run(x, 4, 2, 1), one);
}

TEST_F(WorkSplit, EachProductIsRight) {
  const std::vector<float> x = normal(random_, 3 * kK);
  const auto out = run(x, 3, 4, 4);
  for (size_t i = 0; i < matrices_.size(); ++i) {
    for (int64_t r = 0; r < matrices_[i].rows; ++r) {
      for (int64_t c = 0; c < 3; ++c) {
        const float* column = x.data() + c * kK;
        const Expected e = expect(matrices_[i].row(r), column, rounding(Packing::kQ8, column, kK));
        ASSERT_NEAR(out[i][static_cast<size_t>(c * matrices_[i].rows + r)], e.exact, e.tolerance);
      }
    }
  }
}

}  // namespace
}  // namespace gsd::narrow::test
