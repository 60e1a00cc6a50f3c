// Continuations of recurring n-grams: the chains of the token graph that outlive a step.
//
// What prompt lookup, suffix decoding and token recycling do, with one mechanism: a chain of tokens is indexed by its
// 3-grams; a node of this step's graph whose last tokens stand in a chain inherits what followed them there.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "gsd/source.h"
#include "gsd/types.h"

namespace gsd {

// Bounded store of token chains, oldest out first. Not thread safe: one belongs to one session.
class History final : public Source {
 public:
  static constexpr int kGram = 3;  // shortest match that is looked for

  // Throws Error(kUsage) unless capacity is in [kGram, 2^24]. It is rounded up to a power of two.
  explicit History(int capacity, Origin origin = Origin::kHistory);

  Origin origin() const override { return origin_; }

  void clear();
  // Extends the current chain by one token.
  void push(Token token);
  // Ends the current chain: no match and no continuation crosses this point.
  void end_chain();

  // The longest suffix of `context` that stands in a chain and is followed by a token; the newest of equals among
  // the `kCandidates` newest occurrences of its last 3-gram.
  Match find(std::span<const Token> context) const override;
  Token next(const Match& match) const override { return after(match.position); }
  Match advance(const Match& match) const override {
    return {match.position + 1, std::min(match.length + 1, kMaxMatch)};
  }

 private:
  static constexpr int kCandidates = 8;
  bool holds(std::int64_t position) const { return position >= 0 && position < end_ && end_ - position <= capacity(); }
  std::int64_t capacity() const { return static_cast<std::int64_t>(token_.size()); }
  std::size_t slot(std::int64_t position) const { return static_cast<std::size_t>(position & (capacity() - 1)); }
  std::size_t bucket(Token a, Token b, Token c) const;
  Token after(std::int64_t position) const;  // in its chain, or -1

  Origin origin_;
  std::vector<Token> token_;          // [capacity] ring; -1 ends a chain
  std::vector<std::int64_t> older_;   // [capacity] previous position in the same bucket
  std::vector<std::int64_t> bucket_;  // [2 * capacity] newest position whose last 3-gram hashes there
  std::int64_t end_ = 0;
};

}  // namespace gsd
