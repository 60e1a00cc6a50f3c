// Code points out of bytes, one byte at a time.
#pragma once

#include <cassert>
#include <cstdint>

namespace gsd {

constexpr std::uint32_t kMaxCodePoint = 0x10FFFF;

// Refuses what is no UTF-8: overlong forms, surrogates and values beyond U+10FFFF included. A value type: a copy is a
// place to come back to.
class Utf8Decoder {
 public:
  // False if `byte` cannot come here; the decoder is of no further use then.
  bool push(unsigned char byte) {
    if (left_ == 0) return begin(byte);
    if (byte < low_ || byte > high_) return false;
    value_ = value_ << 6 | (byte & 0x3FU);
    --left_;
    low_ = 0x80;
    high_ = 0xBF;
    return true;
  }
  // Within a character.
  bool pending() const { return left_ > 0; }
  // The character that is complete. REQUIRES: push() was called and !pending().
  std::uint32_t value() const {
    assert(!pending());
    return value_;
  }
  // Which characters can come of what is there. REQUIRES: pending().
  std::uint32_t lowest() const {
    assert(pending());
    return (value_ << 6 | (low_ & 0x3FU)) << (6 * (left_ - 1));
  }
  std::uint32_t highest() const {
    assert(pending());
    const unsigned rest = 6U * (left_ - 1U);
    return (value_ << 6 | (high_ & 0x3FU)) << rest | ((1U << rest) - 1);
  }

 private:
  bool begin(unsigned char byte) {
    low_ = 0x80;
    high_ = 0xBF;
    if (byte < 0x80) {
      value_ = byte;
      return true;
    }
    if (byte < 0xC2 || byte > 0xF4) return false;
    left_ = byte < 0xE0 ? 1 : byte < 0xF0 ? 2 : 3;
    value_ = byte & (0x3FU >> left_);
    if (byte == 0xE0) low_ = 0xA0;
    if (byte == 0xED) high_ = 0x9F;
    if (byte == 0xF0) low_ = 0x90;
    if (byte == 0xF4) high_ = 0x8F;
    return true;
  }

  std::uint32_t value_ = 0;
  std::uint8_t left_ = 0;            // bytes that are missing
  std::uint8_t low_ = 0, high_ = 0;  // of the next one
};

}  // namespace gsd
