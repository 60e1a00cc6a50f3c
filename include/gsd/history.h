// Continuations of recurring n-grams: the chains of the token graph that outlive a step.
//
// What prompt lookup, suffix decoding and token recycling do, with one mechanism: a chain of tokens is indexed by its
// 3-grams; a node of this step's graph whose last tokens stand in a chain inherits what followed them there.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "gsd/types.h"

namespace gsd {

// Bounded store of token chains, oldest out first. Not thread safe: one belongs to one session.
class History {
 public:
  static constexpr int kGram = 3;       // shortest match that is looked for
  static constexpr int kMaxMatch = 32;  // matches are not measured beyond this

  struct Match {
    std::int64_t position = -1;  // of the last matched token; -1 = no match
    std::int32_t length = 0;     // tokens in common, [kGram, kMaxMatch]
    explicit operator bool() const { return position >= 0; }
  };

  // REQUIRES: capacity in [kGram, 2^24]. Rounded up to a power of two.
  explicit History(int capacity);

  void clear();
  // Extends the current chain by one token.
  void push(Token token);
  // Ends the current chain: no match and no continuation crosses this point.
  void end_chain();

  // The longest suffix of `context` that stands in a chain and is followed by a token; the newest of equals among
  // the `kCandidates` newest occurrences of its last 3-gram.
  Match find(std::span<const Token> context) const;
  // What follows `position` in its chain, or -1.
  Token next(std::int64_t position) const;

 private:
  static constexpr int kCandidates = 8;
  bool holds(std::int64_t position) const { return position >= 0 && position < end_ && end_ - position <= capacity(); }
  std::int64_t capacity() const { return static_cast<std::int64_t>(token_.size()); }
  std::size_t slot(std::int64_t position) const { return static_cast<std::size_t>(position & (capacity() - 1)); }
  std::size_t bucket(Token a, Token b, Token c) const;

  std::vector<Token> token_;          // [capacity] ring; -1 ends a chain
  std::vector<std::int64_t> older_;   // [capacity] previous position in the same bucket
  std::vector<std::int64_t> bucket_;  // [2 * capacity] newest position whose last 3-gram hashes there
  std::int64_t end_ = 0;
};

}  // namespace gsd
