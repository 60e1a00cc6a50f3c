#include "http.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cctype>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <functional>
#include <mutex>
#include <system_error>
#include <thread>

// How often a thread that holds an idle connection looks whether the server is being stopped.
#define CPPHTTPLIB_KEEPALIVE_TIMEOUT_CHECK_INTERVAL_USECOND 200000
#define CPPHTTPLIB_LISTEN_BACKLOG 128
#define CPPHTTPLIB_HEADER_MAX_COUNT 64
#include <httplib.h>

#include "gsd/error.h"
#include "page_html.h"

namespace gsd::server {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kPoll{20};  // how soon a client that went away is noticed where no token comes
constexpr const char* kJson = "application/json; charset=utf-8";

// httplib bounds the time between two pieces of a request, not that of a whole one.
class DeadlineServer final : public httplib::Server {
 public:
  explicit DeadlineServer(int request_timeout_s) : request_timeout_ms_(request_timeout_s * time_t{1000}) {}

  // httplib's own stop() does nothing as long as listening has not begun. May be called more than once.
  void close_port() {
    const socket_t sock = svr_sock_.exchange(INVALID_SOCKET);
    if (sock == INVALID_SOCKET) return;
    httplib::detail::shutdown_socket(sock);
    httplib::detail::close_socket(sock);
  }

 private:
  bool process_and_close_socket(socket_t sock) override {
    std::string remote;
    std::string local;
    int remote_port = 0;
    int local_port = 0;
    httplib::detail::get_remote_ip_and_port(sock, remote, remote_port);
    httplib::detail::get_local_ip_and_port(sock, local, local_port);
    const bool ok = httplib::detail::process_server_socket_core(
        svr_sock_, sock, keep_alive_max_count_, keep_alive_timeout_sec_, [&](bool close, bool& closed) {
          // The deadline bounds reading only: an answer may stream for hours.
          httplib::detail::SocketStream stream(sock, read_timeout_sec_, read_timeout_usec_, write_timeout_sec_,
                                               write_timeout_usec_, request_timeout_ms_,
                                               std::chrono::steady_clock::now());
          return process_request(stream, remote, remote_port, local, local_port, close, closed, nullptr);
        });
    httplib::detail::shutdown_socket(sock);
    httplib::detail::close_socket(sock);
    return ok;
  }

  time_t request_timeout_ms_;
};

// A thread for each open connection, up to a limit. httplib's own pool may leave a new connection waiting behind idle
// ones: it starts a thread only if none was idle when the connection came.
class ConnectionThreads final : public httplib::TaskQueue {
 public:
  explicit ConnectionThreads(int most) : most_(most) {}
  bool enqueue(std::function<void()> serve) override {
    const std::lock_guard lock(mutex_);
    if (count_ == most_) return false;
    try {
      std::thread([this, serve = std::move(serve)] {
        serve();
        const std::lock_guard done(mutex_);
        --count_;
        gone_.notify_all();
      }).detach();
    } catch (const std::system_error&) {  // the system gives no more threads
      return false;
    }
    ++count_;
    return true;
  }
  void shutdown() override {
    std::unique_lock lock(mutex_);
    gone_.wait(lock, [this] { return count_ == 0; });
  }

 private:
  const int most_;
  std::mutex mutex_;
  std::condition_variable gone_;
  int count_ = 0;
};

}  // namespace

bool is_loopback(std::string_view host) {
  return host == "localhost" || host.ends_with(".localhost") || host == "::1" ||
         (host.starts_with("127.") && host.find_first_not_of("0123456789.") == std::string_view::npos);
}

std::string host_name(std::string_view header) {
  if (header.starts_with('[')) {
    header = header.substr(1, header.find(']') - 1);
  } else {
    header = header.substr(0, header.find(':'));
  }
  if (header.ends_with('.')) header.remove_suffix(1);
  std::string out(header);
  std::transform(out.begin(), out.end(), out.begin(), [](unsigned char c) { return std::tolower(c); });
  return out;
}

bool equal_in_constant_time(std::string_view a, std::string_view b) {
  unsigned difference = a.size() == b.size() ? 0 : 1;
  for (std::size_t i = 0; i < a.size(); ++i)
    difference |= static_cast<unsigned char>(a[i]) ^ (i < b.size() ? static_cast<unsigned char>(b[i]) : 0U);
  return difference == 0;
}

struct HttpServer::Impl {
  Impl(Api& a, HttpOptions o) : api(a), options(std::move(o)), http(options.request_timeout_s) {}

