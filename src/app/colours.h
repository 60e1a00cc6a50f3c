// Markdown in the terminal's colours, as it streams.
#pragma once

#include <string>
#include <string_view>

namespace gsd::app {

// Headings and **bold** are bold, `code` and fenced blocks cyan; the marks themselves stay. Control characters of the
// text other than line breaks and tabs become U+FFFD: a model cannot steer the terminal. Not thread safe.
class MarkdownColours {
 public:
  // Returns `text` with colours; marks whose meaning is not yet clear are held back.
  std::string push(std::string_view text);
  // The rest; colours are off afterwards.
  std::string finish();

 private:
  void character(char c, std::string& out);
  void marks(std::string& out);
  void style(std::string& out);

  std::string held_;  // a run of ` or *
  bool line_start_ = true, heading_ = false, bold_ = false, code_ = false, fence_ = false;
  std::string shown_;  // the style that is on
};

}  // namespace gsd::app
