// Regular languages with intersection and complement, and automata for them: Brzozowski's derivatives (J. ACM 11(4),
// 1964), characters in classes as in Owens, Reppy and Turon (JFP 19(2), 2009).
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string_view>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include "work.h"

namespace gsd::schema {

// Code points: inclusive, ascending, apart from each other.
using Ranges = std::vector<std::pair<std::uint32_t, std::uint32_t>>;

Ranges normalized(Ranges ranges);
Ranges complement(const Ranges& ranges);  // within all of Unicode but the surrogates
std::vector<std::uint32_t> code_points(std::string_view utf8);

struct Dfa {
  struct State {
    std::vector<std::pair<Ranges, std::uint32_t>> edges;  // apart from each other
    bool accept = false;
  };
  std::vector<State> states;  // [0] is the start; all can be reached

  bool empty() const;
};

// Expressions are numbers; equal ones are the same number. Not thread safe.
class Languages {
 public:
  using Id = std::uint32_t;
  static constexpr std::uint32_t kNoLimit = 0xffffffff;

  explicit Languages(Work& work);

  Id none() const { return none_; }    // no text at all
  Id empty() const { return empty_; }  // the empty text
  Id all() const { return all_; }
  Id any() const { return any_; }  // one character
  Id chars(Ranges ranges);
  Id text(std::string_view utf8);
  Id sequence(Id a, Id b);
  Id sequence(std::initializer_list<Id> parts);
  Id either(std::vector<Id> parts);
  Id both(std::vector<Id> parts);
  Id negated(Id a);
  Id repeated(Id a, std::uint32_t least, std::uint32_t most = kNoLimit);

  bool contains(Id a, std::string_view utf8);
  // None where it has more states than that.
  std::optional<Dfa> automaton(Id a, std::size_t most_states);

 private:
  enum class Kind : std::uint8_t { kNone, kEmpty, kChars, kSequence, kEither, kBoth, kNegated, kRepeated };
  struct Node {
    Kind kind;
    bool nullable;
    std::uint32_t least, most;  // kRepeated
    std::vector<Id> parts;
    Ranges ranges;  // kChars
  };
  using Key = std::tuple<Kind, std::uint32_t, std::uint32_t, std::vector<Id>, Ranges>;

  Id make(Node node);
  Id derivative(Id a, std::uint32_t c);
  Id derived(Id a, std::uint32_t c);
  void first(Id a, std::vector<const Ranges*>& out);
  std::vector<std::pair<Ranges, std::uint32_t>> classes(Id a);

  Work& work_;
  std::vector<Node> nodes_;
  std::map<Key, Id> known_;
  std::unordered_map<std::uint64_t, Id> derivatives_;
  Id none_ = 0, empty_ = 0, any_ = 0, all_ = 0;
};

}  // namespace gsd::schema
