#include "conversation.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "fields.h"

namespace gsd::server {
namespace {

constexpr std::size_t kMaxMessages = 4096;
constexpr std::size_t kMaxTools = 512;
constexpr std::size_t kMaxName = 128;

// Null counts as absent.
const Json* find(const Json& object, const char* name) {
  const auto at = object.find(name);
  return at == object.end() || at->is_null() ? nullptr : &*at;
}

std::string text_field(const Json& object, const char* name, const std::string& path, const std::string& absent = {}) {
  const Json* v = find(object, name);
  if (v == nullptr) return absent;
  if (!v->is_string()) refuse(path + name, "must be a string");
  return v->get<std::string>();
}

bool flag(const Json& object, const char* name, bool absent) {
  const Json* v = find(object, name);
  if (v == nullptr) return absent;
  if (!v->is_boolean()) refuse(name, "must be true or false");
  return v->get<bool>();
}

Json content_of(const Json& message) {
  const Json* v = find(message, "content");
  return v == nullptr ? Json() : text_content(*v, "messages.content", {"text", "input_text", "output_text"});
}

Json call_of(const Json& call, const std::string& path) {
  if (!call.is_object()) refuse(path, "must hold objects");
  const Json* function = find(call, "function");
  if (function == nullptr || !function->is_object()) refuse(path + ".function", "is missing");
  const Json* arguments = find(*function, "arguments");
  if (arguments != nullptr && !arguments->is_string() && !arguments->is_object())
    refuse(path + ".function.arguments", "must be a text that holds a JSON object");
  const std::string text = arguments == nullptr     ? "{}"
                           : arguments->is_string() ? arguments->get<std::string>()
                                                    : arguments->dump();
  return {{"id", text_field(call, "id", path + ".")},
          {"type", "function"},
          {"function", {{"name", text_field(*function, "name", path + ".function.")}, {"arguments", text}}}};
}

Json message_of(const Json& m) {
  static const std::set<std::string> kRoles{"system", "developer", "user", "assistant", "tool", "function"};
  if (!m.is_object()) refuse("messages", "must hold objects");
  const std::string role = text_field(m, "role", "messages.");
  if (!kRoles.contains(role)) refuse("messages.role", "must be system, developer, user, assistant, tool or function");
  Json out{{"role", role}, {"content", content_of(m)}};
  for (const char* name : {"name", "tool_call_id", "reasoning_content"}) {
    if (find(m, name) != nullptr) out[name] = text_field(m, name, "messages.");
  }
  if (find(m, "reasoning_content") == nullptr && find(m, "reasoning") != nullptr && m["reasoning"].is_string())
    out["reasoning_content"] = m["reasoning"];
  Json calls = Json::array();
  if (const Json* list = find(m, "tool_calls"); list != nullptr) {
    if (!list->is_array()) refuse("messages.tool_calls", "must be a list");
    for (const Json& call : *list) calls.push_back(call_of(call, "messages.tool_calls"));
  }
  if (const Json* old = find(m, "function_call"); old != nullptr)
    calls.push_back(call_of({{"function", *old}}, "messages.function_call"));
  if (!calls.empty() && role != "assistant")
    refuse("messages.tool_calls", "may stand in messages of the assistant only");
  if (!calls.empty()) out["tool_calls"] = std::move(calls);
  return out;
}

// Results of calls get the function's name, which some templates write.
void name_results(Json& messages) {
  std::vector<std::pair<std::string, std::string>> calls;  // id, name
  for (Json& m : messages) {
    for (const Json& call : m.value("tool_calls", Json::array()))
      calls.emplace_back(call["id"].get<std::string>(), call["function"]["name"].get<std::string>());
    if (m["role"] != "tool" || m.contains("name") || !m.contains("tool_call_id")) continue;
    const auto known =
        std::find_if(calls.rbegin(), calls.rend(), [&](const auto& c) { return Json(c.first) == m["tool_call_id"]; });
    if (known != calls.rend()) m["name"] = known->second;
  }
}

Json messages_of(const Json& request) {
  const Json* list = find(request, "messages");
  if (list == nullptr || !list->is_array() || list->empty())
    refuse("messages", "must be a list of at least one message");
  if (list->size() > kMaxMessages) refuse("messages", fmt::format("may hold at most {} messages", kMaxMessages));
  Json out = Json::array();
  for (const Json& m : *list) out.push_back(message_of(m));
  name_results(out);
  return out;
}

Json tools_of(const Json& request) {
  const Json* list = find(request, "tools");
  if (list == nullptr) return {};
  if (!list->is_array()) refuse("tools", "must be a list");
  if (list->size() > kMaxTools) refuse("tools", fmt::format("may hold at most {} tools", kMaxTools));
  Json out = Json::array();
  std::set<std::string> names;
  for (const Json& tool : *list) {
    const Json* function = tool.is_object() ? find(tool, "function") : nullptr;
    if (function == nullptr || !function->is_object() || tool.value("type", Json("function")) != "function")
      refuse("tools", "must hold tools of type function");
    const std::string name = text_field(*function, "name", "tools.function.");
    const bool good = !name.empty() && name.size() <= kMaxName && std::all_of(name.begin(), name.end(), [](char c) {
      return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '-' || c == '.';
    });
    if (!good)
      refuse("tools.function.name",
             fmt::format("must be letters, digits, '_', '-' and '.', at most {} of them", kMaxName));
    if (!names.insert(name).second) refuse("tools.function.name", fmt::format("names '{}' twice", name));
    const Json* parameters = find(*function, "parameters");
    if (parameters != nullptr && !parameters->is_object()) refuse("tools.function.parameters", "must be a JSON schema");
    Json f{
        {"name", name},
        {"description", text_field(*function, "description", "tools.function.")},
        {"parameters", parameters != nullptr ? *parameters : Json{{"type", "object"}, {"properties", Json::object()}}}};
    if (function->value("strict", Json()) == true) f["strict"] = true;
    out.push_back({{"type", "function"}, {"function", std::move(f)}});
  }
  return out.empty() ? Json() : out;
}

// What tool_choice allows: also leaves only the function it names.
ToolUse tool_use_of(const Json& request, Json& tools) {
  const Json* choice = find(request, "tool_choice");
  if (choice == nullptr) return tools.is_null() ? ToolUse::kNone : ToolUse::kAuto;
  if (choice->is_string()) {
    const std::string word = choice->get<std::string>();
    if (word != "none" && word != "auto" && word != "required")
      refuse("tool_choice", "must be none, auto, required or a function");
    if (word == "required" && tools.is_null()) refuse("tool_choice", "needs tools");
    if (tools.is_null()) return ToolUse::kNone;
    return word == "none" ? ToolUse::kNone : word == "auto" ? ToolUse::kAuto : ToolUse::kRequired;
  }
  const Json* function = choice->is_object() ? find(*choice, "function") : nullptr;
  if (function == nullptr || !function->is_object())
    refuse("tool_choice", "must be none, auto, required or a function");
  const std::string name = text_field(*function, "name", "tool_choice.function.");
  Json only = Json::array();
  for (const Json& tool : tools) {
    if (tool["function"]["name"] == name) only.push_back(tool);
  }
  if (only.empty()) refuse("tool_choice.function.name", fmt::format("names '{}', which is none of the tools", name));
  tools = std::move(only);
  return ToolUse::kRequired;
}

}  // namespace

ReasoningFormat parse_reasoning_format(const std::string& name) {
  if (name == "none") return ReasoningFormat::kNone;
  if (name == "auto" || name == "deepseek") return ReasoningFormat::kDeepSeek;
  refuse("reasoning_format", "must be none, auto or deepseek");
}

Json text_content(const Json& content, const std::string& field, std::initializer_list<std::string_view> types) {
  if (content.is_string()) return content;
  if (!content.is_array()) refuse(field, "must be a string or a list of parts");
  Json out = Json::array();
  for (const Json& part : content) {
    if (!part.is_object()) refuse(field, "must hold objects");
    const std::string type = text_field(part, "type", field + ".");
    if (std::find(types.begin(), types.end(), type) == types.end())
      refuse(field, fmt::format("may hold parts of type {} only, not '{}'", *types.begin(), type));
    const Json* text = find(part, "text");
    if (text == nullptr || !text->is_string()) refuse(field + ".text", "must be a string");
    out.push_back({{"type", "text"}, {"text", *text}});
  }
  return out;
}

Json with_system(Json messages, const std::string& text) {
  if (text.empty()) return messages;
  if (!messages.empty() && (messages[0]["role"] == "system" || messages[0]["role"] == "developer")) {
    messages[0]["content"] = text + "\n\n" + chat::content_text(messages[0]);
  } else {
    messages.insert(messages.begin(), Json{{"role", "system"}, {"content", text}});
  }
  return messages;
}

Conversation read_conversation(const Json& request, const Conversation& defaults) {
  Conversation out = defaults;
  out.chat.messages = messages_of(request);
  out.chat.tools = tools_of(request);
  out.tool_use = tool_use_of(request, out.chat.tools);
  if (out.tool_use == ToolUse::kNone) out.chat.tools = nullptr;
  out.parallel_calls = flag(request, "parallel_tool_calls", defaults.parallel_calls);
  if (const Json* variables = find(request, "chat_template_kwargs"); variables != nullptr) {
    if (!variables->is_object()) refuse("chat_template_kwargs", "must be an object");
    for (const auto& [name, value] : variables->items()) out.chat.variables[name] = value;
  }
  for (const char* name : {"messages", "tools", "add_generation_prompt", "bos_token", "eos_token"}) {
    if (out.chat.variables.contains(name))
      refuse(fmt::format("chat_template_kwargs.{}", name), "has a place of its own");
  }
  if (const std::string effort = text_field(request, "reasoning_effort", ""); !effort.empty()) {
    out.chat.variables["reasoning_effort"] = effort;
    if (effort == "none") out.chat.variables["enable_thinking"] = false;
  }
  if (find(request, "enable_thinking") != nullptr)
    out.chat.variables["enable_thinking"] = flag(request, "enable_thinking", true);
  const Json& last = out.chat.messages.back();
  const bool can_go_on = last["role"] == "assistant" && !last.contains("tool_calls");
  const bool asked = flag(request, "continue_final_message", false);
  if (asked && !can_go_on) refuse("continue_final_message", "needs a last message of the assistant, without calls");
  out.chat.add_generation_prompt = flag(request, "add_generation_prompt", true);
  if (asked && find(request, "add_generation_prompt") != nullptr && out.chat.add_generation_prompt)
    refuse("add_generation_prompt", "cannot be true beside continue_final_message");
  out.chat.continue_final = can_go_on && flag(request, "continue_final_message", out.chat.add_generation_prompt);
  if (const std::string format = text_field(request, "reasoning_format", ""); !format.empty())
    out.reasoning = parse_reasoning_format(format);
  // llama-server reads the last two.
  for (const char* name : {"reasoning_budget", "reasoning_budget_tokens", "thinking_budget_tokens"})
    Fields(request).read(name, out.reasoning_budget, -1, INT32_MAX);
  return out;
}

}  // namespace gsd::server
