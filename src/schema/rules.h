// GBNF rules under construction: what can be no text is left out when they are written.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "languages.h"

namespace gsd::schema {

// A piece of a rule's body.
struct Piece {
  enum Kind { kText, kRule, kSequence, kChoice, kRepeat } kind = kSequence;
  std::string text = {};   // kText: GBNF as it stands
  std::uint32_t rule = 0;  // kRule
  std::vector<Piece> parts = {};
  std::int64_t least = 1, most = 1;  // kRepeat; most < 0: no limit
};

Piece text(std::string gbnf);
Piece call(std::uint32_t rule);
Piece sequence(std::vector<Piece> parts);
Piece choice(std::vector<Piece> parts);  // empty: no text at all
Piece repeat(Piece part, std::int64_t least, std::int64_t most);
std::string literal(std::string_view utf8);  // in GBNF's quotes

class Rules {
 public:
  explicit Rules(Work& work) : work_(work) {}

  // Throws Error(kGrammar) where there are too many.
  std::uint32_t add(Piece body = {});
  void set(std::uint32_t rule, Piece body) { bodies_[rule] = std::move(body); }

  // Rules for the texts of `dfa`, as a JSON string without its quotes if `in_string`, otherwise as they are.
  std::uint32_t add(const Dfa& dfa, bool in_string);

  // The rules that `start` needs; it is named `name`, the others `name`-0 and so on. Empty if it has no text.
  std::string write(std::uint32_t start, const std::string& name);

 private:
  bool has_text(const Piece& p);
  void find_texts();
  void append(std::string& out, const Piece& p, bool grouped);

  Work& work_;
  std::vector<Piece> bodies_;
  std::vector<bool> has_text_;
  std::vector<std::uint32_t> names_, todo_;  // while writing
  std::string prefix_;
};

}  // namespace gsd::schema
