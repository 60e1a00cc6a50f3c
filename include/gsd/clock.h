// Where times come from, so that a test can run on a clock of its own.
#pragma once

#include <chrono>
#include <functional>

namespace gsd {

// Milliseconds since any fixed moment. Empty: the machine's steady clock.
using Clock = std::function<double()>;

inline double now_ms(const Clock& clock) {
  if (clock) return clock();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace gsd
