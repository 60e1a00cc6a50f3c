#include "codebooks.h"

#include <ggml.h>

#include <cmath>
#include <vector>

namespace gsd::narrow {
namespace {

constexpr int kWeights = 256;  // of a block

// A block with scale 1 as ggml writes it, all zeros but for what is put in.
class Block {
 public:
  explicit Block(ggml_type type) : type_(type), bytes_(ggml_type_size(type)) {
    bytes_[1] = 0x3c;  // 1 in half precision: these formats begin with their scale
  }
  void put(size_t at, size_t bits) { bytes_[at] = static_cast<uint8_t>(bytes_[at] | bits); }
  std::vector<float> weights() const {
    std::vector<float> out(kWeights);
    ggml_get_type_traits(type_)->to_float(bytes_.data(), out.data(), kWeights);
    return out;
  }

 private:
  ggml_type type_;
  std::vector<uint8_t> bytes_;
};

// Fills a table of `entries`, as many of them a time as a block holds. put(block, i, e): entry e becomes the i-th of
// the block. join(weights): those of one entry.
template <class Put, class Join>
void read(uint32_t* table, size_t entries, size_t each, ggml_type type, Put&& put, Join&& join) {
  const size_t together = kWeights / each;
  for (size_t first = 0; first < entries; first += together) {
    Block block(type);
    for (size_t i = 0; i < together; ++i) put(block, i, first + i);
    const std::vector<float> weights = block.weights();
    for (size_t i = 0; i < together; ++i) table[first + i] = join(weights.data() + i * each);
  }
}

uint32_t bytes(const float* w, float scale) {
  uint32_t out = 0;
  for (int k = 0; k < 4; ++k) out |= static_cast<uint32_t>(std::lround(w[k] * scale) + 32) << (8 * k);
  return out;
}

// step: from one value to the next, the first of which is at `lowest`.
uint32_t nibbles(const float* w, float lowest, float step) {
  uint32_t out = 0;
  for (int k = 0; k < 8; ++k)
    out |= static_cast<uint32_t>(std::lround((w[k] - lowest) / step)) << (8 * (k % 4) + 4 * (k / 4));
  return out;
}

Codebooks read_all() {
  Codebooks c;
  const auto iq2 = [](const float* w) { return nibbles(w, 8 / 8.0F, 17.5F / 8); };
  read(
      c.iq2_xxs, 256, 8, GGML_TYPE_IQ2_XXS, [](Block& b, size_t i, size_t e) { b.put(2 + i / 4 * 8 + i % 4, e); }, iq2);
  const auto put_iq2_xs = [](Block& b, size_t i, size_t e) {
    b.put(2 + 2 * i, e & 0xff);
    b.put(3 + 2 * i, e >> 8);
  };
  read(c.iq2_xs, 512, 8, GGML_TYPE_IQ2_XS, put_iq2_xs, iq2);
  const auto put_iq2_s = [](Block& b, size_t i, size_t e) {
    b.put(2 + i, e & 0xff);
    b.put(66 + i / 4, e >> 8 << (i % 4 * 2));
  };
  read(c.iq2_s, 1024, 8, GGML_TYPE_IQ2_S, put_iq2_s, iq2);
  const auto put_iq1 = [](Block& b, size_t i, size_t e) {
    b.put(2 + i, e & 0xff);
    const size_t high = e >> 8 << (i % 4 * 3);
    b.put(34 + i / 4 * 2, high & 0xff);
    b.put(35 + i / 4 * 2, high >> 8);
  };
  read(c.iq1, 2048, 8, GGML_TYPE_IQ1_S, put_iq1, [](const float* w) { return nibbles(w, -0.875F, 1); });
  read(
      c.iq3_xxs, 256, 4, GGML_TYPE_IQ3_XXS, [](Block& b, size_t i, size_t e) { b.put(2 + i, e); },
      [](const float* w) { return bytes(w, 2); });
  const auto put_iq3_s = [](Block& b, size_t i, size_t e) {
    b.put(2 + i, e & 0xff);
    b.put(66 + i / 8, e >> 8 << (i % 8));
  };
  read(c.iq3_s, 512, 4, GGML_TYPE_IQ3_S, put_iq3_s, [](const float* w) { return bytes(w, 1); });
  return c;
}

}  // namespace

const Codebooks& codebooks() {
  static const Codebooks all = read_all();
  return all;
}

}  // namespace gsd::narrow
