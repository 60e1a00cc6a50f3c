#include "gsd/planner.h"

#include <algorithm>

namespace gsd {
namespace {
constexpr double kFade = 0.97;  // about the last 30 steps count
constexpr int kLastProbe = 64;  // plain steps between two probes, at most
}  // namespace

Planner::Planner(CostModel& target, CostModel& draft) : target_(target), draft_(draft) {}

double Planner::rate(int roots) const {
  const double plain = roots / std::max(1e-9, target_.ms(roots));
  return recent_.ms > 0 ? std::max(plain, recent_.tokens / recent_.ms) : plain;
}

std::size_t Planner::choose_level(std::span<const Item> items, int roots, int width, int extra, Ahead ahead) const {
  const double price = rate(roots);
  double gain = 0;
  double best = 0;
  std::size_t count = 0;
  for (std::size_t n = 1; n <= items.size(); ++n) {
    gain += items[n - 1].gain;
    const int more = static_cast<int>(n);
    const double cost = draft_.ms(more + extra) + target_.ms(width + more) - target_.ms(width);
    const double value = gain - price * cost + value_ahead(items[0].gain, width + more, ahead, price);
    if (value > best) {
      best = value;
      count = n;
    }
  }
  return count;
}

// The best that a chain of one to `levels` further levels can add; 0 if none pays.
double Planner::value_ahead(double probability, int width, Ahead ahead, double price) const {
  double value = 0;
  double best = 0;
  for (int level = 1; level <= ahead.levels && width + level <= target_.max_width(); ++level) {
    probability *= ahead.gain;
    value += probability - price * (draft_.ms(1) + target_.ms(width + level) - target_.ms(width + level - 1));
    best = std::max(best, value);
  }
  return best;
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
  recent_.tokens = kFade * recent_.tokens + emitted;
  recent_.ms = kFade * recent_.ms + modelled_ms;
  if (!drafted) {
    ++recent_.plain_steps;
    return;
  }
  recent_.plain_steps = 0;
  recent_.probe_interval = wanted ? Recent().probe_interval : std::min(kLastProbe, recent_.probe_interval * 2);
}

}  // namespace gsd
