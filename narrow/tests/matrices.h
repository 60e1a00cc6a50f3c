// Test data: weights in every format, products computed by our kernels, and the same in double precision.
#pragma once

#include <ggml.h>

#include <cstdint>
#include <ostream>
#include <random>
#include <string>
#include <vector>

#include "dispatch.h"
#include "work.h"

namespace gsd::narrow::test {

struct FormatInfo {
  Format format;
  ggml_type type;
  const char* name;
  int64_t block;  // rows are multiples of it
  // Where a block has the floats that scale all of it.
  size_t scales_at = 0, scales_bytes = 2;
  bool codebook = false;        // weights are looked up, and take ggml long to find
  bool scaled_by_float = true;  // which can be a NaN
};

inline constexpr FormatInfo kAllFormats[] = {
    {Format::kF32, GGML_TYPE_F32, "F32", 1},
    {Format::kF16, GGML_TYPE_F16, "F16", 1},
    {Format::kBF16, GGML_TYPE_BF16, "BF16", 1},
    {Format::kQ8_0, GGML_TYPE_Q8_0, "Q8_0", 32},
    {Format::kQ4_0, GGML_TYPE_Q4_0, "Q4_0", 32},
    {Format::kQ4_1, GGML_TYPE_Q4_1, "Q4_1", 32, 0, 4},
    {Format::kQ5_0, GGML_TYPE_Q5_0, "Q5_0", 32},
    {Format::kQ5_1, GGML_TYPE_Q5_1, "Q5_1", 32, 0, 4},
    {Format::kIQ4_NL, GGML_TYPE_IQ4_NL, "IQ4_NL", 32},
    {Format::kMXFP4, GGML_TYPE_MXFP4, "MXFP4", 32, 0, 1, false, false},
    {Format::kQ2_K, GGML_TYPE_Q2_K, "Q2_K", 256, 80, 4},
    {Format::kQ3_K, GGML_TYPE_Q3_K, "Q3_K", 256, 108, 2},
    {Format::kQ4_K, GGML_TYPE_Q4_K, "Q4_K", 256, 0, 4},
    {Format::kQ5_K, GGML_TYPE_Q5_K, "Q5_K", 256, 0, 4},
    {Format::kQ6_K, GGML_TYPE_Q6_K, "Q6_K", 256, 208, 2},
    {Format::kIQ4_XS, GGML_TYPE_IQ4_XS, "IQ4_XS", 256},
    {Format::kNVFP4, GGML_TYPE_NVFP4, "NVFP4", 64, 0, 4, false, false},
    {Format::kIQ3_S, GGML_TYPE_IQ3_S, "IQ3_S", 256, 0, 2, true},
    {Format::kIQ3_XXS, GGML_TYPE_IQ3_XXS, "IQ3_XXS", 256, 0, 2, true},
    {Format::kIQ2_S, GGML_TYPE_IQ2_S, "IQ2_S", 256, 0, 2, true},
    {Format::kIQ2_XS, GGML_TYPE_IQ2_XS, "IQ2_XS", 256, 0, 2, true},
    {Format::kIQ2_XXS, GGML_TYPE_IQ2_XXS, "IQ2_XXS", 256, 0, 2, true},
    {Format::kIQ1_M, GGML_TYPE_IQ1_M, "IQ1_M", 256, 48, 8, true, false},
    {Format::kIQ1_S, GGML_TYPE_IQ1_S, "IQ1_S", 256, 0, 2, true},
};

// A format's kernel under one instruction set that this machine has.
struct Case {
  FormatInfo info;
  Kernel kernel;
  std::string name;  // for example "Q4_0_avx512"
};

std::vector<Case> all_cases();
inline void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

std::vector<float> normal(std::mt19937& random, int64_t n, float deviation = 1.0F);

// rows of k weights converted to `type`, `offset` bytes into the buffer, so that data can be unaligned.
struct Matrix {
  ggml_type type;
  int64_t k, rows;
  size_t offset;
  std::vector<uint8_t> bytes;

  const uint8_t* data() const { return bytes.data() + offset; }
  uint8_t* data() { return bytes.data() + offset; }
  size_t row_bytes() const { return ggml_row_size(type, k); }
  std::vector<float> row(int64_t r) const;  // dequantised
};

Matrix make_matrix(ggml_type type, const std::vector<float>& values, int64_t k, size_t offset = 0);

// Runs a job on the calling thread as `threads` threads would share it. Returns [columns][rows].
std::vector<float> multiply(const Kernel& kernel, const Matrix& w, const std::vector<float>& x, int64_t columns,
                            int threads = 1);

// Half a step of what the packing rounds each of k activations to.
std::vector<double> rounding(Packing packing, const float* x, int64_t k);

// A column x times a row may be off by the rounding of the activations and by that of the sum. `exact` is the product
// in double precision.
struct Expected {
  double exact;
  double tolerance;
};
Expected expect(const std::vector<float>& row, const float* x, const std::vector<double>& rounding);

}  // namespace gsd::narrow::test
