#include "gsd/cost_model.h"

#include <algorithm>

#include "gsd/error.h"

namespace gsd {
namespace {
constexpr double kRate = 0.1;        // weight of a new measurement
constexpr double kMaxStep = 0.3;     // a measurement counts as at most this much above or below the estimate
constexpr double kFirstSight = 1.5;  // a first measurement counts as at most this factor off its neighbours
}  // namespace

CostModel::CostModel(int max_width) {
  if (max_width < 1) throw Error(ErrorCode::kUsage, "A cost model needs a width of at least 1.");
  estimate_.resize(static_cast<std::size_t>(max_width) + 1);
  table_.resize(estimate_.size());
  rebuild();
}

void CostModel::observe(int width, double ms) {
  if (frozen_ || width < 1 || width > max_width() || !(ms > 0)) return;
  double& e = estimate_[static_cast<std::size_t>(width)];
  if (e == 0) {
    // The first sight of a width may be an outlier that nothing corrects, because the planner then avoids it.
    e = measured_ < 2 ? ms : std::clamp(ms, this->ms(width) / kFirstSight, this->ms(width) * kFirstSight);
    ++measured_;
  } else {
    e += kRate * (std::clamp(ms, e * (1 - kMaxStep), e * (1 + kMaxStep)) - e);
  }
  rebuild();
}

std::vector<CostModel::Point> CostModel::points() const {
  std::vector<Point> p;
  for (int w = 1; w <= max_width(); ++w) {
    if (estimate_[static_cast<std::size_t>(w)] > 0) p.push_back({w, estimate_[static_cast<std::size_t>(w)]});
  }
  return p;
}

void CostModel::load(const std::vector<Point>& points) {
  std::fill(estimate_.begin(), estimate_.end(), 0);
  measured_ = 0;
  for (const Point& p : points) {
    if (p.width < 1 || p.width > max_width() || !(p.ms > 0)) {
      throw Error(ErrorCode::kUsage,
                  "A cost profile has a width or a time that is out of range; delete it and measure again.");
    }
    double& e = estimate_[static_cast<std::size_t>(p.width)];
    measured_ += e == 0 ? 1 : 0;
    e = p.ms;
  }
  rebuild();
}

// Isotonic regression of the measured widths (pool adjacent violators), linear between them, level below the first,
// the mean slope beyond the last.
void CostModel::rebuild() {
  pools_.clear();
  for (std::size_t w = 1; w < estimate_.size(); ++w) {
    if (estimate_[w] == 0) continue;
    pools_.push_back({estimate_[w], 1, w});
    while (pools_.size() > 1 && pools_[pools_.size() - 2].ms > pools_.back().ms) {
      const Pool right = pools_.back();
      pools_.pop_back();
      Pool& left = pools_.back();
      left.ms = (left.ms * left.count + right.ms * right.count) / (left.count + right.count);
      left.count += right.count;
      left.last_width = right.last_width;
    }
  }
  table_[0] = 0;
  std::size_t done = 0;
  std::size_t pool = 0;
  for (std::size_t w = 1; w < estimate_.size() && pool < pools_.size(); ++w) {
    if (estimate_[w] == 0) continue;
    const double to = pools_[pool].ms;
    const double from = done == 0 ? to : table_[done];
    for (std::size_t i = done + 1; i <= w; ++i) {
      const double between = from + (to - from) * static_cast<double>(i - done) / static_cast<double>(w - done);
      table_[i] = std::max(between, table_[i - 1]);  // rounding must not make a dent
    }
    done = w;
    if (w == pools_[pool].last_width) ++pool;
  }
  // With one measured width nothing is known about the slope: assume that every token costs its share.
  slope_ = done > 1 ? (table_[done] - table_[1]) / static_cast<double>(done - 1) : done == 1 ? table_[1] : 1;
  for (std::size_t w = done + 1; w < table_.size(); ++w) table_[w] = table_[w - 1] + slope_;
}

}  // namespace gsd
