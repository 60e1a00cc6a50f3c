// The endpoints, without HTTP: request bodies to response bodies.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "../chat/control_tokens.h"
#include "answer.h"
#include "calls.h"
#include "gsd/runtime.h"
#include "metrics.h"
#include "openai.h"
#include "request.h"
#include "responses.h"
#include "scheduler.h"
#include "text_model.h"

namespace gsd::server {

// One accepted request. Used by one HTTP thread; the model's thread feeds it. Destroying it, or cancel(), ends the
// generation with the step in progress.
class Call {
 public:
  // Submits the jobs. Throws ApiError(503) if the queue is full, ApiError(400) if it could never hold them.
  // `support` and what `plan` says of the answers' parts: of chats; null and empty otherwise.
  // `store`: what the answers draw on and go into; may be null.
  Call(const TextModel& model, Scheduler& scheduler, CompletionRequest request, std::vector<std::vector<Token>> prompts,
       const CallSupport* support, ReplyPlan plan, std::unique_ptr<AnswerWriter> writer,
       const std::shared_ptr<AnswerStore>& store);
  ~Call() { cancel(); }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  bool stream() const { return answers_.request.stream; }
  bool finished() const { return n_finished_ == answers_.choices.size(); }
  void cancel() { *cancelled_ = true; }

  // Waits until something happens, at most that long, and takes it in. Of a stream it returns the bytes to send, its
  // end with them once it is finished.
  std::string advance(std::chrono::milliseconds timeout);
  // The bytes that end a stream in which something else failed; cancels.
  std::string failed(const ApiError& error);
  // The whole answer. REQUIRES: finished. Throws ApiError if a choice failed.
  std::string response() const { return writer_->whole(answers_); }

 private:
  void take(Event& e, std::string& out);
  std::vector<Addition::Piece> pieces(const Event& e);
  void give_up(std::string& out);

  ReplyPlan plan_;
  std::unique_ptr<AnswerWriter> writer_;
  std::shared_ptr<Channel> channel_;
  std::shared_ptr<std::atomic<bool>> cancelled_ = std::make_shared<std::atomic<bool>>(false);
  Answers answers_;
  std::vector<std::unique_ptr<chat::ReplyParser>> parsers_;  // [choices]; null: all is text
  std::size_t n_finished_ = 0;
  bool begun_ = false;
};

struct ApiOptions {
  RequestDefaults defaults;
  bool exact = false;
  bool strict_model = false;                    // requests that name another model are refused
  std::optional<chat::ToolFormat> tool_format;  // otherwise found by a trial
  std::string version;
  // Earlier answers to draw on, one store for each client; empty: none are kept. Of the scheduler's thread.
  std::vector<std::shared_ptr<AnswerStore>> stores;
  // The target's, with their scales at the start.
  std::vector<RuntimeOptions::Adapter> adapters;
  std::string slot_path;    // folder of the files of slots; empty: there are none
  std::string slots_model;  // what these belong to
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
        scales_(first_scales()),
        control_(model.vocabulary),
        calls_(model, control_, options_.tool_format ? *options_.tool_format : chat::find_tool_format(*model.chat)) {}

  // `client`: a number for who asks. Nothing that is kept of one is used for another.
  std::unique_ptr<Call> completion(std::string_view body, bool chat, std::size_t client = 0);
  std::unique_ptr<Call> native(std::string_view body, std::size_t client = 0);    // llama-server's own form
  std::unique_ptr<Call> infill(std::string_view body, std::size_t client = 0);    // and answer
  std::unique_ptr<Call> response(std::string_view body, std::size_t client = 0);  // OpenAI's Responses API
  std::unique_ptr<Call> message(std::string_view body, std::size_t client = 0);   // Anthropic's Messages API
  std::string count_tokens(std::string_view body) const;                          // the same body
  // A response that was kept; the second one forgets it.
  std::string kept_response(const std::string& id);
  std::string delete_response(const std::string& id);
  std::string tokenize(std::string_view body) const;
  std::string detokenize(std::string_view body) const;
  std::string apply_template(std::string_view body) const;
  std::string models() const;
  std::string model(const std::string& id) const;
  std::string props() const;
  std::string slots() const;
  // How strongly adapters act on requests that do not say it.
  std::string lora_adapters() const;
  std::string set_lora_adapters(std::string_view body);
  // Saves, restores or erases what a free slot keeps; waits until it is free.
  std::string slot_action(int slot, const std::string& action, std::string_view body);
  std::string metrics() const;
  // True while requests are accepted.
  bool healthy() const { return !scheduler_.draining(); }
  int retry_after() const { return scheduler_.retry_after(); }

 private:
  struct ChatPrompt {
    std::string text;
    std::vector<Token> tokens;
  };
  std::vector<float> first_scales() const;
  std::vector<float> scales() const;
  std::vector<float> scales(const std::vector<LoraScale>& wanted) const;
  ChatPrompt chat_prompt(const Conversation& conversation) const;
  std::unique_ptr<Call> chat(CompletionRequest request, std::unique_ptr<AnswerWriter> writer);
  std::unique_ptr<Call> start(CompletionRequest request, std::vector<std::vector<Token>> prompts,
                              const CallSupport* support, ReplyPlan plan, std::unique_ptr<AnswerWriter> writer);
  std::unique_ptr<Call> start_native(CompletionRequest request, std::vector<std::vector<Token>> prompts,
                                     std::size_t client);
  void resolve(CompletionRequest& request) const;
  std::vector<std::vector<Token>> all_prompt_tokens(const CompletionRequest& request) const;
  void check_choices(std::size_t n) const;
  void check_model(const std::string& name) const;
  Json model_json() const;
  std::vector<Token> prompt_tokens(const Prompt& prompt, bool parse_special) const;
  void check_length(const std::string& text, const char* field) const;
  [[noreturn]] void refuse_length(const std::string& n_tokens, const char* field) const;

  const TextModel& model_;
  Scheduler& scheduler_;
  Metrics& metrics_;
  ApiOptions options_;
  mutable std::mutex scales_mutex_;
  std::vector<float> scales_;  // of the adapters; guarded by scales_mutex_
  chat::ControlTokens control_;
  CallSupport calls_;
  ResponseStore responses_;
  mutable std::once_flag breakers_made_;
  mutable std::shared_ptr<const DryBreakers> breakers_;  // the usual ones, made when first needed
};

}  // namespace gsd::server
