// The answers of a request while they come, and who writes them for a client: one writer for each API, over the same
// generation.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "generation.h"
#include "request.h"

namespace gsd::server {

// A part of an answer: reasoning, text for the user, or a call of a function.
struct AnswerItem {
  enum class Kind : std::uint8_t { kReasoning, kText, kCall };
  Kind kind = Kind::kText;
  std::string text = {};  // of a call its arguments
  // Of a call:
  std::size_t call = 0;  // counts from 0
  std::string id = {};
  std::string name = {};
};

struct Answer {
  std::vector<AnswerItem> items;    // in order
  std::vector<TokenReport> tokens;  // if asked for and not streamed
  bool finished = false;
  Outcome outcome;  // until it is finished only the statistics
  std::string stop;

  // All items of a kind, joined; of calls that is of no use.
  std::string text(AnswerItem::Kind kind) const;
  bool has_calls() const;
};

struct Answers {
  CompletionRequest request;
  std::vector<std::size_t> n_prompt;  // tokens of each prompt
  std::vector<Answer> choices;        // [prompts times request.n]
};

// What one step, or the end, adds to a choice; the items have it already.
struct Addition {
  struct Piece {
    std::size_t item = 0;
    bool begins = false;  // the first piece of its item
    std::string text = {};
  };
  std::uint32_t choice = 0;
  std::vector<Piece> pieces;  // at most one for each item
  std::vector<TokenReport> tokens;
  std::shared_ptr<const StepTrace> trace;
  std::optional<PromptProgress> progress;
};

// Used by one HTTP thread. Where bytes are appended to `out`, they are server-sent events.
class AnswerWriter {
 public:
  virtual ~AnswerWriter() = default;
  // A stream has begun.
  virtual void begin(const Answers& /*answers*/, std::string& /*out*/) {}
  // In a stream: once for each event of a choice. After the last one the choice is finished and may have failed.
  virtual void add(const Answers& answers, Addition& addition, std::string& out) = 0;
  // All choices of a stream are finished.
  virtual void end(const Answers& answers, std::string& out) = 0;
  // Something beside the choices failed: nothing more comes.
  virtual void fail(const ApiError& error, std::string& out) = 0;
  // The body of the whole answer, all choices being finished. Throws ApiError if one has failed.
  virtual std::string whole(const Answers& answers) = 0;
};

// A writer of an API with one choice, whose items come one after the other, each opened and closed.
class ItemWriter : public AnswerWriter {
 public:
  void add(const Answers& answers, Addition& addition, std::string& out) final;
  void end(const Answers& answers, std::string& out) final;

 protected:
  virtual void open(const AnswerItem& item, std::size_t index, std::string& out) = 0;
  virtual void more(const AnswerItem& item, std::size_t index, const std::string& text, std::string& out) = 0;
  virtual void close(const Answer& answer, std::size_t index, std::string& out) = 0;
  // After the last item. The answer may have failed.
  virtual void finish(const Answers& answers, std::string& out) = 0;

 private:
  std::size_t n_open_ = 0;    // items that were opened
  std::size_t n_closed_ = 0;  // and closed
};

// Token pieces may be no UTF-8: what is none becomes U+FFFD. Everything else was checked before.
std::string print(const Json& j);
std::string event(const std::string& json);             // a server-sent event
std::string event(const char* name, const Json& data);  // one with a name
std::string random_id(const std::string& prefix);       // prefix and 24 digits
Json bytes_json(const std::string& bytes);              // a list of numbers
Json timings_json(const Outcome& outcome);
Json progress_json(const PromptProgress& progress);
// What a failed generation is for a client. Without an error it was cancelled: the server stops.
ApiError failure(const Outcome& outcome);
ApiError api_error(const Error& error);

}  // namespace gsd::server
