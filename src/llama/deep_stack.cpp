#include "deep_stack.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <exception>

#include "gsd/error.h"

namespace gsd {
namespace {

class Stack {
 public:
  explicit Stack(std::size_t bytes) : size_((bytes / page_ + 2) * page_) {
    base_ =
        mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (base_ == MAP_FAILED || mprotect(base_, page_, PROT_NONE) != 0) no_room();  // the lowest page is a guard
  }
  ~Stack() { munmap(base_, size_); }
  Stack(const Stack&) = delete;
  Stack& operator=(const Stack&) = delete;

  void* usable() const { return static_cast<char*>(base_) + page_; }
  std::size_t usable_size() const { return size_ - page_; }
  // Fresh pages are zero, and stacks grow downwards.
  std::size_t used() const {
    const char* from = static_cast<const char*>(usable());
    const char* to = from + usable_size();
    return static_cast<std::size_t>(to - std::find_if(from, to, [](char c) { return c != 0; }));
  }
  [[noreturn]] static void no_room() {
    throw Error(ErrorCode::kOutOfMemory, "There is no memory for the stack that tokenizing this text needs.");
  }

 private:
  std::size_t page_ = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  std::size_t size_;
  void* base_;
};

struct Call {
  const std::function<void()>& work;
  std::exception_ptr error;
  static void* run(void* self) {
    auto& call = *static_cast<Call*>(self);
    try {
      call.work();
    } catch (...) {
      call.error = std::current_exception();
    }
    return nullptr;
  }
};

void run(const Stack& stack, const std::function<void()>& work) {
  Call call{work, nullptr};
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_t thread{};
  const bool started = pthread_attr_setstack(&attributes, stack.usable(), stack.usable_size()) == 0 &&
                       pthread_create(&thread, &attributes, Call::run, &call) == 0;
  pthread_attr_destroy(&attributes);
  if (!started) Stack::no_room();
  pthread_join(thread, nullptr);
  if (call.error) std::rethrow_exception(call.error);
}

}  // namespace

void run_on_deep_stack(std::size_t bytes, const std::function<void()>& work) { run(Stack(bytes), work); }

std::size_t measure_stack(std::size_t bytes, const std::function<void()>& work) {
  const Stack stack(bytes);
  run(stack, work);
  return stack.used();
}

}  // namespace gsd
