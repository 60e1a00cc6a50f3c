// Regular expressions of JSON schemas (ECMA-262 with the flag u, and so the common part of RE2 and Python's) as
// languages.
#pragma once

#include <string>
#include <string_view>

#include "languages.h"

namespace gsd::schema {

// All texts in which `pattern` matches somewhere. Assertions of the beginning, the end and what follows are kept.
// Throws Error(kGrammar) naming `at` for what is no pattern, and by name for back references, word boundaries, looking
// behind, Unicode properties and assertions within a repetition.
Languages::Id pattern_language(Languages& languages, std::string_view pattern, const std::string& at);

// What a `format` says as a pattern; empty: nothing about the text. Null for a format that is not known.
const char* format_pattern(std::string_view format);

}  // namespace gsd::schema
