// The endpoints, without HTTP: request bodies to response bodies.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "../chat/control_tokens.h"
#include "../core/utf8.h"
#include "calls.h"
#include "generation.h"
#include "json_schema.h"
#include "metrics.h"
#include "request.h"
#include "scheduler.h"
#include "text_model.h"

namespace gsd::server {

// The body of an error in OpenAI's shape.
std::string error_json(const ApiError& error);

// One accepted completion request. Used by one HTTP thread; the model's thread feeds it. Destroying it, or cancel(),
// ends the generation with the step in progress.
class Call {
 public:
  // Submits the jobs. Throws ApiError(503) if the queue is full, ApiError(400) if it could never hold them.
  // `support` and what `plan` says of the answers' parts: of chats; null and empty otherwise.
  Call(const TextModel& model, Scheduler& scheduler, CompletionRequest request, std::vector<std::vector<Token>> prompts,
       const CallSupport* support, ReplyPlan plan);
  ~Call() { cancel(); }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  bool stream() const { return request_.stream; }
  bool finished() const { return n_finished_ == choices_.size(); }
  void cancel() { *cancelled_ = true; }

  // Waits until something happens, at most that long, and takes it in. Of a stream it returns the bytes to send,
  // with "[DONE]" once it is finished.
  std::string advance(std::chrono::milliseconds timeout);
  // The whole answer. REQUIRES: finished. Throws ApiError if a choice failed.
  std::string response() const;

 private:
  // Where a token begins in the text, in characters; one that goes on with a character begins where that does.
  class TextOffset {
   public:
    std::size_t next(std::string_view bytes);

   private:
    Utf8Buffer utf8_;
    std::size_t at_ = 0;
  };

  struct FunctionCall {
    std::string id;
    std::string name;
    std::string arguments;
  };

  struct Choice {
    std::string text;
    std::string reasoning;
    std::vector<FunctionCall> calls;
    std::unique_ptr<chat::ReplyParser> parser;  // null: all is text
    TextOffset offset;                          // of a stream's next token
    bool finished = false;
    std::vector<TokenReport> tokens;
    bool greeted = false;  // the chunk with the role was sent
    Outcome outcome;
    std::string stop;
  };

  void take(Event& e, std::string& out);
  void give_up(std::string& out);
  Json head(const char* object) const;
  Json delta(Choice& c, const Event& e, std::uint32_t index);
  Json parts_of(Choice& c, const std::string& text, bool last);
  Json message(const Choice& c) const;
  Json logprobs(const std::vector<TokenReport>& tokens, TextOffset& offset) const;
  Json usage() const;
  Json timings() const;
  Json finish_reason(const Choice& c) const;
  void send(std::string& out, const Json& chunk) const;

  const TextModel& model_;
  CompletionRequest request_;
  const CallSupport* support_;
  ReplyPlan plan_;
  bool chat_;
  std::shared_ptr<Channel> channel_;
  std::shared_ptr<std::atomic<bool>> cancelled_ = std::make_shared<std::atomic<bool>>(false);
  std::string id_;
  std::int64_t created_;
  std::vector<Choice> choices_;
  std::size_t n_finished_ = 0;
};

struct ApiOptions {
  RequestDefaults defaults;
  bool exact = false;
  bool strict_model = false;                    // requests that name another model are refused
  std::optional<chat::ToolFormat> tool_format;  // otherwise found by a trial
  std::string version;
};

// All functions may be called from any thread. Those that take a body throw ApiError.
class Api {
 public:
  // The references must outlive the object.
  Api(const TextModel& model, Scheduler& scheduler, Metrics& metrics, ApiOptions options)
      : model_(model),
        scheduler_(scheduler),
        metrics_(metrics),
        options_(std::move(options)),
        control_(model.vocabulary),
        calls_(model, control_, options_.tool_format ? *options_.tool_format : chat::find_tool_format(*model.chat)) {}

  std::unique_ptr<Call> completion(std::string_view body, bool chat);
  std::string tokenize(std::string_view body) const;
  std::string detokenize(std::string_view body) const;
  std::string apply_template(std::string_view body) const;
  std::string models() const;
  std::string model(const std::string& id) const;
  std::string props() const;
  std::string slots() const;
  std::string metrics() const;
  // True while requests are accepted.
  bool healthy() const { return !scheduler_.draining(); }
  int retry_after() const { return scheduler_.retry_after(); }

 private:
  void check_model(const std::string& name) const;
  Json model_json() const;
  std::vector<Token> prompt_tokens(const Prompt& prompt, bool parse_special) const;
  std::vector<Token> chat_tokens(const chat::Rendered& prompt) const;
  void check_length(const std::string& text, const char* field) const;
  [[noreturn]] void refuse_length(const std::string& n_tokens, const char* field) const;

  const TextModel& model_;
  Scheduler& scheduler_;
  Metrics& metrics_;
  ApiOptions options_;
  chat::ControlTokens control_;
  CallSupport calls_;
};

}  // namespace gsd::server
