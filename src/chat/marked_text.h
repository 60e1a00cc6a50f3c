// Text that remembers, for each character, whether it came from a request: what a user writes must never become a
// control token, what a template writes must.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace gsd::chat {

constexpr char32_t kFromRequest = 0x80000000;  // set in characters of a request
constexpr char32_t plain(char32_t c) { return c & ~kFromRequest; }

// Compares characters whatever they come from, so that all of std::basic_string works on them.
struct MarkedTraits : std::char_traits<char32_t> {
  static bool eq(char32_t a, char32_t b) { return plain(a) == plain(b); }
  static bool lt(char32_t a, char32_t b) { return plain(a) < plain(b); }
  static int compare(const char32_t* a, const char32_t* b, std::size_t n) {
    for (; n > 0; --n, ++a, ++b) {
      if (!eq(*a, *b)) return lt(*a, *b) ? -1 : 1;
    }
    return 0;
  }
  static const char32_t* find(const char32_t* s, std::size_t n, const char32_t& c) {
    for (; n > 0; --n, ++s) {
      if (eq(*s, c)) return s;
    }
    return nullptr;
  }
};
using Text = std::basic_string<char32_t, MarkedTraits>;
using TextView = std::basic_string_view<char32_t, MarkedTraits>;

// UTF-8 text with the ranges of bytes, half open and ascending, that came from a request.
struct Rendered {
  std::string text;
  std::vector<std::pair<std::size_t, std::size_t>> from_request;
};

// Bytes that are no UTF-8 become U+FFFD. `mark`: 0 or kFromRequest.
Text to_text(std::string_view utf8, char32_t mark = 0);
std::string to_utf8(TextView text);
Rendered to_rendered(TextView text);

}  // namespace gsd::chat
