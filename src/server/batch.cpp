#include "batch.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "../util/fnv.h"
#include "fields.h"
#include "openai.h"

namespace gsd::server {
namespace {

constexpr const char* kChat = "/v1/chat/completions";
constexpr const char* kCompletion = "/v1/completions";

bool is_blank(std::string_view line) { return line.find_first_not_of(" \t\r") == std::string_view::npos; }

// Tells an edited request from the one that was answered.
std::string hash(std::initializer_list<std::string_view> parts) {
  Fnv h;
  for (const std::string_view part : parts) h.add(part);
  return fmt::format("{:016x}", h.value());
}

struct Running {
  BatchRequest request;
  std::unique_ptr<Call> call;
};

}  // namespace

BatchRequest parse_batch_request(std::string_view line) {
  const Json object = parse_object(line);
  const Fields f(object);
  BatchRequest out;
  for (const char* name : {"custom_id", "method", "url", "body"}) {
    if (f.find(name) == nullptr) refuse(name, "is missing");
  }
  f.read("custom_id", out.custom_id);
  if (out.custom_id.empty()) refuse("custom_id", "must not be empty");
  f.only("method", {"POST"});
  f.only("url", {kChat, kCompletion});
  out.chat = f.text("url") == kChat;
  out.body = f.object("body")->dump();
  out.id = "batch_req_" + hash({out.custom_id, f.text("url"), out.body});
  return out;
}

std::string batch_answer(const BatchRequest& r, int status, std::string_view body) {
  // The body is JSON text already.
  return fmt::format(
      R"({{"id":{},"custom_id":{},"response":{{"status_code":{},"request_id":{},"body":{}}},"error":null}})",
      print(r.id), print(r.custom_id), status, print(random_id("req_")), body);
}

void run_batch(Api& api, Scheduler& scheduler, const BatchWork& work) {
  std::vector<Running> running;
  const std::size_t at_once = scheduler.slots().size();
  const auto answer = [&](const BatchRequest& r, int status, std::string_view body) {
    if (status < 500 || work.go_on()) work.answer(batch_answer(r, status, body), status);
  };
  // False if there is no room for it at present.
  const auto start = [&](const BatchRequest& r) {
    try {
      auto call = api.completion(r.body, r.chat);
      if (call->stream()) throw ApiError(400, "An answer in a file cannot be streamed; leave out 'stream'.", "stream");
      running.push_back({r, std::move(call)});
    } catch (const ApiError& e) {
      if (e.status() == 503 && !running.empty()) return false;
      answer(r, e.status(), error_json(e));
    }
    return true;
  };
  const auto end = [&](const Running& r) {
    try {
      answer(r.request, 200, r.call->response());
    } catch (const ApiError& e) {
      answer(r.request, e.status(), error_json(e));
    }
  };
  std::optional<BatchRequest> request = work.next();
  while (work.go_on() && (request || !running.empty())) {
    // As many wait as work, so that no slot is ever idle.
    while (request && scheduler.n_waiting() < at_once && work.go_on() && start(*request)) request = work.next();
    scheduler.turn();
    for (std::size_t i = 0; i < running.size();) {
      running[i].call->advance(std::chrono::milliseconds(0));
      if (!running[i].call->finished()) {
        ++i;
        continue;
      }
      std::swap(running[i], running.back());
      end(running.back());
      running.pop_back();
    }
  }
  if (work.go_on()) return;
  scheduler.stop();
  while (scheduler.turn()) {
  }
}

// --- BatchInput ------------------------------------------------------------------------------------------------------

BatchInput::BatchInput(std::string path) : path_(std::move(path)) {
  struct stat status {};
  const bool there = ::stat(path_.c_str(), &status) == 0;
  if (there && !S_ISREG(status.st_mode))
    throw Error(ErrorCode::kIo, fmt::format("'{}' is no ordinary file, and requests are read several times.", path_));
  file_.open(path_, std::ios::binary);
  if (!file_)
    throw Error(ErrorCode::kIo, fmt::format("The file '{}' cannot be opened: {}.", path_, std::strerror(errno)));
  std::size_t number = 0;
  std::streamoff end = 0;
  for (std::string line; ++number, std::getline(file_, line);) {
    const std::streamoff begin = std::exchange(end, end + static_cast<std::streamoff>(line.size()) + 1);
    if (is_blank(line)) continue;
    try {
      const BatchRequest r = parse_batch_request(line);
      if (!by_custom_id_.emplace(r.custom_id, entries_.size()).second)
        refuse("custom_id", fmt::format("'{}' stands in an earlier line too", r.custom_id));
      entries_.push_back({begin, r.id});
    } catch (const ApiError& e) {
      throw Error(ErrorCode::kIo, fmt::format("Line {} of '{}' is no request of a batch: {}", number, path_, e.what()));
    }
  }
  if (file_.bad())
    throw Error(ErrorCode::kIo, fmt::format("The file '{}' cannot be read: {}.", path_, std::strerror(errno)));
  if (entries_.empty()) throw Error(ErrorCode::kIo, fmt::format("The file '{}' holds no requests.", path_));
  file_.clear();
}

std::string BatchInput::mark(const std::string& custom_id, const std::string& id) {
  const auto at = by_custom_id_.find(custom_id);
  if (at == by_custom_id_.end()) return fmt::format("'{}' has no request '{}'", path_, custom_id);
  Entry& entry = entries_[at->second];
  if (entry.id != id) return fmt::format("'{}' asks something else in the request '{}'", path_, custom_id);
  if (entry.answered) return fmt::format("the request '{}' is answered twice", custom_id);
  entry.answered = true;
  ++n_answered_;
  return "";
}

std::optional<BatchRequest> BatchInput::next() {
  while (at_ < entries_.size() && entries_[at_].answered) ++at_;
  if (at_ == entries_.size()) return std::nullopt;
  return read(entries_[at_++]);
}

BatchRequest BatchInput::read(const Entry& entry) {
  std::string line;
  file_.clear();
  file_.seekg(entry.begin);
  std::getline(file_, line);
  try {
    BatchRequest out = parse_batch_request(line);
    if (out.id == entry.id) return out;
  } catch (const ApiError&) {
  }
  throw Error(ErrorCode::kIo, fmt::format("The file '{}' was changed while its requests were answered.", path_));
}

// --- BatchOutput -----------------------------------------------------------------------------------------------------

BatchOutput::BatchOutput(std::string path, BatchInput& input)
    : path_(std::move(path)), fd_(::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666)) {
  try {
    struct stat status {};
    if (fd_ < 0 || ::fstat(fd_, &status) != 0) fail(fmt::format("cannot be opened: {}", std::strerror(errno)));
    if (!S_ISREG(status.st_mode)) fail("is no ordinary file");
    if (::flock(fd_, LOCK_EX | LOCK_NB) != 0) fail("is being written by another process");
    take_in(input);
    // What follows the last whole line was not completed.
    if (::ftruncate(fd_, size_) != 0) fail(fmt::format("cannot be written: {}", std::strerror(errno)));
  } catch (...) {
    if (fd_ >= 0) ::close(fd_);
    throw;
  }
}

