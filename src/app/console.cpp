#include "console.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <termios.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <sstream>

namespace gsd::app {
namespace {

constexpr std::size_t kMaxFile = 64 << 20;

std::atomic<int> signalled{0};  // the server asks from another thread than the one that is interrupted
static_assert(std::atomic<int>::is_always_lock_free, "a signal handler may take no lock");

termios terminal{};
std::atomic<bool> terminal_kept{false};

void on_signal(int signal) {
  if (signalled.exchange(signal) == 0) return;
  restore_terminal();
  _exit(kExitInterrupted);
}

}  // namespace

void open_standard_descriptors() {
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    // The lowest free number is the one that is missing.
    if (fcntl(fd, F_GETFD) < 0 && errno == EBADF) open("/dev/null", fd == STDOUT_FILENO ? O_RDONLY : O_RDWR);
  }
}

void catch_signals() {
  struct sigaction action {};
  action.sa_handler = on_signal;  // no SA_RESTART: a read of standard input is interrupted too
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
}

bool interrupted() { return signalled != 0; }

void forget_interrupt() { signalled = 0; }

void keep_terminal() { terminal_kept = tcgetattr(STDIN_FILENO, &terminal) == 0; }

void restore_terminal() {
  if (terminal_kept) tcsetattr(STDIN_FILENO, TCSANOW, &terminal);
}

bool write_out(std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = ::write(STDOUT_FILENO, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return false;
    text.remove_prefix(static_cast<std::size_t>(n));
  }
  return true;
}

void print(std::string_view text) {
  if (!write_out(text))
    throw Error(ErrorCode::kIo, fmt::format("The output cannot be written: {}.", std::strerror(errno)));
}

ProgressLine::ProgressLine(std::string what) : what_(std::move(what)) {}

ProgressLine::~ProgressLine() {
  if (last_ >= 0) std::fputs("\r\033[K", stderr);
}

void ProgressLine::show(float share) {
  const int percent = static_cast<int>(share * 100);
  if (percent == last_ || clock_.ms() < 500 || isatty(STDERR_FILENO) == 0) return;
  last_ = percent;
  std::string left;
  if (share > 0 && clock_.ms() > 3000) {
    const double seconds = clock_.ms() / 1000 * (1 - share) / share;
    left = seconds < 90 ? fmt::format(", {:.0f} s left", seconds) : fmt::format(", {:.0f} min left", seconds / 60);
  }
  std::fputs(fmt::format("\r\033[K{} {} %{}", what_, percent, left).c_str(), stderr);
}

std::string read_file(const std::string& path) {
  std::ifstream file;
  if (path != "-") {
    file.open(path, std::ios::binary);
    if (!file)
      throw Error(ErrorCode::kIo, fmt::format("The file '{}' cannot be opened: {}.", path, std::strerror(errno)));
  }
  std::istream& in = path == "-" ? std::cin : file;
  std::string text;
  char block[1 << 16];
  while (in.read(block, sizeof block) || in.gcount() > 0) {
    text.append(block, static_cast<std::size_t>(in.gcount()));
    if (text.size() > kMaxFile) throw Error(ErrorCode::kIo, fmt::format("The file '{}' is larger than 64 MiB.", path));
  }
  if (in.bad())
    throw Error(ErrorCode::kIo, fmt::format("The file '{}' cannot be read: {}.", path, std::strerror(errno)));
  return text;
}

std::vector<std::string> split(const std::string& text, char at) {
  std::vector<std::string> out;
  std::istringstream in(text);
  for (std::string part; std::getline(in, part, at);) {
    while (!part.empty() && (part.back() == '\r' || part.back() == ' ')) part.pop_back();
    if (!part.empty()) out.push_back(part);
  }
  return out;
}

std::string read_prompt(const std::string& text, const std::string& file) {
  if (!text.empty()) return text;
  if (!file.empty()) return read_file(file);
  if (isatty(STDIN_FILENO) == 0) {
    std::string input = read_file("-");
    if (!input.empty()) return input;
  }
  throw Error(ErrorCode::kUsage, "There is no prompt; give one with -p TEXT, -f FILE, or on standard input.");
}

}  // namespace gsd::app
