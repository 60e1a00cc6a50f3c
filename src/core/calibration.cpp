#include "calibration.h"

#include <algorithm>
#include <cassert>
#include <cmath>

namespace gsd {
namespace {

constexpr double kPriorWeight = 5;  // a prior counts as this many observations
constexpr double kMaxWeight = 150;  // older observations fade beyond this
constexpr double kKeptWeight = 15;  // and when they come from an earlier run
constexpr double kKeptDoubt = 2;    // what was kept is dropped when the prior is likelier by e to this power
constexpr int kKeptErrors = 2;      // and all of it, when that happened to so many
constexpr double kExpansionPrior = 0.7;
constexpr double kFurtherPrior = 0.15;

// Upper ends of the bins, best bin first.
constexpr std::array<float, 11> kProbability{0.98F, 0.95F, 0.9F, 0.8F, 0.65F, 0.5F, 0.35F, 0.2F, 0.1F, 0.05F, 0.02F};
constexpr std::array<float, 11> kGap{9, 6, 4, 3, 2, 1.5F, 1, 0.75F, 0.5F, 0.25F, 0.1F};
constexpr std::array<int, 6> kLength{20, 12, 8, 6, 5, 4};

template <typename Edges, typename Value>
int bin(const Edges& edges, Value x) {
  int i = 0;
  while (i < static_cast<int>(edges.size()) && x < edges[static_cast<std::size_t>(i)]) ++i;
  return i;
}

double bin_middle(int i) {
  const auto at = static_cast<std::size_t>(i);
  const double high = i == 0 ? 1 : kProbability[at - 1];
  const double low = at < kProbability.size() ? kProbability[at] : 0;
  return (high + low) / 2;
}

}  // namespace

Calibration::Calibration(bool greedy) : greedy_(greedy) {
  const auto set = [this](int cell, double p) {
    now_[static_cast<std::size_t>(cell)] = {p * kPriorWeight, kPriorWeight};
  };
  for (int cell = 0; cell < kSourceBase; ++cell) {
    const int rank = cell / kBins % kRanks;
    const int b = cell % kBins;
    const double gap = b < 11 ? kGap[static_cast<std::size_t>(b)] : 0.05;
    // Under shared noise a large lead of the best candidate is almost certain, and who trails far never wins.
    const double sampled = rank == 0 ? 0.95 - 0.45 * std::exp(-gap) : 0.3 * std::exp(-gap) + 0.005;
    set(cell, greedy_ ? bin_middle(b) : sampled);
  }
  constexpr std::array<double, kLengths> by_length{0.9, 0.85, 0.75, 0.65, 0.55, 0.45, 0.35};
  for (int i = 0; i < kLengths; ++i) {
    set(kSourceBase + i, by_length[static_cast<std::size_t>(i)]);
    set(kSourceBase + kLengths + i, by_length[static_cast<std::size_t>(i)] * 0.7);
    set(kSourceBase + 2 * kLengths + i, by_length[static_cast<std::size_t>(i)] * 0.7);
    set(kSourceBase + 3 * kLengths + i, 0.98);
  }
  for (int i = 0; i < kAgreements; ++i) set(kMergeBase + i, 0.6 + 0.06 * i);
  for (int i = kVoiceBase; i < kCells; ++i) set(i, 1);
  for (int d = 0; d < kMaxDrafters; ++d) set(kFurtherBase + d, kFurtherPrior);
  prior_ = now_;
}

Calibration::Cell Calibration::draft_cell(int rank, float log_q, float gap, int drafter) const {
  assert(rank >= 0 && drafter >= 0 && drafter < kMaxDrafters);
  const int b = greedy_ ? bin(kProbability, std::exp(log_q)) : bin(kGap, gap);
  return static_cast<Cell>((drafter * kRanks + std::min(rank, kRanks - 1)) * kBins + b);
}

Calibration::Cell Calibration::voices_cell(Voices voices, double probability) const {
  constexpr std::array<double, kVoiceBins - 1> ends{0.9, 0.7, 0.5, 0.3, 0.1};
  return static_cast<Cell>(kVoiceBase + static_cast<int>(voices) * kVoiceBins + bin(ends, probability));
}

Calibration::Cell Calibration::source_cell(Origin origin, int match_length) const {
  assert(origin >= Origin::kHistory && origin <= Origin::kHint && match_length >= 0);
  const int group = static_cast<int>(origin) - static_cast<int>(Origin::kHistory);
  return static_cast<Cell>(kSourceBase + group * kLengths + bin(kLength, match_length));
}

Calibration::Cell Calibration::merge_cell(int agreement) const {
  assert(agreement >= 1);
  return static_cast<Cell>(kMergeBase + std::min(agreement, kAgreements) - 1);
}

double Calibration::expansion_gain(const State& state, int depth, int drafter) {
  double gain = kExpansionPrior;
  for (int d = 0; d <= std::min(depth, kDepths - 1); ++d) {
    const Counts& c = state[static_cast<std::size_t>(kCells + drafter * kDepths + d)];
    gain = (c.hits + kPriorWeight * gain) / (c.trials + kPriorWeight);
  }
  return gain;
}

void Calibration::observe_expansion(int depth, bool named, int drafter) {
  const auto i = static_cast<std::size_t>(kCells + drafter * kDepths + std::min(depth, kDepths - 1));
  judge_kept(i, expansion_gain(kept_, depth, drafter), kExpansionPrior, named);
  count(now_[i], named, 1);
}

double Calibration::further_gain(int drafter) const { return probability(static_cast<Cell>(kFurtherBase + drafter)); }

void Calibration::observe_further(int drafter, bool named) {
  observe(static_cast<Cell>(kFurtherBase + drafter), named);
}

std::vector<double> Calibration::counts() const {
  std::vector<double> out;
  for (const Counts& c : now_) out.insert(out.end(), {c.hits, c.trials});
  return out;
}

bool Calibration::set_counts(std::span<const double> counts) {
  if (counts.size() != 2 * now_.size()) return false;
  const auto at = [&](std::size_t i) { return Counts{counts[2 * i], counts[2 * i + 1]}; };
  for (std::size_t i = 0; i < now_.size(); ++i) {
    const Counts c = at(i);
    // A cell's prior never fades away altogether; cells of factors count hits against less than one trial each.
    const double fewest = i < kCells || i >= kFurtherBase ? 0.1 : 0;
    const double most = i >= kMergeBase && i < kCells ? 100 * kMaxWeight : c.trials * (1 + 1e-9);
    if (!(c.hits >= 0 && c.hits <= most && c.trials >= fewest && c.trials <= kMaxWeight)) return false;
  }
  for (std::size_t i = 0; i < now_.size(); ++i) {
    const Counts c = at(i);
    const double fade = c.trials > kKeptWeight ? kKeptWeight / c.trials : 1;
    now_[i] = {c.hits * fade, c.trials * fade};
  }
  kept_ = now_;
  has_kept_.fill(true);
  evidence_.fill(0);
  return true;
}

// Two theories foretold `hit`. When what was kept has foretold so much worse than the prior, the prior takes its place;
// what this run observed stays.
void Calibration::judge_kept(std::size_t i, double by_kept, double by_prior, bool hit) {
  if (!has_kept_[i]) return;
  const auto log_likelihood = [hit](double p) { return std::log(std::clamp(hit ? p : 1 - p, 0.01, 0.99)); };
  evidence_[i] += log_likelihood(by_kept) - log_likelihood(by_prior);
  if (evidence_[i] > -kKeptDoubt) return;
  dropped_ = true;
  // Who was wrong several times is not believed in the rest. Deeper expansions go with the first of them: a level that
  // is thought to be worth nothing is never drafted, so nothing would correct it.
  const bool all = std::count(has_kept_.begin(), has_kept_.end(), false) + 1 >= kKeptErrors;
  const bool expansion = i >= kCells && i < kFurtherBase;
  const std::size_t end = all ? now_.size() : expansion ? kCells + ((i - kCells) / kDepths + 1) * kDepths : i + 1;
  for (std::size_t k = all ? 0 : i; k < end; ++k) {
    if (!std::exchange(has_kept_[k], false)) continue;
    now_[k].hits = prior_[k].hits + std::max(0.0, now_[k].hits - kept_[k].hits);
    now_[k].trials = prior_[k].trials + std::max(0.0, now_[k].trials - kept_[k].trials);
  }
}

void Calibration::observe(Cell cell, bool accepted, double predicted) {
  if (has_kept_[cell]) {
    const auto p = [&](const State& s) { return predicted * s[cell].hits / s[cell].trials; };
    judge_kept(cell, p(kept_), p(prior_), accepted);
  }
  count(now_[cell], accepted, predicted);
}

void Calibration::count(Counts& c, bool hit, double predicted) {
  c.hits += hit ? 1 : 0;
  c.trials += predicted;
  if (c.trials > kMaxWeight) {
    const double fade = kMaxWeight / c.trials;
    c.hits *= fade;
    c.trials = kMaxWeight;
  }
}

}  // namespace gsd
