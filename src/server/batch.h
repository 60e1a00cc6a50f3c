// Files of requests in OpenAI's batch format, answered without HTTP: many at once, in any order, and where a run was
// ended the next one goes on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <fstream>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "api.h"

namespace gsd::server {

// A line {"custom_id": …, "method": "POST", "url": …, "body": …}.
struct BatchRequest {
  std::string custom_id;
  bool chat = false;  // url: /v1/chat/completions, otherwise /v1/completions
  std::string body;
  std::string id;  // "batch_req_" and a hash of the above
};
// Throws ApiError(400) for what is no such line; what its body asks for is not looked at.
BatchRequest parse_batch_request(std::string_view line);

// A line of the output. `status`: of HTTP.
std::string batch_answer(const BatchRequest& request, int status, std::string_view body);

// Answers what `next` gives, until it gives none or `go_on` says no: then what runs is given up, and the scheduler
// takes nothing more. `answer` gets each answer's line as soon as it is complete; failures of our own (status 500 and
// above) that come with the end are none. The scheduler works in this thread. Throws what the functions throw, and the
// scheduler. Answers to requests that make no sense have their status, as over HTTP.
struct BatchWork {
  std::function<std::optional<BatchRequest>()> next;
  std::function<void(const std::string& line, int status)> answer;
  std::function<bool()> go_on;
};
void run_batch(Api& api, Scheduler& scheduler, const BatchWork& work);

// The requests of a file, all checked at once; their texts stay in the file. To be used by one thread, and the file
// must not change.
class BatchInput {
 public:
  // Throws Error(kIo) for a file that cannot be read or holds no request, naming the first line that is none or has the
  // custom_id of an earlier one.
  explicit BatchInput(std::string path);

  std::size_t size() const { return entries_.size(); }
  // Marks the request as answered. Otherwise what speaks against it, as a clause: there is no such request, or it was
  // marked before.
  std::string mark(const std::string& custom_id, const std::string& id);
  std::size_t n_answered() const { return n_answered_; }
  // The next request in the file that was not answered; nothing after the last.
  std::optional<BatchRequest> next();

 private:
  struct Entry {
    std::streamoff begin = 0;
    std::string id;
    bool answered = false;
  };
  BatchRequest read(const Entry& entry);

  std::string path_;
  std::ifstream file_;
  std::vector<Entry> entries_;
  std::unordered_map<std::string, std::size_t> by_custom_id_;
  std::size_t n_answered_ = 0;
  std::size_t at_ = 0;
};

// The file of answers: what an earlier run has put there stays, and a line that it did not complete goes. One object at
// a time, over all processes. To be used by one thread.
class BatchOutput {
 public:
  // Marks in `input` what is answered. Throws Error(kIo) for a file that cannot be read and written, that another
  // process writes, or that answers something else than these requests; then nothing was changed.
  BatchOutput(std::string path, BatchInput& input);
  ~BatchOutput();
  BatchOutput(const BatchOutput&) = delete;
  BatchOutput& operator=(const BatchOutput&) = delete;

  // Appends the line; it is there whatever becomes of the process. Throws Error(kIo); then nothing of it is there.
  void write(std::string line);
  // Waits until all of it is on the disk. Throws Error(kIo).
  void sync();

 private:
  void take_in(BatchInput& input);
  [[noreturn]] void fail(const std::string& what) const;

  std::string path_;
  int fd_ = -1;
  std::int64_t size_ = 0;  // bytes of whole lines
};

}  // namespace gsd::server
