#include "dispatch.h"

#include <cpuid.h>

#include <cstring>

namespace gsd::narrow {
namespace {

constexpr bool has(uint32_t word, int bit) { return ((word >> bit) & 1U) != 0; }

// Register state that the operating system saves: bits 1, 2 for AVX, 5 to 7 for AVX-512.
uint32_t saved_state() {
  uint32_t low = 0;
  uint32_t high = 0;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

Machine processor() {
  Machine m;
  uint32_t a = 0;
  uint32_t b = 0;
  uint32_t c = 0;
  uint32_t d = 0;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0 || !has(c, 27)) return m;  // no XGETBV
  const uint32_t state = saved_state();
  const bool fma = has(c, 12);
  const bool f16c = has(c, 29);
  if ((state & 0x6U) != 0x6U || __get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return m;
  m.avx2 = has(b, 5) && fma && f16c;
  const bool wide = m.avx2 && (state & 0xe0U) == 0xe0U;
  m.avx512 = wide && has(b, 16) && has(b, 17) && has(b, 30) && has(b, 31);
  m.avx512vnni = m.avx512 && has(c, 11);
  if (__get_cpuid_count(7, 1, &a, &b, &c, &d) != 0) {
    m.avxvnni = m.avx2 && has(a, 4);
    m.avx512bf16 = m.avx512 && has(a, 5);
  }
  return m;
}

void take(KernelTable& table, const KernelTable& better) {
  for (int f = 0; f < kFormats; ++f) {
    if (better.of[f].tile != nullptr) table.of[f] = better.of[f];
  }
}

}  // namespace

Machine detect_machine(const char* limit) {
  Machine m = processor();
  if (limit == nullptr) return m;
  auto is = [&](const char* name) { return std::strcmp(limit, name) == 0; };
  if (is("avx512vnni") || is("avx512") || is("avxvnni") || is("avx2")) m.avx512bf16 = false;
  if (is("avx512") || is("avxvnni") || is("avx2")) m.avx512vnni = false;
  if (is("avxvnni") || is("avx2")) m.avx512 = false;
  if (is("avx2") || is("avx512")) m.avxvnni = false;
  return m;
}

KernelTable select_kernels(const Machine& machine) {
  KernelTable table;
  if (machine.avx2) take(table, kernels_avx2());
  if (machine.avxvnni) take(table, kernels_avxvnni());
  if (machine.avx512) take(table, kernels_avx512());
  if (machine.avx512vnni) take(table, kernels_avx512vnni());
  if (machine.avx512bf16) take(table, kernels_avx512bf16());
  return table;
}

std::string describe(const Machine& machine) {
  if (!machine.avx2) return "none";
  std::string name = machine.avx512 ? "avx512" : "avx2";
  if (machine.avx512vnni || machine.avxvnni) name += "+vnni";
  if (machine.avx512bf16) name += "+bf16";
  return name;
}

}  // namespace gsd::narrow
