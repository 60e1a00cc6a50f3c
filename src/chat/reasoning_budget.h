// A bound on reasoning: after so many tokens its end is written, whatever the model would say.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "gsd/grammar.h"
#include "gsd/sampling.h"

namespace gsd::chat {

struct ReasoningBound {
  std::string open;  // tags of the format; `close` is not empty
  std::string close;
  std::vector<Token> end;   // tokens that are written at the bound: the closing tag
  std::int64_t budget = 0;  // tokens between the tags
  bool opened = false;      // the prompt ends inside reasoning
};

// Allows what `inner` allows (all, without one) but inside reasoning that has reached the bound: there the tokens of
// the end, one after the other. A tag or a character that the model is writing at that moment is let come to its end.
// Each reasoning has the whole budget. `texts`: as for lazy_constraint.
Constraint reasoning_bound(ReasoningBound bound, std::shared_ptr<const TokenTexts> texts,
                           std::optional<Constraint> inner);

}  // namespace gsd::chat
