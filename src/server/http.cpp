#include "http.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cctype>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <new>
#include <optional>
#include <thread>

#include "gsd/error.h"
#include "listener.h"
#include "messages.h"
#include "page_html.h"

namespace gsd::server {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kPoll{20};  // how soon a client that went away is noticed where no token comes
constexpr const char* kJson = "application/json; charset=utf-8";

// One more in `count` while it exists.
class Counted {
 public:
  explicit Counted(std::atomic<int>& count) : count_(count) { ++count_; }
  ~Counted() { --count_; }
  Counted(const Counted&) = delete;
  Counted& operator=(const Counted&) = delete;

 private:
  std::atomic<int>& count_;
};

// The scheme's name has no case (RFC 9110, 11.1).
bool is_bearer(std::string_view header) {
  constexpr std::string_view kScheme = "bearer ";
  return header.size() > kScheme.size() &&
         std::equal(kScheme.begin(), kScheme.end(), header.begin(),
                    [](char a, char b) { return a == std::tolower(static_cast<unsigned char>(b)); });
}

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

std::string url_host(const std::string& host) { return host.find(':') == std::string::npos ? host : "[" + host + "]"; }

bool equal_in_constant_time(std::string_view a, std::string_view b) {
  unsigned difference = a.size() == b.size() ? 0 : 1;
  for (std::size_t i = 0; i < a.size(); ++i)
    difference |= static_cast<unsigned char>(a[i]) ^ (i < b.size() ? static_cast<unsigned char>(b[i]) : 0U);
  return difference == 0;
}

struct HttpServer::Impl {
  explicit Impl(HttpOptions o) : options(std::move(o)), http(options.max_connections, options.request_timeout_s) {}

  void configure();
  void route();
  void bind();
  httplib::Server::HandlerResponse before(const httplib::Request& req, httplib::Response& res) const;
  std::optional<std::size_t> client(const httplib::Request& req) const;
  void check_host(const httplib::Request& req) const;
  void check_origin(const httplib::Request& req) const;
  void complete(const httplib::Request& req, httplib::Response& res, std::shared_ptr<Call> call);
  void fail(const httplib::Request& req, httplib::Response& res, const ApiError& e) const;

  Api& loaded() const;

  std::atomic<Api*> api{nullptr};  // null while the model is being loaded
  HttpOptions options;
  std::atomic<int> streams{0};  // being sent
  int port = 0;
  Listener http;  // last: its threads use the others until it is gone
};

Api& HttpServer::Impl::loaded() const {
  Api* const a = api;
  if (a == nullptr) throw ApiError(503, "The model is being loaded; try again soon.", {}, "loading_model");
  return *a;
}

void HttpServer::Impl::fail(const httplib::Request& req, httplib::Response& res, const ApiError& e) const {
  res.status = e.status();
  if (e.status() == 503) {
    const Api* const a = api;
    res.set_header("Retry-After", std::to_string(a != nullptr ? a->retry_after() : 1));
  }
  if (e.status() == 401) res.set_header("WWW-Authenticate", "Bearer");
  const bool anthropic = req.path == "/v1/messages" || req.path.starts_with("/v1/messages/");
  res.set_content(anthropic ? anthropic_error_json(e) : error_json(e), kJson);
}

// The number of the key that the request has; 0 where none is needed, nothing where it has none that is good.
std::optional<std::size_t> HttpServer::Impl::client(const httplib::Request& req) const {
  if (options.api_keys.empty()) return 0;
  std::vector<std::string> given{req.get_header_value("X-Api-Key")};
  const std::string bearer = req.get_header_value("Authorization");
  if (is_bearer(bearer)) given.push_back(bearer.substr(bearer.find_first_not_of(' ', 6)));
  std::optional<std::size_t> out;
  for (std::size_t i = 0; i < options.api_keys.size(); ++i) {
    for (const std::string& key : given) {
      if (equal_in_constant_time(options.api_keys[i], key)) out = i;
    }
  }
  return out;
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
        // Clients add headers of their own (X-Stainless-OS, …), and none of them changes what we do.
        const std::string asked = req.get_header_value("Access-Control-Request-Headers");
        res.set_header("Access-Control-Allow-Methods", "GET, POST, DELETE");
        res.set_header("Access-Control-Allow-Headers",
                       asked.empty() ? "Authorization, Content-Type, X-Api-Key" : asked);
        res.status = 204;
        return R::Handled;
      }
    }
    const bool open = req.path == "/" || req.path == "/health" || req.path == "/v1/health";
    if (!open && !client(req))
      throw ApiError(401, "A valid API key is needed, as 'Authorization: Bearer KEY'.", {}, "invalid_api_key");
    if (req.path != "/") loaded();
  } catch (const ApiError& e) {
    fail(req, res, e);
    return R::Handled;
  }
  return R::Unhandled;
}

