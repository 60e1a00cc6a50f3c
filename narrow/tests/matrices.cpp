#include "matrices.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <iterator>
#include <memory>
#include <new>

namespace gsd::narrow::test {
namespace {

struct AlignedFree {
  void operator()(std::byte* p) const { ::operator delete[](p, std::align_val_t{kBlockBytes}); }
};

// Blocks of a format whose weights are looked up: any bits are weights like others. What ggml would write for given
// values takes it seconds to find; these have about their size.
std::vector<uint8_t> random_blocks(const FormatInfo& info, const std::vector<float>& values) {
  constexpr size_t kBlock = 256;
  std::vector<uint8_t> bytes(values.size() / kBlock * ggml_type_size(info.type));
  std::mt19937 random(static_cast<uint32_t>(values.size()));
  for (uint8_t& b : bytes) b = static_cast<uint8_t>(random());
  uint8_t* block = bytes.data();
  for (size_t first = 0; first < values.size(); first += kBlock, block += ggml_type_size(info.type)) {
    double squares = 0;
    for (size_t i = first; i < first + kBlock; ++i) squares += static_cast<double>(values[i]) * values[i];
    const double each = info.type == GGML_TYPE_IQ1_M || info.type == GGML_TYPE_IQ1_S ? 7 : 40;  // of a weight to d
    const ggml_fp16_t d = ggml_fp32_to_fp16(static_cast<float>(std::sqrt(squares / kBlock) / each));
    if (info.scaled_by_float) {
      std::memcpy(block + info.scales_at, &d, sizeof d);
      continue;
    }
    for (size_t i = 0; i < 4; ++i) {  // IQ1_M: four bits of it in the upper half of every second byte
      uint8_t& b = block[info.scales_at + 2 * i + 1];
      b = static_cast<uint8_t>((b & 0x0f) | (d >> (4 * i) & 0x0f) << 4);
    }
  }
  return bytes;
}

}  // namespace

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (const char* limit : {"avx2", "avxvnni", "avx512", "avx512vnni", ""}) {
    const KernelTable table = select_kernels(detect_machine(limit));
    for (const FormatInfo& info : kAllFormats) {
      const Kernel& kernel = table.of[static_cast<int>(info.format)];
      bool known = kernel.tile == nullptr;
      for (const Case& c : cases) known = known || c.kernel.tile == kernel.tile;
      if (!known) cases.push_back({info, kernel, std::string(info.name) + "_" + (*limit == 0 ? "all" : limit)});
    }
  }
  return cases;
}

std::vector<float> normal(std::mt19937& random, int64_t n, float deviation) {
  std::normal_distribution<float> distribution(0, deviation);
  std::vector<float> values(static_cast<size_t>(n));
  for (float& v : values) v = distribution(random);
  return values;
}

std::vector<float> Matrix::row(int64_t r) const {
  std::vector<float> values(static_cast<size_t>(k));
  std::vector<uint8_t> aligned(data() + static_cast<size_t>(r) * row_bytes(),
                               data() + static_cast<size_t>(r + 1) * row_bytes());
  if (type == GGML_TYPE_F32) {
    std::memcpy(values.data(), aligned.data(), aligned.size());
  } else {
    ggml_get_type_traits(type)->to_float(aligned.data(), values.data(), k);
  }
  return values;
}

Matrix make_matrix(ggml_type type, const std::vector<float>& values, int64_t k, size_t offset) {
  const auto rows = static_cast<int64_t>(values.size()) / k;
  Matrix m{type, k, rows, offset, {}};
  // Exactly as long as the data: reading past it is an error that AddressSanitizer reports.
  m.bytes.resize(offset + static_cast<size_t>(rows) * m.row_bytes());
  std::vector<uint8_t> aligned(static_cast<size_t>(rows) * m.row_bytes());
  const auto* info =
      std::find_if(std::begin(kAllFormats), std::end(kAllFormats), [&](const FormatInfo& i) { return i.type == type; });
  if (type == GGML_TYPE_F32) {
    std::memcpy(aligned.data(), values.data(), aligned.size());
  } else if (info != std::end(kAllFormats) && info->codebook) {
    aligned = random_blocks(*info, values);
  } else {
    ggml_quantize_chunk(type, values.data(), aligned.data(), 0, rows, k, nullptr);
  }
  std::memcpy(m.data(), aligned.data(), aligned.size());
  return m;
}

std::vector<float> multiply(const Kernel& kernel, const Matrix& w, const std::vector<float>& x, int64_t columns,
                            int threads) {
  std::vector<float> out(static_cast<size_t>(columns * w.rows), -777.0F);
  const size_t bytes = packed_bytes(kernel.packing, w.k, columns, threads);
  const std::unique_ptr<std::byte, AlignedFree> packed(
      static_cast<std::byte*>(::operator new[](bytes, std::align_val_t{kBlockBytes})));
  const Product product{kernel, w.data(), w.row_bytes(), w.rows, out.data(), w.rows};
  const Job job{{&product, 1}, x.data(), w.k, w.k, columns, packed.get()};
  Work work(job, threads);
  for (int t = 0; t < threads; ++t) work.pack(t, threads);
  for (int t = threads - 1; t >= 0; --t) work.multiply(t);
  return out;
}

std::vector<double> rounding(Packing packing, const float* x, int64_t k) {
  const int64_t together = packing == Packing::kQ8K ? 32 * kBlocksK : 32;
  std::vector<double> errors(static_cast<size_t>(k));
  for (int64_t first = 0; first < k; first += together) {
    const int64_t last = std::min(k, first + together);
    double largest = 0;
    for (int64_t i = first; i < last; ++i) largest = std::max<double>(largest, std::abs(x[i]));
    for (int64_t i = first; i < last; ++i) {
      double& e = errors[static_cast<size_t>(i)];
      if (is_quantised(packing)) e = largest < 1e-36 ? largest : largest / 127.0 * 0.5001;
      // The instruction for bfloat16 takes denormals for zero.
      if (packing == Packing::kBF16) e = std::abs(x[i]) < FLT_MIN ? std::abs(x[i]) : std::abs(x[i]) / 256.0;
    }
  }
  return errors;
}

Expected expect(const std::vector<float>& row, const float* x, const std::vector<double>& rounding) {
  Expected e{0, 1e-37};
  double magnitude = 0;
  for (size_t i = 0; i < row.size(); ++i) {
    e.exact += static_cast<double>(row[i]) * x[i];
    magnitude += std::abs(static_cast<double>(row[i]) * x[i]);
    e.tolerance += std::abs(static_cast<double>(row[i])) * rounding[i];
  }
  e.tolerance += (magnitude + e.tolerance) * 1e-5;
  return e;
}

}  // namespace gsd::narrow::test
