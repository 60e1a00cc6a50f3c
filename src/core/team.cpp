#include "team.h"

#include <algorithm>
#include <cmath>

namespace gsd {
namespace {

constexpr double kShare = 0.005;         // of the time may be lost by trying
constexpr int kFirstTry = 2;             // passes of one thread before all are tried; the first one loads the weights
constexpr double kClearly = 0.97;        // one thread must be faster than all by this much: it leaves cores unused
constexpr double kLeastLoss = 0.1;       // of a pass, that a try is taken to cost
constexpr double kMostDebt = 50;         // passes
constexpr double kOutlier = 4;           // a pass counts as at most so many times what was expected
constexpr double kSurprise = 2;          // one that takes so many times what was expected is a reason to try
constexpr double kSurpriseShare = 0.25;  // of what it took too long
constexpr double kWeight = 1.0 / 16, kTryWeight = 0.5;  // of a new time against those before

}  // namespace

// Half an octave of widths.
Team::Kind& Team::kind() {
  const auto octave = static_cast<std::size_t>(2 * std::log2(std::max(tokens_, 1)));
  return state_->kinds[std::min(octave, state_->kinds.size() - 1)];
}

int Team::choose(int tokens, int most, int free_cores) {
  tokens_ = tokens;
  state_ = free_cores < 0 ? &unknown_ : free_cores >= std::min(most, 2) ? &free_ : &busy_;
  if (free_cores >= 2) most = std::min(most, free_cores);
  way_ = kAlone;
  trying_ = false;
  if (most <= 1) return 1;
  const Kind& k = kind();
  if (k.ms[kAll] > 0 && k.ms[kAlone] > 0) state_->ratio = k.ms[kAlone] / k.ms[kAll];
  const Way better = state_->ratio < kClearly ? kAlone : kAll;
  const Way other = better == kAll ? kAlone : kAll;
  const double loss =
      std::clamp((better == kAll ? state_->ratio : 1 / state_->ratio) - 1, kLeastLoss, state_->most_loss);
  trying_ = k.runs > 0 && (state_->ratio > 0 ? k.again || k.credit >= loss * k.ms[better] : k.runs >= kFirstTry);
  way_ = trying_ ? other : better;
  return way_ == kAlone ? 1 : most;
}

void Team::ran(double ms) {
  Kind& k = kind();
  double& known = k.ms[way_];
  const double better = trying_ ? k.ms[way_ == kAll ? kAlone : kAll] : known;  // what is done when nothing is tried
  ++k.runs;
  k.credit += kShare * ms;
  if (trying_) k.credit -= std::max(kLeastLoss * better, ms - better);
  if (state_->surprises && !trying_ && known > 0 && ms > kSurprise * known) k.credit += kSurpriseShare * (ms - known);
  if (better > 0) k.credit = std::clamp(k.credit, -kMostDebt * better, state_->most_loss * better);
  k.again = trying_ && ms < better * (way_ == kAlone ? kClearly : 1 / kClearly);
  if (known > 0 && k.runs <= kFirstTry) {
    known = std::min(known, ms);
  } else if (known > 0) {
    known += (std::min(ms, kOutlier * known) - known) * (trying_ ? kTryWeight : kWeight);
  } else {
    known = ms;
  }
}

}  // namespace gsd
