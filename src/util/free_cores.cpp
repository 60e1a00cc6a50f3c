#include "free_cores.h"

#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <ctime>
#include <string_view>

namespace gsd {
namespace {

constexpr std::int64_t kInterval = 5'000'000, kLongAgo = 50'000'000;  // ns

std::int64_t ns(clockid_t clock) {
  timespec t{};
  clock_gettime(clock, &t);
  return std::int64_t{t.tv_sec} * 1'000'000'000 + t.tv_nsec;
}

// "0.20 0.18 0.12 2/80 11206": the fourth field begins with the number of runnable threads. -1 if it is not there.
int runnable_threads(int file) {
  std::array<char, 128> text{};
  const ssize_t n = pread(file, text.data(), text.size(), 0);
  std::string_view rest(text.data(), static_cast<std::size_t>(std::max<ssize_t>(n, 0)));
  for (int i = 0; i < 3; ++i) {
    const auto space = rest.find(' ');
    if (space == rest.npos) return -1;
    rest.remove_prefix(space + 1);
  }
  int runnable = -1;
  std::from_chars(rest.data(), rest.data() + rest.size(), runnable);
  return runnable;
}

}  // namespace

FreeCores::FreeCores() {
  cpu_set_t mine;
  CPU_ZERO(&mine);
  const long online = sysconf(_SC_NPROCESSORS_ONLN);
  if (sched_getaffinity(0, sizeof mine, &mine) != 0 || CPU_COUNT(&mine) != online) return;
  cores_ = static_cast<int>(online);
  file_ = open("/proc/loadavg", O_RDONLY | O_CLOEXEC);
}

FreeCores::~FreeCores() {
  if (file_ >= 0) close(file_);
}

int FreeCores::get() {
  if (file_ < 0) return -1;
  const std::int64_t now = ns(CLOCK_MONOTONIC), passed = now - read_at_;
  if (read_at_ != 0 && passed < kInterval) return free_;
  const int runnable = runnable_threads(file_);
  const std::int64_t process = ns(CLOCK_PROCESS_CPUTIME_ID), thread = ns(CLOCK_THREAD_CPUTIME_ID);
  // Threads of this process that compute with this one spin for a while when they are done: they are no competitors.
  int own = 1;
  if (read_at_ != 0 && passed < kLongAgo) {
    const auto helpers = (process - process_ns_) - (thread - thread_ns_);
    own += static_cast<int>(std::lround(static_cast<double>(helpers) / static_cast<double>(passed)));
  }
  read_at_ = now;
  process_ns_ = process;
  thread_ns_ = thread;
  free_ = runnable < 0 ? -1 : std::clamp(cores_ - std::max(runnable - own, 0), 0, cores_);
  return free_;
}

}  // namespace gsd
