// Accuracy beside ggml's own kernels: against double precision on the same weights, our error is not the larger one.
#include <gtest/gtest.h>

#include <cmath>

#include "ggml_devices.h"
#include "matrices.h"

namespace gsd::narrow::test {
namespace {

std::vector<float> stock_product(const Matrix& w, const std::vector<float>& x, int64_t columns) {
  const ggml_context_ptr context = make_context();
  ggml_tensor* weights = ggml_new_tensor_2d(context.get(), w.type, w.k, w.rows);
  ggml_tensor* input = ggml_new_tensor_2d(context.get(), GGML_TYPE_F32, w.k, columns);
  ggml_tensor* product = ggml_mul_mat(context.get(), weights, input);
  ggml_cgraph* graph = ggml_new_graph(context.get());
  ggml_build_forward_expand(graph, product);
  const ggml_backend_ptr cpu(ggml_backend_dev_init(devices().cpu, nullptr));
  const ggml_backend_buffer_ptr buffer(ggml_backend_alloc_ctx_tensors(context.get(), cpu.get()));
  ggml_backend_tensor_set(weights, w.data(), 0, ggml_nbytes(weights));
  ggml_backend_tensor_set(input, x.data(), 0, ggml_nbytes(input));
  EXPECT_EQ(ggml_backend_graph_compute(cpu.get(), graph), GGML_STATUS_SUCCESS);
  std::vector<float> out(static_cast<size_t>(w.rows * columns));
  ggml_backend_tensor_get(product, out.data(), 0, ggml_nbytes(product));
  return out;
}

// Root of the mean square error, relative to that of the products themselves.
double relative_error(const std::vector<float>& out, const Matrix& w, const std::vector<float>& x, int64_t columns) {
  double error = 0;
  double size = 0;
  for (int64_t r = 0; r < w.rows; ++r) {
    const std::vector<float> row = w.row(r);
    for (int64_t c = 0; c < columns; ++c) {
      double exact = 0;
      for (int64_t i = 0; i < w.k; ++i)
        exact += static_cast<double>(row[static_cast<size_t>(i)]) * x[static_cast<size_t>(c * w.k + i)];
      const double difference = out[static_cast<size_t>(c * w.rows + r)] - exact;
      error += difference * difference;
      size += exact * exact;
    }
  }
  return std::sqrt(error / size);
}

TEST(NarrowAccuracy, NoWorseThanGgml) {
  if (devices().cpu == nullptr) GTEST_SKIP() << "ggml's CPU backend was not found";
  std::mt19937 random(5);
  for (const Case& c : all_cases()) {
    for (const int64_t k : {768, 5632}) {
      for (const int64_t columns : {1, 8}) {
        const Matrix w = make_matrix(c.info.type, normal(random, 64 * k), k);
        std::vector<float> x = normal(random, columns * k);
        for (size_t i = 0; i < x.size(); i += 61) x[i] *= 12;  // as activations have outliers
        const double ours = relative_error(multiply(c.kernel, w, x, columns), w, x, columns);
        const double stock = relative_error(stock_product(w, x, columns), w, x, columns);
        // 2%: the spread of both estimates. 1e-7: sums in single precision, whose order is arbitrary.
        EXPECT_LE(ours, stock * 1.02 + 1e-7) << c.name << ", k " << k << ", columns " << columns;
        RecordProperty(c.name + "_k" + std::to_string(k) + "_w" + std::to_string(columns),
                       std::to_string(ours) + " stock " + std::to_string(stock));
        std::printf("%-18s k %5d w %d: ours %.3g, ggml %.3g\n", c.name.c_str(), static_cast<int>(k),
                    static_cast<int>(columns), ours, stock);
      }
    }
  }
}

}  // namespace
}  // namespace gsd::narrow::test
