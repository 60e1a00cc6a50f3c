// A search over settings, each measured once, on as many prompts as it takes to tell that it is not the best.
#pragma once

#include <algorithm>
#include <cstddef>
#include <functional>
#include <map>
#include <span>
#include <vector>

namespace gsd::bench {

using Point = std::vector<std::size_t>;  // [dimensions] index of the value of each

// Coordinate search for the greatest `value`: from the first value of every dimension, sweeps one dimension after the
// other and keeps its best, until a round changes nothing (at most three rounds). `sizes`: values of each dimension,
// each >= 1. Ties go to the value that was tried first.
inline Point coordinate_search(std::span<const std::size_t> sizes, const std::function<double(const Point&)>& value) {
  constexpr int kRounds = 3;
  std::map<Point, double> known;
  const auto look_up = [&](const Point& p) {
    const auto found = known.find(p);
    return found != known.end() ? found->second : known.emplace(p, value(p)).first->second;
  };
  Point best(sizes.size(), 0);
  for (int round = 0; round < kRounds; ++round) {
    const Point before = best;
    for (std::size_t d = 0; d < sizes.size(); ++d) {
      Point p = best;
      for (p[d] = 0; p[d] < sizes[d]; ++p[d]) {
        if (look_up(p) > look_up(best)) best[d] = p[d];
      }
    }
    if (best == before) break;
  }
  return best;
}

// Means over the same list of items for one candidate after the other, the greatest of which counts: a candidate that
// falls behind the best one so far is given up.
class Race {
 public:
  static constexpr std::size_t kFewest = 2;  // items before a candidate is judged
  static constexpr double kMargin = 0.25;    // by which its mean over them lies below the best one's

  // Mean of value(0) … value(n - 1). Of a candidate that is given up: the best mean so far, less how far it is behind.
  double mean(std::size_t n, const std::function<double(std::size_t)>& value) {
    std::vector<double> values;
    double sum = 0;
    double best_sum = 0;  // the best candidate's over the same items
    for (std::size_t i = 0; i < n; ++i) {
      values.push_back(value(i));
      sum += values.back();
      if (best_.empty()) continue;
      best_sum += best_[i];
      const double behind = (best_sum - sum) / static_cast<double>(i + 1);
      if (i + 1 < n && i + 1 >= kFewest && behind > kMargin) return best_mean_ - behind;
    }
    const double mean = sum / static_cast<double>(n);
    if (best_.empty() || mean > best_mean_) {
      best_ = std::move(values);
      best_mean_ = mean;
    }
    return mean;
  }

 private:
  std::vector<double> best_;
  double best_mean_ = 0;
};

}  // namespace gsd::bench
