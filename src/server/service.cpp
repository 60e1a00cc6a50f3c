#include "service.h"

#include <chrono>

namespace gsd::server {

Service::Service(HttpOptions options) : http_(std::move(options)) {
  listener_ = std::thread([this] {
    try {
      http_.listen();
    } catch (...) {
      failure_ = std::current_exception();
      failed_ = true;
    }
  });
}

Service::~Service() { close(); }

void Service::close() {
  http_.stop();
  if (listener_.joinable()) listener_.join();
  http_.wait();  // a listener that failed has not waited for what it had taken
}

void Service::run(Scheduler& scheduler, Api& api, const std::function<bool()>& interrupted,
                  const std::function<void()>& opened) {
  std::atomic<bool> done{false};
  std::thread watcher([&] {
    while (!interrupted() && !failed_ && !done) std::this_thread::sleep_for(std::chrono::milliseconds(50));
    scheduler.drain();
  });
  http_.open(api);
  std::exception_ptr first;
  try {
    if (opened) opened();
    scheduler.run();
  } catch (...) {
    first = std::current_exception();
  }
  done = true;
  watcher.join();
  close();
  if (!first) first = failure_;
  if (first) std::rethrow_exception(first);
}

}  // namespace gsd::server
