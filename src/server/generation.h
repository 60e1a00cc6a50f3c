// One choice of one request while it is generated: the model's thread puts tokens in, an HTTP thread takes events out.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "../draft/answer_store.h"
#include "scheduler.h"
#include "text_model.h"
#include "text_stream.h"

namespace gsd::server {

// An emitted token with what was asked about it.
struct TokenReport {
  Token token = -1;
  std::string bytes;       // may be a piece of a character
  std::size_t n_text = 0;  // bytes of the text that it makes complete
  bool scored = true;      // the first token of a prompt is not
  float log_p = 0;         // under the target's own distribution: before penalties, cuts and temperature; or, if asked
                           // for, its probability in what was drawn from
  std::vector<std::pair<Token, float>> top;  // the most probable ones with their log_p, best first
};

// Everything one step proposed, copied for drawing.
struct StepTrace {
  TokenGraph graph;
  TokenTree tree;
  Acceptance acceptance;
  Stats stats;
};

// What one step, or the end, adds to a choice.
struct Event {
  std::uint32_t choice = 0;
  std::string text;                        // whole characters
  std::vector<TokenReport> tokens;         // those whose text is now complete; only if asked for
  std::shared_ptr<const StepTrace> trace;  // only if asked for
  std::optional<PromptProgress> progress;  // only if asked for
  Stats stats;                             // sums so far
  bool last = false;
  // From here on: of the last event.
  Outcome outcome;
  std::string stop;  // the stop string that ended the text, or empty
};

// Events of all choices of a request. Any number of writers, one reader; bounded by what the context can hold.
class Channel {
 public:
  // `stream`: the reader is woken for events as they come, not only for the last one of a choice, but not more often
  // than a screen is drawn: every waking takes a core from the model's threads, which wait for each other.
  explicit Channel(bool stream) : stream_(stream) {}
  void put(Event event);
  // No memory for an event: choices that have not ended never will. Takes none itself.
  void lose() noexcept;
  bool lost() const;
  // Waits until there is something, at most that long, and takes all of it.
  std::deque<Event> take(std::chrono::milliseconds timeout);

 private:
  static constexpr std::chrono::milliseconds kFrame{16};

  const bool stream_;
  mutable std::mutex mutex_;
  std::condition_variable something_;
  std::deque<Event> events_;
  bool wake_ = false;
  bool lost_ = false;
  // An earlier event waits for the next one, or for the reader's timeout.
  std::chrono::steady_clock::time_point next_wake_{};
};

// What is asked of a choice beside its sampling.
struct GenerationOptions {
  std::vector<std::string> stop;
  int logprobs = -1;           // alternatives reported per token; -1 = none, nor the token's own
  bool post_sampling = false;  // see TokenReport
  // The prompt's tokens are reported too, beside log-probabilities; where its begin was added to the text, as nothing.
  bool prompt = false;
  bool begin_added = false;
  bool tokens = false;  // they are reported also without log-probabilities
  bool progress = false;
  std::int64_t max_ms =
      0;  // after the first token: then the text ends with the line, see CompletionRequest; 0 = no limit
  bool trace = false;
  std::shared_ptr<AnswerStore> store;                      // takes the answer in once it is complete; may be null
  std::shared_ptr<const std::unordered_set<Token>> shown;  // control tokens whose names are text; may be null
};

// Makes a job that generates `choice` and reports it to `channel`. `model` must outlive it.
Job make_job(const TextModel& model, std::vector<Token> prompt, SessionOptions session, GenerationOptions options,
             std::uint32_t choice, std::shared_ptr<Channel> channel, std::shared_ptr<std::atomic<bool>> cancelled);

}  // namespace gsd::server
