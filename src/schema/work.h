// A bound on what a schema may cost to translate.
#pragma once

#include <cstddef>
#include <string>

#include "gsd/error.h"

namespace gsd::schema {

// What is refused: by name and place.
[[noreturn]] inline void refuse(const std::string& what, const std::string& at) {
  throw Error(ErrorCode::kGrammar, "The JSON schema is not supported: " + what + " at " + at + ".");
}

// Counts steps of some 100 ns each, so nothing depends on the speed of the machine.
class Work {
 public:
  // Throws Error(kGrammar) when more was spent than a schema may cost.
  void spend(std::size_t steps = 1) {
    constexpr std::size_t kMost = 8'000'000;
    if ((spent_ += steps) > kMost) refuse("it takes too much work to translate; simplify its patterns and bounds", "#");
  }

 private:
  std::size_t spent_ = 0;
};

}  // namespace gsd::schema
