// The port and its connections. cpp-httplib speaks HTTP on each of them.
#pragma once

#include <httplib.h>

#include <condition_variable>
#include <mutex>
#include <set>

namespace gsd::server {

// httplib's server with what it lacks: an accept loop that survives passing failures and reports lasting ones, a thread
// for each connection (httplib's pool lets new ones wait behind idle ones), a bound on the time of a whole request,
// requests that arrive together (pipelined), and an end that does not wait for half a request.
class Listener final : public httplib::Server {
 public:
  Listener(int max_connections, int request_timeout_s);
  // Closes, and waits for the connections.
  ~Listener() override;

  // To be called once the port is bound (bind_to_port, bind_to_any_port), before serve().
  void bound() { port_ = svr_sock_; }
  // Takes connections until close(), which may have come before. Throws Error(kIo) if the port fails for good; the
  // connections that are there go on.
  void serve();
  // Takes no more connections and reads no more requests; answers in progress are sent. May be called from any thread,
  // also more than once.
  void close();
  // Waits until every connection has ended; after close().
  void wait();

 private:
  void take(socket_t sock);
  void hold_conversation(socket_t sock);
  void forget(socket_t sock);

  const std::size_t max_connections_;
  const time_t request_timeout_ms_;
  // The number stays ours until the destructor closes it: nobody can shut down a socket that has taken it over.
  socket_t port_ = INVALID_SOCKET;
  std::mutex mutex_;
  std::condition_variable gone_;
  std::set<socket_t> open_;  // guarded by mutex_; each is closed by its thread
};

}  // namespace gsd::server
