// A search over settings, each measured once.
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

}  // namespace gsd::bench
