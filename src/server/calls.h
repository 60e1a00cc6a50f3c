// Calls of functions and reasoning in answers: what a request needs of them beside its prompt.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string_view>
#include <unordered_set>

#include "../chat/call_grammar.h"
#include "../chat/control_tokens.h"
#include "../chat/reasoning_budget.h"
#include "../chat/reply.h"
#include "conversation.h"
#include "gsd/grammar.h"
#include "text_model.h"

namespace gsd::server {

// How one request's answers are taken apart. Empty: they are text.
struct ReplyPlan {
  const chat::ToolFormat* format = nullptr;
  chat::ReplyOptions options;
  std::optional<Grammar> grammar;  // of calls and of what response_format asks for, over the texts of CallSupport
  bool lazy = false;               // it takes hold where a call begins
  std::optional<chat::ReasoningBound> bound;
};

// Of one server; immutable: any thread may use it.
class CallSupport {
 public:
  // `format` as find_tool_format gives it, or another one that was asked for. The model must outlive the object.
  CallSupport(const TextModel& model, const chat::ControlTokens& control, chat::ToolFormat format);

  const chat::ToolFormat& format() const { return format_; }
  // Control tokens whose names the answer's parser must see.
  const std::unordered_set<Token>& shown() const { return *shown_; }
  std::shared_ptr<const std::unordered_set<Token>> shared_shown() const { return shown_; }

  // What the template is given: for one that does not write tools, a system message tells of them.
  chat::ChatRequest with_tools(const chat::ChatRequest& request) const;
  // `prompt`: the rendered text. `answer_rules`: what response_format asks for (json_schema.h); empty: any text. Beside
  // tools the answer, after the reasoning, is calls or that. Throws ApiError(400) for a schema that cannot be kept
  // where the function is strict, and for a bound on reasoning that is not written between tags, Error(kGrammar).
  ReplyPlan plan(const Conversation& conversation, std::string_view prompt, const std::string& answer_rules) const;
  // A state of its own for each answer; nothing where the plan has neither a grammar nor a bound.
  std::optional<Constraint> constraint(const ReplyPlan& plan) const;

 private:
  Grammar grammar(const Conversation& conversation, std::string_view prompt, const std::string& answer_rules) const;
  std::optional<chat::ReasoningBound> bound(const Conversation& conversation, bool opened) const;

  const std::shared_ptr<const TokenTexts>& texts() const;

  const Vocabulary& vocabulary_;
  chat::ToolFormat format_;
  bool template_has_tools_;
  std::shared_ptr<std::unordered_set<Token>> shown_ = std::make_shared<std::unordered_set<Token>>();
  mutable std::once_flag texts_made_;
  mutable std::shared_ptr<const TokenTexts> texts_;  // made by the first request with tools
};

// An identifier for a call, as long as the format's templates want it.
std::string call_id(const chat::ToolFormat& format);

}  // namespace gsd::server
