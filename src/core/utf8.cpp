#include "utf8.h"

#include <cstddef>

namespace gsd {
namespace {

constexpr const char* kReplacement = "\xEF\xBF\xBD";

// Length of the character that starts with this byte, 0 if none does.
std::size_t expected_length(unsigned char c) {
  if (c < 0x80) return 1;
  if (c >= 0xC2 && c < 0xE0) return 2;
  if (c >= 0xE0 && c < 0xF0) return 3;
  if (c >= 0xF0 && c < 0xF5) return 4;
  return 0;
}

// May `second` follow `first`? Excludes overlong forms, surrogates and values beyond U+10FFFF.
bool valid_second(unsigned char first, unsigned char second) {
  switch (first) {
    case 0xE0:
      return second >= 0xA0 && second < 0xC0;
    case 0xED:
      return second >= 0x80 && second < 0xA0;
    case 0xF0:
      return second >= 0x90 && second < 0xC0;
    case 0xF4:
      return second >= 0x80 && second < 0x90;
    default:
      return second >= 0x80 && second < 0xC0;
  }
}

// Bytes at `at` that are valid as the start of one character.
std::size_t valid_bytes(std::string_view s, std::size_t at, std::size_t length) {
  std::size_t n = 1;
  while (n < length && at + n < s.size()) {
    const auto c = static_cast<unsigned char>(s[at + n]);
    if (n == 1 ? !valid_second(static_cast<unsigned char>(s[at]), c) : (c & 0xC0) != 0x80) break;
    ++n;
  }
  return n;
}

}  // namespace

std::string Utf8Buffer::push(std::string_view bytes) {
  pending_ += bytes;
  std::string out;
  std::size_t at = 0;
  while (at < pending_.size()) {
    const std::size_t length = expected_length(static_cast<unsigned char>(pending_[at]));
    const std::size_t valid = length == 0 ? 1 : valid_bytes(pending_, at, length);
    if (length > 0 && valid < length && at + valid == pending_.size()) break;  // the rest may still come
    if (length > 0 && valid == length) {
      out.append(pending_, at, length);
    } else {
      out += kReplacement;
    }
    at += valid;
  }
  pending_.erase(0, at);
  return out;
}

std::string Utf8Buffer::flush() {
  const bool open = !pending_.empty();
  pending_.clear();
  return open ? kReplacement : "";
}

}  // namespace gsd