void HttpServer::Impl::configure() {
  http.set_payload_max_length(options.max_body);
  http.set_read_timeout(options.read_timeout_s);
  http.set_write_timeout(options.write_timeout_s);
  http.set_keep_alive_timeout(options.keep_alive_s);
  http.set_keep_alive_max_count(10000);
  http.set_pre_routing_handler([this](const auto& req, auto& res) { return before(req, res); });
  http.set_exception_handler([this](const auto& req, auto& res, std::exception_ptr ep) {
    try {
      std::rethrow_exception(ep);
    } catch (const ApiError& e) {
      fail(req, res, e);
    } catch (const std::bad_alloc&) {
      fail(req, res, ApiError(500, "There is not enough memory for this request; try a smaller one."));
    } catch (const std::exception& e) {
      fail(req, res, ApiError(500, e.what()));
    } catch (...) {
      fail(req, res, ApiError(500, "An unknown error occurred."));
    }
  });
  // What httplib itself refuses, in our shape.
  http.set_error_handler([this](const auto& req, auto& res) {
    if (!res.body.empty()) return;
    const char* what = httplib::status_message(res.status);
    fail(
        req, res,
        ApiError(res.status, res.status == 404   ? fmt::format("There is no {} {}.", req.method, req.path)
                             : res.status == 413 ? fmt::format("The request is larger than {} bytes.", options.max_body)
                                                 : fmt::format("The request was refused: {}.", what)));
  });
}

void HttpServer::Impl::complete(const httplib::Request& req, httplib::Response& res, std::shared_ptr<Call> call) {
  if (!call->stream()) {
    while (!call->finished()) {
      call->advance(kPoll);
      if (!call->finished() && req.is_connection_closed()) call->cancel();
    }
    res.set_content(call->response(), kJson);
    return;
  }
  res.set_header("Cache-Control", "no-cache");
  auto sending = std::make_shared<Counted>(streams);  // lives as long as `send`, also where that is never called
  // What fails once the head of the answer is out comes as a chunk; httplib calls this where nothing is caught.
  const auto send = [call, sending = std::move(sending)](std::size_t, httplib::DataSink& sink) {
    std::string ready;
    bool failed = false;
    try {
      ready = call->advance(kPoll);
    } catch (const std::exception& e) {
      failed = true;
      ready = call->failed(ApiError(500, e.what()));
    }
    if (!sink.is_writable() || !(ready.empty() || sink.write(ready.data(), ready.size()))) {
      call->cancel();
      return false;
    }
    if (failed || call->finished()) sink.done();
    return true;
  };
  res.set_chunked_content_provider("text/event-stream", send);
}

