#include "process.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "../core/stopwatch.h"
#include "gsd/error.h"

extern char** environ;

namespace gsd::bench {
namespace {

constexpr auto kPoll = std::chrono::milliseconds(5);

int temporary_file() {
  std::FILE* f = std::tmpfile();
  const int fd = f != nullptr ? fcntl(fileno(f), F_DUPFD_CLOEXEC, 3) : -1;
  if (f != nullptr) std::fclose(f);
  if (fd < 0) throw Error(ErrorCode::kIo, fmt::format("No temporary file can be made: {}.", std::strerror(errno)));
  return fd;
}

std::vector<char*> pointers(const std::vector<std::string>& strings) {
  std::vector<char*> out;
  for (const std::string& s : strings) out.push_back(const_cast<char*>(s.c_str()));
  out.push_back(nullptr);
  return out;
}

}  // namespace

Process::Process(const std::vector<std::string>& arguments, const std::vector<std::string>& environment)
    : out_(temporary_file()), err_(temporary_file()) {
  const auto check = [&](bool ok) {
    if (ok) return;
    const std::string why = std::strerror(errno);
    close(out_);
    close(err_);
    throw Error(ErrorCode::kIo, fmt::format("'{}' cannot be started: {}.", arguments.front(), why));
  };
  check(access(arguments.front().c_str(), X_OK) == 0);
  std::vector<std::string> variables = environment;
  for (char** e = environ; *e != nullptr; ++e) variables.emplace_back(*e);  // ours come first and so rule
  const auto argv = pointers(arguments);
  const auto envp = pointers(variables);
  [[maybe_unused]] const int parent = getpid();
  pid_ = fork();
  if (pid_ == 0) {  // nothing but system calls from here on
    setpgid(0, 0);  // Ctrl-C is for us alone, and we end its children with it
#ifdef __linux__
    prctl(PR_SET_PDEATHSIG, SIGKILL);  // however we end
    if (getppid() != parent) _exit(127);
#endif
    const int null = open("/dev/null", O_RDONLY);
    if (null >= 0 && dup2(null, STDIN_FILENO) >= 0 && dup2(out_, STDOUT_FILENO) >= 0 && dup2(err_, STDERR_FILENO) >= 0)
      execve(argv.front(), argv.data(), envp.data());
    _exit(127);
  }
  check(pid_ > 0);
  setpgid(pid_, pid_);  // whoever comes first
}

Process::~Process() {
  if (running()) {
    kill(-pid_, SIGTERM);
    wait(3, {});
  }
  close(out_);
  close(err_);
}

// True once the program has ended.
bool Process::reap(int flags) {
  if (pid_ < 0) return true;
  rusage usage{};
  int status = 0;
  if (wait4(pid_, &status, flags, &usage) != pid_) return false;
  pid_ = -1;
  status_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  peak_mib_ = static_cast<double>(usage.ru_maxrss) / 1024;
  return true;
}

bool Process::running() { return !reap(WNOHANG); }

int Process::wait(double timeout_s, const std::function<bool()>& cancelled) {
  const Stopwatch clock;
  while (running()) {
    if (clock.ms() > 1000 * timeout_s || (cancelled && cancelled())) {
      kill(-pid_, SIGKILL);
      reap(0);
      return -1;
    }
    std::this_thread::sleep_for(kPoll);
  }
  return status_;
}

std::string Process::read(int file) {
  constexpr off_t kMost = 16 << 20;
  std::string text(static_cast<std::size_t>(std::clamp<off_t>(lseek(file, 0, SEEK_END), 0, kMost)), '\0');
  const ssize_t n = pread(file, text.data(), text.size(), 0);
  text.resize(static_cast<std::size_t>(std::max<ssize_t>(0, n)));
  return text;
}

int free_port() {
  const int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  auto* any = reinterpret_cast<sockaddr*>(&address);
  const bool ok = s >= 0 && bind(s, any, size) == 0 && getsockname(s, any, &size) == 0;
  if (s >= 0) close(s);
  if (!ok)
    throw Error(ErrorCode::kIo, fmt::format("No port of the loopback interface is free: {}.", std::strerror(errno)));
  return ntohs(address.sin_port);
}

}  // namespace gsd::bench
