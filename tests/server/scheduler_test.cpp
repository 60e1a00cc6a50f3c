// Continuous batching on the scripted backend.
#include "../../src/server/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <set>

#include "../random.h"
#include "server_rig.h"

namespace gsd::server {
namespace {

// A job whose text and outcome are kept.
struct Probe {
  std::string text;
  std::promise<Outcome> outcome;
  std::shared_ptr<std::atomic<bool>> cancelled = std::make_shared<std::atomic<bool>>(false);
  std::function<void(Token)> on_token;
  std::function<void(const StepView&)> on_step;

  Job job(const std::string& prompt, SessionOptions options) {
    Job j;
    for (const char c : prompt) j.prompt.push_back(c);
    options.on_token = [this](Token t) {
      if (t != 0) text += static_cast<char>(t);
      if (on_token) on_token(t);
      return true;
    };
    options.on_step = [this](const StepView& v) {
      if (on_step) on_step(v);
    };
    j.options = std::move(options);
    j.cancelled = cancelled;
    j.on_finish = [this](const Outcome& o) { outcome.set_value(o); };
    return j;
  }
};

SessionOptions options(Mode mode, std::int64_t max_tokens) {
  SessionOptions o;
  o.speculation.mode = mode;
  o.max_tokens = max_tokens;
  o.ignore_eog = true;
  return o;
}

std::vector<Job> one(Job j) {
  std::vector<Job> out;
  out.push_back(std::move(j));
  return out;
}

TEST(Scheduler, EveryStreamsTextIsThatOfTheStreamAlone) {
  Rig rig;
  rig.start();
  std::vector<std::unique_ptr<Probe>> probes;
  std::vector<std::string> expected;
  GSD_SEEDED(rng, 1);
  for (int i = 0; i < 40; ++i) {
    const SessionOptions o = random_options(rng, i);
    const std::string prompt = random_prompt(rng, 90, 20);
    expected.push_back(Rig::alone(prompt, o));
    probes.push_back(std::make_unique<Probe>());
    ASSERT_TRUE(rig.scheduler.submit(one(probes.back()->job(prompt, o))));
    if (rng() % 3 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  rig.finish();
  for (std::size_t i = 0; i < probes.size(); ++i) {
    const Outcome o = probes[i]->outcome.get_future().get();
    EXPECT_EQ(probes[i]->text, expected[i]) << i;
    EXPECT_FALSE(o.error);
    EXPECT_NE(o.finish, FinishReason::kNone);
  }
  EXPECT_EQ(rig.scheduler.n_processing(), 0U);
}

TEST(Scheduler, RefusesWhatItsQueueCannotHoldAllOrNothing) {
  RigOptions o;
  o.n_seq = 1;
  o.max_queue = 2;
  Rig rig(o);  // not started: nothing leaves the queue; the free slot is one more place
  std::vector<std::unique_ptr<Probe>> probes;
  const auto jobs = [&](int n) {
    std::vector<Job> out;
    for (int i = 0; i < n; ++i) {
      probes.push_back(std::make_unique<Probe>());
      out.push_back(probes.back()->job("ab", options(Mode::kPlain, 3)));
    }
    return out;
  };
  EXPECT_FALSE(rig.scheduler.submit(jobs(4)));
  EXPECT_EQ(rig.scheduler.n_waiting(), 0U);
  EXPECT_TRUE(rig.scheduler.submit(jobs(2)));
  EXPECT_FALSE(rig.scheduler.submit(jobs(2)));
  EXPECT_TRUE(rig.scheduler.submit(jobs(1)));
  EXPECT_FALSE(rig.scheduler.submit(jobs(1)));
  EXPECT_GE(rig.scheduler.retry_after(), 1);
  rig.start();
  rig.finish();
  EXPECT_FALSE(rig.scheduler.submit(jobs(1))) << "drained";
  for (const int i : {4, 5, 8})
    EXPECT_EQ(probes[static_cast<std::size_t>(i)]->outcome.get_future().get().stats.emitted, 3);
}

TEST(Scheduler, ARunningStreamWaitsForOneChunkOfAPromptAtMost) {
  Rig rig;
  Probe runs;
  Probe reads;
  Probe reads_too;
  std::int64_t before = 0;
  int waited = 0;
  bool both_in = false;
  runs.on_step = [&](const StepView&) {
    const std::int64_t now = rig.target.n_forwards();
    EXPECT_TRUE(before == 0 || now - before <= 2) << "one step and one chunk";
    waited += before > 0 && now - before == 2 ? 1 : 0;
    before = now;
    if (!both_in) {
      both_in = true;  // prompts of 20 and 25 chunks
      rig.scheduler.submit(one(reads.job(std::string(320, 'q'), options(Mode::kAuto, 4))));
      rig.scheduler.submit(one(reads_too.job(std::string(400, 'r'), options(Mode::kAuto, 4))));
    }
  };
  rig.scheduler.submit(one(runs.job("hello", options(Mode::kPlain, 200))));
  rig.start();
  EXPECT_EQ(reads.outcome.get_future().get().stats.emitted, 4);
  EXPECT_EQ(reads_too.outcome.get_future().get().stats.emitted, 4);
  rig.finish();
  EXPECT_GE(waited, 40) << "the prompts were taken in between the steps";
}

TEST(Scheduler, PromptsTakeTurnsAndNoStreamStarves) {
  Rig rig;
  Probe a;
  Probe b;
  Probe c;
  // A short prompt that comes last is not kept waiting by two long ones.
  std::vector<char> order;
  const auto note = [&](Probe& p, char name) {
    p.on_step = [&order, name](const StepView&) { order.push_back(name); };
  };
  note(a, 'a');
  note(b, 'b');
  note(c, 'c');
  rig.scheduler.submit(one(a.job(std::string(400, 'q'), options(Mode::kPlain, 30))));
  rig.scheduler.submit(one(b.job(std::string(400, 'r'), options(Mode::kPlain, 30))));
  rig.scheduler.submit(one(c.job("hi", options(Mode::kPlain, 8))));
  rig.start();
  rig.finish();
  ASSERT_EQ(order.size(), 68U);
  EXPECT_EQ(std::string(order.begin(), order.begin() + 8), "cccccccc") << "c is through while a and b are read";
  // From where both decode, every step advances both.
  const auto first_b = std::find(order.begin(), order.end(), 'b');
  EXPECT_LE(std::count(order.begin(), first_b, 'a'), 2);
  int lead = 0;
  for (auto it = first_b; it != order.end(); ++it) {
    lead += *it == 'a' ? 1 : -1;
    EXPECT_LE(std::abs(lead), 2);
  }
}

RigOptions sharing() {
  RigOptions o;
  o.n_seq = 4;
  o.n_ctx = 300;
  o.n_shared = 300;
  return o;
}

// Two texts of 240 tokens in 300 positions: the second gives way to the first and goes on after it, before who came
// later.
TEST(Scheduler, WhereSlotsShareTheirPositionsTheLastGivesWayAndLosesNothing) {
  Rig rig(sharing());
  Probe a;
  Probe b;
  Probe c;
  std::string order;
  const auto start = [&](Probe& p, char name, std::size_t n_prompt, std::int64_t n) {
    p.on_step = [&order, name](const StepView&) { order += name; };
    rig.scheduler.submit(one(p.job(std::string(n_prompt, name), options(Mode::kAuto, n))));
  };
  start(a, 'a', 100, 140);
  start(b, 'b', 100, 140);
  start(c, 'c', 90, 5);
  rig.start();
  rig.finish();
  EXPECT_EQ(a.text, Rig::alone(std::string(100, 'a'), options(Mode::kPlain, 140)));
  EXPECT_EQ(b.text, Rig::alone(std::string(100, 'b'), options(Mode::kPlain, 140)));
  EXPECT_EQ(c.text, Rig::alone(std::string(90, 'c'), options(Mode::kPlain, 5)));
  const std::size_t a_ends = order.rfind('a');
  EXPECT_LT(order.find('b'), a_ends) << "both run while there is room";
  EXPECT_GT(std::count(order.begin() + static_cast<std::ptrdiff_t>(a_ends), order.end(), 'b'), 5) << order;
  EXPECT_GT(order.find('c'), a_ends) << "nobody gets in before one who waits";
  EXPECT_GT(b.outcome.get_future().get().predicted_ms, 0);
}

TEST(Scheduler, WhereSlotsShareTheirPositionsOneMayHaveAllAndWhatIsKeptMakesRoom) {
  RigOptions o = sharing();
  o.prefill_chunk = 128;  // more than one kept prefix must go for it
  Rig rig(o);
  rig.start();
  const auto ask = [&](char letter, std::size_t n_prompt, std::int64_t n) {
    Probe p;
    Job job = p.job(std::string(n_prompt, letter), options(Mode::kPlain, n));
    job.on_prompt = [&](const PromptProgress&) {
      std::int32_t held = 0;
      for (std::int32_t i = 0; i < 4; ++i) held += rig.target.n_committed(i);
      EXPECT_LE(held, 300);
    };
    rig.scheduler.submit(one(std::move(job)));
    return p.outcome.get_future().get();
  };
  for (const char letter : {'a', 'b', 'c'}) EXPECT_EQ(ask(letter, 90, 5).finish, FinishReason::kLength);
  EXPECT_GT(ask('c', 90, 5).n_reused, 80U);
  EXPECT_EQ(ask('d', 280, -1).finish, FinishReason::kContextFull);
  EXPECT_EQ(ask('c', 90, 5).n_reused, 0U) << "it had to make room";
  rig.finish();
}

TEST(Scheduler, ACancelledStreamEndsWithTheStepInProgress) {
  Rig rig;
  Probe gone;
  Probe stays;
  int steps_after = -1;
  gone.on_token = [&](Token) {
    if (gone.text.size() == 10) *gone.cancelled = true;
  };
  gone.on_step = [&](const StepView&) { steps_after += *gone.cancelled ? 1 : 0; };
  rig.scheduler.submit(one(gone.job("abc", options(Mode::kGraph, 400))));
  rig.scheduler.submit(one(stays.job("abd", options(Mode::kGraph, 50))));
  rig.start();
  const Outcome o = gone.outcome.get_future().get();
  EXPECT_EQ(o.finish, FinishReason::kNone);
  rig.finish();
  EXPECT_EQ(gone.text.size(), 10U);
  EXPECT_EQ(steps_after, 0);
  EXPECT_EQ(stays.text, Rig::alone("abd", options(Mode::kPlain, 50)));
}

TEST(Scheduler, JobsGivenUpInTheQueueOrThePrefillNeverDecode) {
  RigOptions o;
  o.n_seq = 1;
  Rig rig(o);
  Probe runs;
  Probe queued;
  Probe prefills;
  *queued.cancelled = true;
  runs.on_token = [&](Token) { *prefills.cancelled = true; };
  rig.scheduler.submit(one(runs.job("abc", options(Mode::kPlain, 20))));
  rig.scheduler.submit(one(queued.job("abc", options(Mode::kPlain, 20))));
  rig.scheduler.submit(one(prefills.job(std::string(300, 'x'), options(Mode::kPlain, 20))));
  rig.start();
  rig.finish();
  EXPECT_EQ(runs.outcome.get_future().get().stats.emitted, 20);
  EXPECT_EQ(queued.outcome.get_future().get().finish, FinishReason::kNone);
  EXPECT_EQ(prefills.outcome.get_future().get().stats.emitted, 0);
  EXPECT_EQ(queued.text + prefills.text, "");
}

TEST(Scheduler, AFailedPassEndsItsJobsAndTheNextOnesGoOn) {
  RigOptions o;
  o.with_draft = false;
  Rig rig(o);
  Probe fails;
  Probe next;
  fails.on_token = [&](Token) {
    if (fails.text.size() == 5) rig.target.fail_next(2);  // the pass, and its repetition with the roots alone
  };
  rig.scheduler.submit(one(fails.job("abc", options(Mode::kPlain, 50))));
  rig.start();
  const Outcome failed = fails.outcome.get_future().get();
  ASSERT_TRUE(failed.error);
  EXPECT_EQ(failed.error->code(), ErrorCode::kNoKvSlot);
  rig.target.fail_next(0);
  rig.scheduler.submit(one(next.job("abc", options(Mode::kGraph, 50))));
  rig.finish();
  EXPECT_EQ(next.text, Rig::alone("abc", options(Mode::kPlain, 50)));
}

TEST(Scheduler, AnUnusablePromptIsReported) {
  Rig rig;
  Probe p;
  rig.scheduler.submit(one(p.job(std::string(600, 'x'), options(Mode::kPlain, 50))));
  rig.start();
  rig.finish();
  const Outcome o = p.outcome.get_future().get();
  ASSERT_TRUE(o.error);
  EXPECT_EQ(o.error->code(), ErrorCode::kContextFull);
}

TEST(Scheduler, ASecondTurnReusesTheMemoryOfTheFirst) {
  Rig rig;
  rig.start();
  const auto ask = [&](const std::string& prompt, bool reuse) {
    Probe p;
    SessionOptions o = options(Mode::kGraph, 20);
    o.reuse_prefix = reuse;
    rig.scheduler.submit(one(p.job(prompt, o)));
    const Outcome out = p.outcome.get_future().get();
    EXPECT_EQ(p.text, Rig::alone(prompt, options(Mode::kPlain, 20)));
    return std::pair(p.text, out.n_reused);
  };
  const std::string first(40, 'h');
  const auto [text, none] = ask(first, true);
  EXPECT_EQ(none, 0U);
  EXPECT_EQ(ask(first + text + "more", true).second, first.size() + text.size() - 1);
  EXPECT_EQ(ask(first + text + "more", false).second, 0U);
  EXPECT_EQ(ask(first + "another way", true).second, first.size()) << "the common beginning";
}

TEST(Scheduler, StopEndsWhatRuns) {
  RigOptions o;
  o.n_ctx = 4096;
  o.step_us = 200;
  Rig rig(o);
  Probe p;
  Probe waits;
  std::promise<void> running;
  p.on_step = [&, told = false](const StepView&) mutable {
    if (!told) running.set_value();
    told = true;
  };
  SessionOptions endless = options(Mode::kPlain, 4000);
  endless.ignore_eog = true;
  rig.scheduler.submit(one(p.job("abc", endless)));
  rig.start();
  running.get_future().get();
  rig.stop();
  EXPECT_EQ(p.outcome.get_future().get().finish, FinishReason::kNone);
  EXPECT_FALSE(rig.scheduler.submit(one(waits.job("abc", options(Mode::kPlain, 5)))));
}

TEST(Scheduler, ShowsItsSlots) {
  Rig rig;
  Probe p;
  SlotView seen;
  p.on_step = [&](const StepView&) {
    for (const SlotView& s : rig.scheduler.slots()) {
      if (s.processing) seen = s;
    }
  };
  rig.scheduler.submit(one(p.job("abcd", options(Mode::kTree, 30))));
  rig.start();
  rig.finish();
  EXPECT_EQ(seen.n_prompt, 4U);
  EXPECT_EQ(seen.n_prompt_left, 0U);
  EXPECT_GT(seen.n_decoded, 0U);
  EXPECT_EQ(seen.mode, Mode::kTree);
  EXPECT_EQ(rig.scheduler.slots().size(), 3U);
}

TEST(Scheduler, WhatACallbackThrowsEndsItsOwnJobOnly) {
  Rig rig;
  Probe in_token;
  Probe in_step;
  Probe stays;
  in_token.on_token = [&](Token) {
    if (in_token.text.size() == 7) throw std::runtime_error("no such piece");
  };
  in_step.on_step = [&](const StepView&) {
    if (in_step.text.size() >= 9) throw std::bad_alloc();
  };
  rig.scheduler.submit(one(in_token.job("abc", options(Mode::kGraph, 60))));
  rig.scheduler.submit(one(in_step.job("abd", options(Mode::kGraph, 60))));
  rig.scheduler.submit(one(stays.job("abe", options(Mode::kGraph, 60))));
  rig.start();
  const Outcome first = in_token.outcome.get_future().get();
  const Outcome second = in_step.outcome.get_future().get();
  EXPECT_FALSE(stays.outcome.get_future().get().error);
  rig.finish();
  ASSERT_TRUE(first.error && second.error);
  EXPECT_STREQ(first.error->what(), "no such piece");
  EXPECT_EQ(second.error->code(), ErrorCode::kOutOfMemory);
  EXPECT_EQ(stays.text, Rig::alone("abe", options(Mode::kPlain, 60)));
}

}  // namespace
}  // namespace gsd::server
