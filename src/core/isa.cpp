#include "isa.h"

#include <algorithm>
#include <atomic>

namespace gsd {
namespace {

Isa best_of_machine() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("bmi2"))
    return Isa::kAvx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Isa::kAvx2;
#endif
  return Isa::kPortable;
}

std::atomic<Isa>& chosen() {
  static std::atomic<Isa> value{best_of_machine()};
  return value;
}

}  // namespace

Isa isa() { return chosen().load(std::memory_order_relaxed); }

void limit_isa(Isa most) { chosen() = std::min(most, best_of_machine()); }

}  // namespace gsd