BatchOutput::~BatchOutput() { ::close(fd_); }

void BatchOutput::take_in(BatchInput& input) {
  std::ifstream file(path_, std::ios::binary);
  std::size_t number = 0;
  for (std::string line; ++number, std::getline(file, line) && !file.eof();) {
    size_ += static_cast<std::int64_t>(line.size()) + 1;
    if (is_blank(line)) continue;
    const Json answer = Json::parse(line, nullptr, false);
    const auto text = [&](const char* name) {
      return answer.is_object() && answer.contains(name) && answer[name].is_string() ? answer[name].get<std::string>()
                                                                                     : std::string();
    };
    if (text("custom_id").empty()) fail(fmt::format("holds in line {} something else than an answer", number));
    const std::string problem = input.mark(text("custom_id"), text("id"));
    if (!problem.empty()) fail(fmt::format("belongs to another batch: {}; give another name", problem));
  }
  if (file.bad()) fail(fmt::format("cannot be read: {}", std::strerror(errno)));
}

void BatchOutput::write(std::string line) {
  line += '\n';
  std::size_t done = 0;
  while (done < line.size()) {
    const ssize_t n = ::pwrite(fd_, line.data() + done, line.size() - done, size_ + static_cast<std::int64_t>(done));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      const int error = errno;
      const bool cut = ::ftruncate(fd_, size_) == 0;  // otherwise the next run does it
      fail(fmt::format("cannot be written: {}{}", std::strerror(error), cut ? "" : "; its last line is incomplete"));
    }
    done += static_cast<std::size_t>(n);
  }
  size_ += static_cast<std::int64_t>(line.size());
}

void BatchOutput::sync() {
  if (::fsync(fd_) != 0) fail(fmt::format("cannot be written: {}", std::strerror(errno)));
}

void BatchOutput::fail(const std::string& what) const {
  throw Error(ErrorCode::kIo, fmt::format("The file '{}' {}.", path_, what));
}

}  // namespace gsd::server
