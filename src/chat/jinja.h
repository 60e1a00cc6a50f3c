// Chat templates in Jinja: the language of Python's jinja2 as Hugging Face's transformers sets it up (trim_blocks,
// lstrip_blocks, loop controls, `generation` blocks, tojson without escapes, an immutable sandbox).
//
// An interpreter of our own. minja, the library there is, divides by zero, recurses over each character of a comment
// and cannot be stopped: a template from the net ends the process. This one counts its work, its memory and its depth,
// and its strings know which of their characters came from the request (marked_text.h).
#pragma once

#include <cstdint>
#include <ctime>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "marked_text.h"

namespace gsd::chat {

using Json = nlohmann::ordered_json;

// Whose text a variable's strings are.
enum class Origin : std::uint8_t { kTemplate, kRequest };

struct Variable {
  std::string name;
  Json value;
  Origin origin = Origin::kRequest;
};

struct JinjaLimits {
  // Each is a base and as much again for every character of the variables.
  std::int64_t work = 5'000'000;  // expressions, statements, elements and characters that are gone through
  std::int64_t memory = 8 << 20;  // characters and elements that are made, those of the variables not counted
  std::int64_t for_each_character = 16;
  int depth = 400;  // expressions, blocks and calls inside each other
};

struct Statement;

// A parsed template. Immutable: any thread may call the const functions.
class JinjaTemplate {
 public:
  // Throws Error(kModelUnsupported) with the line for text that is no template, or uses what is not supported (include,
  // import, extends, block).
  explicit JinjaTemplate(std::string_view source);

  // The text under these variables; `now` is what strftime_now() sees. A key "role" of an object keeps the template's
  // origin: such values must be checked before. Throws Error(kModelUnsupported) with the line, where the template
  // raises an exception, does what Python would not, or exceeds a limit.
  Rendered render(const std::vector<Variable>& variables, std::time_t now, const JinjaLimits& limits = {}) const;

  const std::string& source() const { return source_; }

 private:
  std::string source_;
  std::shared_ptr<const Statement> root_;
};

}  // namespace gsd::chat
