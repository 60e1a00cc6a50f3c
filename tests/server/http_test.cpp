// The server over real sockets, on the scripted backend: what clients do wrong, and what they must not be able to do.
#include <arpa/inet.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <deque>
#include <mutex>

#include "../../src/server/service.h"
#include "server_rig.h"

namespace {

// What the next calls of accept4 fail with.
std::mutex accept_mutex;
std::deque<int> accept_failures;

}  // namespace

// The listener's accept: the system's own, unless a test wants it to fail.
extern "C" int accept4(int fd, sockaddr* address, socklen_t* length, int flags) {
  {
    const std::lock_guard lock(accept_mutex);
    if (!accept_failures.empty()) {
      errno = accept_failures.front();
      accept_failures.pop_front();
      return -1;
    }
  }
  static const auto real = reinterpret_cast<int (*)(int, sockaddr*, socklen_t*, int)>(dlsym(RTLD_NEXT, "accept4"));
  return real(fd, address, length, flags);
}

namespace gsd::server {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

// A plain TCP connection to the server.
class Socket {
 public:
  explicit Socket(int port) : fd_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in a{};
    a.sin_family = AF_INET;
    a.sin_port = htons(static_cast<std::uint16_t>(port));
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(connect(fd_, reinterpret_cast<sockaddr*>(&a), sizeof a), 0);
  }
  ~Socket() { close(fd_); }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  bool send(std::string_view text) const {
    while (!text.empty()) {
      const ssize_t n = ::send(fd_, text.data(), text.size(), MSG_NOSIGNAL);
      if (n <= 0) return false;
      text.remove_prefix(static_cast<std::size_t>(n));
    }
    return true;
  }
  // What comes until the other side closes, `most` bytes are there, or nothing comes for 20 s.
  std::string read(std::size_t most = SIZE_MAX) const {
    std::string out;
    char block[4096];
    pollfd p{fd_, POLLIN, 0};
    while (out.size() < most && poll(&p, 1, 20000) > 0) {
      const ssize_t n = recv(fd_, block, sizeof block, 0);
      if (n <= 0) break;
      out.append(block, static_cast<std::size_t>(n));
    }
    return out;
  }
  void half_close() const { shutdown(fd_, SHUT_WR); }

 private:
  int fd_;
};

std::string post(const std::string& path, const std::string& body, const std::string& headers = "") {
  return "POST " + path +
         " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: " + std::to_string(body.size()) +
         "\r\n" + headers + "\r\n" + body;
}

std::string get(const std::string& path, const std::string& headers = "") {
  return "GET " + path + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + headers + "\r\n";
}

constexpr const char* kShort = R"({"prompt": "abc", "max_tokens": 5, "temperature": 0})";
constexpr const char* kEndless = R"({"prompt": "abc", "ignore_eos": true, "stream": true})";

