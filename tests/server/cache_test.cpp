// Prompts that slots had to give up and get back, on the scripted backend.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "../random.h"
#include "server_rig.h"

namespace gsd::server {
namespace {

struct CacheRig {
  explicit CacheRig(std::size_t bytes, RigOptions o = {}) : rig(with(bytes, o)) {}
  static RigOptions with(std::size_t bytes, RigOptions o) {
    o.cache_bytes = bytes;
    return o;
  }
  Json ask(const std::string& prompt, std::size_t client = 0, int n = 20) {
    const Json body{{"prompt", prompt}, {"max_tokens", n}, {"temperature", 0}, {"ignore_eos", true}};
    const auto call = rig.api.completion(body.dump(), false, client);
    while (!call->finished()) {
      rig.scheduler.turn();
      call->advance(std::chrono::milliseconds(0));
    }
    Json out = Json::parse(call->response());
    EXPECT_EQ(out["choices"][0]["text"], plain(prompt, n));
    return out;
  }
  static std::string plain(const std::string& prompt, int n) {
    SessionOptions o;
    o.max_tokens = n;
    o.ignore_eog = true;
    return Rig::alone(prompt, o);
  }
  Rig rig;
};

std::size_t reused(const Json& answer) { return answer["timings"]["cache_n"]; }
std::string text(const Json& answer) { return answer["choices"][0]["text"]; }

// Texts that begin alike, as those of agents with one system message do.
std::string conversation(int i) { return std::string(40, 's') + std::string(60, static_cast<char>('a' + i)); }

RigOptions four_slots() {
  RigOptions o;
  o.n_seq = 4;
  return o;
}

// The least that a second turn of `n` conversations found.
std::size_t second_turns(CacheRig& c, int n) {
  std::vector<std::string> prompts;
  for (int i = 0; i < n; ++i) prompts.push_back(conversation(i) + text(c.ask(conversation(i))) + "and then");
  std::size_t least = SIZE_MAX;
  for (const std::string& p : prompts) least = std::min(least, reused(c.ask(p)));
  return least;
}

TEST(Cache, SevenConversationsInTurnOnFourSlotsKeepTheirPrefixes) {
  CacheRig with(1 << 20, four_slots());
  EXPECT_GE(second_turns(with, 7), 119U) << "all but the last token of the first turn";
  CacheRig without(0, four_slots());
  EXPECT_LE(second_turns(without, 7), 40U) << "what they have in common";
}

TEST(Cache, IsBoundedAndWhatWasUsedLongestAgoGoes) {
  CacheRig c(1500, four_slots());  // a text of 119 tokens takes 952
  EXPECT_LE(second_turns(c, 7), 40U);
  EXPECT_LE(c.rig.engine.state().cache_.n_bytes(), 1500U);
  EXPECT_EQ(c.rig.engine.state().cache_.size(), 1U);
}

TEST(Cache, WhatALongerTextGivesTooIsKeptOnce) {
  RigOptions o;
  o.n_seq = 1;
  CacheRig c(1 << 20, o);
  std::string first = conversation(0);
  for (int turn = 0; turn < 3; ++turn) {
    const Json answer = c.ask(first);
    EXPECT_GE(reused(answer), turn > 0 ? 100U : 0U);
    first += text(answer) + "go on";
    c.ask(conversation(1));
  }
  EXPECT_EQ(c.rig.engine.state().cache_.size(), 2U);
}

TEST(Cache, AnAnswerThatTheNextPromptDoesNotRepeatIsNotKept) {
  RigOptions o;
  o.n_seq = 1;
  CacheRig c(1 << 20, o);
  c.ask(conversation(0), 0, 60);
  EXPECT_GE(reused(c.ask(conversation(0) + std::string(20, 'z'), 0, 60)), 100U);
  EXPECT_EQ(c.rig.engine.state().cache_.size(), 0U);
}

// Neither what slots keep nor what the cache does shows in another client's timings.
TEST(Cache, AnotherClientFindsNothing) {
  RigOptions o;
  o.n_seq = 2;
  CacheRig c(1 << 20, o);
  c.ask(conversation(0), 0);
  EXPECT_EQ(reused(c.ask(conversation(0), 1)), 0U);
  EXPECT_GT(reused(c.ask(conversation(0), 0)), 90U);
  EXPECT_GT(reused(c.ask(conversation(0), 1)), 90U) << "but its own";
  for (int i = 1; i < 4; ++i) c.ask(conversation(i), 0);  // both slots are lost
  EXPECT_EQ(reused(c.ask(conversation(0), 2)), 0U);
  EXPECT_GT(reused(c.ask(conversation(0), 1)), 90U);
  EXPECT_GT(reused(c.ask(conversation(0), 0)), 90U);
}

TEST(Cache, WhoComputesEverythingAnewLosesNobodysPrefix) {
  RigOptions o;
  o.n_seq = 1;
  CacheRig c(1 << 20, o);
  c.ask(conversation(0));
  const auto call = c.rig.api.completion(R"({"prompt": "xyz", "max_tokens": 3, "cache_prompt": false})", false, 0);
  while (!call->finished()) {
    c.rig.scheduler.turn();
    call->advance(std::chrono::milliseconds(0));
  }
  EXPECT_GT(reused(c.ask(conversation(0))), 90U);
}

TEST(Cache, WhereThereIsNoRoomItIsComputedAgain) {
  CacheRig c(1 << 20, four_slots());
  c.rig.target.refuse_to_restore(true);
  EXPECT_EQ(second_turns(c, 7), 0U);
  EXPECT_EQ(reused(c.ask("hello")), 0U);
}

TEST(Cache, AModelThatGoesBackToSomePlacesOnlyIsPutBackThere) {
  CacheRig c(1 << 20, four_slots());
  c.rig.target.go_back_to_multiples_of(32);
  for (int i = 0; i < 7; ++i) c.ask(conversation(i));
  for (int i = 0; i < 7; ++i) EXPECT_EQ(reused(c.ask(conversation(i) + "else")), 96U) << i;
}

TEST(Cache, ProgressCountsWhatIsPutBackFromItsBeginning) {
  RigOptions o;
  o.n_seq = 1;
  CacheRig c(1 << 20, o);
  c.ask(conversation(0));
  c.ask(conversation(1));
  const Json body{{"prompt", conversation(0) + std::string(60, 'x')},
                  {"n_predict", 1},
                  {"stream", true},
                  {"return_progress", true}};
  const auto call = c.rig.api.native(body.dump());
  std::string sent;
  while (!call->finished()) {
    c.rig.scheduler.turn();
    sent += call->advance(std::chrono::milliseconds(0));
  }
  std::vector<int> processed;
  for (std::size_t at = 0; (at = sent.find("\"prompt_progress\":", at)) != std::string::npos; ++at) {
    const Json progress = Json::parse(sent.substr(sent.find('{', at), sent.find('}', at) - sent.find('{', at) + 1));
    EXPECT_EQ(progress["cache"], 100);
    processed.push_back(progress["processed"]);
  }
  EXPECT_THAT(processed, testing::ElementsAre(100, 116, 132, 148, 160));
}

// Where slots share their positions: texts that lose their places, and those that are put out while they run.
TEST(Cache, TextsAreThoseOfPlainDecodingWhateverIsPutBack) {
  GSD_SEEDED(rng, 3);
  std::size_t n_reused = 0;
  for (const std::size_t n_shared : {std::size_t{0}, std::size_t{400}}) {
    RigOptions o = four_slots();
    o.n_ctx = 300;
    o.n_shared = n_shared;
    CacheRig c(4000 + rng() % 20000, o);
    if (rng() % 2 == 0) c.rig.target.go_back_to_multiples_of(1 + rng() % 40);
    std::vector<std::string> prompts;
    for (int i = 0; i < 9; ++i) prompts.push_back(conversation(i % 6) + random_prompt(rng, 30, 4));
    for (int round = 0; round < 12; ++round) {
      std::vector<std::unique_ptr<Call>> calls;
      std::vector<std::string> asked;
      for (std::size_t i = 0; i < 1 + rng() % 6; ++i) {
        std::string& p = prompts[rng() % prompts.size()];
        if (p.size() > 200) p.resize(120);
        asked.push_back(p);
        const Json body{{"prompt", p}, {"max_tokens", 30}, {"temperature", 0}, {"ignore_eos", true}};
        calls.push_back(c.rig.api.completion(body.dump(), false, rng() % 2));
      }
      for (bool all = false; !all;) {
        c.rig.scheduler.turn();
        all = true;
        for (const auto& call : calls) {
          call->advance(std::chrono::milliseconds(0));
          all &= call->finished();
        }
      }
      for (std::size_t i = 0; i < calls.size(); ++i) {
        const Json answer = Json::parse(calls[i]->response());
        ASSERT_EQ(text(answer), CacheRig::plain(asked[i], 30));
        n_reused += reused(answer);
        for (std::string& p : prompts)
          if (p == asked[i]) p += text(answer);
      }
    }
  }
  EXPECT_GT(n_reused, 3000U);
}

}  // namespace
}  // namespace gsd::server
