#include "cost_model.h"

#include <algorithm>

#include "gsd/backend.h"
#include "gsd/error.h"

namespace gsd {
namespace {
constexpr double kRate = 0.1;           // least weight of a new measurement
constexpr double kLevel = 0.05;         // how much of it is the machine's speed and holds for all widths
constexpr double kMaxStep = 0.3;        // a measurement counts as at most this much above or below the estimate
constexpr double kSurprise = 1.5;       // a measurement this many times off the estimate says that one of them is wrong
constexpr double kContradiction = 1.5;  // two points may be this many times less alike than they can be
constexpr int kShapeWeight = 2;         // what was believed before counts as this many measurements

// Measurements in a row that overcome an estimate.
constexpr int kOverUnconfirmed = 2;
constexpr int kOverConfirmed = 3;
}  // namespace

CostModel::CostModel(int max_width) {
  if (max_width < 1) throw Error(ErrorCode::kUsage, "A cost model needs a width of at least 1.");
  widths_.resize(static_cast<std::size_t>(max_width) + 1);
  table_.resize(widths_.size());
  points_.reserve(widths_.size());
  pools_.reserve(widths_.size());
  load({});
}

bool CostModel::confirmed(int from, int to) const {
  for (int w = std::max(1, from); w <= std::min(to, max_width()); ++w) {
    if (widths_[static_cast<std::size_t>(w)].count > 0) return true;
  }
  return false;
}

void CostModel::observe(int width, double ms) {
  if (frozen_ || width < 1 || width > max_width() || !(ms > 0)) return;
  Width& w = widths_[static_cast<std::size_t>(width)];
  w.known = true;
  const bool nothing_known = shape_.empty() && !confirmed(1, max_width());
  const double expected = table_[static_cast<std::size_t>(width)];
  const double ratio = ms / expected;
  if (nothing_known || (ratio < 1 / kSurprise && w.count == 0)) return believe(w, ms);
  if (ratio > kSurprise || ratio < 1 / kSurprise) {
    ++surprises_;
    const bool up = ratio > 1;
    const bool again = w.off != 0 && (w.off > 0) == up;
    w.off = (again ? w.off : 0) + (up ? 1 : -1);
    w.mildest = !again ? ms : up ? std::min(w.mildest, ms) : std::max(w.mildest, ms);
    above_by_ = above_ == 0 ? ratio : std::min(above_by_, ratio);
    above_ = up ? above_ + 1 : 0;
    if (std::abs(w.off) >= (w.count > 0 ? kOverConfirmed : kOverUnconfirmed)) return believe(w, w.mildest);
    if (above_ >= kOverConfirmed) believe(w, expected * above_by_);
    return;
  }
  above_ = w.off = 0;
  if (w.count == 0) w.ms = expected;
  const double weight = std::max(kRate, 1.0 / (w.count + 1 + (shape_.empty() ? 0 : kShapeWeight)));
  w.ms += weight * (std::clamp(ms, w.ms * (1 - kMaxStep), w.ms * (1 + kMaxStep)) - w.ms);
  for (Width& other : widths_) other.ms *= 1 + kLevel * (std::clamp(ratio, 1 - kMaxStep, 1 + kMaxStep) - 1);
  ++w.count;
  rebuild();
}

// Replaces an estimate that measurements contradict. If they had confirmed it before, the machine has changed: what is
// known of other widths is then a matter of the past.
void CostModel::believe(Width& w, double ms) {
  if (w.count > 0) {
    shape_ = table_;
    for (Width& other : widths_) other.count = other.off = 0;
  }
  w.ms = ms;
  w.count = 1;
  w.off = above_ = 0;
  ++revisions_;
  rebuild();
}

std::vector<CostModel::Point> CostModel::points() const {
  std::vector<Point> p;
  for (int w = 1; w <= max_width(); ++w) {
    if (widths_[static_cast<std::size_t>(w)].known) p.push_back({w, ms(w)});
  }
  return p;
}

void CostModel::load(const std::vector<Point>& points) {
  for (const Point& p : points) {
    if (p.width < 1 || p.width > max_width() || !(p.ms > 0)) {
      throw Error(ErrorCode::kUsage,
                  "A cost profile has a width or a time that is out of range; delete it and measure again.");
    }
  }
  std::fill(widths_.begin(), widths_.end(), Width{});
  for (const Point& p : points) {
    Width& w = widths_[static_cast<std::size_t>(p.width)];
    w.known = true;
    w.ms = p.ms;
  }
  points_.clear();
  for (int w = 1; w <= max_width(); ++w) {
    if (widths_[static_cast<std::size_t>(w)].known) points_.push_back({w, widths_[static_cast<std::size_t>(w)].ms});
  }
  drop_contradictions();
  make_monotone();
  shape_.clear();
  above_ = 0;
  if (!points_.empty()) {
    fill(table_);  // by the points alone, as there is no shape yet
    shape_ = table_;
  }
  rebuild();
}

// A pass over more tokens takes no less time, and no more than passes over fewer that do the same. Of the points_ that
// contradict each other in this, those with the most contradictions are left out: an absurd one must not spoil the
// others.
void CostModel::drop_contradictions() {
  const auto contradict = [](const Point& a, const Point& b) {
    const int passes = (b.width + a.width - 1) / a.width;
    return a.ms > kContradiction * b.ms || b.ms > kContradiction * passes * a.ms;
  };
  while (true) {
    std::size_t worst = 0;
    std::ptrdiff_t most = 0;
    for (std::size_t i = 0; i < points_.size(); ++i) {
      const auto with = [&](const Point& p) {
        return p.width < points_[i].width ? contradict(p, points_[i]) : contradict(points_[i], p);
      };
      const std::ptrdiff_t n = std::count_if(points_.begin(), points_.end(), with);
      if (n > most) {
        most = n;
        worst = i;
      }
    }
    if (most == 0) return;
    points_.erase(points_.begin() + static_cast<std::ptrdiff_t>(worst));
  }
}

// Isotonic regression of points_ (pool adjacent violators).
void CostModel::make_monotone() {
  pools_.clear();
  for (std::size_t i = 0; i < points_.size(); ++i) {
    pools_.push_back({points_[i].ms, 1});
    while (pools_.size() > 1 && pools_[pools_.size() - 2].ms > pools_.back().ms) {
      const Pool right = pools_.back();
      pools_.pop_back();
      Pool& left = pools_.back();
      left.ms = (left.ms * left.count + right.ms * right.count) / (left.count + right.count);
      left.count += right.count;
    }
  }
  std::size_t next = 0;
  for (const Pool& p : pools_) {
    for (int k = 0; k < p.count; ++k) points_[next++].ms = p.ms;
  }
}

double CostModel::below(const Point& first, std::size_t width) const {
  if (shape_.empty()) return first.ms;
  const auto at = static_cast<std::size_t>(first.width);
  const auto passes = static_cast<double>((at + width - 1) / width);  // that would do the same
  return std::max(first.ms * shape_[width] / shape_[at], first.ms / passes);
}

double CostModel::between(const Point& a, const Point& b, std::size_t width) const {
  double low = a.width;
  double high = b.width;
  auto x = static_cast<double>(width);
  if (!shape_.empty() && shape_[static_cast<std::size_t>(b.width)] > shape_[static_cast<std::size_t>(a.width)]) {
    low = shape_[static_cast<std::size_t>(a.width)];
    high = shape_[static_cast<std::size_t>(b.width)];
    x = shape_[width];
  }
  return a.ms + (b.ms - a.ms) * (x - low) / (high - low);
}

// With nothing but points: the mean slope; of one point every token costs its share.
double CostModel::beyond(const Point& last, std::size_t width) const {
  const auto at = static_cast<std::size_t>(last.width);
  if (shape_.empty()) {
    const Point& first = points_.front();
    const double slope =
        first.width < last.width ? (last.ms - first.ms) / (last.width - first.width) : last.ms / last.width;
    return last.ms + slope * static_cast<double>(width - at);
  }
  const auto passes = static_cast<double>((width + at - 1) / at);  // that would do the same
  return std::min(last.ms * shape_[width] / shape_[at], last.ms * passes);
}

// The curve through points_, which are not empty.
void CostModel::fill(std::vector<double>& curve) const {
  curve[0] = 0;
  std::size_t next = 0;
  for (std::size_t w = 1; w < curve.size(); ++w) {
    while (next < points_.size() && static_cast<std::size_t>(points_[next].width) < w) ++next;
    const double ms = next == points_.size()                               ? beyond(points_.back(), w)
                      : static_cast<std::size_t>(points_[next].width) == w ? points_[next].ms
                      : next == 0                                          ? below(points_.front(), w)
                                  : between(points_[next - 1], points_[next], w);
    curve[w] = std::max(ms, curve[w - 1]);  // rounding must not make a dent
  }
}

void CostModel::rebuild() {
  points_.clear();
  for (std::size_t w = 1; w < widths_.size(); ++w) {
    if (widths_[w].count > 0) points_.push_back({static_cast<int>(w), widths_[w].ms});
  }
  make_monotone();
  if (!points_.empty()) {
    fill(table_);
  } else if (!shape_.empty()) {
    table_ = shape_;
  } else {
    for (std::size_t w = 0; w < table_.size(); ++w) table_[w] = static_cast<double>(w);
  }
  slope_ = table_.size() > 2 ? (table_.back() - table_[1]) / static_cast<double>(table_.size() - 2) : table_[1];
}

namespace {

// Milliseconds of a pass over `width` tokens, which is taken back.
double time_pass(Backend& backend, std::vector<NodeInput>& nodes, int width, const Clock& clock) {
  nodes.clear();
  for (int i = 0; i < width; ++i) nodes.push_back({0, static_cast<Token>(i % backend.info().n_vocab), i - 1, true});
  const double start = now_ms(clock);
  backend.forward(nodes);
  const double ms = now_ms(clock) - start;
  backend.commit(0, {});
  return ms;
}

int widest(const Backend& backend, const CostModel& cost) {
  const BackendInfo& info = backend.info();
  return std::max(1, std::min({cost.max_width(), info.max_outputs, info.n_ctx, info.max_rollback}));
}

}  // namespace

void measure_cost(Backend& backend, CostModel& cost, double budget_ms, const Clock& clock) {
  std::vector<NodeInput> nodes;
  const double start = now_ms(clock);
  const auto spent = [&] { return now_ms(clock) - start; };
  time_pass(backend, nodes, 1, clock);  // brings the weights into memory
  std::vector<CostModel::Point> points;
  // The widths that tell most come first: a slow model gets no further.
  for (const int width : {1, 8, 4, 16, 2, 32}) {
    if (width > widest(backend, cost)) continue;
    const double guess = points.empty() ? 0 : points.front().ms * width;
    if (points.size() >= 2 && spent() + guess > budget_ms) break;
    // The first pass of a shape builds its graph, which does not matter where passes are slow.
    std::vector<double> times{time_pass(backend, nodes, width, clock)};
    if (times.front() < budget_ms / 50) times.clear();
    for (int i = 0; i < 5 && spent() <= budget_ms; ++i) times.push_back(time_pass(backend, nodes, width, clock));
    if (times.empty()) break;
    std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2), times.end());
    points.push_back({width, times[times.size() / 2]});
  }
  cost.load(points);
}

void check_cost(Backend& backend, CostModel& cost, double budget_ms, const Clock& clock) {
  std::vector<NodeInput> nodes;
  const double start = now_ms(clock);
  double one = 0;
  for (const int width : {1, 8, 2, 32}) {
    if (width > widest(backend, cost)) continue;
    const double guess = (kOverUnconfirmed + 1) * std::min(one * width, cost.ms(width));
    if (width > 1 && now_ms(clock) - start + guess > budget_ms) continue;
    time_pass(backend, nodes, width, clock);  // brings the weights into memory, builds the graph of this shape
    for (int i = 0; i < kOverUnconfirmed; ++i) {
      const double ms = time_pass(backend, nodes, width, clock);
      if (width == 1) one = i == 0 ? ms : std::min(one, ms);
      cost.observe(width, ms);
    }
  }
}

}  // namespace gsd
