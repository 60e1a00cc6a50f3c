// Answers as OpenAI's chats and completions have them.
#pragma once

#include <string_view>

#include "../core/utf8.h"
#include "answer.h"
#include "text_model.h"

namespace gsd::server {

// The body of an error in OpenAI's shape.
std::string error_json(const ApiError& error);
// An answer as a message of the assistant.
Json chat_message(const Answer& answer);

class OpenAiWriter : public AnswerWriter {
 public:
  // The model must outlive the object.
  OpenAiWriter(const TextModel& model, bool chat);

  void add(const Answers& answers, Addition& addition, std::string& out) override;
  void end(const Answers& answers, std::string& out) override;
  void fail(const ApiError& error, std::string& out) override;
  std::string whole(const Answers& answers) override;

 private:
  // Where a token begins in the text, in characters; one that goes on with a character begins where that does.
  class TextOffset {
   public:
    std::size_t next(std::string_view bytes);

   private:
    Utf8Buffer utf8_;
    std::size_t at_ = 0;
  };
  struct Streamed {
    bool greeted = false;  // the chunk with the role was sent
    TextOffset offset;     // of the next token
  };

  Json head(bool chunk) const;
  std::string echoed(const Answers& answers, std::size_t choice) const;
  Json chat_delta(const Answer& answer, const Addition& addition, bool greeted) const;
  Json logprobs(const std::vector<TokenReport>& tokens, TextOffset& offset) const;

  const TextModel& model_;
  bool chat_;
  std::string id_;
  std::int64_t created_;
  std::vector<Streamed> streamed_;  // [choices]
};

}  // namespace gsd::server
