// Which instructions the scans of rows are made of.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#define GSD_AVX2 __attribute__((target("avx2,fma")))
#define GSD_AVX512 __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,bmi2,popcnt")))
#endif

namespace gsd {

enum class Isa : std::uint8_t { kPortable, kAvx2, kAvx512 };

// The best that this machine has, but not above the limit. Thread safe.
Isa isa();

// For tests and measurements: nothing better than `most` from now on. Thread safe, for the whole process.
void limit_isa(Isa most);

}  // namespace gsd
