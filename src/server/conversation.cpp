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

Json content_of(const Fields& message) {
  const Json* v = message.find("content");
  return v == nullptr ? Json() : text_content(*v, "messages.content", {"text", "input_text", "output_text"});
}

Json call_of(const Fields& call) {
  const Json* object = call.object("function");
  if (object == nullptr) refuse(call.path("function"), "is missing");
  const Fields function(*object, call.path("function"));
  const Json* arguments = function.find("arguments");
  if (arguments != nullptr && !arguments->is_string() && !arguments->is_object())
    refuse(function.path("arguments"), "must be a text that holds a JSON object");
  const std::string text = arguments == nullptr     ? "{}"
                           : arguments->is_string() ? arguments->get<std::string>()
                                                    : arguments->dump();
  return {{"id", call.text("id")},
          {"type", "function"},
          {"function", {{"name", function.text("name")}, {"arguments", text}}}};
}

Json message_of(const Fields& m) {
  static const std::set<std::string> kRoles{"system", "developer", "user", "assistant", "tool", "function"};
  const std::string role = m.text("role");
  if (!kRoles.contains(role)) refuse("messages.role", "must be system, developer, user, assistant, tool or function");
  Json out{{"role", role}, {"content", content_of(m)}};
  for (const char* name : {"name", "tool_call_id", "reasoning_content"}) {
    if (m.find(name) != nullptr) out[name] = m.text(name);
  }
  const Json* reasoning = m.find("reasoning");
  if (m.find("reasoning_content") == nullptr && reasoning != nullptr && reasoning->is_string())
    out["reasoning_content"] = *reasoning;
  Json calls = Json::array();
  for (const Fields& call : m.objects("tool_calls")) calls.push_back(call_of(call));
  if (const Json* old = m.find("function_call"); old != nullptr)
    calls.push_back(call_of(Fields({{"function", *old}}, m.path("function_call"))));
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

Json messages_of(const Fields& request) {
  const std::vector<Fields> list = request.objects("messages");
  if (list.empty()) refuse("messages", "must be a list of at least one message");
  if (list.size() > kMaxMessages) refuse("messages", fmt::format("may hold at most {} messages", kMaxMessages));
  Json out = Json::array();
  for (const Fields& m : list) out.push_back(message_of(m));
  name_results(out);
  return out;
}

Json tool_of(const Fields& tool) {
  const Json* object = tool.find("function");
  if (object == nullptr || !object->is_object() || tool.text("type", "function") != "function")
    refuse("tools", "must hold tools of type function");
  const Fields function(*object, tool.path("function"));
  const std::string name = function.text("name");
  const bool good = !name.empty() && name.size() <= kMaxName && std::all_of(name.begin(), name.end(), [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '-' || c == '.';
  });
  if (!good)
    refuse("tools.function.name",
           fmt::format("must be letters, digits, '_', '-' and '.', at most {} of them", kMaxName));
  const Json* parameters = function.object("parameters");
  Json f{
      {"name", name},
      {"description", function.text("description")},
      {"parameters", parameters != nullptr ? *parameters : Json{{"type", "object"}, {"properties", Json::object()}}}};
  if (function.json().value("strict", Json()) == true) f["strict"] = true;
  return {{"type", "function"}, {"function", std::move(f)}};
}

Json tools_of(const Fields& request) {
  const std::vector<Fields> list = request.objects("tools");
  if (list.size() > kMaxTools) refuse("tools", fmt::format("may hold at most {} tools", kMaxTools));
  Json out = Json::array();
  std::set<std::string> names;
  for (const Fields& tool : list) {
    out.push_back(tool_of(tool));
    const std::string name = out.back()["function"]["name"];
    if (!names.insert(name).second) refuse("tools.function.name", fmt::format("names '{}' twice", name));
  }
  return out.empty() ? Json() : out;
}

// What tool_choice allows: also leaves only the function it names.
ToolUse tool_use_of(const Fields& request, Json& tools) {
  const Json* choice = request.find("tool_choice");
  if (choice == nullptr) return tools.is_null() ? ToolUse::kNone : ToolUse::kAuto;
  if (choice->is_string()) {
    const std::string word = choice->get<std::string>();
    if (word != "none" && word != "auto" && word != "required")
      refuse("tool_choice", "must be none, auto, required or a function");
    if (word == "required" && tools.is_null()) refuse("tool_choice", "needs tools");
    if (tools.is_null()) return ToolUse::kNone;
    return word == "none" ? ToolUse::kNone : word == "auto" ? ToolUse::kAuto : ToolUse::kRequired;
  }
  const Json* function = choice->is_object() ? Fields(*choice).find("function") : nullptr;
  if (function == nullptr || !function->is_object())
    refuse("tool_choice", "must be none, auto, required or a function");
  const std::string name = Fields(*function, "tool_choice.function").text("name");
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
    const std::string type = Fields(part, field).text("type");
    if (std::find(types.begin(), types.end(), type) == types.end())
      refuse(field, fmt::format("may hold parts of type {} only, not '{}'", *types.begin(), type));
    const Json* text = Fields(part).find("text");
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

Conversation read_conversation(const Json& object, const Conversation& defaults) {
  const Fields request(object);
  Conversation out = defaults;
  out.chat.messages = messages_of(request);
  out.chat.tools = tools_of(request);
  out.tool_use = tool_use_of(request, out.chat.tools);
  if (out.tool_use == ToolUse::kNone) out.chat.tools = nullptr;
  request.read("parallel_tool_calls", out.parallel_calls);
  if (const Json* variables = request.object("chat_template_kwargs"); variables != nullptr) {
    for (const auto& [name, value] : variables->items()) out.chat.variables[name] = value;
  }
  for (const char* name : {"messages", "tools", "add_generation_prompt", "bos_token", "eos_token"}) {
    if (out.chat.variables.contains(name))
      refuse(fmt::format("chat_template_kwargs.{}", name), "has a place of its own");
  }
  if (const std::string effort = request.text("reasoning_effort"); !effort.empty()) {
    out.chat.variables["reasoning_effort"] = effort;
    if (effort == "none") out.chat.variables["enable_thinking"] = false;
  }
  bool thinking = true;
  request.read("enable_thinking", thinking);
  if (request.find("enable_thinking") != nullptr) out.chat.variables["enable_thinking"] = thinking;
  const Json& last = out.chat.messages.back();
  const bool can_go_on = last["role"] == "assistant" && !last.contains("tool_calls");
  bool asked = false;
  request.read("continue_final_message", asked);
  if (asked && !can_go_on) refuse("continue_final_message", "needs a last message of the assistant, without calls");
  out.chat.add_generation_prompt = true;
  request.read("add_generation_prompt", out.chat.add_generation_prompt);
  if (asked && request.find("add_generation_prompt") != nullptr && out.chat.add_generation_prompt)
    refuse("add_generation_prompt", "cannot be true beside continue_final_message");
  bool goes_on = out.chat.add_generation_prompt;
  request.read("continue_final_message", goes_on);
  out.chat.continue_final = can_go_on && goes_on;
  if (const std::string format = request.text("reasoning_format"); !format.empty())
    out.reasoning = parse_reasoning_format(format);
  // llama-server reads the last two.
  for (const char* name : {"reasoning_budget", "reasoning_budget_tokens", "thinking_budget_tokens"})
    request.read(name, out.reasoning_budget, -1, INT32_MAX);
  return out;
}

}  // namespace gsd::server
