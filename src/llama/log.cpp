// Where libllama's and ggml's messages go.
#include <ggml-backend.h>

#include <algorithm>
#include <cstring>
#include <mutex>

#include "handles.h"
#include "location.h"
#include "remote.h"

namespace gsd {
namespace {

struct Sink {
  ggml_log_callback call = nullptr;
  void* user = nullptr;
};

Sink host;  // what the program around us had set before; written once
std::mutex ours_mutex;
std::shared_ptr<const LogCallback> ours;  // guarded by ours_mutex

// libllama logs from the thread that calls it, so that a call's errors are found again here.
thread_local std::string errors;

void keep_log(ggml_log_level level, const char* text, void*) {
  thread_local ggml_log_level last = GGML_LOG_LEVEL_INFO;
  if (level != GGML_LOG_LEVEL_CONT) last = level;
  constexpr std::size_t kMost = 2000;
  if (last == GGML_LOG_LEVEL_ERROR && errors.size() < kMost) errors += text;
  std::shared_ptr<const LogCallback> callback;
  {
    const std::lock_guard lock(ours_mutex);
    callback = ours;
  }
  if (callback && *callback) {
    (*callback)(last == GGML_LOG_LEVEL_ERROR  ? LogLevel::kError
                : last == GGML_LOG_LEVEL_WARN ? LogLevel::kWarning
                : last == GGML_LOG_LEVEL_INFO ? LogLevel::kInfo
                                              : LogLevel::kDebug,
                text);
  } else if (host.call != nullptr) {
    host.call(level, text, host.user);
  }
}

// A callback of the host program stays in use; libllama's own, which prints, does not.
void take_log() {
  Sink before;
  Sink standard;
  llama_log_get(&before.call, &before.user);
  llama_log_set(nullptr, nullptr);
  llama_log_get(&standard.call, &standard.user);
  if (before.call != standard.call) host = before;
  llama_log_set(keep_log, nullptr);
}

}  // namespace

void set_log(LogCallback callback) {
  auto next = callback ? std::make_shared<const LogCallback>(std::move(callback)) : nullptr;
  const std::lock_guard lock(ours_mutex);
  ours.swap(next);
}

void start_llama() {
  static std::once_flag once;
  std::call_once(once, [] {
    take_log();
    llama_backend_init();
    // Where ggml was built with its backends inside, nothing needs to be loaded. A relative folder counts from
    // libllama.
    if (std::strlen(GSD_BACKENDS_DIR) > 0) {
      ggml_backend_load_all_from_path((libllama_folder() / GSD_BACKENDS_DIR).c_str());
    } else if (ggml_backend_dev_count() == 0) {
      ggml_backend_load_all();
    }
  });
}

void add_llama_errors(const std::string& text) { errors += text; }

std::string take_llama_errors() {
  std::string out = std::move(errors);
  errors.clear();
  while (!out.empty() && out.back() == '\n') out.pop_back();
  std::replace(out.begin(), out.end(), '\n', ' ');
  return out;
}

}  // namespace gsd
