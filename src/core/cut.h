// What top-k, top-p and min-p leave of a row of logits, found without sorting it.
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "gsd/params.h"
#include "gsd/types.h"

namespace gsd {

// All three keep a beginning of the row's order (largest logit first, equal ones by id): its last member says which.
struct Cut {
  float logit = -std::numeric_limits<float>::infinity();
  Token last = -1;
  // False for NaN and -inf.
  bool keeps(float x, Token token) const { return x > logit || (x == logit && token <= last); }
};

// Not thread safe: it keeps its work buffers.
class Cutter {
 public:
  // `maxima`: group_maxima of the row. Probabilities are softmax(row)'s, to a relative error of 1e-5; top-p looks at
  // what top-k left, min-p at the best. Of several infinite logits top-p keeps the first.
  Cut cut(std::span<const float> row, std::span<const float> maxima, const SamplingParams& params);

 private:
  Cut best_of(std::span<const float> row, std::span<const float> maxima, std::size_t k);
  Cut mass_of(std::span<const float> row, std::span<const float> maxima, float top, double share);
  void collect(std::span<const float> row, std::span<const float> maxima, float floor);
  double weigh(float top);
  Cut reach(double mass, float high, float low);
  void split(float high, float scale, std::size_t n);

  // Entries that are looked at closer, `n_` of them.
  std::vector<Token> tokens_;
  std::vector<float> values_, weights_;
  std::vector<std::int32_t> places_;
  std::size_t n_ = 0;
  std::vector<std::uint64_t> ranks_;
  std::vector<float> order_;  // of the maxima
};

}  // namespace gsd
