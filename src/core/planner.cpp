#include "gsd/planner.h"

#include <algorithm>

namespace gsd {
namespace {
constexpr double kFade = 0.97;          // about the last 30 steps count
constexpr int kFirstProbe = 8;          // plain steps before the first probe
constexpr int kLastProbe = 64;          // and at most between two
}  // namespace

Planner::Planner(CostModel& target, CostModel& draft) : target_(target), draft_(draft), probe_interval_(kFirstProbe) {}

double Planner::rate(int roots) const {
  const double plain = roots / std::max(1e-9, target_.ms(roots));
  return ms_ > 0 ? std::max(plain, tokens_ / ms_) : plain;
}

std::size_t Planner::choose_level(std::span<const Item> items, int roots, int width, int extra) const {
  const double price = rate(roots);
  double gain = 0;
  double best = 0;
  std::size_t count = 0;
  for (std::size_t n = 1; n <= items.size(); ++n) {
    gain += items[n - 1].gain;
    const int more = static_cast<int>(n);
    const double cost = draft_.ms(more + extra) + target_.ms(width + more) - target_.ms(width);
    const double value = gain - price * cost;
    if (value > best) {
      best = value;
      count = n;
    }
  }
  return count;
}

std::size_t Planner::choose_width(std::span<const Item> items, int roots, int width) const {
  const double price = rate(roots);
  const double base = target_.ms(width);
  double gain = 0;
  double best = 0;
  std::size_t count = 0;
  for (std::size_t n = 1; n <= items.size(); ++n) {
    gain += items[n - 1].gain;
    const double value = gain - price * (target_.ms(width + static_cast<int>(n)) - base);
    if (value > best) {
      best = value;
      count = n;
    }
  }
  return count;
}

void Planner::end_step(int emitted, double modelled_ms, bool drafted, bool wanted) {
  tokens_ = kFade * tokens_ + emitted;
  ms_ = kFade * ms_ + modelled_ms;
  if (!drafted) {
    ++plain_steps_;
    return;
  }
  plain_steps_ = 0;
  probe_interval_ = wanted ? kFirstProbe : std::min(kLastProbe, probe_interval_ * 2);
}

}  // namespace gsd
