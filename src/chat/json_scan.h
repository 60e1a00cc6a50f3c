// Where a JSON value ends, found while it comes; and values of other notations as JSON.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "jinja.h"

namespace gsd::chat {

// Not thread safe.
class JsonScanner {
 public:
  // How many bytes at the begin of `text` belong to the value. What ends a number or a word is not a part of it.
  std::size_t take(std::string_view text);
  bool begun() const { return begun_; }
  bool done() const { return done_; }

 private:
  int depth_ = 0;
  bool begun_ = false;
  bool word_ = false;  // a number, true, false, null
  bool string_ = false;
  bool escape_ = false;
  bool done_ = false;
};

// Offset of the end of the arguments of a Python call, that is of the bracket that closes what was opened before
// `text`; npos if it is not there yet. Quotes of both kinds and brackets are looked into.
std::size_t python_end(std::string_view text);
// The keyword arguments of a Python call as a JSON object; false if they are none.
bool python_arguments(std::string_view text, Json& out);

// The same for Gemma's notation, which quotes with <|"|>: the closing brace.
std::size_t gemma_end(std::string_view text);
bool gemma_arguments(std::string_view text, Json& out);

}  // namespace gsd::chat
