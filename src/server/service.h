// The server's threads and their end: one takes connections, one watches for the wish to stop, the caller's works.
#pragma once

#include <atomic>
#include <exception>
#include <functional>
#include <thread>

#include "http.h"

namespace gsd::server {

// To be used by one thread.
class Service {
 public:
  // Takes the port and answers there; until run(), with 503. Throws Error(kIo).
  explicit Service(HttpOptions options);
  // Closes the port.
  ~Service();
  Service(const Service&) = delete;
  Service& operator=(const Service&) = delete;

  const HttpServer& http() const { return http_; }
  // Serves `api` with `scheduler`, which works in this thread, until `interrupted` says so, the port fails or the
  // scheduler does. Then what was accepted is finished, and the port is closed. Throws what failed. Call once.
  // `opened` is called when requests are taken; may be empty.
  void run(Scheduler& scheduler, Api& api, const std::function<bool()>& interrupted,
           const std::function<void()>& opened = {});

 private:
  void close();

  HttpServer http_;
  std::exception_ptr failure_;  // of the listener; to be read once `failed_` is true, or after it was joined
  std::atomic<bool> failed_{false};
  std::thread listener_;
};

}  // namespace gsd::server
