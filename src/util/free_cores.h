// How many cores a thread and its helpers can have now without waiting for other programs.
#pragma once

#include <cstdint>

namespace gsd {

// For one thread, which asks often while it works: the kernel is asked every few ms at most.
class FreeCores {
 public:
  FreeCores();
  ~FreeCores();
  FreeCores(const FreeCores&) = delete;
  FreeCores& operator=(const FreeCores&) = delete;
  // 0 and more: cores that nobody else's threads run on or wait for. -1 where that cannot be known: /proc is not there,
  // or this process may not run on all cores of the machine, which the number of runnable threads is for.
  int get();

 private:
  int file_ = -1;
  int cores_ = 0;
  std::int64_t read_at_ = 0, process_ns_ = 0, thread_ns_ = 0;  // of the last reading
  int free_ = -1;
};

}  // namespace gsd
