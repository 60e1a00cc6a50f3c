// The store of answers behind the API: faster, never another text, and private.
#include <gtest/gtest.h>

#include "server_rig.h"

namespace gsd::server {
namespace {

// A rig without a draft, so that only what was seen before is proposed, with a store for each of two clients.
struct StoreRig {
  StoreRig() : rig(options()), api(rig.model, rig.scheduler, rig.metrics, with_stores()) {}
  static RigOptions options() {
    RigOptions o;
    o.with_draft = false;
    return o;
  }
  static ApiOptions with_stores() {
    ApiOptions o = api_options();
    o.stores = {std::make_shared<AnswerStore>(), std::make_shared<AnswerStore>()};
    return o;
  }
  Json ask(const std::string& prompt, std::size_t client, bool store = true, const char* mode = "graph") {
    const Json body{{"prompt", prompt},
                    {"max_tokens", 60},
                    {"temperature", 0.9},
                    {"seed", 7},
                    {"ignore_eos", true},
                    {"cache_prompt", false},
                    {"speculative", {{"mode", mode}, {"store", store}, {"history", false}, {"path_threshold", 0}}}};
    const auto call = api.completion(body.dump(), false, client);
    while (!call->finished()) {
      rig.scheduler.turn();
      call->advance(std::chrono::milliseconds(0));
    }
    return Json::parse(call->response());
  }
  Rig rig;
  Api api;
};

std::string text(const Json& answer) { return answer["choices"][0]["text"]; }
int accepted(const Json& answer) { return answer["timings"]["draft_n_accepted"]; }
int verified(const Json& answer) { return answer["timings"]["draft_n"]; }

TEST(Store, TheSameQuestionIsAnsweredFromMemory) {
  StoreRig s;
  const Json first = s.ask("once upon", 0);
  EXPECT_EQ(verified(first), 0) << "there was nothing to draw on";
  const Json again = s.ask("once upon", 0);
  EXPECT_EQ(text(again), text(first));
  EXPECT_GT(accepted(again), 40);
  EXPECT_LT(again["timings"]["steps"].get<int>(), 20);
}

TEST(Store, AnotherClientSeesNothingOfIt) {
  StoreRig s;
  const std::string first = text(s.ask("once upon", 0));
  const Json other = s.ask("once upon", 1);
  EXPECT_EQ(text(other), first);
  EXPECT_EQ(verified(other), 0);
  EXPECT_GT(accepted(s.ask("once upon", 1)), 40) << "but its own";
  EXPECT_EQ(verified(s.ask("once upon", 2)), 0) << "who has no store";
}

TEST(Store, ARequestMayStayOut) {
  StoreRig s;
  s.ask("once upon", 0, false);
  EXPECT_EQ(verified(s.ask("once upon", 0)), 0) << "it was not kept";
  EXPECT_EQ(verified(s.ask("once upon", 0, false)), 0) << "it draws on nothing";
  EXPECT_GT(verified(s.ask("once upon", 0)), 0);
  EXPECT_EQ(verified(s.ask("once upon", 0, true, "plain")), 0);
}

TEST(Store, TextsAreTheSameWithAndWithout) {
  StoreRig with;
  StoreRig without;
  for (int round = 0; round < 3; ++round) {
    for (const char* prompt : {"a", "ab", "once upon", "abc abc", "xyz"}) {
      for (const char* mode : {"graph", "auto", "chain"})
        EXPECT_EQ(text(with.ask(prompt, 0, true, mode)), text(without.ask(prompt, 0, false, mode)));
    }
  }
}

}  // namespace
}  // namespace gsd::server
