#include "calls.h"

#include <fmt/format.h>

#include <algorithm>
#include <random>

#include "../schema/schema.h"
#include "api_error.h"
#include "fields.h"
#include "gsd/error.h"

namespace gsd::server {
namespace {

// Adds rules for `schema` to `rules`; the first one's name. A schema that a grammar cannot keep becomes any object or
// value, unless the function is strict.
std::string rule_for(const Json& schema, const std::string& name, const char* otherwise, bool strict,
                     std::string& rules) {
  try {
    rules += schema::rules_for(schema, name);
    return name;
  } catch (const Error& e) {
    if (strict) throw ApiError(400, e.what(), "tools");
    return otherwise;
  }
}

chat::FunctionRules function_rules(const Json& function, std::size_t index, bool by_parameter, std::string& rules) {
  const Json& schema = function["parameters"];
  const bool strict = function.value("strict", false);
  chat::FunctionRules out;
  out.name = function["name"].get<std::string>();
  const std::string name = fmt::format("f{}", index);
  if (!by_parameter) {
    out.arguments = rule_for(schema, name, "object", strict, rules);
    return out;
  }
  const Json properties = schema.value("properties", Json::object());
  const Json required = schema.value("required", Json::array());
  if (!properties.is_object()) return out;
  for (const auto& [key, value] : properties.items()) {
    chat::FunctionRules::Parameter p;
    p.name = key;
    p.required = required.is_array() && std::find(required.begin(), required.end(), Json(key)) != required.end();
    Json property = value;
    for (const char* shared : {"$defs", "definitions"}) {  // what its references lead to
      if (property.is_object() && schema.contains(shared)) property[shared] = schema[shared];
    }
    const Json texts = value.is_object() ? value.value("enum", Json::array()) : Json::array();
    p.text = chat::is_text_schema(value);
    const Json type = value.is_object() ? value.value("type", Json()) : Json();
    p.scalar = type == "integer" || type == "number" || type == "boolean";
    if (p.text && texts.is_array()) {
      for (const Json& t : texts) p.texts.push_back(t.is_string() ? t.get<std::string>() : t.dump());
    }
    p.value = rule_for(property, fmt::format("{}p{}", name, out.parameters.size()), "value", strict, rules);
    out.parameters.push_back(std::move(p));
  }
  return out;
}

}  // namespace

CallSupport::CallSupport(const TextModel& model, const chat::ControlTokens& control, chat::ToolFormat format)
    : vocabulary_(model.vocabulary), format_(std::move(format)), template_has_tools_(model.chat->traits().tools) {
  const std::vector<std::string> markers = format_.markers();
  for (const auto& [name, t] : control.tokens()) {
    constexpr std::size_t kLeast = 3;  // shorter ones are no names
    if (name.size() < kLeast || vocabulary_.is_eog(t)) continue;
    for (const std::string& m : markers) {
      if (m.find(name) != std::string::npos) shown_->insert(t);
    }
  }
}

const std::shared_ptr<const TokenTexts>& CallSupport::texts() const {
  std::call_once(texts_made_, [this] {
    const auto piece = [this](Token t) {
      return vocabulary_.piece(t, shown_->contains(t) ? ShowControl::kYes : ShowControl::kNo);
    };
    texts_ = chat::call_texts(vocabulary_.size, piece, vocabulary_.is_eog);
  });
  return texts_;
}

chat::ChatRequest CallSupport::with_tools(const chat::ChatRequest& request) const {
  if (request.tools.is_null() || template_has_tools_) return request;
  chat::ChatRequest out = request;
  const std::string told = chat::generic_instructions(request.tools);
  out.tools = nullptr;
  Json& messages = out.messages;
  if (messages[0]["role"] == "system" || messages[0]["role"] == "developer") {
    messages[0]["content"] = chat::content_text(messages[0]) + "\n\n" + told;
  } else {
    messages.insert(messages.begin(), Json{{"role", "system"}, {"content", told}});
  }
  return out;
}

Grammar CallSupport::grammar(const Conversation& conversation, std::string_view prompt,
                             const std::string& answer_rules) const {
  const bool by_parameter = format_.style == chat::CallStyle::kTagged || format_.style == chat::CallStyle::kPythonic ||
                            format_.style == chat::CallStyle::kGemma;
  const bool answer = !answer_rules.empty();
  // Where reasoning would be left in the text, or the answer has begun, the text is the answer alone.
  const bool alone = answer && (conversation.reasoning == ReasoningFormat::kNone || conversation.chat.continue_final);
  chat::CallGrammarOptions options{.rules = schema::json_rules() + answer_rules,
                                   .answer = answer ? "answer" : "",
                                   .parallel = conversation.parallel_calls,
                                   .from_start = answer || conversation.tool_use == ToolUse::kRequired,
                                   .reasoning_open = chat::opens_reasoning(format_, prompt),
                                   .reasoning_closed = alone || chat::closes_reasoning(format_, prompt)};
  std::vector<chat::FunctionRules> functions;
  for (const Json& tool : conversation.chat.tools)
    functions.push_back(function_rules(tool["function"], functions.size(), by_parameter, options.rules));
  return Grammar(chat::call_grammar(format_, functions, options), texts());
}

ReplyPlan CallSupport::plan(const Conversation& conversation, std::string_view prompt,
                            const std::string& answer_rules) const {
  ReplyPlan out;
  const bool calls = conversation.tool_use != ToolUse::kNone;
  const bool answer = !answer_rules.empty() && conversation.tool_use != ToolUse::kRequired;
  const bool harmony = format_.style == chat::CallStyle::kHarmony;
  const bool reasoning =
      conversation.reasoning != ReasoningFormat::kNone && (harmony || !format_.reasoning_close.empty());
  const bool open = chat::opens_reasoning(format_, prompt);
  out.bound = bound(conversation, open);
  if (!calls && !reasoning && !answer) return out;
  out.format = &format_;
  out.options = {.calls = calls,
                 .reasoning = reasoning,
                 .reasoning_open = open,
                 .json_answer = answer,
                 .tools = conversation.chat.tools};
  if (!calls && !answer) return out;
  out.grammar = grammar(conversation, prompt, answer ? answer_rules : "");
  out.lazy = !answer && conversation.tool_use != ToolUse::kRequired;
  return out;
}

std::optional<chat::ReasoningBound> CallSupport::bound(const Conversation& conversation, bool opened) const {
  if (conversation.reasoning_budget < 0) return std::nullopt;
  if (format_.style == chat::CallStyle::kHarmony)
    refuse("reasoning_budget", "is not supported for this model, whose reasoning is a channel; give reasoning_effort");
  if (format_.reasoning_close.empty()) return std::nullopt;  // there is none to bound
  return chat::ReasoningBound{.open = format_.reasoning_open,
                              .close = format_.reasoning_close,
                              .end = vocabulary_.tokenize(format_.reasoning_close, AddBegin::kNo, ParseControl::kYes),
                              .budget = conversation.reasoning_budget,
                              .opened = opened};
}

std::optional<Constraint> CallSupport::constraint(const ReplyPlan& plan) const {
  std::optional<Constraint> out;
  if (plan.grammar && !plan.lazy) out = plan.grammar->constraint();
  if (plan.grammar && plan.lazy)
    out = chat::lazy_constraint(format_, *plan.grammar, texts(), plan.options.reasoning_open);
  if (plan.bound) out = chat::reasoning_bound(*plan.bound, texts(), std::move(out));
  return out;
}

std::string call_id(const chat::ToolFormat& format) {
  static constexpr std::string_view kDigits = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
  const bool short_id =
      format.name == "mistral" || format.name == "mistral-args";  // nine letters or digits, or its template fails
  std::random_device random;
  std::string out = short_id ? "" : "call_";
  for (int i = 0; i < (short_id ? 9 : 24); ++i) out += kDigits[random() % kDigits.size()];
  return out;
}

}  // namespace gsd::server
