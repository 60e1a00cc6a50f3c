// FNV-1a, 64 bits (Fowler, Noll, Vo): tells texts apart that nobody chose to look alike.
#pragma once

#include <cstdint>
#include <string_view>

namespace gsd {

class Fnv {
 public:
  // "ab" and "c" are other parts than "a" and "bc".
  void add(std::string_view part) {
    for (const char c : part) mix(static_cast<unsigned char>(c));
    mix(0x100);  // the end of a part, which no byte is
  }
  std::uint64_t value() const { return value_; }

 private:
  void mix(unsigned x) { value_ = (value_ ^ x) * 0x100000001b3U; }
  std::uint64_t value_ = 0xcbf29ce484222325U;
};

}  // namespace gsd
