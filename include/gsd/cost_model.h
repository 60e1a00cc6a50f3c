// What a forward pass costs by width, measured and kept current.
#pragma once

#include <cstddef>
#include <vector>

namespace gsd {

// Milliseconds of a forward pass by the number of tokens in it. The curve is a staircase on most machines, so widths
// are learned one by one; a width never seen is interpolated between its neighbours. Not thread safe.
class CostModel {
 public:
  struct Point {
    int width;
    double ms;
  };

  // REQUIRES: max_width >= 1.
  explicit CostModel(int max_width);

  // Adds a measurement. Outliers (a neighbour took the core) move the estimate only a little.
  // Ignored while frozen, and for widths outside [1, max_width] or times that are not positive.
  void observe(int width, double ms);

  // Estimated milliseconds; 0 for width <= 0. Beyond max_width the last slope goes on. Never decreasing in width.
  double ms(int width) const {
    if (width <= max_width()) return table_[static_cast<std::size_t>(width < 0 ? 0 : width)];
    return table_.back() + slope_ * (width - max_width());
  }

  // A frozen model never changes: plans, and so every trace of a run, are then reproducible.
  void freeze(bool frozen) { frozen_ = frozen; }
  bool frozen() const { return frozen_; }

  int max_width() const { return static_cast<int>(table_.size()) - 1; }
  // The measured widths, for files and reports.
  std::vector<Point> points() const;
  // Replaces all estimates. Throws Error(kUsage) if a point is out of range.
  void load(const std::vector<Point>& points);

 private:
  struct Pool {  // adjacent measured widths that share one value
    double ms;
    int count;
    std::size_t last_width;
  };
  void rebuild();

  std::vector<Pool> pools_;       // work buffer
  std::vector<double> estimate_;  // [max_width + 1] measured estimate, 0 = never seen
  std::vector<double> table_;     // [max_width + 1] interpolated, monotone
  double slope_ = 1;              // milliseconds a token beyond the last measured width
  int measured_ = 0;
  bool frozen_ = false;
};

}  // namespace gsd
