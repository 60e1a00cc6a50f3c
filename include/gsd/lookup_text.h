// Proposes what follows in a given text: the sources being edited, a manual, answers of another day.
#pragma once

#include <memory>
#include <span>

#include "gsd/source.h"

namespace gsd {

// A source over `text`, where at least `shortest` last tokens must agree for a match. Ask from one thread at a time.
// Throws Error(kUsage) for a text of more than 2^24 tokens and for a `shortest` that is not in [3, Source::kMaxMatch].
std::shared_ptr<const Source> make_lookup_text(std::span<const Token> text, int shortest = 4);

}  // namespace gsd
