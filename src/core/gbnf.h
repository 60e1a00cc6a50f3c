// GBNF text to the automaton that the matcher walks.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "gsd/grammar.h"

namespace gsd::gbnf {

constexpr std::uint32_t kNone = 0xffffffff;

// A set of code points.
struct CharSet {
  std::vector<std::pair<std::uint32_t, std::uint32_t>> ranges;  // inclusive, ascending, apart from each other
  std::array<std::uint64_t, 2> ascii{};                         // the same for the first 128

  bool contains(std::uint32_t c) const;
  // True if a code point of [low, high] is in the set.
  bool meets(std::uint32_t low, std::uint32_t high) const;
  bool operator<(const CharSet& o) const { return ranges < o.ranges; }
};

// What a path goes through next; packed as kind << 29 | value, so that sorting puts the kinds in this order.
enum class Kind : std::uint32_t { kChar, kSet, kToken, kNotToken, kRule };
constexpr std::uint32_t kMaxValue = (1U << 29) - 1;
constexpr std::uint32_t pack(Kind kind, std::uint32_t value) { return static_cast<std::uint32_t>(kind) << 29 | value; }
constexpr Kind kind_of(std::uint32_t symbol) { return static_cast<Kind>(symbol >> 29); }
constexpr std::uint32_t value_of(std::uint32_t symbol) { return symbol & kMaxValue; }

struct Edge {
  std::uint32_t symbol;
  std::uint32_t next;  // state
};

// A place inside a rule. Its edges are [chars, sets) single characters ascending, [sets, tokens), [tokens, rules) and
// [rules, the next state's chars).
struct State {
  std::uint32_t chars, sets, tokens, rules;
  std::uint32_t loop;  // index of the count that is kept here, or kNone
  bool accept;         // the rule may end here; with a loop its counts decide
};

// x{least,most}: one state with an edge through x back to itself, taken `least` to `most` times.
struct Loop {
  std::uint32_t least;
  std::uint32_t most;  // kNone = any number; then counting stops at `least`
};

// Alternatives that begin alike share their beginning: each rule is a tree of states (or one looping state).
struct Automaton {
  std::vector<State> states;  // one more than there are, so that the last one's edges end
  std::vector<Edge> edges;
  std::vector<CharSet> sets;
  std::vector<Loop> loops;
  std::vector<std::uint32_t> start;  // state that each rule begins in
  std::uint32_t root = 0;            // rule
};

// See Grammar::Grammar.
Automaton parse(std::string_view text, const TokenByName& token_by_name);

}  // namespace gsd::gbnf