void HttpServer::Impl::route() {
  const auto get = [this](const char* path, auto make) {
    http.Get(path, [make](const auto& req, auto& res) { res.set_content(make(req), kJson); });
  };
  const auto post = [this](const char* path, auto make) {
    http.Post(path, [make](const auto& req, auto& res) { res.set_content(make(req.body), kJson); });
  };
  http.Get("/", [this](const auto&, auto& res) {
    if (!options.page) {
      res.status = 404;
      return;
    }
    // Everything the page needs is in it; nothing else may be loaded, nor may it be framed.
    res.set_header("Content-Security-Policy",
                   "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
                   "img-src data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'");
    res.set_content(reinterpret_cast<const char*>(app::page_html), sizeof app::page_html, "text/html; charset=utf-8");
  });
  const auto health = [this](const auto& req, auto& res) {
    if (!loaded().healthy()) return fail(req, res, ApiError(503, "The server is shutting down."));
    res.set_content(R"({"status":"ok"})", kJson);
  };
  http.Get("/health", health);
  http.Get("/v1/health", health);
  get("/v1/models", [this](const auto&) { return loaded().models(); });
  get("/models", [this](const auto&) { return loaded().models(); });
  get(R"(/v1/models/(.+))", [this](const auto& req) { return loaded().model(req.matches[1]); });
  get("/props", [this](const auto&) { return loaded().props(); });
  get("/slots", [this](const auto&) {
    if (!options.slots) throw ApiError(501, "This server was started with --no-slots.");
    return loaded().slots();
  });
  http.Get("/metrics",
           [this](const auto&, auto& res) { res.set_content(loaded().metrics(), "text/plain; version=0.0.4"); });
  post("/tokenize", [this](const std::string& body) { return loaded().tokenize(body); });
  post("/detokenize", [this](const std::string& body) { return loaded().detokenize(body); });
  post("/apply-template", [this](const std::string& body) { return loaded().apply_template(body); });
  http.Post(R"(/slots/(\d{1,6}))", [this](const auto& req, auto& res) {
    const std::string action = req.get_param_value("action");
    res.set_content(loaded().slot_action(std::stoi(req.matches[1]), action, req.body), kJson);
  });
  // What llama-server has and this server does not do.
  const auto refuse = [this](std::initializer_list<const char*> paths, const char* sentence) {
    for (const char* path : paths)
      http.Post(path, [this, sentence](const auto& req, auto& res) { fail(req, res, ApiError(501, sentence)); });
  };
  refuse({"/embedding", "/embeddings", "/v1/embeddings"},
         "This server generates text and makes no embeddings; run one with an embedding model for them.");
  refuse({"/rerank", "/reranking", "/v1/rerank", "/v1/reranking"},
         "This server generates text and ranks no documents; run one with a reranking model for that.");
  refuse({"/props"}, "Properties cannot be changed while the server runs; start it with other flags.");
  get("/lora-adapters", [this](const auto&) { return loaded().lora_adapters(); });
  post("/lora-adapters", [this](const std::string& body) { return loaded().set_lora_adapters(body); });
  const auto generate = [this](std::initializer_list<const char*> paths, auto begin) {
    for (const char* path : paths)
      http.Post(path, [this, begin](const auto& req, auto& res) {
        complete(req, res, begin(loaded(), req.body, client(req).value_or(0)));
      });
  };
  generate({"/v1/chat/completions", "/chat/completions"},
           [](Api& a, const std::string& body, std::size_t who) { return a.completion(body, true, who); });
  generate({"/v1/completions"},
           [](Api& a, const std::string& body, std::size_t who) { return a.completion(body, false, who); });
  generate({"/completion", "/completions"},
           [](Api& a, const std::string& body, std::size_t who) { return a.native(body, who); });
  generate({"/infill"}, [](Api& a, const std::string& body, std::size_t who) { return a.infill(body, who); });
  generate({"/v1/responses", "/responses"},
           [](Api& a, const std::string& body, std::size_t who) { return a.response(body, who); });
  generate({"/v1/messages"}, [](Api& a, const std::string& body, std::size_t who) { return a.message(body, who); });
  post("/v1/messages/count_tokens", [this](const std::string& body) { return loaded().count_tokens(body); });
  get(R"(/v1/responses/([^/]+))", [this](const auto& req) { return loaded().kept_response(req.matches[1]); });
  http.Delete(R"(/v1/responses/([^/]+))",
              [this](const auto& req, auto& res) { res.set_content(loaded().delete_response(req.matches[1]), kJson); });
}

void HttpServer::Impl::bind() {
  // SO_REUSEADDR lets a restart take the port at once; SO_REUSEPORT (httplib's default) would share it with another
  // server.
  http.set_socket_options([](socket_t sock) { httplib::set_socket_opt(sock, SOL_SOCKET, SO_REUSEADDR, 1); });
  errno = 0;
  port = options.port == 0 ? http.bind_to_any_port(options.host)
                           : (http.bind_to_port(options.host, options.port) ? options.port : -1);
  if (port < 0) {
    throw Error(ErrorCode::kIo,
                fmt::format("The address {}:{} cannot be used: {}; choose another with --host and --port.",
                            url_host(options.host), options.port,
                            errno != 0 ? std::strerror(errno) : "it is not one of this machine's"));
  }
  http.bound();
}

HttpServer::HttpServer(HttpOptions options) : impl_(std::make_unique<Impl>(std::move(options))) {
  impl_->configure();
  impl_->route();
  impl_->bind();
}

HttpServer::~HttpServer() { stop(); }

int HttpServer::port() const { return impl_->port; }
int HttpServer::n_streams() const { return impl_->streams; }
void HttpServer::open(Api& api) { impl_->api = &api; }

void HttpServer::wait() { impl_->http.wait(); }

void HttpServer::listen() {
  impl_->http.serve();
  impl_->http.wait();
}

void HttpServer::stop() {
  // httplib cuts streams short when it stops: the ends of those that are complete must have been sent.
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(impl_->options.write_timeout_s);
  while (impl_->streams > 0 && std::chrono::steady_clock::now() < deadline)
    std::this_thread::sleep_for(milliseconds(5));
  impl_->http.close();
}

}  // namespace gsd::server
