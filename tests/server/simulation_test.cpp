// The server in one thread, everything drawn from one seed: requests, clients that vanish or stall, passes that fail or
// find no room, a drain at any moment. The models look back over everything, so that a token of another stream, or one
// too many after a roll-back, changes all that follow.
#include <gtest/gtest.h>

#include "../random.h"
#include "../verifying.h"
#include "server_rig.h"

namespace gsd::server {
namespace {

using Fate = test::FaultyBackend::Fate;

constexpr int kLookBack = 256;  // all of a context

struct Marks {
  int whole = 0, vanished = 0, failed = 0, refused = 0, drained = 0, no_room = 0, broken = 0;
};

Script whole_prefix(float drift) {
  return [inner = random_script(3, kLookBack, 8, drift)](std::span<const Token> context, std::span<float> logits) {
    inner(context, logits);
    for (Token t = 0; t < 32; ++t) logits[static_cast<std::size_t>(t)] -= t == 0 ? 2 : 40;
    logits[127] -= 40;
  };
}

// What plain decoding alone would say.
std::string alone(const std::string& prompt, float temperature, std::uint64_t seed, int most) {
  const Script script = whole_prefix(0);
  Sampler sampler({.temperature = temperature, .seed = seed});
  std::vector<Token> text(prompt.begin(), prompt.end());
  std::vector<float> logits(128);
  std::string out;
  for (int i = 0; i < most; ++i) {
    script(text, logits);
    const Token t = sampler.choose(logits, static_cast<std::uint32_t>(i), text, nullptr).token;
    if (t == 0) break;
    text.push_back(t);
    out += static_cast<char>(t);
  }
  return out;
}

// The text of the chunks of a stream.
std::string text_of(const std::string& stream) {
  std::string out;
  for (std::size_t at = 0; (at = stream.find("data: {", at)) != std::string::npos; ++at) {
    const auto chunk = Json::parse(stream.substr(at + 6, stream.find("\n\n", at) - at - 6));
    if (chunk.contains("choices") && !chunk["choices"].empty()) out += chunk["choices"][0]["text"].get<std::string>();
  }
  return out;
}

struct Client {
  std::unique_ptr<Call> call;
  std::string expected;
  std::string received;
  int patience;  // rounds until it vanishes
};

void simulate(std::uint64_t seed, Marks& marks) {
  std::mt19937_64 rng(seed);
  const BackendInfo info{.n_vocab = 128,
                         .n_ctx = 160,
                         .n_seq = 1 + static_cast<int>(rng() % 4),
                         .max_batch = 32,
                         .max_outputs = 32,
                         .max_leaves = 1 + static_cast<int>(rng() % 8)};
  ScriptedBackend target(info, whole_prefix(0), kLookBack, 0);
  ScriptedBackend draft(info, whole_prefix(0.3F), kLookBack, 0);
  test::MovingBackend moving(target, rng());
  const bool moves = rng() % 3 == 0;
  std::uint64_t no_room = rng() % 3 == 0 ? 8 : 0;
  std::uint64_t breaks = rng() % 3 == 0 ? 60 : 0;
  test::FaultyBackend faulty(moves ? static_cast<Backend&>(moving) : target, rng(), [&](auto) {
    if (no_room > 0 && rng() % no_room == 0) return ++marks.no_room, Fate::kNoRoom;
    if (breaks > 0 && rng() % breaks == 0) return ++marks.broken, Fate::kBreaks;
    return Fate::kWorks;
  });
  double clock = 0;
  Engine engine(faulty, rng() % 4 == 0 ? nullptr : &draft,
                {.prefill_chunk = 1 + static_cast<int>(rng() % 32),
                 .max_total_width = 1 + static_cast<int>(rng() % 32),
                 .keep_prefixes = rng() % 2 == 0,
                 .clock = [&] { return clock += static_cast<double>(rng() % 100) / 50; }});
  const TextModel model = ascii_model(info.n_ctx);
  Metrics metrics;
  const std::size_t n_shared = rng() % 2 == 0 ? 0 : 160 + rng() % 200;  // of texts up to 120 tokens
  Scheduler scheduler(engine, metrics, {.max_queue = rng() % 6, .n_shared = n_shared});
  Api api(model, scheduler, metrics, api_options());
  std::vector<Client> clients;
  const int n_rounds = 30 + static_cast<int>(rng() % 60);
  const int drain_at = rng() % 4 == 0 ? static_cast<int>(rng() % 60) : 1000;
  const auto pump = [&](Client& c) {
    c.received += c.call->advance(std::chrono::milliseconds(0));
    if (!c.call->finished()) return;
    const std::string text = text_of(c.received);
    const bool failed = c.received.find("\"error\"") != std::string::npos;
    ++(failed ? marks.failed : marks.whole);
    EXPECT_TRUE(failed ? c.expected.starts_with(text) : c.expected == text) << text << " is not " << c.expected;
    EXPECT_TRUE(c.received.ends_with("data: [DONE]\n\n"));
    c.call.reset();
  };
  for (int round = 0; round < n_rounds; ++round) {
    if (round == drain_at) scheduler.drain(), ++marks.drained;
    if (rng() % 3 == 0) {
      const std::string prompt = random_prompt(rng, 60, 3);
      const float temperature = rng() % 2 == 0 ? 0 : 0.5F;
      const std::uint64_t request_seed = rng() % 1000;
      const int most = 1 + static_cast<int>(rng() % 60);
      const Json body{{"prompt", prompt},     {"temperature", temperature},
                      {"seed", request_seed}, {"max_tokens", most},
                      {"stream", true},       {"speculative", {{"mode", mode_name(static_cast<Mode>(rng() % 5))}}}};
      try {
        clients.push_back({api.completion(body.dump(), false), alone(prompt, temperature, request_seed, most), "",
                           rng() % 5 == 0 ? static_cast<int>(rng() % 20) : 100000});
      } catch (const ApiError& e) {
        EXPECT_EQ(e.status(), 503) << e.what();
        ++marks.refused;
      }
    }
    scheduler.turn();
    std::size_t held = 0;
    for (std::int32_t i = 0; i < info.n_seq; ++i) held += static_cast<std::size_t>(target.n_committed(i));
    // What a step adds comes on top, as with a context's cells.
    EXPECT_TRUE(n_shared == 0 || held <= n_shared + static_cast<std::size_t>(info.max_outputs)) << held;
    for (Client& c : clients) {
      if (!c.call || rng() % 3 == 0) continue;  // it stalls
      if (--c.patience < 0) {
        c.call.reset();
        ++marks.vanished;
        continue;
      }
      pump(c);
    }
  }
  no_room = breaks = 0;  // the faults stop: everybody is answered
  for (int i = 0; i < 20000 && scheduler.turn(); ++i) {
  }
  for (Client& c : clients) {
    if (c.call) pump(c);
    EXPECT_FALSE(c.call) << "an accepted request never finishes";
  }
  EXPECT_EQ(scheduler.n_processing(), 0U);
}

TEST(Simulation, NothingIsLostOrMixedUp) {
  Marks m;
  for (int i = 0; i < 200 && !HasFailure(); ++i) {
    GSD_SEEDED(rng, i);
    simulate(rng(), m);
  }
  for (const int mark : {m.whole, m.vanished, m.failed, m.refused, m.drained, m.no_room, m.broken}) EXPECT_GT(mark, 10);
}

}  // namespace
}  // namespace gsd::server
