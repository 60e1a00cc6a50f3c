// Anthropic's Messages API: its requests in the words of chats, and chats' answers in its words.
#pragma once

#include <string>

#include "answer.h"
#include "text_model.h"

namespace gsd::server {

// The same request to /v1/chat/completions, whose reader checks it further. Throws ApiError(400) naming the field for
// what is not supported.
Json messages_to_chat(const Json& body);

// The body of an error in Anthropic's shape.
std::string anthropic_error_json(const ApiError& error);

class MessageWriter : public ItemWriter {
 public:
  // The model must outlive the object.
  explicit MessageWriter(const TextModel& model) : model_(model), id_(random_id("msg_")) {}

  void begin(const Answers& answers, std::string& out) override;
  void fail(const ApiError& error, std::string& out) override;
  std::string whole(const Answers& answers) override;

 protected:
  void open(const AnswerItem& item, std::size_t index, std::string& out) override;
  void more(const AnswerItem& item, std::size_t index, const std::string& text, std::string& out) override;
  void close(const Answer& answer, std::size_t index, std::string& out) override;
  void finish(const Answers& answers, std::string& out) override;

 private:
  Json message(const Json& content, const Json& usage) const;

  const TextModel& model_;
  std::string id_;
};

}  // namespace gsd::server
