// Another program, run for measuring.
#pragma once

#include <functional>
#include <string>
#include <vector>

namespace gsd::bench {

// A running program with its output kept in unlinked temporary files. The destructor ends it: SIGTERM, then SIGKILL.
// Not thread safe.
class Process {
 public:
  // `environment`: "NAME=VALUE" on top of ours. Throws Error(kIo) if it cannot be started.
  Process(const std::vector<std::string>& arguments, const std::vector<std::string>& environment);
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  // Waits for its end and returns its exit status (128 + signal if one ended it). Kills it and returns -1 after
  // `timeout_s` seconds or as soon as `cancelled` says so.
  int wait(double timeout_s, const std::function<bool()>& cancelled);
  bool running();
  std::string output() const { return read(out_); }  // what it wrote to stdout so far, at most 16 MiB
  std::string errors() const { return read(err_); }  // … to stderr
  double peak_mib() const { return peak_mib_; }      // after its end

 private:
  static std::string read(int file);
  bool reap(int flags);

  int pid_ = -1;
  int out_ = -1;
  int err_ = -1;
  int status_ = 0;
  double peak_mib_ = 0;
};

// A TCP port of the loopback interface that was free a moment ago.
int free_port();

}  // namespace gsd::bench
