// Memory that runs out at every place in turn: a request is answered whatever happens, and nothing ends the process.
// A program of its own: it replaces operator new.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <malloc.h>

#include <cstdlib>
#include <new>

#include "../../src/server/listener.h"
#include "../../src/server/service.h"
#include "server_rig.h"

namespace {

// Allocations of this thread until one fails; below 0: none does.
thread_local std::int64_t until_failure = -1;
// nlohmann-json's destructor is noexcept and allocates: a stack of the values to be destroyed, which grows by doubling.
// Nobody can answer for a failure there. The answers below put less than 64 values on it, so that it has room for less
// than 128; this thread then fails none of the allocations that may be such a stack.
thread_local bool sparing_json = false;

bool may_fail(std::size_t size) {
  constexpr std::size_t kValue = sizeof(nlohmann::ordered_json);
  return !sparing_json || size % kValue != 0 || size >= 128 * kValue;
}

std::atomic<std::size_t> live{0};
std::atomic<std::size_t> peak{0};

std::atomic<std::int64_t> n_failed{0};

void* take(std::size_t size) {
  if (until_failure >= 0 && may_fail(size) && until_failure-- == 0) {
    ++n_failed;
    throw std::bad_alloc();
  }
  void* const p = std::malloc(size);
  if (p == nullptr) throw std::bad_alloc();
  const std::size_t now = live += malloc_usable_size(p);
  if (now > peak) peak = now;
  return p;
}

void give(void* p) noexcept {
  if (p != nullptr) live -= malloc_usable_size(p);
  std::free(p);
}

}  // namespace

void* operator new(std::size_t size) { return take(size); }
void* operator new[](std::size_t size) { return take(size); }
void operator delete(void* p) noexcept { give(p); }
void operator delete[](void* p) noexcept { give(p); }
void operator delete(void* p, std::size_t) noexcept { give(p); }
void operator delete[](void* p, std::size_t) noexcept { give(p); }

namespace gsd::server {
namespace {

using std::chrono::milliseconds;

// Fails the nth allocation of the model's thread while it serves two requests. False once nothing fails any more.
bool serve_and_fail(std::int64_t nth) {
  RigOptions o;
  o.n_seq = 2;
  Rig rig(o);
  const char* const bodies[] = {
      R"({"prompt": "abc", "max_tokens": 6, "temperature": 0, "logprobs": 2, "speculative": {"mode": "graph", "trace": true}})",
      R"({"prompt": "abd", "max_tokens": 6, "temperature": 0, "stop": ["zzz"], "stream": true})"};
  std::vector<std::unique_ptr<Call>> calls;
  for (const char* body : bodies) calls.push_back(rig.api.completion(body, false));
  bool failed = false;
  std::atomic<bool> over{false};
  std::thread model([&] {
    until_failure = nth;
    try {
      rig.scheduler.run();
    } catch (const std::bad_alloc&) {
    }
    failed = until_failure < 0;
    until_failure = -1;
    over = true;
  });
  int answered = 0;
  for (const auto& call : calls) {
    std::string text;
    for (int i = 0; i < 200 && !call->finished(); ++i) text += call->advance(milliseconds(50));
    EXPECT_TRUE(call->finished()) << "nobody answers when allocation " << nth << " fails";
    if (!call->finished()) continue;
    ++answered;
    if (call->stream()) {
      EXPECT_THAT(text, ::testing::HasSubstr("[DONE]"));
      continue;
    }
    try {
      call->response();
    } catch (const ApiError& e) {
      EXPECT_EQ(e.status(), 500);
      EXPECT_TRUE(failed || !over) << e.what();
    }
  }
  rig.scheduler.drain();
  model.join();
  EXPECT_EQ(answered, 2);
  return failed;
}

TEST(Faults, NoAllocationOfTheModelsThreadCostsMoreThanItsRequests) {
  std::int64_t n = 0;
  while (serve_and_fail(n) && !::testing::Test::HasFailure()) ++n;
  EXPECT_GT(n, 50) << "nothing was made to fail";
}

TEST(Faults, NoAllocationOfAConnectionCostsMoreThanItsRequest) {
  Rig rig;
  std::atomic<std::int64_t> nth{-1};
  rig.model.vocabulary.tokenize = [&, inner = rig.model.vocabulary.tokenize](std::string_view text, AddBegin begin,
                                                                             ParseControl control) {
    until_failure = nth;  // of the connection's thread
    sparing_json = true;
    return inner(text, begin, control);
  };
  HttpOptions o;
  o.port = 0;
  Service service(o);
  std::atomic<bool> over{false};
  std::thread program([&] { service.run(rig.scheduler, rig.api, [&] { return over.load(); }); });
  const auto ask = [&](const char* body) {
    httplib::Client client("127.0.0.1", service.http().port());
    client.set_read_timeout(20);
    const auto answer = client.Post("/v1/completions", body, "application/json");
    return answer ? answer->status : 0;
  };
  const char* const whole = R"({"prompt": "abc", "max_tokens": 12, "ignore_eos": true, "logprobs": 1})";
  while (ask(whole) != 200) {  // until the server is open
  }
  for (const char* body :
       {whole, R"({"prompt": "abc", "max_tokens": 12, "ignore_eos": true, "logprobs": 1, "stream": true})"}) {
    std::int64_t before = -1;
    for (nth = 0; before != n_failed; ++nth) {
      before = n_failed;
      ask(body);
    }
    EXPECT_GT(nth, 50) << "nothing was made to fail";
    nth = -1;
    EXPECT_EQ(ask(whole), 200);
  }
  over = true;
  program.join();
  EXPECT_EQ(service.http().n_streams(), 0);  // the end waits for them
  EXPECT_EQ(rig.scheduler.n_processing(), 0U);
}

TEST(Faults, TokenizeTakesMemoryInProportion) {
  Rig rig;
  const std::string body = R"({"with_pieces": true, "content": ")" + std::string(1 << 20, 'a') + "\"}";
  const std::size_t before = live;
  peak = before;
  const std::string answer = rig.api.tokenize(body);
  EXPECT_EQ(answer.size(), 22 * (std::size_t{1} << 20) + 12);
  EXPECT_LT(peak - before, 48 * body.size());
}

}  // namespace
}  // namespace gsd::server
