// How often the target accepts what was proposed, learned while decoding.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "gsd/token_tree.h"

namespace gsd {

// Acceptance frequencies in cells of like candidates. A cell starts at a prior that counts as a few observations and
// forgets slowly, so that it follows a change of the text within a few dozen tokens.
//
// Greedy and each temperature need one of their own: with shared noise, acceptance is not the draft's probability but
// depends on the rank and the gap of the perturbed scores (sampling.h). Not thread safe.
class Calibration {
 public:
  using Cell = std::uint16_t;
  static constexpr Cell kNone = 0xffff;

  explicit Calibration(bool greedy);

  // Cell of a drafter's candidate. `rank`: in (perturbed) order, 0 = best; `log_q`: its log-probability; `gap`:
  // distance in perturbed score to the best candidate, for the best one to the second. Greedy looks at log_q, else at
  // gap.
  Cell draft_cell(int rank, float log_q, float gap, int drafter = 0) const;
  // Cell of the continuation of a source's match. REQUIRES: origin is kHistory, kRecycled, kLookup or kHint.
  Cell source_cell(Origin origin, int match_length) const;
  // Cell of the discount for candidates inherited through a merge that agree in `agreement` >= 1 tokens with the path.
  Cell merge_cell(int agreement) const;
  // What several drafters that expanded the same node say of a candidate.
  enum class Voices : std::uint8_t {
    kAgree,  // each of them thinks it the likeliest
    kNamed,  // each of them names it
    kAlone,  // one of them does not
  };
  // Cell of the factor for such a candidate, by the probability that the surest of them gives it.
  Cell voices_cell(Voices voices, double probability) const;
  // Probability that an expansion by a drafter `depth` levels below the root names the target's token as a likely one:
  // prices a level before it is drafted. A depth that was seldom reached is thought to be like the one above it, or a
  // level that is never drafted would keep its prior for good.
  double expansion_gain(int depth, int drafter = 0) const { return expansion_gain(now_, depth, drafter); }
  void observe_expansion(int depth, bool named, int drafter = 0);
  // The same for a node that others have expanded: that it names what they do not.
  double further_gain(int drafter) const;
  void observe_further(int drafter, bool named);

  double probability(Cell cell) const { return now_[cell].hits / now_[cell].trials; }

  // What was learned, to be kept for another run: numbers in an order of their own.
  std::vector<double> counts() const;
  // Takes what counts() gave, with less weight, since the next text may be another; forgotten again when what is
  // observed speaks for the priors instead. False, and nothing changes, if the numbers cannot be counts().
  bool set_counts(std::span<const double> counts);

  // True if something that set_counts() took was forgotten since the last call.
  bool take_surprise() { return std::exchange(dropped_, false); }

  // `predicted`: 1 for an ordinary cell; for one that holds a factor (merge, voices) the candidate's probability
  // without it, so that the cell learns accepted / predicted.
  void observe(Cell cell, bool accepted, double predicted = 1);

 private:
  static constexpr int kRanks = 4;
  static constexpr int kBins = 12;
  static constexpr int kLengths = 7;
  static constexpr int kAgreements = 6;
  static constexpr int kDepths = 8;
  static constexpr int kVoices = 3;
  static constexpr int kVoiceBins = 6;
  static constexpr int kSourceBase = kMaxDrafters * kRanks * kBins;
  static constexpr int kMergeBase = kSourceBase + 4 * kLengths;
  static constexpr int kVoiceBase = kMergeBase + kAgreements;
  static constexpr int kCells = kVoiceBase + kVoices * kVoiceBins;
  static constexpr int kFurtherBase = kCells + kMaxDrafters * kDepths;
  static constexpr int kCounts = kFurtherBase + kMaxDrafters;

  struct Counts {
    double hits;
    double trials;
  };
  // Cells, and after them expansions by drafter and depth, which hold no prior, and further ones by drafter.
  using State = std::array<Counts, kCounts>;
  static void count(Counts& c, bool hit, double predicted);
  static double expansion_gain(const State& state, int depth, int drafter);
  void judge_kept(std::size_t i, double by_kept, double by_prior, bool hit);

  bool greedy_;
  State now_{};
  State prior_{};
  // What set_counts() took, where it still counts, and by how much it foretold what came since better than the prior
  // (log-likelihoods).
  State kept_{};
  std::array<bool, kCounts> has_kept_{};
  std::array<double, kCounts> evidence_{};
  bool dropped_ = false;
};

}  // namespace gsd
