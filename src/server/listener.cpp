#include "listener.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "gsd/error.h"

namespace gsd::server {
namespace {

using std::chrono::milliseconds;

// What was read of a connection and not used yet: the beginning of the next request, if the client did not wait.
struct ReadAhead {
  std::vector<char> bytes = std::vector<char>(1 << 14);
  std::size_t begin = 0;
  std::size_t end = 0;
  bool empty() const { return begin == end; }
};

// One request's view of a connection. httplib's own stream has a buffer that is lost with the request.
class RequestStream final : public httplib::Stream {
 public:
  RequestStream(httplib::Stream& socket, ReadAhead& ahead) : socket_(socket), ahead_(ahead) {}

  ssize_t read(char* out, std::size_t size) override {
    if (ahead_.empty()) {
      // As large a piece as that passes the inner stream's buffer by.
      const ssize_t n = socket_.read(ahead_.bytes.data(), ahead_.bytes.size());
      if (n <= 0) {
        error_ = socket_.get_error();
        return n;
      }
      ahead_.begin = 0;
      ahead_.end = static_cast<std::size_t>(n);
    }
    const std::size_t n = std::min(size, ahead_.end - ahead_.begin);
    std::memcpy(out, ahead_.bytes.data() + ahead_.begin, n);
    ahead_.begin += n;
    return static_cast<ssize_t>(n);
  }
  bool is_readable() const override { return !ahead_.empty(); }
  bool wait_readable() const override { return !ahead_.empty() || socket_.wait_readable(); }
  bool wait_writable() const override { return socket_.wait_writable(); }
  bool is_peer_alive() const override { return socket_.is_peer_alive(); }
  ssize_t write(const char* bytes, std::size_t size) override { return socket_.write(bytes, size); }
  void get_remote_ip_and_port(std::string& ip, int& port) const override { socket_.get_remote_ip_and_port(ip, port); }
  void get_local_ip_and_port(std::string& ip, int& port) const override { socket_.get_local_ip_and_port(ip, port); }
  socket_t socket() const override { return socket_.socket(); }
  time_t duration() const override { return socket_.duration(); }
  void set_read_timeout(time_t s, time_t us) override { socket_.set_read_timeout(s, us); }

