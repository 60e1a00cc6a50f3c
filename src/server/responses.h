// OpenAI's Responses API: its requests in the words of chats, and chats' answers in its words.
#pragma once

#include <cstddef>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>

#include "answer.h"
#include "text_model.h"

namespace gsd::server {

// Responses that later requests go on from. All functions may be called from any thread.
class ResponseStore {
 public:
  struct Kept {
    std::string messages;  // JSON: the conversation as a chat, the answer with it, instructions left out
    std::string response;  // JSON: as it was given
  };
  // Those that were not used for longest go where all together take more bytes.
  explicit ResponseStore(std::size_t max_bytes = std::size_t{64} << 20) : max_bytes_(max_bytes) {}

  // What is larger than the whole store is not kept.
  void put(const std::string& id, Kept kept);
  std::shared_ptr<const Kept> find(const std::string& id);  // null if it is not there
  bool erase(const std::string& id);                        // false if it was not there
  std::size_t n_bytes() const;

 private:
  struct Entry {
    std::string id;
    std::shared_ptr<const Kept> kept;
    std::size_t n_bytes;
  };
  using Entries = std::list<Entry>;
  void remove(Entries::iterator at);

  const std::size_t max_bytes_;
  mutable std::mutex mutex_;
  std::size_t n_bytes_ = 0;
  Entries entries_;  // the last used first
  std::unordered_map<std::string, Entries::iterator> by_id_;
};

struct ResponseRequest {
  Json chat;          // the same request to /v1/chat/completions
  Json messages;      // its messages without the instructions
  Json echo;          // fields that the response repeats
  bool store = true;  // the response is to be kept
};

// Throws ApiError(400) naming the field for what is not supported, ApiError(404) for a response that `store` does not
// hold. What it leaves in `chat` is checked by read_chat().
ResponseRequest read_response(const Json& body, ResponseStore& store);

class ResponseWriter : public ItemWriter {
 public:
  // The model and the store must outlive the object.
  ResponseWriter(const TextModel& model, ResponseRequest request, ResponseStore& store);

  void begin(const Answers& answers, std::string& out) override;
  void fail(const ApiError& error, std::string& out) override;
  std::string whole(const Answers& answers) override;

 protected:
  void open(const AnswerItem& item, std::size_t index, std::string& out) override;
  void more(const AnswerItem& item, std::size_t index, const std::string& text, std::string& out) override;
  void close(const Answer& answer, std::size_t index, std::string& out) override;
  void finish(const Answers& answers, std::string& out) override;

 private:
  void emit(const char* type, Json fields, std::string& out);
  std::string item_id(const AnswerItem& item, std::size_t index) const;
  Json item_json(const AnswerItem& item, std::size_t index, const char* status) const;
  Json response(const Answers& answers, const char* status) const;
  Json complete(const Answers& answers);

  const TextModel& model_;
  ResponseRequest request_;
  ResponseStore& store_;
  std::string digits_;  // of the ids
  std::int64_t created_;
  std::int64_t n_events_ = 0;
};

}  // namespace gsd::server