  void configure();
  void route();
  void bind();
  httplib::Server::HandlerResponse before(const httplib::Request& req, httplib::Response& res) const;
  bool authorised(const httplib::Request& req) const;
  void check_host(const httplib::Request& req) const;
  void check_origin(const httplib::Request& req) const;
  void complete(const httplib::Request& req, httplib::Response& res, bool chat);
  void fail(httplib::Response& res, const ApiError& e) const;

  Api& api;
  HttpOptions options;
  DeadlineServer http;
  int port = 0;
  std::atomic<int> streams{0};  // being sent
};

void HttpServer::Impl::fail(httplib::Response& res, const ApiError& e) const {
  res.status = e.status();
  if (e.status() == 503) res.set_header("Retry-After", std::to_string(api.retry_after()));
  if (e.status() == 401) res.set_header("WWW-Authenticate", "Bearer");
  res.set_content(error_json(e), kJson);
}

bool HttpServer::Impl::authorised(const httplib::Request& req) const {
  std::string key = req.get_header_value("X-Api-Key");
  const std::string bearer = req.get_header_value("Authorization");
  if (bearer.starts_with("Bearer ")) key = bearer.substr(7);
  bool good = false;
  for (const std::string& k : options.api_keys) good |= equal_in_constant_time(k, key);
  return good;
}

// A site may let its name point to this machine (DNS rebinding), and its pages are then ours to a browser. Only the
// Host header tells. Who listens wider has names that cannot be known here; a key is out of such a page's reach.
void HttpServer::Impl::check_host(const httplib::Request& req) const {
  if (!is_loopback(options.host) || !options.api_keys.empty() || !req.has_header("Host")) return;
  const std::string name = host_name(req.get_header_value("Host"));
  if (is_loopback(name)) return;
  for (const std::string& allowed : options.allowed_hosts)
    if (name == host_name(allowed)) return;
  throw ApiError(403, "This server is not known by that name; see --allowed-host.");
}

// A browser names the site whose page asks. Another site's page may neither read our answers nor make the models work.
void HttpServer::Impl::check_origin(const httplib::Request& req) const {
  const std::string origin = req.get_header_value("Origin");
  if (origin.empty() || options.cors_origin == "*" || origin == options.cors_origin) return;
  const std::string host = req.get_header_value("Host");
  if (origin == "http://" + host || origin == "https://" + host) return;
  throw ApiError(403, "Pages of other sites may not use this server; see --cors-origin.");
}

httplib::Server::HandlerResponse HttpServer::Impl::before(const httplib::Request& req, httplib::Response& res) const {
  using R = httplib::Server::HandlerResponse;
  res.set_header("X-Content-Type-Options", "nosniff");
  try {
    check_host(req);
    check_origin(req);
    if (!options.cors_origin.empty()) {
      res.set_header("Access-Control-Allow-Origin", options.cors_origin);
      res.set_header("Vary", "Origin");
      if (req.method == "OPTIONS") {
        res.set_header("Access-Control-Allow-Methods", "GET, POST");
        res.set_header("Access-Control-Allow-Headers", "Authorization, Content-Type, X-Api-Key");
        res.status = 204;
        return R::Handled;
      }
    }
    const bool open = req.path == "/" || req.path == "/health" || req.path == "/v1/health";
    if (!open && !options.api_keys.empty() && !authorised(req))
      throw ApiError(401, "A valid API key is needed, as 'Authorization: Bearer KEY'.", {}, "invalid_api_key");
  } catch (const ApiError& e) {
    fail(res, e);
    return R::Handled;
  }
  return R::Unhandled;
}

void HttpServer::Impl::configure() {
  http.new_task_queue = [most = options.max_connections] { return new ConnectionThreads(most); };
  http.set_payload_max_length(options.max_body);
  http.set_read_timeout(options.read_timeout_s);
  http.set_write_timeout(options.write_timeout_s);
  http.set_keep_alive_timeout(options.keep_alive_s);
  http.set_keep_alive_max_count(10000);
  http.set_tcp_nodelay(true);
  http.set_pre_routing_handler([this](const auto& req, auto& res) { return before(req, res); });
  http.set_exception_handler([this](const auto&, auto& res, std::exception_ptr ep) {
    try {
      std::rethrow_exception(ep);
    } catch (const ApiError& e) {
      fail(res, e);
    } catch (const std::exception& e) {
      fail(res, ApiError(500, e.what()));
    } catch (...) {
      fail(res, ApiError(500, "An unknown error occurred."));
    }
  });
  // What httplib itself refuses, in our shape.
  http.set_error_handler([this](const auto& req, auto& res) {
    if (!res.body.empty()) return;
    const char* what = httplib::status_message(res.status);
    fail(res, ApiError(res.status, res.status == 404 ? fmt::format("There is no {} {}.", req.method, req.path)
                                   : res.status == 413
                                       ? fmt::format("The request is larger than {} bytes.", options.max_body)
                                       : fmt::format("The request was refused: {}.", what)));
  });
}

