#include "messages.h"

#include <fmt/format.h>

#include "fields.h"

namespace gsd::server {
namespace {

using Kind = AnswerItem::Kind;

// Content blocks of one message as messages of a chat: a user's results of calls are messages of their own there.
class Blocks {
 public:
  Blocks(std::string role, Json& messages) : role_(std::move(role)), messages_(messages) {}

  void add(const Json& block) {
    if (!block.is_object()) refuse("messages.content", "must hold objects");
    const Fields f(block, "messages.content");
    const std::string type = f.text("type");
    const bool assistant = role_ == "assistant";
    if (type == "text") {
      if (f.find("text") == nullptr) refuse(f.path("text"), "is missing");
      message_["content"].push_back({{"type", "text"}, {"text", f.text("text")}});
    } else if (type == "tool_result" && !assistant) {
      finish();
      add_result(f);
    } else if (type == "tool_use" && assistant) {
      const Json* input = f.object("input");
      message_["tool_calls"].push_back(
          {{"id", f.text("id")},
           {"type", "function"},
           {"function", {{"name", f.text("name")}, {"arguments", input != nullptr ? input->dump() : "{}"}}}});
    } else if (type == "thinking" && assistant) {
      const std::string before = message_.value("reasoning_content", "");
      message_["reasoning_content"] = before + f.text("thinking");
    } else if (!(type == "redacted_thinking" && assistant)) {  // nothing to a model here
      refuse("messages.content",
             fmt::format("holds a block of type '{}' of the {}, which this server does not support", type, role_));
    }
  }

  void finish() {
    if (message_.empty()) return;
    message_["role"] = role_;
    messages_.push_back(std::exchange(message_, Json::object()));
  }

 private:
  void add_result(const Fields& f) {
    const Json* content = f.find("content");
    messages_.push_back(
        {{"role", "tool"},
         {"tool_call_id", f.text("tool_use_id")},
         {"content", content == nullptr ? Json("") : text_content(*content, f.path("content"), {"text"})}});
  }

