#include "text_stream.h"

#include <algorithm>

namespace gsd::server {

bool TextStream::push(std::string_view piece) {
  if (stopped()) return false;
  held_ += utf8_.push(piece);
  if (find_stop()) return false;
  release();
  return true;
}

void TextStream::finish() {
  if (stopped()) return;
  held_ += utf8_.flush();
  if (find_stop()) return;
  n_released_ += held_.size();
  ready_ += held_;
  held_.clear();
}

std::string TextStream::take() {
  std::string out = std::move(ready_);
  ready_.clear();
  return out;
}

// Cuts the text before the first stop string, the longest one where several begin.
bool TextStream::find_stop() {
  std::size_t at = std::string::npos;
  for (const std::string& s : stops_) {
    const std::size_t found = held_.find(s);
    if (found > at || found == std::string::npos || (found == at && s.size() <= stop_.size())) continue;
    at = found;
    stop_ = s;
  }
  if (!stopped()) return false;
  ready_ += held_.substr(0, at);
  n_released_ += at;
  held_.clear();
  return true;
}

// Keeps the longest end of the text with which a stop string begins.
void TextStream::release() {
  std::size_t keep = 0;
  for (const std::string& s : stops_) {
    for (std::size_t n = std::min(s.size() - 1, held_.size()); n > keep; --n) {
      if (held_.ends_with(std::string_view(s).substr(0, n))) keep = n;
    }
  }
  const std::size_t n = held_.size() - keep;
  ready_.append(held_, 0, n);
  held_.erase(0, n);
  n_released_ += n;
}

}  // namespace gsd::server
