// Seeds of randomised tests: fixed unless GSD_TEST_SEED is set, printed when a test fails.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <random>

namespace gsd::test {

inline std::uint64_t base_seed() {
  const char* text = std::getenv("GSD_TEST_SEED");
  return text != nullptr ? std::strtoull(text, nullptr, 10) : 20240716;
}

}  // namespace gsd::test

// Makes `name` a generator for case `index` and names the seed in every failure below it.
#define GSD_SEEDED(name, index)                                                                               \
  const std::uint64_t name##_seed = gsd::test::base_seed() + (index);                                         \
  SCOPED_TRACE("GSD_TEST_SEED=" + std::to_string(name##_seed - (index)) + ", case " + std::to_string(index)); \
  std::mt19937_64 name(name##_seed)
