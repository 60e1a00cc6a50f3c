// A conversation to the text that a model continues.
#pragma once

#include <ctime>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "jinja.h"
#include "marked_text.h"

namespace gsd::chat {

struct ChatRequest {
  // A list of OpenAI's messages: role, content (text, a list of parts {"type": "text", "text"}, or null), name,
  // reasoning_content, tool_call_id, tool_calls with "arguments" as text. Roles must have been checked.
  Json messages = Json::array();
  Json tools;                       // a list of OpenAI's tools, or null
  Json variables = Json::object();  // further ones for the template (chat_template_kwargs)
  bool add_generation_prompt = true;
  bool continue_final = false;  // the last message, the assistant's, goes on: nothing may come after its text
};

// What a template is asked for by a trial, before the first request.
struct TemplateTraits {
  bool system_role = true;        // otherwise a system message is written before the first of the user's
  bool text_content = true;       // otherwise content is given as a list of parts
  bool consecutive_roles = true;  // otherwise neighbouring messages of one role are joined
  bool object_arguments = true;   // arguments of calls are given as an object, otherwise as text
  bool null_content = true;       // of a message with calls; otherwise ""
  bool tools = false;             // they are written
  bool calls = true;              // they are written; otherwise given as text
  std::string call;               // how a call of `probe_function` with `probe_argument` = "probe value" is written
};

// Any thread may call the const functions.
class ChatFormat {
 public:
  virtual ~ChatFormat() = default;
  // Throws Error(kModelUnsupported) with a sentence for people where the conversation, or any one, cannot be rendered.
  virtual Rendered render(const ChatRequest& request) const = 0;
  virtual std::string source() const = 0;   // the template's text, or its name
  virtual std::string problem() const = 0;  // why it can render nothing at all; empty if it can
  virtual TemplateTraits traits() const = 0;
};

class JinjaFormat : public ChatFormat {
 public:
  // `bos`, `eos`: texts of the model's tokens. Does not throw for a bad template: problem() tells.
  JinjaFormat(
      std::string source, std::string bos, std::string eos,
      std::function<std::time_t()> clock = [] { return std::time(nullptr); });

  Rendered render(const ChatRequest& request) const override;
  std::string source() const override { return source_; }
  std::string problem() const override { return problem_; }
  TemplateTraits traits() const override { return traits_; }

 private:
  Rendered plain(const Json& messages, const Json& tools, const Json& variables, bool add_generation_prompt) const;
  std::string trial(const Json& messages, const Json& tools = {}, bool add_generation_prompt = true) const;
  bool keeps(const Json& messages, const std::string& words, const Json& tools = {}) const;
  void probe();
  void probe_calls();
  Json fitted(const Json& messages) const;

  std::string source_;
  std::string bos_;
  std::string eos_;
  std::function<std::time_t()> clock_;
  std::optional<JinjaTemplate> template_;
  std::string problem_;
  TemplateTraits traits_;
};

// A format that is known by a function over plain texts alone (one of libllama's names). `apply` gets roles and
// contents.
class NamedFormat : public ChatFormat {
 public:
  using Apply =
      std::function<std::string(const std::vector<std::pair<std::string, std::string>>& messages, bool add_assistant)>;
  // Throws what `apply` throws if it does not know its format.
  NamedFormat(std::string name, Apply apply);

  Rendered render(const ChatRequest& request) const override;
  std::string source() const override { return name_; }
  std::string problem() const override { return ""; }
  TemplateTraits traits() const override { return {}; }

 private:
  std::string name_;
  Apply apply_;
  bool trims_ = false;
};

// The text of a message's content: a text, parts of type text joined, or null = "".
std::string content_text(const Json& message);

}  // namespace gsd::chat
