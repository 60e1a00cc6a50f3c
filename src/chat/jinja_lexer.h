// A template as tokens, with white space already as Jinja leaves it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace gsd::chat {

struct JinjaToken {
  enum class Type : std::uint8_t {
    kText,         // text between tags
    kOpenOutput,   // {{
    kCloseOutput,  // }}
    kOpenBlock,    // {%
    kCloseBlock,   // %}
    kName,
    kString,
    kInt,
    kFloat,
    kSymbol,
    kEnd
  };
  Type type = Type::kEnd;
  std::string text;  // of strings without quotes and escapes
  int line = 0;
};

// Throws Error(kModelUnsupported).
std::vector<JinjaToken> lex_jinja(std::string_view source);

}  // namespace gsd::chat
