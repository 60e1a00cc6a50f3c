// Continuous batching under configurations that do everything the hard way (../verifying.h): every stream's text is
// that of the stream alone.
#include <gtest/gtest.h>

#include <thread>

#include "../../src/core/engine_state.h"
#include "../random.h"
#include "../verifying.h"
#include "server_rig.h"

namespace gsd::server {
namespace {

struct Stream {
  std::string text;
  bool finished = false;
  bool failed = false;
};

// A scheduler whose slots move, whose planner is confused before every pass, and that is short of room at times.
void serve(std::vector<std::pair<std::string, SessionOptions>> wishes, std::vector<Stream>& out, bool rubbish,
           std::uint64_t seed) {
  const BackendInfo info{
      .n_vocab = 128, .n_ctx = 512, .n_seq = 3, .max_batch = 128, .max_outputs = 64, .max_leaves = 8};
  ScriptedBackend target(info, Rig::script(0), 2, 0);
  ScriptedBackend draft(info, Rig::script(0.3F), 2, 0);
  test::MovingBackend moving(target, seed);
  std::mt19937_64 rng(seed);
  Engine* planned = nullptr;
  test::FaultyBackend faulty(moving, seed, [&](std::span<const NodeInput> nodes) {
    test::confuse(planned->state().planner_, rng);
    // Trees alone are refused: then the roots are scored without them.
    const bool tree = std::any_of(nodes.begin(), nodes.end(), [](const NodeInput& n) { return !n.certain; });
    return tree && rng() % 4 == 0 ? test::FaultyBackend::Fate::kNoRoom : test::FaultyBackend::Fate::kWorks;
  });
  Engine engine(faulty, rubbish ? std::make_unique<test::RubbishDrafter>(info, seed) : make_model_drafter(draft, 128),
                {.prefill_chunk = 16, .keep_prefixes = true});
  planned = &engine;
  if (rubbish) engine.add_source(std::make_shared<test::RubbishSource>(128, seed));
  Metrics metrics;
  Scheduler scheduler(engine, metrics, {.max_queue = 64});
  out.resize(wishes.size());
  for (std::size_t i = 0; i < wishes.size(); ++i) {
    Job job;
    for (const char c : wishes[i].first) job.prompt.push_back(c);
    job.options = wishes[i].second;
    job.options.on_token = [&s = out[i]](Token t) {
      if (t != 0) s.text += static_cast<char>(t);
      return true;
    };
    job.cancelled = std::make_shared<std::atomic<bool>>(false);
    job.on_finish = [&s = out[i]](const Outcome& o) {
      s.finished = true;
      s.failed = o.error.has_value();
    };
    std::vector<Job> one;
    one.push_back(std::move(job));
    ASSERT_TRUE(scheduler.submit(std::move(one)));
  }
  scheduler.drain();
  scheduler.run();
  EXPECT_GT(moving.n_moves(), 50);
}

TEST(ServerVerifying, NothingChangesAStreamsText) {
  for (int round = 0; round < 4; ++round) {
    GSD_SEEDED(rng, round);
    std::vector<std::pair<std::string, SessionOptions>> wishes;
    std::vector<std::string> expected;
    for (int i = 0; i < 20; ++i) {
      const SessionOptions o = random_options(rng, i);
      const std::string prompt = random_prompt(rng, 90, 20);
      expected.push_back(Rig::alone(prompt, o));
      wishes.emplace_back(prompt, o);
    }
    std::vector<Stream> streams;
    serve(wishes, streams, round % 2 == 1, rng());
    for (std::size_t i = 0; i < wishes.size(); ++i) {
      EXPECT_TRUE(streams[i].finished);
      EXPECT_FALSE(streams[i].failed);
      EXPECT_EQ(streams[i].text, expected[i]) << i;
    }
  }
}

}  // namespace
}  // namespace gsd::server
