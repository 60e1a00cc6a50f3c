#include "cut.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <functional>

#include "groups.h"
#include "topk.h"

namespace gsd {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kSmallest = std::numeric_limits<float>::lowest();
constexpr std::size_t kChunk = 256;

// Larger is earlier in the row's order.
std::uint64_t rank_of(float logit, Token token) {
  auto bits = std::bit_cast<std::uint32_t>(logit + 0.0F);  // no -0
  bits = bits >> 31 ? ~bits : bits | 0x80000000U;
  return std::uint64_t{bits} << 32 | ~static_cast<std::uint32_t>(token);
}

Cut cut_after(std::uint64_t rank) {
  const auto bits = static_cast<std::uint32_t>(rank >> 32);
  return {std::bit_cast<float>(bits >> 31 ? bits & 0x7fffffffU : ~bits),
          static_cast<Token>(~static_cast<std::uint32_t>(rank))};
}

Cut tighter(const Cut& a, const Cut& b) {
  if (a.logit != b.logit) return a.logit > b.logit ? a : b;
  return a.last < b.last ? a : b;
}

}  // namespace

Cut Cutter::cut(std::span<const float> row, std::span<const float> maxima, const SamplingParams& p) {
  Cut out;
  if (p.top_k == 0 && p.top_p >= 1 && p.min_p == 0) return out;
  const float top = maxima.empty() ? -kInf : *std::max_element(maxima.begin(), maxima.end());
  if (!(top > -kInf)) return out;
  const bool by_k = p.top_k > 0 && static_cast<std::size_t>(p.top_k) < row.size();
  if (by_k) out = best_of(row, maxima, static_cast<std::size_t>(p.top_k));
  const auto share = static_cast<double>(p.top_p);
  if (share < 1 && top == kInf)
    out = {top, static_cast<Token>(std::find(row.begin(), row.end(), top) - row.begin())};
  else if (share < 1)
    out = by_k ? reach(share * weigh(top), top,
                       *std::min_element(values_.begin(), values_.begin() + static_cast<std::ptrdiff_t>(n_)))
               : mass_of(row, maxima, top, share);
  if (p.min_p > 0) out = tighter(out, {top + std::log(p.min_p), std::numeric_limits<Token>::max()});
  return out;
}

void Cutter::collect(std::span<const float> row, std::span<const float> maxima, float floor) {
  tokens_.resize(row.size() + 16);
  values_.resize(row.size() + 16);
  weights_.resize(row.size());
  places_.resize(row.size());
  n_ = at_least(row, maxima, std::max(floor, kSmallest), tokens_, values_);
}

// Leaves the k best as entries.
Cut Cutter::best_of(std::span<const float> row, std::span<const float> maxima, std::size_t k) {
  // At least k entries are as large as the k-th of the maxima.
  float floor = kSmallest;
  if (k <= maxima.size()) {
    order_.assign(maxima.begin(), maxima.end());
    const auto kth = order_.begin() + static_cast<std::ptrdiff_t>(k - 1);
    std::nth_element(order_.begin(), kth, order_.end(), std::greater<>());
    floor = *kth;
  }
  collect(row, maxima, floor);
  if (n_ < k) return {};
  ranks_.resize(n_);
  for (std::size_t i = 0; i < n_; ++i) ranks_[i] = rank_of(values_[i], tokens_[i]);
  const auto kth = ranks_.begin() + static_cast<std::ptrdiff_t>(k - 1);
  std::nth_element(ranks_.begin(), kth, ranks_.end(), std::greater<>());
  n_ = k;
  for (std::size_t i = 0; i < k; ++i) {
    const Cut c = cut_after(ranks_[i]);
    values_[i] = c.logit;
    tokens_[i] = c.last;
  }
  return cut_after(*kth);
}

// Fills the entries' weights; returns their sum.
double Cutter::weigh(float top) {
  double sum = 0;
  for (std::size_t i = 0; i < n_; i += kChunk) {
    const std::size_t n = std::min(kChunk, n_ - i);
    sum += exp_shifted(std::span(values_).subspan(i, n), 1, top, std::span(weights_).subspan(i, n));
  }
  return sum;
}

Cut Cutter::mass_of(std::span<const float> row, std::span<const float> maxima, float top, double share) {
  std::array<float, kChunk> weight;
  double total = 0;
  for (std::size_t i = 0; i < row.size(); i += kChunk) {
    const std::size_t n = std::min(kChunk, row.size() - i);
    total += exp_shifted(row.subspan(i, n), 1, top, std::span(weight).first(n));
  }
  // All entries of less than this weight together do not reach what may be left out.
  const double least = (1 - share) * total / static_cast<double>(row.size());
  const double floor = static_cast<double>(top) + std::log(least) - 1e-3;
  collect(row, maxima, std::nextafter(static_cast<float>(floor), -kInf));
  weigh(top);
  return reach(share * total, top, static_cast<float>(floor));
}

// The shortest beginning of the entries' order whose weights reach `mass`, or all of them. The entries, from `high` to
// about `low`, go into buckets by logit; the bucket in which the mass is reached is looked into in the same way, or
// sorted where it is small.
Cut Cutter::reach(double mass, float high, float low) {
  constexpr std::size_t kBuckets = 1024;
  constexpr std::size_t kSort = 512;
  std::array<double, kBuckets> bucket;
  const float top = high;
  double sum = 0;
  for (std::size_t n = 2 * n_; n_ > kSort && n_ <= n / 2 && high > low;) {  // as long as it helps
    n = n_;
    const float step = (high - low) / kBuckets;
    split(high, 1 / step, kBuckets);
    bucket.fill(0);
    for (std::size_t i = 0; i < n; ++i) bucket[places_[i]] += static_cast<double>(weights_[i]);
    double all = sum;
    for (const double x : bucket) all += x;
    mass = std::min(mass, all);  // sums round
    std::size_t b = 0;
    for (; b + 1 < kBuckets && sum + bucket[b] < mass; ++b) sum += bucket[b];
    n_ = 0;
    for (std::size_t i = 0; i < n; ++i) {
      values_[n_] = values_[i];
      tokens_[n_] = tokens_[i];
      n_ += places_[i] == static_cast<std::int32_t>(b) ? 1 : 0;
    }
    weigh(top);
    low = high - static_cast<float>(b + 1) * step;
    high -= static_cast<float>(b) * step;
  }
  ranks_.resize(n_);
  for (std::size_t i = 0; i < n_; ++i) ranks_[i] = rank_of(values_[i], tokens_[i]);
  if (!std::is_sorted(ranks_.begin(), ranks_.end(), std::greater<>()))  // as equal ones are
    std::sort(ranks_.begin(), ranks_.end(), std::greater<>());
  for (std::size_t i = 0; i < n_; ++i) values_[i] = cut_after(ranks_[i]).logit;
  weigh(top);
  std::size_t last = 0;
  for (; last + 1 < n_ && sum + static_cast<double>(weights_[last]) < mass; ++last)
    sum += static_cast<double>(weights_[last]);
  return cut_after(ranks_[last]);
}

// places_[i] = how many times 1 / scale the value i is below `high`, from 0 to n - 1.
void Cutter::split(float high, float scale, std::size_t n) {
  const auto most = static_cast<float>(n - 1);
  const float* value = values_.data();
  std::int32_t* place = places_.data();
  for (std::size_t i = 0; i < n_; ++i) {
    float x = (high - value[i]) * scale;
    x = x > 0 ? x : 0;  // no number either
    place[i] = static_cast<std::int32_t>(x < most ? x : most);
  }
}

}  // namespace gsd
