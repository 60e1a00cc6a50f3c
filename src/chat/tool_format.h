// How a family of models writes calls of functions and its reasoning: one description for each.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "format.h"

namespace gsd::chat {

enum class CallStyle : std::uint8_t {
  kJson,      // {"name": "f", "arguments": {…}}, alone or in a list
  kNamed,     // f, something between, {…}
  kTagged,    // <function=f><parameter=a>value</parameter></function>
  kPythonic,  // [f(a="value", b=2), g()]
  kGemma,     // call:f{a:<|"|>value<|"|>,b:2}
  kHarmony    // channels with recipients
};

struct ToolFormat {
  std::string name;
  CallStyle style = CallStyle::kJson;
  std::string section_begin = {};  // around all calls; empty = nothing
  std::string section_end = {};
  std::string call_begin = {};  // around each call
  std::string call_end = {};
  bool list = false;  // kJson: the calls stand in a JSON list
  std::string name_key = "name";
  std::string arguments_key = "arguments";
  std::string separator = {};  // between two calls
  std::string name_end = {};   // kNamed: between name and arguments
  std::string name_cut = {};   // kNamed: the name ends here already, if it is there
  std::string function_open = {};
  std::string function_open_end = {};  // empty: the name ends before white space or a tag
  std::string parameter_open = {};
  std::string parameter_open_end = {};
  std::string value_open = {};  // after white space
  std::string parameter_close = {};
  std::string function_close = {};
  std::string reasoning_open = {};
  std::string reasoning_close = {};
  std::vector<std::string> dropped = {};  // around the answer's text, no part of it

  // What a call begins with; empty: with the brace of a JSON object that is the whole answer.
  const std::string& trigger() const {
    return !section_begin.empty() ? section_begin : !call_begin.empty() ? call_begin : function_open;
  }
  // Everything in it that the model may write by a control token.
  std::vector<std::string> markers() const;
};

// Names for --tool-format.
std::vector<std::string> tool_format_names();
// Throws Error(kUsage) for a name that is none of these.
ToolFormat tool_format(std::string_view name);
// The format that the template of `format` writes calls in, with its tags of reasoning; "generic" where it writes none.
ToolFormat find_tool_format(const ChatFormat& format);

// What a model without a format of its own is told, as a system message.
std::string generic_instructions(const Json& tools);

}  // namespace gsd::chat
