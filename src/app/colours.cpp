#include "colours.h"

#include <utility>

namespace gsd::app {

std::string MarkdownColours::push(std::string_view text) {
  std::string out;
  for (const char c : text) character(c, out);
  return out;
}

std::string MarkdownColours::finish() {
  std::string out;
  marks(out);
  heading_ = bold_ = code_ = fence_ = false;
  line_start_ = true;
  style(out);
  return out;
}

void MarkdownColours::character(char c, std::string& out) {
  if ((c == '`' || c == '*') && (held_.empty() || held_.back() == c)) {
    held_ += c;
    return;
  }
  marks(out);
  if (c == '`' || c == '*') {
    held_ = c;
    return;
  }
  if (c == '#' && line_start_ && !fence_) heading_ = true;
  if (c == '\n') {
    heading_ = bold_ = code_ = false;  // none of them goes on in the next line
    style(out);
  } else {
    style(out);
  }
  const auto byte = static_cast<unsigned char>(c);
  if ((byte < ' ' && c != '\n' && c != '\t') || byte == 0x7F) {
    out += "\xEF\xBF\xBD";
  } else {
    out += c;
  }
  line_start_ = c == '\n' || (line_start_ && c == ' ');
}

// A run of marks that has ended: opening ones are shown in the new style, closing ones in the old one.
void MarkdownColours::marks(std::string& out) {
  if (held_.empty()) return;
  const std::string run = std::exchange(held_, "");
  const bool is_fence = run[0] == '`' && run.size() >= 3 && line_start_;
  bool* what = is_fence                    ? &fence_
               : fence_                    ? nullptr
               : run[0] == '`'             ? &code_
               : run.size() == 2 && !code_ ? &bold_
                                           : nullptr;
  const bool opens = what != nullptr && !*what;
  if (opens) *what = true;
  style(out);
  out += run;
  if (what != nullptr && !opens) *what = false;
  line_start_ = false;
}

void MarkdownColours::style(std::string& out) {
  const std::string wanted = fence_ || code_ ? "\x1b[36m" : heading_ || bold_ ? "\x1b[1m" : "";
  if (wanted == shown_) return;
  if (!shown_.empty()) out += "\x1b[0m";
  out += wanted;
  shown_ = wanted;
}

}  // namespace gsd::app
