// Which kernels this machine runs.
#pragma once

#include <string>

#include "kernels.h"

namespace gsd::narrow {

// Instruction sets, from what every kernel needs upwards. A later one does not imply an earlier one.
struct Machine {
  bool avx2 = false;  // with FMA and F16C
  bool avxvnni = false;
  bool avx512 = false;  // F, BW, DQ, VL
  bool avx512vnni = false;
  bool avx512bf16 = false;
};

// What the processor has and the operating system saves, restricted to `limit`: null or "" for everything, or one of
// avx2, avxvnni, avx512, avx512vnni to leave out what came after it. An unknown limit is ignored.
Machine detect_machine(const char* limit);

// The fastest kernel per format. Empty where there is none: without AVX2 all are.
KernelTable select_kernels(const Machine& machine);

std::string describe(const Machine& machine);

}  // namespace gsd::narrow
