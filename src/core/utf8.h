// Whole UTF-8 characters out of the pieces that tokens are.
#pragma once

#include <string>
#include <string_view>

namespace gsd {

// Collects bytes and releases whole characters; bytes that can be no part of one become U+FFFD. Not thread safe.
class Utf8Buffer {
 public:
  // Appends `bytes` and returns what is complete.
  std::string push(std::string_view bytes);
  // Returns the rest; an unfinished character becomes U+FFFD.
  std::string flush();

 private:
  std::string pending_;
};

}  // namespace gsd
