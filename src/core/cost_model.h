// What a forward pass costs by width, measured and kept current.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "gsd/clock.h"

namespace gsd {

class Backend;

// Milliseconds of a forward pass by the number of tokens in it. The curve is a staircase on most machines, so widths
// are learned one by one. Not thread safe.
//
// Two kinds of knowledge: what passes of this run took ("confirmed" widths), and what was loaded or was true before the
// machine changed. Of the second kind only the shape counts: it fills in between confirmed widths and goes on beyond
// them, scaled to fit. So one pass corrects a curve that is too high or too low as a whole.
class CostModel {
 public:
  struct Point {
    int width;
    double ms;
  };

  // REQUIRES: max_width >= 1.
  explicit CostModel(int max_width);

  // Adds a measurement. One far above the estimate (a neighbour took the core) changes nothing until the next ones
  // agree with it; one far below is believed at once where nothing was confirmed, since no pass is faster than it can
  // be. Ignored while frozen, and for widths outside [1, max_width] or times that are not positive.
  void observe(int width, double ms);

  // Estimated milliseconds; 0 for width <= 0. Beyond max_width the mean slope goes on. Never decreasing in width.
  double ms(int width) const {
    if (width <= max_width()) return table_[static_cast<std::size_t>(width < 0 ? 0 : width)];
    return table_.back() + slope_ * (width - max_width());
  }

  // True if a pass of some width in [from, to] confirmed the estimate since the machine last changed.
  bool confirmed(int from, int to) const;
  // How often a measurement was far from the estimate, and how often the estimate followed.
  std::int64_t surprises() const { return surprises_; }
  std::int64_t revisions() const { return revisions_; }

  // A frozen model never changes: plans, and so every trace of a run, are then reproducible.
  void freeze(bool frozen) { frozen_ = frozen; }
  bool frozen() const { return frozen_; }

  int max_width() const { return static_cast<int>(table_.size()) - 1; }
  // The widths that were loaded or measured, with their estimates: for files and reports.
  std::vector<Point> points() const;
  // Replaces all estimates; none is confirmed then, and points that no machine can have beside the others are left out.
  // Throws Error(kUsage) if a point is out of range.
  void load(const std::vector<Point>& points);

 private:
  struct Pool {  // adjacent points that share one value
    double ms;
    int count;
  };
  struct Width {
    double ms = 0;       // mean of the confirmations
    int count = 0;       // confirmations, 0 = none
    int off = 0;         // measurements in a row that were far off: > 0 above, < 0 below
    double mildest = 0;  // the nearest of them
    bool known = false;  // loaded or measured at some time
  };

  void believe(Width& w, double ms);
  void drop_contradictions();
  void make_monotone();
  void fill(std::vector<double>& curve) const;
  void rebuild();
  double below(const Point& first, std::size_t width) const;
  double between(const Point& a, const Point& b, std::size_t width) const;
  double beyond(const Point& last, std::size_t width) const;

  std::vector<Width> widths_;  // [max_width + 1]
  std::vector<double> shape_;  // [max_width + 1] what was believed before, all zero = nothing
  std::vector<double> table_;  // [max_width + 1] the estimates, monotone
  double slope_ = 1;           // milliseconds a token beyond max_width
  int above_ = 0;              // measurements in a row, of whatever width, that were far above
  double above_by_ = 0;        // the least of their ratios to the estimates
  std::int64_t surprises_ = 0;
  std::int64_t revisions_ = 0;
  bool frozen_ = false;

  // Work buffers.
  std::vector<Point> points_;  // in order of width
  std::vector<Pool> pools_;
};

// Milliseconds of passes of a few widths on an empty sequence 0, within about `budget_ms` (widths 1 and 8 in any
// case); feeds `cost`. Throws what the backend throws.
void measure_cost(Backend& backend, CostModel& cost, double budget_ms, const Clock& clock = {});

// Lets `cost` see a few passes of each of a few widths, within about `budget_ms` (width 1 in any case), so that a
// profile kept from an earlier run is corrected before it steers anything. REQUIRES and throws as measure_cost().
void check_cost(Backend& backend, CostModel& cost, double budget_ms, const Clock& clock = {});

}  // namespace gsd
