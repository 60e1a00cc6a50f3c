// Who proposes what follows a text for nothing: no model is asked.
#pragma once

#include <cstdint>
#include <span>

#include "gsd/token_tree.h"
#include "gsd/types.h"

namespace gsd {

// A store of text that is searched for the last tokens of another one. Sources that several sessions share are asked by
// the thread that owns the engine only.
class Source {
 public:
  static constexpr int kMaxMatch = 32;  // tokens in common are not counted beyond this

  // A place in the store where the last tokens of a text stand.
  struct Match {
    std::int64_t position = -1;  // of the last matched token, in a numbering of the source's own; -1 = no match
    std::int32_t length = 0;     // tokens in common, [1, kMaxMatch]
    explicit operator bool() const { return position >= 0; }
  };

  virtual ~Source() = default;

  // Under which name its candidates stand in trees and are calibrated.
  virtual Origin origin() const = 0;
  // A place that `text` ends like and that something follows. Only the last kMaxMatch tokens of it matter.
  virtual Match find(std::span<const Token> text) const = 0;
  // The token that follows a match of find() or advance(), or -1.
  virtual Token next(const Match& match) const = 0;
  // The place one token later: `match`'s text and its next() after it.
  virtual Match advance(const Match& match) const = 0;
};

}  // namespace gsd
