// Bounds of numbers as languages of their decimal notation.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "languages.h"

namespace gsd::schema {

// Digits as they are written: no leading zeros in `whole`, none at the end of `fraction`.
struct Decimal {
  bool negative = false;
  std::string whole = "0";
  std::string fraction;

  // From JSON's notation. None where it has more than 40 digits before or 20 after the point.
  static std::optional<Decimal> parse(const std::string& text);
  bool is_zero() const { return whole == "0" && fraction.empty(); }
};

struct Bound {
  Decimal value;
  bool is_minimum;
  bool exclusive;
};

struct NumberRange {
  std::vector<Bound> bounds;           // all must hold
  std::vector<Decimal> powers_of_ten;  // the number is a multiple of each
  std::vector<Decimal> excluded;
  bool integer = false;
  bool exact = false;  // no digits that a double would round
};

// Numbers in plain notation: 16 digits before the point, or as many as the bounds have, and 1 to 15 after it.
Languages::Id number_language(Languages& languages, const NumberRange& range);

// Those of a language of whole numbers that are multiples of `divisor`.
Dfa multiples(const Dfa& numbers, std::uint32_t divisor, Work& work);

}  // namespace gsd::schema
