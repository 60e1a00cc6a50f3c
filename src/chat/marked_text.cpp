#include "marked_text.h"

#include "../core/utf8.h"

namespace gsd::chat {
namespace {

void append_utf8(std::string& out, char32_t marked) {
  const char32_t c = plain(marked);
  const auto tail = [&](int shift) { out += static_cast<char>(0x80 | ((c >> shift) & 0x3F)); };
  if (c < 0x80) {
    out += static_cast<char>(c);
  } else if (c < 0x800) {
    out += static_cast<char>(0xC0 | (c >> 6));
    tail(0);
  } else if (c < 0x10000) {
    out += static_cast<char>(0xE0 | (c >> 12));
    tail(6);
    tail(0);
  } else {
    out += static_cast<char>(0xF0 | (c >> 18));
    tail(12);
    tail(6);
    tail(0);
  }
}

}  // namespace

Text to_text(std::string_view utf8, char32_t mark) {
  Utf8Buffer buffer;
  const std::string valid = buffer.push(utf8) + buffer.flush();
  Text out;
  out.reserve(valid.size());
  for (std::size_t i = 0; i < valid.size();) {
    const auto first = static_cast<unsigned char>(valid[i++]);
    const int more = first < 0x80 ? 0 : first < 0xE0 ? 1 : first < 0xF0 ? 2 : 3;
    char32_t c = more == 0 ? first : first & (0x3FU >> more);
    for (int k = 0; k < more; ++k) c = c << 6 | (static_cast<unsigned char>(valid[i++]) & 0x3FU);
    out += c | mark;
  }
  return out;
}

std::string to_utf8(TextView text) {
  std::string out;
  out.reserve(text.size());
  for (const char32_t c : text) append_utf8(out, c);
  return out;
}

Rendered to_rendered(TextView text) {
  Rendered out;
  out.text.reserve(text.size());
  bool inside = false;
  for (const char32_t c : text) {
    const bool from_request = (c & kFromRequest) != 0;
    if (from_request && !inside) out.from_request.emplace_back(out.text.size(), 0);
    if (!from_request && inside) out.from_request.back().second = out.text.size();
    inside = from_request;
    append_utf8(out.text, c);
  }
  if (inside) out.from_request.back().second = out.text.size();
  return out;
}

}  // namespace gsd::chat