  std::string role_;
  Json& messages_;
  Json message_ = Json::object();
};

Json messages_of(const Fields& f) {
  const std::vector<Fields> list = f.objects("messages");
  if (list.empty()) refuse("messages", "must be a list of at least one message");
  Json out = Json::array();
  for (const Fields& fields : list) {
    const std::string role = fields.text("role");
    if (role != "user" && role != "assistant" && role != "system")
      refuse("messages.role", "must be user, assistant or system");
    const Json* content = fields.find("content");
    if (content != nullptr && content->is_string()) {
      out.push_back({{"role", role}, {"content", *content}});
      continue;
    }
    if (content == nullptr || !content->is_array()) refuse("messages.content", "must be a string or a list of blocks");
    Blocks blocks(role, out);
    for (const Json& block : *content) blocks.add(block);
    blocks.finish();
  }
  return out;
}

std::string system_of(const Fields& f) {
  const Json* system = f.find("system");
  if (system == nullptr) return "";
  return chat::content_text({{"content", text_content(*system, "system", {"text"})}});
}

Json tools_of(const Fields& f) {
  Json out = Json::array();
  for (const Fields& t : f.objects("tools")) {
    const std::string type = t.text("type", "custom");
    if (type != "custom")
      refuse("tools", fmt::format("holds a tool of type '{}', which this server does not support", type));
    Json function{{"name", t.text("name")}, {"description", t.text("description")}};
    if (const Json* schema = t.object("input_schema")) function["parameters"] = *schema;
    if (const Json* strict = t.find("strict")) function["strict"] = *strict;
    out.push_back({{"type", "function"}, {"function", std::move(function)}});
  }
  return out;
}

void add_tool_choice(const Fields& f, Json& chat) {
  const Json* choice = f.object("tool_choice");
  if (choice == nullptr) return;
  const Fields c(*choice, "tool_choice");
  const std::string type = c.text("type");
  if (type == "tool") {
    chat["tool_choice"] = {{"type", "function"}, {"function", {{"name", c.text("name")}}}};
  } else if (type == "any") {
    chat["tool_choice"] = "required";
  } else if (type == "auto" || type == "none") {
    chat["tool_choice"] = type;
  } else {
    refuse("tool_choice.type", "must be auto, any, tool or none");
  }
  bool one = false;
  c.read("disable_parallel_tool_use", one);
  if (one) chat["parallel_tool_calls"] = false;
}

void add_thinking(const Fields& f, Json& chat) {
  const Json* thinking = f.object("thinking");
  if (thinking == nullptr) return;
  const Fields t(*thinking, "thinking");
  const std::string type = t.text("type");
  if (type != "enabled" && type != "disabled" && type != "adaptive")
    refuse("thinking.type", "must be enabled, disabled or adaptive");
  chat["enable_thinking"] = type != "disabled";
  if (const Json* budget = t.find("budget_tokens"); budget != nullptr && type == "enabled")
    chat["reasoning_budget"] = *budget;
}

// How much thought, and which form, the answer is to have.
void add_output_config(const Fields& f, Json& chat) {
  const Json* format = f.object("output_format");
  if (const Json* config = f.object("output_config")) {
    const Fields c(*config, "output_config");
    if (const Json* effort = c.find("effort")) chat["reasoning_effort"] = *effort;
    if (const Json* inner = c.object("format")) format = inner;
  }
  if (format == nullptr) return;
  const Fields o(*format, "output_config.format");
  if (o.text("type") != "json_schema" || o.find("schema") == nullptr)
    refuse("output_config.format", "must be of type json_schema, with a schema");
  chat["response_format"] = {{"type", "json_schema"}, {"json_schema", {{"schema", *o.find("schema")}}}};
}

void refuse_unsupported(const Fields& f) {
  f.refuse_unsupported({"mcp_servers", "container", "speed", "fallbacks"});
  f.only("service_tier", {"auto", "standard_only"});
  if (const Json* management = f.object("context_management")) {
    const Fields m(*management, "context_management");
    if (const Json* edits = m.list("edits")) {
      for (const Json& e : *edits) {  // thoughts stay as long as the client sends them
        const bool keeps =
            e.is_object() && e.value("type", Json()) == "clear_thinking_20251015" && e.value("keep", Json()) == "all";
        if (!keeps) refuse(m.path("edits"), "would change the conversation, which this server does not support");
      }
    }
  }
}

}  // namespace

Json messages_to_chat(const Json& body) {
  const Fields f(body);
  refuse_unsupported(f);
  Json out = body;  // further fields mean what they mean in chats
  for (const char* name : {"system", "stop_sequences", "thinking", "output_format", "output_config", "tool_choice"})
    out.erase(name);
  out["messages"] = with_system(messages_of(f), system_of(f));
  out["tools"] = tools_of(f);
  if (const Json* stops = f.list("stop_sequences")) out["stop"] = *stops;
  add_tool_choice(f, out);
  add_thinking(f, out);
  add_output_config(f, out);
  return out;
}

std::string anthropic_error_json(const ApiError& e) {
  const char* type = e.status() == 401   ? "authentication_error"
                     : e.status() == 403 ? "permission_error"
                     : e.status() == 404 ? "not_found_error"
                     : e.status() == 413 ? "request_too_large"
                     : e.status() == 503 ? "overloaded_error"
                     : e.status() >= 500 ? "api_error"
                                         : "invalid_request_error";
  return print({{"type", "error"}, {"error", {{"type", type}, {"message", e.what()}}}});
}

// --- Answers ---------------------------------------------------------------------------------------------------------

namespace {

// Arguments that were cut off are no JSON: then the block has none, and the stop reason says why.
Json block_json(const AnswerItem& item) {
  if (item.kind == Kind::kText) return {{"type", "text"}, {"text", item.text}};
  if (item.kind == Kind::kReasoning) return {{"type", "thinking"}, {"thinking", item.text}, {"signature", ""}};
  Json input = Json::parse(item.text, nullptr, false);
  if (!input.is_object()) input = Json::object();
  return {{"type", "tool_use"}, {"id", item.id}, {"name", item.name}, {"input", std::move(input)}};
}

Json stop_reason(const Answer& a) {
  switch (a.outcome.finish) {
    case FinishReason::kLength:
    case FinishReason::kContextFull:
      return "max_tokens";
    case FinishReason::kNone:
      return nullptr;
    default:
      return a.has_calls() ? "tool_use" : a.stop.empty() ? "end_turn" : "stop_sequence";
  }
}

// Tokens of the prompt that were computed before count apart.
Json usage_json(const Outcome& o) {
  return {{"input_tokens", o.n_prompt - o.n_reused},
          {"cache_creation_input_tokens", 0},
          {"cache_read_input_tokens", o.n_reused},
          {"output_tokens", o.stats.emitted}};
}

Json stop_json(const Answer& a) {
  return {{"stop_reason", stop_reason(a)}, {"stop_sequence", a.stop.empty() ? Json() : Json(a.stop)}};
}

}  // namespace

Json MessageWriter::message(const Json& content, const Json& usage) const {
  return {{"id", id_},          {"type", "message"},      {"role", "assistant"},      {"model", model_.id},
          {"content", content}, {"stop_reason", nullptr}, {"stop_sequence", nullptr}, {"usage", usage}};
}

void MessageWriter::begin(const Answers& answers, std::string& out) {
  Outcome before;
  before.n_prompt = answers.n_prompt[0];
  out += event("message_start", {{"type", "message_start"}, {"message", message(Json::array(), usage_json(before))}});
  out += event("ping", {{"type", "ping"}});
}

void MessageWriter::open(const AnswerItem& item, std::size_t index, std::string& out) {
  AnswerItem empty = item;
  empty.text.clear();
  out += event("content_block_start",
               {{"type", "content_block_start"}, {"index", index}, {"content_block", block_json(empty)}});
}

void MessageWriter::more(const AnswerItem& item, std::size_t index, const std::string& text, std::string& out) {
  const Json delta = item.kind == Kind::kCall        ? Json{{"type", "input_json_delta"}, {"partial_json", text}}
                     : item.kind == Kind::kReasoning ? Json{{"type", "thinking_delta"}, {"thinking", text}}
                                                     : Json{{"type", "text_delta"}, {"text", text}};
  out += event("content_block_delta", {{"type", "content_block_delta"}, {"index", index}, {"delta", delta}});
}

void MessageWriter::close(const Answer& /*answer*/, std::size_t index, std::string& out) {
  out += event("content_block_stop", {{"type", "content_block_stop"}, {"index", index}});
}

void MessageWriter::finish(const Answers& answers, std::string& out) {
  const Answer& a = answers.choices[0];
  if (a.outcome.error || a.outcome.finish == FinishReason::kNone) return fail(failure(a.outcome), out);
  out += event("message_delta", {{"type", "message_delta"}, {"delta", stop_json(a)}, {"usage", usage_json(a.outcome)}});
  out += event("message_stop", {{"type", "message_stop"}});
}

void MessageWriter::fail(const ApiError& error, std::string& out) {
  out += "event: error\n" + event(anthropic_error_json(error));
}

std::string MessageWriter::whole(const Answers& answers) {
  const Answer& a = answers.choices[0];
  if (a.outcome.error || a.outcome.finish == FinishReason::kNone) throw failure(a.outcome);
  Json content = Json::array();
  for (const AnswerItem& i : a.items) content.push_back(block_json(i));
  Json out = message(content, usage_json(a.outcome));
  out.update(stop_json(a));
  return print(out);
}

}  // namespace gsd::server