 private:
  httplib::Stream& socket_;
  ReadAhead& ahead_;
};

// httplib writes "Connection: close" beside each error, and would go on serving. Of the connection of this thread.
thread_local bool said_close;

// What httplib would do with these headers is not for us: parts of answers, forms of at most 8 KiB, and a body without
// a length that takes in the next request. Every body is JSON here, whatever it is called.
void simplify(httplib::Request& req) {
  req.ranges.clear();
  req.headers.erase("Content-Type");
  if (!req.has_header("Content-Length") && !req.has_header("Transfer-Encoding"))
    req.headers.emplace("Content-Length", "0");
}

// Lets the other side read what was sent last: closing a socket with unread bytes in it would throw that away.
void part(socket_t sock) {
  ::shutdown(sock, SHUT_WR);
  char block[1 << 14];
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(1);
  for (std::size_t most = std::size_t{16} << 20; most > 0 && std::chrono::steady_clock::now() < end;) {
    if (httplib::detail::select_read(sock, 0, 200000) <= 0) return;
    const ssize_t n = recv(sock, block, sizeof block, 0);
    if (n <= 0) return;
    most -= std::min(most, static_cast<std::size_t>(n));
  }
}

// Failures of accept() that concern one connection only, or that Linux hands on from it.
bool is_passing(int error) {
  switch (error) {
    case EINTR:
    case EAGAIN:
    case ECONNABORTED:
    case EPROTO:
    case EPERM:
    case ETIMEDOUT:
    case ENETDOWN:
    case ENOPROTOOPT:
    case EHOSTDOWN:
    case EHOSTUNREACH:
    case ENETUNREACH:
#ifdef ENONET
    case ENONET:
#endif
      return true;
    default:
      return false;
  }
}

// These end when somebody else gives something back.
bool is_shortage(int error) { return error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM; }

}  // namespace

Listener::Listener(int max_connections, int request_timeout_s)
    : max_connections_(static_cast<std::size_t>(max_connections)),
      request_timeout_ms_(request_timeout_s * time_t{1000}) {
  set_post_routing_handler([](const auto&, auto& res) { said_close = res.get_header_value("Connection") == "close"; });
}

Listener::~Listener() {
  close();
  wait();
  if (port_ != INVALID_SOCKET) httplib::detail::close_socket(port_);
}

void Listener::serve() {
  while (svr_sock_ != INVALID_SOCKET) {
    const socket_t sock = accept4(port_, nullptr, nullptr, SOCK_CLOEXEC);
    const int error = errno;
    if (sock != INVALID_SOCKET) {
      take(sock);
    } else if (svr_sock_ == INVALID_SOCKET || is_passing(error)) {
      continue;
    } else if (is_shortage(error)) {
      std::this_thread::sleep_for(milliseconds(20));
    } else {
      throw Error(ErrorCode::kIo, fmt::format("The server's port takes no connections any more: {}; start it again.",
                                              std::strerror(error)));
    }
  }
}

void Listener::take(socket_t sock) {
  using httplib::detail::set_socket_opt_time;
  set_socket_opt_time(sock, SOL_SOCKET, SO_RCVTIMEO, read_timeout_sec_, read_timeout_usec_);
  set_socket_opt_time(sock, SOL_SOCKET, SO_SNDTIMEO, write_timeout_sec_, write_timeout_usec_);
  httplib::set_socket_opt(sock, IPPROTO_TCP, TCP_NODELAY, 1);
  try {
    {
      const std::lock_guard lock(mutex_);
      if (open_.size() < max_connections_ && svr_sock_ != INVALID_SOCKET) open_.insert(sock);
      if (!open_.contains(sock)) {
        httplib::detail::close_socket(sock);
        return;
      }
    }
    std::thread([this, sock] {
      // Nothing may leave a thread: it would end the process. What failed here has cost a connection.
      try {
        hold_conversation(sock);
      } catch (...) {
      }
      forget(sock);
    }).detach();
  } catch (const std::exception&) {  // no thread or no memory: this client is turned away, the others are served
    forget(sock);
  }
}

void Listener::forget(socket_t sock) {
  const std::lock_guard lock(mutex_);
  httplib::detail::shutdown_socket(sock);
  httplib::detail::close_socket(sock);
  open_.erase(sock);
  gone_.notify_all();
}

void Listener::hold_conversation(socket_t sock) {
  std::string remote;
  std::string local;
  int remote_port = 0;
  int local_port = 0;
  httplib::detail::get_remote_ip_and_port(sock, remote, remote_port);
  httplib::detail::get_local_ip_and_port(sock, local, local_port);
  ReadAhead ahead;
  for (std::size_t left = keep_alive_max_count_; left > 0; --left) {
    if (ahead.empty() && !httplib::detail::keep_alive(svr_sock_, sock, keep_alive_timeout_sec_)) return;
    // The deadline bounds reading only: an answer may stream for hours.
    httplib::detail::SocketStream socket(sock, read_timeout_sec_, read_timeout_usec_, write_timeout_sec_,
                                         write_timeout_usec_, request_timeout_ms_, std::chrono::steady_clock::now());
    RequestStream stream(socket, ahead);
    bool closed = false;
    said_close = false;
    const bool good =
        process_request(stream, remote, remote_port, local, local_port, left == 1, closed, simplify, nullptr);
    if (!good || closed || said_close) break;
  }
  part(sock);
}

void Listener::close() {
  if (svr_sock_.exchange(INVALID_SOCKET) != INVALID_SOCKET) httplib::detail::shutdown_socket(port_);
  const std::lock_guard lock(mutex_);
  for (const socket_t sock : open_) ::shutdown(sock, SHUT_RD);
}

void Listener::wait() {
  std::unique_lock lock(mutex_);
  gone_.wait(lock, [this] { return open_.empty(); });
}

}  // namespace gsd::server
