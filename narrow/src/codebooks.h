// The codebooks of the IQ formats: what an index in a block stands for.
#pragma once

#include <cstdint>

namespace gsd::narrow {

struct Codebooks {
  // Eight weights a number, each by the number of its magnitude in four bits: weights k and k + 4 in the low and high
  // half of byte k. A quarter of ggml's tables, so that they stay in the first-level cache.
  uint32_t iq2_xxs[256], iq2_xs[512], iq2_s[1024];  // 0, 1, 2: 8, 25, 43
  uint32_t iq1[2048];                               // 0, 1, 2: -1, 0, 1
  // Four weights a number, in bytes, 32 too large. Those of IQ3_XXS, all of which are even, are halved.
  uint32_t iq3_xxs[256], iq3_s[512];
};

// Read out of ggml's own conversion to floats by the first call, which takes less than a millisecond. Any thread.
const Codebooks& codebooks();

}  // namespace gsd::narrow
