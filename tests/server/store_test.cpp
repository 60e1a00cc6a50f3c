// The store of answers behind the API: faster, never another text, and private.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "server_rig.h"

namespace gsd::server {
namespace {

// A rig without a draft, so that only what was seen before is proposed, with a store for each of two clients.
struct StoreRig {
  static RigOptions options() {
    RigOptions o;
    o.with_draft = false;
    o.n_stores = 2;
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
    const auto call = rig.api.completion(body.dump(), false, client);
    while (!call->finished()) {
      rig.scheduler.turn();
      call->advance(std::chrono::milliseconds(0));
    }
    return Json::parse(call->response());
  }
  Rig rig{options()};
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

TEST(Store, TextsAreThoseOfPlainDecoding) {
  StoreRig s;
  std::int64_t n_accepted = 0;
  for (int round = 0; round < 3; ++round) {
    for (const char* prompt : {"a", "ab", "once upon", "abc abc", "xyz"}) {
      const std::string plain = text(StoreRig().ask(prompt, 0, false, "plain"));
      for (const char* mode : {"graph", "auto", "chain", "tree"}) {
        const Json answer = s.ask(prompt, 0, true, mode);
        EXPECT_EQ(text(answer), plain) << prompt << ", " << mode;
        n_accepted += accepted(answer);
      }
    }
  }
  EXPECT_GT(n_accepted, 1000);
}

// Clients with few questions ask at once, from threads of their own, some for several answers, and some go away.
TEST(Store, ManyAtOnceGetTheTextsOfPlainDecoding) {
  constexpr std::size_t kClients = 3;
  RigOptions o;
  o.max_queue = 256;
  o.n_stores = kClients;
  o.store_capacity = 1024;
  Rig rig(o);
  rig.start();
  std::vector<std::map<std::string, std::set<std::string>>> texts(2 * kClients);  // of a question
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < texts.size(); ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 12; ++i) {
        const std::string prompt(1, static_cast<char>('a' + i % 4));
        const Json body{{"prompt", prompt}, {"max_tokens", 40},         {"temperature", 0.9},
                        {"seed", 7},        {"ignore_eos", i % 2 == 0}, {"n", 1 + i % 2}};
        const auto call = rig.api.completion(body.dump(), false, t % kClients);
        if (i % 5 == 4) {
          call->cancel();
          continue;
        }
        while (!call->finished()) call->advance(std::chrono::milliseconds(20));
        const Json answer = Json::parse(call->response());
        for (const Json& choice : answer["choices"])
          texts[t][prompt + std::to_string(i % 2) + choice["index"].dump()].insert(choice["text"]);
      }
    });
  }
  for (std::thread& t : threads) t.join();
  rig.finish();
  for (const auto& store : rig.stores) {
    store->check_integrity();
    EXPECT_GT(store->size(), 100U);
  }
  for (const auto& mine : texts) {
    for (const auto& [question, answers] : mine) {
      SessionOptions s;
      s.sampling.temperature = 0.9F;
      s.sampling.seed = 7;
      s.max_tokens = 40;
      s.ignore_eog = question[1] == '0';
      s.sampling.choice = static_cast<std::uint32_t>(question[2] - '0');
      EXPECT_THAT(answers, testing::ElementsAre(Rig::alone(question.substr(0, 1), s))) << question;
    }
  }
}

}  // namespace
}  // namespace gsd::server
