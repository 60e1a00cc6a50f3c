#include "tool_format.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "gsd/error.h"

namespace gsd::chat {
namespace {

// A template that writes a call with `written` in it uses this format; the first that fits counts.
struct Known {
  ToolFormat format;
  std::string written;
};

const std::vector<Known>& known() {
  static const std::vector<Known> all{
      {{.name = "harmony", .style = CallStyle::kHarmony}, "to=functions.probe_function"},
      {{.name = "kimi",
        .style = CallStyle::kNamed,
        .section_begin = "<|tool_calls_section_begin|>",
        .section_end = "<|tool_calls_section_end|>",
        .call_begin = "<|tool_call_begin|>functions.",
        .call_end = "<|tool_call_end|>",
        .name_end = "<|tool_call_argument_begin|>",
        .name_cut = ":"},
       "<|tool_call_begin|>functions.probe_function"},
      {{.name = "deepseek-r1",
        .style = CallStyle::kNamed,
        .section_begin = "<｜tool▁calls▁begin｜>",
        .section_end = "<｜tool▁calls▁end｜>",
        .call_begin = "<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
        .call_end = "\n```<｜tool▁call▁end｜>",
        .name_end = "\n```json\n"},
       "<｜tool▁call▁begin｜>function<｜tool▁sep｜>probe_function"},
      {{.name = "deepseek",
        .style = CallStyle::kNamed,
        .section_begin = "<｜tool▁calls▁begin｜>",
        .section_end = "<｜tool▁calls▁end｜>",
        .call_begin = "<｜tool▁call▁begin｜>",
        .call_end = "<｜tool▁call▁end｜>",
        .name_end = "<｜tool▁sep｜>"},
       "<｜tool▁call▁begin｜>probe_function<｜tool▁sep｜>"},
      {{.name = "mistral-args",
        .style = CallStyle::kNamed,
        .call_begin = "[TOOL_CALLS]",
        .name_end = "[ARGS]",
        .name_cut = "[CALL_ID]"},
       "[TOOL_CALLS]probe_function"},
      {{.name = "mistral", .section_begin = "[TOOL_CALLS]", .list = true}, "[TOOL_CALLS]["},
      {{.name = "granite", .section_begin = "<|tool_call|>", .list = true}, "<|tool_call|>["},
      {{.name = "command-r",
        .section_begin = "<|START_ACTION|>",
        .section_end = "<|END_ACTION|>",
        .list = true,
        .name_key = "tool_name",
        .arguments_key = "parameters",
        .dropped = {"<|START_RESPONSE|>", "<|END_RESPONSE|>"}},
       "<|START_ACTION|>["},
      {{.name = "nemotron", .section_begin = "<TOOLCALL>", .section_end = "</TOOLCALL>", .list = true}, "<TOOLCALL>["},
      {{.name = "lfm2",
        .style = CallStyle::kPythonic,
        .section_begin = "<|tool_call_start|>",
        .section_end = "<|tool_call_end|>"},
       "<|tool_call_start|>["},
      {{.name = "gemma", .style = CallStyle::kGemma, .call_begin = "<|tool_call>call:", .call_end = "<tool_call|>"},
       "<|tool_call>call:probe_function"},
      {{.name = "minimax",
        .style = CallStyle::kTagged,
        .section_begin = "<minimax:tool_call>",
        .section_end = "</minimax:tool_call>",
        .function_open = "<invoke name=\"",
        .function_open_end = "\">",
        .parameter_open = "<parameter name=\"",
        .parameter_open_end = "\">",
        .parameter_close = "</parameter>",
        .function_close = "</invoke>"},
       "<invoke name=\"probe_function\">"},
      {{.name = "seed",
        .style = CallStyle::kTagged,
        .call_begin = "<seed:tool_call>",
        .call_end = "</seed:tool_call>",
        .function_open = "<function=",
        .function_open_end = ">",
        .parameter_open = "<parameter=",
        .parameter_open_end = ">",
        .parameter_close = "</parameter>",
        .function_close = "</function>"},
       "<seed:tool_call>"},
      {{.name = "qwen3-coder",
        .style = CallStyle::kTagged,
        .call_begin = "<tool_call>",
        .call_end = "</tool_call>",
        .function_open = "<function=",
        .function_open_end = ">",
        .parameter_open = "<parameter=",
        .parameter_open_end = ">",
        .parameter_close = "</parameter>",
        .function_close = "</function>"},
       "<function=probe_function>"},
      {{.name = "glm",
        .style = CallStyle::kTagged,
        .call_begin = "<tool_call>",
        .call_end = "</tool_call>",
        .parameter_open = "<arg_key>",
        .parameter_open_end = "</arg_key>",
        .value_open = "<arg_value>",
        .parameter_close = "</arg_value>"},
       "<arg_key>probe_argument</arg_key>"},
      {{.name = "hermes", .call_begin = "<tool_call>", .call_end = "</tool_call>"}, "<tool_call>"},
      {{.name = "llama3-python-tag", .call_begin = "<|python_tag|>", .arguments_key = "parameters", .separator = ";"},
       "<|python_tag|>{"},
      {{.name = "llama3", .arguments_key = "parameters"}, "\"parameters\":"},
      {{.name = "generic"}, ""},
  };
  return all;
}

struct ReasoningTags {
  std::string open;
  std::string close;
};

ReasoningTags find_reasoning(const std::string& source) {
  static const std::vector<ReasoningTags> all{{"<seed:think>", "</seed:think>"},
                                              {"[THINK]", "[/THINK]"},
                                              {"<|START_THINKING|>", "<|END_THINKING|>"},
                                              {"<|channel>thought\n", "<channel|>"},
                                              {"<think>", "</think>"}};
  for (const ReasoningTags& t : all) {
    if (source.find(t.open.back() == '\n' ? t.open.substr(0, t.open.size() - 1) : t.open) != std::string::npos)
      return t;
  }
  // Templates of models that open it by themselves name only its end.
  return source.find("</think>") != std::string::npos ? all.back() : ReasoningTags{};
}

}  // namespace

std::vector<std::string> ToolFormat::markers() const {
  if (style == CallStyle::kHarmony)
    return {"<|channel|>", "<|message|>", "<|start|>", "<|end|>", "<|call|>", "<|return|>", "<|constrain|>"};
  std::vector<std::string> out = dropped;
  for (const std::string* s :
       {&section_begin, &section_end, &call_begin, &call_end, &name_end, &name_cut, &function_open, &parameter_open,
        &parameter_open_end, &value_open, &parameter_close, &function_close, &reasoning_open, &reasoning_close}) {
    if (!s->empty()) out.push_back(*s);
  }
  if (style == CallStyle::kGemma) out.emplace_back("<|\"|>");
  return out;
}

std::vector<std::string> tool_format_names() {
  std::vector<std::string> out;
  for (const Known& k : known()) out.push_back(k.format.name);
  return out;
}

ToolFormat tool_format(std::string_view name) {
  for (const Known& k : known()) {
    if (k.format.name == name) return k.format;
  }
  throw Error(ErrorCode::kUsage, fmt::format("There is no tool format '{}'; the formats are {}.", name,
                                             fmt::join(tool_format_names(), ", ")));
}

ToolFormat find_tool_format(const ChatFormat& format) {
  ToolFormat out;
  const TemplateTraits traits = format.traits();
  const std::string source = format.source();
  for (const Known& k : known()) {
    // gpt-oss's template is known by its channels even where it writes no call.
    const bool fits = k.written.empty() || (traits.tools && traits.call.find(k.written) != std::string::npos) ||
                      (k.format.style == CallStyle::kHarmony && source.find("<|channel|>") != std::string::npos);
    if (!fits) continue;
    out = k.format;
    break;
  }
  // Some templates tell how to call and write earlier calls as the text they came in.
  const auto says = [&](const char* words) { return source.find(words) != std::string::npos; };
  if (out.name == "generic" && traits.tools && says("<tool_call>") && says("arguments")) out = tool_format("hermes");
  if (out.style == CallStyle::kHarmony) return out;
  const ReasoningTags tags = find_reasoning(source);
  out.reasoning_open = tags.open;
  out.reasoning_close = tags.close;
  return out;
}

std::string generic_instructions(const Json& tools) {
  std::string out = "You can call these functions:\n";
  for (const Json& tool : tools) out += tool["function"].dump() + "\n";
  return out +
         "To call one, answer with nothing but a JSON object {\"name\": the function's name, \"arguments\": {…}}.";
}

}  // namespace gsd::chat
