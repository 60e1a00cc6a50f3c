// What a block drafter says: candidates for several positions at once, each without knowing the tokens between.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "gsd/hypotheses.h"

namespace gsd {

// How often a token follows another one in the texts seen so far. Bounded: of pairs that share a place one stays, the
// more frequent one as a rule. Not thread safe.
class PairTable {
 public:
  PairTable();
  // A text goes on with `after`, whose last token before is `before`.
  void learn(Token before, Token after);
  // Probability that `after` follows `before`, of which a guess that does not look at `before` says `q`: the guess
  // counts as a few observations.
  float probability(Token before, Token after, float q) const;

 private:
  struct Count {
    std::uint64_t key = 0;  // of the tokens; 0 = none
    float times = 0;
  };
  static void count(Count& c, std::uint64_t key);
  static std::uint64_t key_of(Token before, Token after);

  std::vector<Count> pairs_;    // by hash
  std::vector<Count> singles_;  // by hash; times that something followed the token
};

// The candidates of the positions after a root, in the order of the positions. Expanded lazily, best path first, into
// the token graph: a position's candidates are ranked anew after each token that may stand before them.
class Lattice {
 public:
  static constexpr std::size_t kCandidates = 16;  // of a position

  void clear() { positions_.clear(); }
  // Adds the next position by a drafter's logits [n_vocab] there.
  void add(const Hypotheses& hypotheses, std::span<const float> logits);
  // Expands the root, and in order of probability the nodes that this gives, as `drafter`.
  void expand(Hypotheses& hypotheses, const PairTable& pairs, int drafter);

 private:
  struct Position {
    std::size_t n = 0;
    std::array<Token, kCandidates> token;
    std::array<float, kCandidates> log_q;
  };
  void expand(Hypotheses& hypotheses, const PairTable& pairs, int drafter, std::int32_t node);

  std::vector<Position> positions_;
};

}  // namespace gsd
