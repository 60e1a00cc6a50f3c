// A model that wants to write a given answer, and tools that it may call.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>

#include "server_rig.h"

namespace gsd::server {

constexpr std::string_view kAssistant = "<assistant>";

inline Json tools() {
  return Json::parse(
      R"([{"type": "function", "function": {"name": "get_weather", "description": "Weather", "parameters":
      {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city", "days"]}}},
      {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}])");
}

inline std::string text_of(std::span<const Token> context) {
  std::string text;
  for (const Token t : context) text += static_cast<char>(t);
  return text;
}

// What comes after the end of `so_far` in `text`, by as many characters as agree; NUL at its end or if none does.
inline char next_in(const std::string& text, const std::string& so_far) {
  for (std::size_t n = std::min(so_far.size(), text.size()); n > 0; --n) {
    const std::size_t at = text.find(so_far.substr(so_far.size() - n));
    if (at != std::string::npos) return at + n < text.size() ? text[at + n] : '\0';
  }
  return '\0';
}

// Wants to write `answer` after <assistant>; where it is kept from it, the end, or what closes something. A script sees
// the last 32 tokens only.
inline Script writes(const std::string& answer) {
  return [all = std::string(kAssistant) + answer](std::span<const Token> context, std::span<float> logits) {
    std::fill(logits.begin(), logits.end(), 0.0F);
    std::string text = text_of(context);
    if (const std::size_t at = text.rfind(kAssistant); at != std::string::npos) text.erase(0, at);
    logits[0] = 20;
    if (all.find(text) != std::string::npos) {
      logits[static_cast<unsigned char>(next_in(all, text))] = 30;
      return;
    }
    const char closing = next_in("\"x}]<|end|></parameter></arg_value><|\"|>\"}]", text);
    logits[static_cast<unsigned char>(closing == '\0' ? '"' : closing)] = 25;
  };
}

inline RigOptions rig_for(const std::string& format, const std::string& answer) {
  RigOptions o;
  o.n_ctx = 2048;
  o.script = writes(answer);
  o.tool_format = format;
  return o;
}

}  // namespace gsd::server
