// The API over HTTP/1.1: routes, limits, keys. Its threads parse and format; the models belong to the scheduler's
// thread.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "api.h"

namespace gsd::server {

struct HttpOptions {
  std::string host = "127.0.0.1";
  int port = 8080;                         // 0 = any free one
  std::vector<std::string> api_keys;       // empty = none needed
  std::vector<std::string> allowed_hosts;  // names for Host beside loopback's; counts on loopback without keys
  std::string cors_origin;                 // empty = no other site's page may use the server; "*" = any
  bool page = true;                        // GET /
  bool slots = true;                       // GET /slots, of which other clients' work can be seen
  std::size_t max_body = 8 << 20;          // bytes of a request's body
  int max_connections = 512;               // each has a thread while it is open
  int read_timeout_s = 10;                 // between two pieces of a request
  int request_timeout_s = 30;              // for the whole of a request's head and body
  int write_timeout_s = 10;                // until a client takes what is sent to it
  int keep_alive_s = 15;                   // an idle connection is closed after that
};

// True for the names and addresses by which a machine reaches itself: "localhost", names under it, 127.x.x.x, ::1.
bool is_loopback(std::string_view host);

// The name in a Host header: without port, brackets and trailing dot, in lower case.
std::string host_name(std::string_view header);

// True if both are equal; takes the same time wherever they differ.
bool equal_in_constant_time(std::string_view a, std::string_view b);

// As it is written in a URL: an IPv6 address in brackets.
std::string url_host(const std::string& host);

class HttpServer {
 public:
  // Takes the port. Throws Error(kIo) if that is not possible.
  explicit HttpServer(HttpOptions options);
  // Stops, and waits for the connections.
  ~HttpServer();

  int port() const;
  // Streams that are being sent. May be called from any thread.
  int n_streams() const;
  // From now on requests go to `api`, which must outlive the server or its stop() and listen(); until then they get
  // 503, "The model is being loaded". May be called from any thread.
  void open(Api& api);
  // Serves until stop(), which may have come before; then waits for the requests in progress. Call once.
  // Throws Error(kIo) at once if the port fails for good; connections that are there are served until stop().
  void listen();
  // Waits for streams that are still being sent, at most the write timeout; then closes the port and every connection
  // that is not being answered. May be called from any thread.
  void stop();
  // Waits for the requests in progress; after stop().
  void wait();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace gsd::server