struct Server {
  explicit Server(HttpOptions options = {}, const RigOptions& rig_options = {}) : rig(rig_options) {
    options.port = 0;
    http = std::make_unique<HttpServer>(options);
    http->open(rig.api);
    rig.start();
    listener = std::thread([this] { http->listen(); });
  }
  ~Server() {
    rig.stop();
    http->stop();
    if (listener.joinable()) listener.join();
  }
  std::string ask(const std::string& request) const {
    const Socket s(http->port());
    s.send(request);
    return s.read();
  }
  // The server still does its work.
  void expect_alive() const {
    const std::string answer = ask(post("/v1/completions", kShort));
    EXPECT_THAT(answer, StartsWith("HTTP/1.1 200"));
    EXPECT_THAT(answer, HasSubstr("\"completion_tokens\":5"));
  }
  void expect_slots_free() const {
    for (int i = 0; i < 2000 && rig.scheduler.n_processing() > 0; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    EXPECT_EQ(rig.scheduler.n_processing(), 0U);
  }

  Rig rig;
  std::unique_ptr<HttpServer> http;
  std::thread listener;
};

RigOptions slow(int n_seq = 1) {
  RigOptions o;
  o.n_seq = n_seq;
  o.n_ctx = 4096;
  o.step_us = 300;
  return o;
}

TEST(Http, ServesEveryEndpoint) {
  const Server s;
  for (const char* path : {"/", "/health", "/v1/models", "/v1/models/ascii", "/props", "/slots", "/metrics"})
    EXPECT_THAT(s.ask(get(path)), StartsWith("HTTP/1.1 200")) << path;
  EXPECT_THAT(s.ask(post("/tokenize", R"({"content": "ab"})")), HasSubstr("[97,98]"));
  EXPECT_THAT(s.ask(post("/detokenize", R"({"tokens": [97]})")), HasSubstr("\"a\""));
  EXPECT_THAT(s.ask(post("/apply-template", R"({"messages": [{"role": "user", "content": "q"}]})")),
              HasSubstr("<user>q"));
  EXPECT_THAT(
      s.ask(post("/v1/chat/completions", R"({"messages": [{"role": "user", "content": "q"}], "max_tokens": 3})")),
      HasSubstr("\"chat.completion\""));
  const std::string streamed = s.ask(post("/v1/completions", R"({"prompt": "abc", "max_tokens": 5, "stream": true})"));
  EXPECT_THAT(streamed, HasSubstr("text/event-stream"));
  EXPECT_THAT(streamed, HasSubstr("data: [DONE]"));
  EXPECT_THAT(s.ask(get("/nothing")), HasSubstr("There is no GET /nothing"));
  EXPECT_THAT(s.ask(get("/v1/models/nobody")), HasSubstr("model_not_found"));
}

TEST(Http, AnswersWhatIsMalformed) {
  HttpOptions o;
  o.read_timeout_s = o.keep_alive_s = 1;  // some of these leave the connection open
  const Server s(o);
  const std::pair<std::string, const char*> cases[] = {
      {post("/v1/completions", "{\"prompt\": "), "400"},
      {post("/v1/completions", std::string(100000, '[')), "400"},
      {post("/v1/completions", R"({"prompt": "x", "max_tokens": "many"})"), "400"},
      {post("/v1/completions", R"({"prompt": "x", "temperature": NaN})"), "400"},
      {post("/v1/completions", R"({"prompt": "x", "temperature": 1e999})"), "400"},
      {post("/v1/completions", "{\"prompt\": \"\xc3\x28\"}"), "400"},
      {post("/v1/completions", "{\"prompt\": \"" + std::string(600, 'x') + "\"}"), "400"},
      {post("/v1/completions", ""), "400"},
      {get("/v1/completions"), "404"},
      {"GET /" + std::string(10000, 'a') + " HTTP/1.1\r\nHost: localhost\r\n\r\n", "414"},
      {"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + std::string(20000, 'a') + "\r\n\r\n", "400"},
      {"NONSENSE\r\n\r\n", "400"},
      {"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: abc\r\n\r\n", "400"},
  };
  for (const auto& [request, status] : cases) {
    const std::string answer = s.ask(request);
    EXPECT_THAT(answer, StartsWith(std::string("HTTP/1.1 ") + status)) << request.substr(0, 80);
    EXPECT_THAT(answer, HasSubstr("{\"error\":{\"message\":")) << request.substr(0, 80);
  }
  s.expect_alive();
}

TEST(Http, RefusesALargeBodyWithoutTakingItIn) {
  HttpOptions o;
  o.max_body = 1 << 20;
  const Server s(o);
  const Socket c(s.http->port());
  c.send("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 104857600\r\n\r\n");
  const std::string block(1 << 20, 'x');
  int sent = 0;
  while (sent < 100 && c.send(block)) ++sent;
  EXPECT_LT(sent, 100) << "the whole 100 MB were read";
  // The same in chunks, whose sum is known only as they come.
  const Socket chunked(s.http->port());
  chunked.send("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n");
  sent = 0;
  while (sent < 100 && chunked.send("100000\r\n" + block + "\r\n")) ++sent;
  EXPECT_LT(sent, 100);
  s.expect_alive();
}

TEST(Http, AsksForAKeyWhereOneIsSet) {
  HttpOptions o;
  o.api_keys = {"first-key", "second-key"};
  const Server s(o);
  const std::string none = s.ask(get("/v1/models"));
  EXPECT_THAT(none, StartsWith("HTTP/1.1 401"));
  EXPECT_THAT(none, HasSubstr("invalid_api_key"));
  for (const char* wrong : {"Authorization: Bearer first-ke\r\n", "Authorization: Bearer first-key2\r\n",
                            "Authorization: first-key\r\n", "Authorization: Bearer \r\n", "X-Api-Key: x\r\n"})
    EXPECT_THAT(s.ask(get("/props", wrong)), StartsWith("HTTP/1.1 401")) << wrong;
  EXPECT_THAT(s.ask(get("/v1/models", "Authorization: Bearer second-key\r\n")), StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(s.ask(get("/v1/models", "X-Api-Key: first-key\r\n")), StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(s.ask(post("/v1/completions", kShort)), StartsWith("HTTP/1.1 401"));
  EXPECT_THAT(s.ask(get("/health")), StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(s.ask(get("/")), StartsWith("HTTP/1.1 200")) << "the page holds no secret and asks for the key itself";
}

TEST(Http, EachKeyHasAStoreOfItsOwnInEveryForm) {
  HttpOptions o;
  o.api_keys = {"first-key", "second-key"};
  RigOptions rig;
  rig.n_stores = 2;
  rig.fills = true;
  const Server s(o, rig);
  const std::string chat = R"({"messages": [{"role": "user", "content": "abc"}], "max_tokens": 9})";
  const std::string text = R"({"prompt": "abc", "max_tokens": 9, "n_predict": 9})";
  const std::vector<std::pair<std::string, std::string>> forms{
      {"/v1/chat/completions", chat},
      {"/chat/completions", chat},
      {"/v1/completions", text},
      {"/completions", text},
      {"/completion", text},
      {"/infill", R"({"input_prefix": "a", "input_suffix": "b", "n_predict": 9})"},
      {"/v1/responses", R"({"input": "abc", "max_output_tokens": 9})"},
      {"/responses", R"({"input": "abc", "max_output_tokens": 9})"},
      {"/v1/messages", chat}};
  for (const auto& [path, body] : forms) {
    for (const std::size_t who : {0U, 1U}) {
      const std::size_t before[] = {s.rig.stores[0]->size(), s.rig.stores[1]->size()};
      const std::string answer = s.ask(post(path, body, "Authorization: Bearer " + o.api_keys[who] + "\r\n"));
      ASSERT_THAT(answer, StartsWith("HTTP/1.1 200")) << path;
      s.expect_slots_free();
      EXPECT_GT(s.rig.stores[who]->size(), before[who]) << path;
      EXPECT_EQ(s.rig.stores[1 - who]->size(), before[1 - who]) << path;
    }
  }
}

TEST(Http, ComparesKeysWhole) {
  EXPECT_TRUE(equal_in_constant_time("abc", "abc"));
  for (const char* other : {"", "ab", "abcd", "abd", "xbc"}) EXPECT_FALSE(equal_in_constant_time("abc", other));
  EXPECT_TRUE(equal_in_constant_time("", ""));
}

TEST(Http, OtherSitesPagesAreKeptOutUnlessAskedFor) {
  {
    const Server s;
    const std::string foreign = s.ask(post("/v1/completions", kShort, "Origin: http://evil.example\r\n"));
    EXPECT_THAT(foreign, StartsWith("HTTP/1.1 403"));
    EXPECT_EQ(foreign.find("Access-Control"), std::string::npos);
    EXPECT_THAT(s.ask(post("/v1/completions", kShort, "Origin: null\r\n")), StartsWith("HTTP/1.1 403"));
    EXPECT_THAT(s.ask(post("/v1/completions", kShort, "Origin: http://localhost\r\n")), StartsWith("HTTP/1.1 200"));
  }
  HttpOptions o;
  o.cors_origin = "http://good.example";
  const Server s(o);
  EXPECT_THAT(s.ask("OPTIONS /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nOrigin: "
                    "http://good.example\r\n\r\n"),
              HasSubstr("Access-Control-Allow-Headers"));
  EXPECT_THAT(s.ask(post("/v1/completions", kShort, "Origin: http://good.example\r\n")),
              HasSubstr("Access-Control-Allow-Origin: http://good.example"));
  EXPECT_THAT(s.ask(post("/v1/completions", kShort, "Origin: http://evil.example\r\n")), StartsWith("HTTP/1.1 403"));
}

TEST(Http, NamesThatPointToThisMachineAreNotTakenOnTrust) {
  EXPECT_EQ(host_name("LocalHost.:8080"), "localhost");
  EXPECT_EQ(host_name("[::1]:8080"), "::1");
  EXPECT_EQ(host_name("["), "");
  for (const char* own : {"localhost", "gsd.localhost", "127.0.0.1", "127.1.2.3", "::1"}) EXPECT_TRUE(is_loopback(own));
  for (const char* other : {"", "127.evil.example", "localhost.evil.example", "0.0.0.0", "10.0.0.1"})
    EXPECT_FALSE(is_loopback(other)) << other;
  const auto called = [](const Server& s, const std::string& name) {
    return s.ask("GET /v1/models HTTP/1.1\r\nHost: " + name + "\r\nConnection: close\r\n\r\n");
  };
  {
    const Server s;
    for (const char* own : {"127.0.0.1:80", "localhost", "[::1]:80"})
      EXPECT_THAT(called(s, own), StartsWith("HTTP/1.1 200")) << own;
    EXPECT_THAT(called(s, "evil.example:80"), StartsWith("HTTP/1.1 403"));
  }
  HttpOptions o;
  o.allowed_hosts = {"Models.example"};
  EXPECT_THAT(called(Server(o), "models.example:443"), StartsWith("HTTP/1.1 200"));
  o.allowed_hosts.clear();
  o.api_keys = {"k"};
  EXPECT_THAT(called(Server(o), "models.example"), StartsWith("HTTP/1.1 401")) << "a key is asked for instead";
}

TEST(Http, AClientThatGoesAwayFreesItsSlot) {
  const Server s({}, slow());
  {
    const Socket c(s.http->port());
    c.send(post("/v1/completions", kEndless));
    EXPECT_THAT(c.read(200), StartsWith("HTTP/1.1 200"));
  }
  s.expect_slots_free();
  {
    const Socket c(s.http->port());  // one that waits for a whole answer
    c.send(post("/v1/completions", R"({"prompt": "abc", "ignore_eos": true})"));
    for (int i = 0; i < 2000 && s.rig.scheduler.n_processing() == 0; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  s.expect_slots_free();
  {
    const Socket c(s.http->port());  // half closed: taken as gone
    c.send(post("/v1/completions", kEndless));
    EXPECT_THAT(c.read(200), StartsWith("HTTP/1.1 200"));
    c.half_close();
    c.read();
  }
  s.expect_slots_free();
  EXPECT_THAT(s.rig.api.metrics(), HasSubstr("gsd:requests_cancelled_total 3\n"));
  s.expect_alive();
}

TEST(Http, ASlowReaderIsDroppedAndHoldsUpNobody) {
  HttpOptions o;
  o.write_timeout_s = 1;
  RigOptions fast;
  fast.n_seq = 2;
  fast.n_ctx = 60000;
  const Server s(o, fast);
  const Socket c(s.http->port());
  // Tens of megabytes, far more than the socket's buffers hold, and nobody reads.
  c.send(post("/v1/completions", R"({"prompt": "abc", "ignore_eos": true, "stream": true, "logprobs": 20})"));
  EXPECT_THAT(c.read(100), StartsWith("HTTP/1.1 200"));
  s.expect_alive();
  s.expect_slots_free();
  for (int i = 0; i < 2000 && s.http->n_streams() > 0; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_EQ(s.http->n_streams(), 0) << "its thread is still waiting";
  EXPECT_EQ(c.read().find("[DONE]"), std::string::npos) << "it was all sent";
}

TEST(Http, ASlowWriterIsDropped) {
  HttpOptions o;
  o.read_timeout_s = 1;
  o.request_timeout_s = 2;
  const Server s(o);
  const Socket silent(s.http->port());
  silent.send("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n\r\n{\"pro");
  const Socket drips(s.http->port());  // never silent for a second, never done
  bool open = drips.send("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n\r\n");
  int sent = 0;
  for (; open && sent < 300; ++sent) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    open = drips.send("x");
  }
  EXPECT_LT(sent, 300) << "15 seconds of dripping were accepted";
  silent.read();  // returns: the connection was closed
  s.expect_alive();
}

TEST(Http, IdleConnectionsDoNotKeepOthersOut) {
  const Server s;
  std::vector<std::unique_ptr<Socket>> idle;
  for (int i = 0; i < 200; ++i) idle.push_back(std::make_unique<Socket>(s.http->port()));
  s.expect_alive();
  s.expect_alive();
}

TEST(Http, AFullQueueIsRefusedWithATimeToTryAgain) {
  RigOptions o = slow();
  o.max_queue = 0;
  const Server s({}, o);
  const Socket c(s.http->port());
  c.send(post("/v1/completions", kEndless));
  EXPECT_THAT(c.read(200), StartsWith("HTTP/1.1 200"));
  const std::string refused = s.ask(post("/v1/completions", kShort));
  EXPECT_THAT(refused, StartsWith("HTTP/1.1 503"));
  EXPECT_THAT(refused, HasSubstr("Retry-After: "));
  EXPECT_THAT(refused, HasSubstr("queue_full"));
}

TEST(Http, DrainingFinishesStreamsAndRefusesNewOnes) {
  Server s({}, slow(2));
  const Socket c(s.http->port());
  c.send(post("/v1/completions", R"({"prompt": "abc", "max_tokens": 100, "ignore_eos": true, "stream": true})"));
  std::string text = c.read(200);
  s.rig.scheduler.drain();
  EXPECT_THAT(s.ask(get("/health")), StartsWith("HTTP/1.1 503"));
  EXPECT_THAT(s.ask(post("/v1/completions", kShort)), HasSubstr("shutting down"));
  s.rig.thread.join();
  s.http->stop();
  text += c.read();
  EXPECT_THAT(text, HasSubstr("\"finish_reason\":\"length\""));
  EXPECT_THAT(text, HasSubstr("data: [DONE]"));
}

TEST(Http, SaysWhenItsPortIsTaken) {
  Server s;
  HttpOptions o;
  o.port = s.http->port();
  try {
    const HttpServer second(o);
    FAIL() << "two servers share a port";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kIo);
    EXPECT_THAT(e.what(), HasSubstr("--port"));
  }
  o.port = 0;
  o.host = "203.0.113.7";
  EXPECT_THROW(HttpServer{o}, Error);
}

TEST(Http, AStopBeforeListeningIsKept) {
  HttpOptions o;
  o.port = 0;
  HttpServer http(o);
  http.stop();
  http.listen();  // returns
  o.port = http.port();
  EXPECT_NO_THROW(HttpServer{o}) << "the port is free again";
}

TEST(Http, ManyClientsOnFewSlotsGetTheirOwnText) {
  RigOptions o;
  o.n_seq = 4;
  o.max_queue = 100;
  Server s({}, o);
  std::vector<std::thread> clients;
  std::atomic<int> good{0};
  for (int i = 0; i < 32; ++i) {
    clients.emplace_back([&, i] {
      const std::string prompt = "client " + std::to_string(i);
      SessionOptions alone;
      alone.max_tokens = 40;
      const std::string expected = Rig::alone(prompt, alone);
      for (int round = 0; round < 3; ++round) {
        const std::string answer =
            s.ask(post("/v1/completions", Json{{"prompt", prompt}, {"max_tokens", 40}, {"temperature", 0}}.dump()));
        const Json j = Json::parse(answer.substr(answer.find("\r\n\r\n") + 4), nullptr, false);
        if (!j.is_discarded() && j["choices"][0]["text"] == expected) ++good;
      }
    });
  }
  for (std::thread& t : clients) t.join();
  EXPECT_EQ(good, 96);
}

void fail_accept(std::deque<int> errors) {
  const std::lock_guard lock(accept_mutex);
  accept_failures = std::move(errors);
}

TEST(Http, PassingFailuresOfThePortDoNotEndIt) {
  for (const int error :
       {ECONNABORTED, EMFILE, ENFILE, ENOMEM, ENOBUFS, EINTR, EPROTO, EPERM, ENETDOWN, EHOSTUNREACH}) {
    const Server s;
    s.expect_alive();
    fail_accept({error, error, error});
    s.ask(get("/health"));  // lets the accept that waits return
    s.expect_alive();
    EXPECT_TRUE(accept_failures.empty()) << std::strerror(error);
  }
}

// The whole program's way: the port fails under a stream.
TEST(Http, APortThatFailsForGoodEndsTheServerWithASentence) {
  Rig rig(slow());
  HttpOptions o;
  o.port = 0;
  std::string sentence;
  std::string text;
  {
    Service service(o);
    std::thread program([&] {
      try {
        service.run(rig.scheduler, rig.api, [] { return false; });
      } catch (const Error& e) {
        EXPECT_EQ(e.code(), ErrorCode::kIo);
        sentence = e.what();
      }
    });
    while (true) {  // until the model is there
      const Socket c(service.http().port());
      c.send(get("/health"));
      if (c.read().starts_with("HTTP/1.1 200")) break;
    }
    const Socket c(service.http().port());
    c.send(post("/v1/completions", R"({"prompt": "abc", "max_tokens": 300, "ignore_eos": true, "stream": true})"));
    text = c.read(200);
    fail_accept({EINVAL});
    const Socket last(service.http().port());
    last.send(get("/health"));
    text += c.read();
    program.join();
  }
  EXPECT_THAT(sentence, HasSubstr("takes no connections any more: Invalid argument"));
  EXPECT_THAT(text, HasSubstr("\"finish_reason\":\"length\"")) << "what was accepted is finished";
  EXPECT_THAT(text, HasSubstr("data: [DONE]"));
}

TEST(Http, TheSocketsNumberIsClosedOnce) {
  HttpOptions o;
  o.port = 0;
  auto http = std::make_unique<HttpServer>(o);
  std::thread listener([&] { EXPECT_THROW(http->listen(), Error); });
  fail_accept({EBADF});
  { const Socket knocks(http->port()); }
  listener.join();
  // Whatever takes the number over must live on. All free numbers are taken, so that it is among them.
  std::vector<int> files;
  for (int i = 0; i < 64; ++i) files.push_back(open("/dev/null", O_RDONLY));
  http->stop();
  http.reset();
  for (const int fd : files) {
    EXPECT_NE(fcntl(fd, F_GETFD), -1) << "the number " << fd << " was closed under its owner";
    close(fd);
  }
}

TEST(Http, SaysThatTheModelIsBeingLoaded) {
  Rig rig;
  HttpOptions o;
  o.port = 0;
  o.api_keys = {"key"};
  Service service(o);
  const auto ask = [&](const std::string& request) {
    const Socket s(service.http().port());
    s.send(request);
    return s.read();
  };
  EXPECT_THAT(ask(get("/health")), StartsWith("HTTP/1.1 503"));
  const std::string early = ask(post("/v1/completions", kShort, "X-Api-Key: key\r\n"));
  EXPECT_THAT(early, StartsWith("HTTP/1.1 503"));
  EXPECT_THAT(early, HasSubstr("\"code\":\"loading_model\""));
  EXPECT_THAT(early, HasSubstr("Retry-After: 1"));
  EXPECT_THAT(ask(get("/props")), StartsWith("HTTP/1.1 401"));
  EXPECT_THAT(ask(get("/")), StartsWith("HTTP/1.1 200"));
  std::atomic<bool> over{false};
  std::thread program([&] { service.run(rig.scheduler, rig.api, [&] { return over.load(); }); });
  while (!ask(get("/health")).starts_with("HTTP/1.1 200")) {
  }
  EXPECT_THAT(ask(post("/v1/completions", kShort, "X-Api-Key: key\r\n")), StartsWith("HTTP/1.1 200"));
  over = true;
  program.join();
}

TEST(Http, FailuresInAStreamEndItAndNothingElse) {
  RigOptions o;
  o.n_seq = 2;
  Server s({}, o);
  // Pieces of alternatives are looked up by the thread that sends, those of the text by the model's.
  for (const bool with_memory : {true, false}) {
    s.rig.model.vocabulary.piece = [with_memory](Token t, ShowControl control) -> std::string {
      if (control == ShowControl::kNo) return {1, static_cast<char>(t)};
      if (with_memory) throw std::runtime_error("no such piece");
      throw std::bad_alloc();
    };
    const std::string answer = s.ask(
        post("/v1/completions", R"({"prompt": "abc", "max_tokens": 9, "stream": true, "logprobs": 2, "seed": 1})"));
    EXPECT_THAT(answer, StartsWith("HTTP/1.1 200"));
    EXPECT_THAT(answer, HasSubstr("data: {\"error\":"));
    EXPECT_THAT(s.ask(post("/v1/completions", R"({"prompt": "abc", "logprobs": 2})")), StartsWith("HTTP/1.1 500"));
    s.expect_slots_free();
    s.expect_alive();
  }
}

TEST(Http, ClosesWhatItSaysItCloses) {
  const Server s;
  const Socket c(s.http->port());
  c.send("GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\nGET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
  const std::string answer = c.read();
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 404"));
  EXPECT_THAT(answer, HasSubstr("Connection: close"));
  EXPECT_THAT(answer, ::testing::Not(HasSubstr("HTTP/1.1 200")));
}

TEST(Http, RequestsThatArriveTogetherAreAllAnswered) {
  const Server s;
  const Socket c(s.http->port());
  std::string all;
  for (int i = 0; i < 3; ++i) {
    const std::string body = R"({"content": ")" + std::string(3000, static_cast<char>('a' + i)) + "\"}";
    all += "POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n" +
           body;
  }
  // Without a length there is no body, and what follows is a request of its own.
  all += "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n\r\n";
  all.insert(0, "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
  c.send(all);
  const std::string answers = c.read();
  std::size_t n = 0;
  for (std::size_t at = 0; (at = answers.find("HTTP/1.1 200", at)) != std::string::npos; ++at) ++n;
  EXPECT_EQ(n, 4U);
  for (const char* token : {"97,97", "98,98", "99,99", "not valid JSON"}) EXPECT_THAT(answers, HasSubstr(token));
}

TEST(Http, ARefusalIsReadEvenWhileTheBodyIsBeingSent) {
  HttpOptions o;
  o.max_body = 1 << 20;
  const Server s(o);
  for (int i = 0; i < 3; ++i)
    EXPECT_THAT(s.ask(post("/tokenize", std::string(4 << 20, 'x'))), StartsWith("HTTP/1.1 413"));
}

TEST(Http, TakesWhatClientsSendInOtherWays) {
  HttpOptions o;
  o.api_keys = {"k"};
  const Server s(o);
  EXPECT_THAT(s.ask(get("/v1/models", "Authorization: bearer k\r\n")), StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(s.ask(get("/v1/models", "Authorization: BEARER  k\r\n")), StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(s.ask(get("/v1/models", "Authorization: Bearer    \r\n")), StartsWith("HTTP/1.1 401"));
  for (const char* range : {"Range: bytes=0-3\r\n", "Range: bytes=900000-\r\n"}) {
    const std::string whole = s.ask(post("/v1/completions", kShort, std::string("X-Api-Key: k\r\n") + range));
    EXPECT_THAT(whole, StartsWith("HTTP/1.1 200")) << range;
    EXPECT_THAT(whole, HasSubstr("\"completion_tokens\":5")) << range;
  }
  const std::string large = R"({"content": ")" + std::string(100000, 'a') + "\"}";
  for (const char* type : {"", "Content-Type: application/x-www-form-urlencoded\r\n",
                           "Content-Type: multipart/form-data; boundary=x\r\n", "Content-Type: text/plain\r\n"})
    EXPECT_THAT(s.ask(post("/tokenize", large, std::string("X-Api-Key: k\r\n") + type)), HasSubstr("97,97,97")) << type;
  EXPECT_EQ(url_host("::1"), "[::1]");
  EXPECT_EQ(url_host("127.0.0.1"), "127.0.0.1");
}

TEST(Http, PreflightsAllowTheHeadersThatAreAskedFor) {
  HttpOptions o;
  o.cors_origin = "http://good.example";
  const Server s(o);
  const std::string answer = s.ask(
      "OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nOrigin: http://good.example\r\n"
      "Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization,x-stainless-os\r\n\r\n");
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 204"));
  EXPECT_THAT(answer, HasSubstr("Access-Control-Allow-Headers: authorization,x-stainless-os\r\n"));
}

TEST(Http, HalfARequestDoesNotHoldUpTheEnd) {
  HttpOptions o;
  o.read_timeout_s = o.request_timeout_s = 600;
  Rig rig;
  o.port = 0;
  Service service(o);
  const Socket head(service.http().port());
  head.send("POST /v1/completions HTTP/1.1\r\nHost: loc");
  const Socket body(service.http().port());
  body.send("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n\r\n{\"pro");
  std::atomic<bool> over{false};
  std::thread program([&] { service.run(rig.scheduler, rig.api, [&] { return over.load(); }); });
  over = true;
  program.join();  // the test's own time limit is shorter than the timeout
}

}  // namespace
}  // namespace gsd::server
