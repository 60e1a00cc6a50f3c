// The text of one generation as it may be shown: whole UTF-8 characters, and nothing of a stop string.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "../core/utf8.h"

namespace gsd::server {

// Not thread safe.
class TextStream {
 public:
  // `stops`: none of them empty.
  explicit TextStream(std::vector<std::string> stops) : stops_(std::move(stops)) {}

  // Appends a token's bytes. False if a stop string is now complete: the text ends before it, whatever follows.
  bool push(std::string_view piece);
  // No more tokens come: what was held back is released.
  void finish();
  // What was released since the last call.
  std::string take();

  // Bytes of text so far, held back ones included; after a stop string those before it. A token that was pushed when
  // this was `n` is released once n_released() >= n.
  std::size_t n_bytes() const { return n_released_ + held_.size(); }
  std::size_t n_released() const { return n_released_; }
  bool stopped() const { return !stop_.empty(); }
  const std::string& stop() const { return stop_; }  // the one that ended the text, or empty

 private:
  bool find_stop();
  void release();

  std::vector<std::string> stops_;
  Utf8Buffer utf8_;
  std::string held_;   // may become part of a stop string
  std::string ready_;  // released, not taken yet
  std::string stop_;
  std::size_t n_released_ = 0;
};

}  // namespace gsd::server