void HttpServer::Impl::complete(const httplib::Request& req, httplib::Response& res, bool chat) {
  std::shared_ptr<Call> call = api.completion(req.body, chat);
  if (!call->stream()) {
    while (!call->finished()) {
      call->advance(kPoll);
      if (!call->finished() && req.is_connection_closed()) call->cancel();
    }
    res.set_content(call->response(), kJson);
    return;
  }
  res.set_header("Cache-Control", "no-cache");
  ++streams;
  const auto send = [call](std::size_t, httplib::DataSink& sink) {
    const std::string ready = call->advance(kPoll);
    if (!sink.is_writable() || !(ready.empty() || sink.write(ready.data(), ready.size()))) {
      call->cancel();
      return false;
    }
    if (call->finished()) sink.done();
    return true;
  };
  res.set_chunked_content_provider("text/event-stream", send, [this](bool) { --streams; });
}

void HttpServer::Impl::route() {
  const auto get = [this](const char* path, auto make) {
    http.Get(path, [make](const auto& req, auto& res) { res.set_content(make(req), kJson); });
  };
  const auto post = [this](const char* path, auto make) {
    http.Post(path, [make](const auto& req, auto& res) { res.set_content(make(req.body), kJson); });
  };
  http.Get("/", [](const auto&, auto& res) {
    // Everything the page needs is in it; nothing else may be loaded, nor may it be framed.
    res.set_header("Content-Security-Policy",
                   "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
                   "img-src data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'");
    res.set_content(reinterpret_cast<const char*>(app::page_html), sizeof app::page_html, "text/html; charset=utf-8");
  });
  const auto health = [this](const auto&, auto& res) {
    if (!api.healthy()) return fail(res, ApiError(503, "The server is shutting down."));
    res.set_content(R"({"status":"ok"})", kJson);
  };
  http.Get("/health", health);
  http.Get("/v1/health", health);
  get("/v1/models", [this](const auto&) { return api.models(); });
  get("/models", [this](const auto&) { return api.models(); });
  get(R"(/v1/models/(.+))", [this](const auto& req) { return api.model(req.matches[1]); });
  get("/props", [this](const auto&) { return api.props(); });
  get("/slots", [this](const auto&) { return api.slots(); });
  http.Get("/metrics", [this](const auto&, auto& res) { res.set_content(api.metrics(), "text/plain; version=0.0.4"); });
  post("/tokenize", [this](const std::string& body) { return api.tokenize(body); });
  post("/detokenize", [this](const std::string& body) { return api.detokenize(body); });
  post("/apply-template", [this](const std::string& body) { return api.apply_template(body); });
  for (const char* path : {"/v1/chat/completions", "/chat/completions"})
    http.Post(path, [this](const auto& req, auto& res) { complete(req, res, true); });
  for (const char* path : {"/v1/completions", "/completions"})
    http.Post(path, [this](const auto& req, auto& res) { complete(req, res, false); });
}

void HttpServer::Impl::bind() {
  // SO_REUSEADDR lets a restart take the port at once; SO_REUSEPORT (httplib's default) would share it with another
  // server.
  http.set_socket_options([](socket_t sock) { httplib::set_socket_opt(sock, SOL_SOCKET, SO_REUSEADDR, 1); });
  errno = 0;
  port = options.port == 0 ? http.bind_to_any_port(options.host)
                           : (http.bind_to_port(options.host, options.port) ? options.port : -1);
  if (port < 0) {
    throw Error(
        ErrorCode::kIo,
        fmt::format("The address {}:{} cannot be used: {}; choose another with --host and --port.", options.host,
                    options.port, errno != 0 ? std::strerror(errno) : "it is not one of this machine's"));
  }
}

HttpServer::HttpServer(Api& api, HttpOptions options) : impl_(std::make_unique<Impl>(api, std::move(options))) {
  impl_->configure();
  impl_->route();
  impl_->bind();
}

HttpServer::~HttpServer() { stop(); }

int HttpServer::port() const { return impl_->port; }
int HttpServer::n_streams() const { return impl_->streams; }
void HttpServer::listen() { impl_->http.listen_after_bind(); }

void HttpServer::stop() {
  // httplib cuts streams short when it stops: the ends of those that are complete must have been sent.
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(impl_->options.write_timeout_s);
  while (impl_->streams > 0 && std::chrono::steady_clock::now() < deadline)
    std::this_thread::sleep_for(milliseconds(5));
  impl_->http.close_port();
}

}  // namespace gsd::server
