// Wrong beliefs about costs and acceptance: how soon the engine is as fast as with the right ones, on a machine whose
// clock is simulated.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "../src/core/engine_state.h"
#include "gsd/engine.h"
#include "gsd/error.h"
#include "gsd/scripted_backend.h"
#include "random.h"

namespace gsd {
namespace {

using Points = std::vector<CostModel::Point>;

// A scripted backend whose passes take simulated time.
class TimedBackend final : public Backend {
 public:
  TimedBackend(const BackendInfo& info, Script script, int order, double& clock)
      : scripted_(info, std::move(script), order), clock_(clock) {}
  void set_cost(std::function<double(int)> ms) { ms_ = std::move(ms); }
  // Adds up what the passes would take without noise.
  void add_up(double& quiet_ms, std::function<double(int)> ms) {
    quiet_ms_ = &quiet_ms;
    quiet_ = std::move(ms);
  }

  const BackendInfo& info() const override { return scripted_.info(); }
  bool is_eog(Token token) const override { return scripted_.is_eog(token); }
  void forward(std::span<const NodeInput> nodes) override {
    scripted_.forward(nodes);
    const auto width = static_cast<int>(nodes.size());
    clock_ += ms_(width);
    if (quiet_ms_) *quiet_ms_ += quiet_(width);
  }
  std::span<const float> logits(std::int32_t row) const override { return scripted_.logits(row); }
  void commit(std::int32_t seq, std::span<const std::int32_t> path) override { scripted_.commit(seq, path); }
  std::int32_t truncate(std::int32_t seq, std::int32_t n) override { return scripted_.truncate(seq, n); }
  std::int32_t n_committed(std::int32_t seq) const override { return scripted_.n_committed(seq); }
  std::int32_t n_speculative(std::int32_t seq) const override { return scripted_.n_speculative(seq); }

 private:
  ScriptedBackend scripted_;
  double& clock_;
  std::function<double(int)> ms_;
  double* quiet_ms_ = nullptr;
  std::function<double(int)> quiet_;
};

struct Machine {
  Points target;
  Points draft;
};
const Machine kFlat{{{1, 10}, {2, 11}, {4, 13}, {8, 18}, {16, 24}, {32, 40}},
                    {{1, 0.5}, {2, 0.55}, {4, 0.6}, {8, 0.7}, {16, 1}}};
const Machine kSteep{{{1, 10}, {2, 19}, {4, 37}, {8, 73}, {16, 145}, {32, 290}},
                     {{1, 4}, {2, 5}, {4, 7}, {8, 11}, {16, 20}}};

struct World {
  const Machine& machine;
  float drift;
  float temperature;
  double noise = 0;   // share by which passes are longer, evenly drawn; one in forty is an outlier
  double spread = 0;  // of the logarithm of their time, as beside other work
  int sessions = 1;
  Mode mode = Mode::kAuto;
  bool changes = false;  // its speed, every now and then
};

struct Kept {
  Points target;
  Points draft;
  std::vector<double> acceptance;  // empty: none
};

constexpr int kOrder = 4;  // of the text, so that it does not run into a loop
constexpr std::int64_t kTokens = 600;
constexpr std::int64_t kSettled = 100;

struct Outcome {
  double ms_after = 0;  // simulated, of the tokens after the first kSettled
  Kept kept;            // what the run leaves for the next one
};

// `clock`: where it is given, the machine is slower by a third for every other while.
std::function<double(int)> cost_of(const Points& points, double noise, double spread, std::mt19937_64& rng,
                                   const double* clock = nullptr) {
  CostModel curve(128);
  curve.load(points);
  return [curve, noise, spread, &rng, clock](int width) {
    constexpr double kWhile = 400;  // ms
    const double by = noise * static_cast<double>(rng() % 1000) / 1000;
    const double slow = clock != nullptr && std::fmod(*clock, 2 * kWhile) > kWhile ? 4.0 / 3 : 1;
    double normal = -6;  // nearly
    for (int i = 0; spread > 0 && i < 12; ++i) normal += static_cast<double>(rng() % 1000) / 1000;
    return slow * curve.ms(width) * std::exp(spread * normal) * (noise > 0 && rng() % 40 == 0 ? 8 : 1 + by);
  };
}

Outcome decode(const World& world, std::uint64_t seed, const Kept& kept) {
  std::mt19937_64 rng(seed);
  const BackendInfo info{
      .n_vocab = 100, .n_ctx = 1024, .n_seq = world.sessions, .max_batch = 128, .max_outputs = 64, .max_leaves = 16};
  double clock = 0;
  TimedBackend target(info, random_script(seed, kOrder, 9), kOrder, clock);
  TimedBackend draft(info, random_script(seed, kOrder, 9, world.drift), kOrder, clock);
  const double* changes = world.changes ? &clock : nullptr;
  target.set_cost(cost_of(world.machine.target, world.noise, world.spread, rng, changes));
  draft.set_cost(cost_of(world.machine.draft, world.noise, world.spread, rng, changes));
  double quiet_ms = 0;
  target.add_up(quiet_ms, cost_of(world.machine.target, 0, 0, rng));
  draft.add_up(quiet_ms, cost_of(world.machine.draft, 0, 0, rng));
  Engine engine(target, &draft, {.clock = [&] { return clock; }});
  engine.state().planner_.target_cost().load(kept.target);
  engine.state().planner_.draft_cost().load(kept.draft);
  if (!kept.acceptance.empty()) {
    Calibration c(world.temperature <= 0);
    Learned learned;
    if (c.set_counts(kept.acceptance))
      learned.calibrations.insert({world.temperature > 0 ? std::lround(world.temperature * 10) : -1, c});
    engine.state().exchange(learned);
  }
  std::vector<std::unique_ptr<Session>> sessions;
  std::vector<Session*> list;
  for (Token i = 0; i < world.sessions; ++i) {
    SessionOptions o;
    o.speculation.max_width = 32;
    o.speculation.mode = world.mode;
    o.sampling.temperature = world.temperature;
    o.sampling.seed = 3;
    o.max_tokens = kTokens;
    sessions.push_back(engine.open(std::move(o)));
    list.push_back(sessions.back().get());
    engine.set_prompt(*list.back(), std::vector<Token>{1, 2, 3 + i});
    while (engine.prefill(*list.back()) > 0) {
    }
  }
  Outcome out;
  double settled_ms = 0;
  std::int64_t settled = 0;
  const auto finished = [](const Session* s) { return s->finished(); };
  while (std::none_of(list.begin(), list.end(), finished)) {
    engine.step(list);
    if (settled == 0 && engine.stats().emitted >= kSettled * world.sessions) {
      settled_ms = quiet_ms;
      settled = engine.stats().emitted;
    }
  }
  out.ms_after = (quiet_ms - settled_ms) / static_cast<double>(engine.stats().emitted - settled);
  out.kept = {engine.state().planner_.target_cost().points(), engine.state().planner_.draft_cost().points(),
              engine.state().calibrations_.begin()->second.counts()};
  return out;
}

// All ways to spoil one field of a kept profile by a factor.
std::vector<std::pair<std::string, std::function<void(Kept&, double)>>> poisons(const Kept& kept) {
  std::vector<std::pair<std::string, std::function<void(Kept&, double)>>> all;
  const auto add = [&](std::string name, std::function<void(Kept&, double)> f) {
    all.emplace_back(std::move(name), f);
  };
  for (const bool of_target : {true, false}) {
    const auto field = [of_target](Kept& k) -> Points& { return of_target ? k.target : k.draft; };
    const std::string name = of_target ? "target" : "draft";
    add(name + " curve", [field](Kept& k, double f) {
      for (auto& p : field(k)) p.ms *= f;
    });
    add(name + " beyond one token", [field](Kept& k, double f) {
      for (auto& p : field(k)) p.ms *= p.width > 1 ? f : 1;
    });
    for (std::size_t i = 0; i < (of_target ? kept.target : kept.draft).size(); ++i)
      add(name + " point " + std::to_string(i), [field, i](Kept& k, double f) { field(k)[i].ms *= f; });
  }
  for (const std::size_t of_trials : {0U, 1U}) {
    add(of_trials == 1 ? "trials" : "hits", [of_trials](Kept& k, double f) {
      for (std::size_t i = of_trials; i < k.acceptance.size(); i += 2) k.acceptance[i] *= f;
    });
  }
  add("all hits", [](Kept& k, double) {
    for (std::size_t i = 0; i + 1 < k.acceptance.size(); i += 2) k.acceptance[i] = k.acceptance[i + 1];
  });
  return all;
}

class Poisons : public testing::TestWithParam<World> {};

TEST_P(Poisons, IsOvercomeWithinAHundredTokens) {
  const World& world = GetParam();
  const Kept kept = decode(world, 1, {world.machine.target, world.machine.draft, {}}).kept;
  const auto ms = [&](const Kept& k) {
    double sum = 0;
    for (const std::uint64_t seed : {2U, 3U, 4U, 5U}) sum += decode(world, seed, k).ms_after;
    return sum;
  };
  ASSERT_TRUE(Calibration(world.temperature <= 0).set_counts(kept.acceptance));
  const double right = ms(kept);
  for (const auto& [name, poison] : poisons(kept)) {
    for (const double factor : {0.1, 10.0, 1000.0}) {
      Kept poisoned = kept;
      poison(poisoned, factor);
      const double ratio = ms(poisoned) / right;
      EXPECT_LT(ratio, 1.05) << name << " by " << factor;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Worlds, Poisons,
                         testing::Values(World{kFlat, 0.1F, 0}, World{kFlat, 0.3F, 0.8F}, World{kFlat, 0.1F, 0, 0.3},
                                         World{kSteep, 0.9F, 0.8F}, World{kSteep, 0.1F, 0, 0.3}));

// Too few points to contradict each other, and a width that pays only if it is tried.
TEST(Poison, APassOverMoreTokensIsTriedThoughItSeemsToCostWhatTheyCostAlone) {
  const World world{kFlat, 0.1F, 0};
  const Kept right{{{1, 10}, {8, 18}}, kFlat.draft, {}};
  const Kept wrong{{{1, 10}, {8, 80}}, kFlat.draft, {}};
  double ratio = 0;
  for (const std::uint64_t seed : {2U, 3U, 4U, 5U})
    ratio += decode(world, seed, wrong).ms_after / decode(world, seed, right).ms_after / 4;
  EXPECT_LT(ratio, 1.05);
}

// Where drafting is worth nothing, finding that out again and again must cost next to nothing, whatever the draft would
// take to see all of the text.
TEST(Auto, IsNotSlowerThanPlainDecodingWhereNothingPays) {
  const Machine full{{{1, 10}, {4, 14}, {8, 20}, {16, 36}, {32, 68}}, {{1, 0.5}, {8, 1}, {16, 2}}};
  for (const Machine& machine : {kFlat, kSteep, full}) {
    for (const double noise : {0.0, 0.3}) {
      for (const float drift : {0.3F, 0.9F}) {
        for (const int sessions : {1, 4, 8}) {
          World world{machine, drift, 0.8F, noise, 0, sessions, Mode::kAuto, noise > 0};
          const Kept kept = decode(world, 1, {machine.target, machine.draft, {}}).kept;
          const auto ms = [&](Mode mode) {
            world.mode = mode;
            return decode(world, 2, kept).ms_after + decode(world, 3, kept).ms_after;
          };
          EXPECT_LT(ms(Mode::kAuto) / ms(Mode::kPlain), 1.025)
              << "noise " << noise << ", drift " << drift << ", sessions " << sessions << ", a pass over 32 tokens "
              << machine.target.back().ms << " ms";
        }
      }
    }
  }
}

// Beside other work passes take half or twice as long as the one before. That speculation is four times as fast as
// plain decoding must not be forgotten with every such pass.
TEST(Auto, KeepsUpWithAChainWherePassesVaryMuch) {
  World world{kFlat, 0, 0};
  world.spread = 0.5;
  const Kept kept = decode(world, 1, {kFlat.target, kFlat.draft, {}}).kept;
  const auto ms = [&](Mode mode) {
    world.mode = mode;
    double sum = 0;
    for (std::uint64_t seed = 2; seed < 10; ++seed) sum += decode(world, seed, kept).ms_after;
    return sum;
  };
  const double chain = ms(Mode::kChain);
  ASSERT_GT(ms(Mode::kPlain), 3 * chain);
  EXPECT_LT(ms(Mode::kAuto), 1.1 * chain);
}

TEST(CheckCost, CorrectsWhateverIsWrongWithinItsBudget) {
  std::mt19937_64 rng(1);
  const Kept right{kFlat.target, kFlat.draft, {}};
  for (const auto& [name, poison] : poisons(right)) {
    for (const double factor : {0.001, 0.1, 10.0, 1000.0}) {
      Kept poisoned = right;
      poison(poisoned, factor);
      double clock = 0;
      TimedBackend backend({.n_vocab = 4, .n_ctx = 64, .n_seq = 1, .max_batch = 64, .max_outputs = 64, .max_leaves = 4},
                           random_script(1, 1, 1), 1, clock);
      backend.set_cost(cost_of(kFlat.target, 0, 0, rng));
      CostModel cost(64);
      cost.load(poisoned.target);
      check_cost(backend, cost, 300, [&] { return clock; });
      EXPECT_LT(clock, 330) << name << " by " << factor;
      CostModel truth(64);
      truth.load(kFlat.target);
      for (int w = 1; w <= 32; ++w)
        EXPECT_NEAR(cost.ms(w) / truth.ms(w), 1, 0.3) << name << " by " << factor << ", " << w;
      EXPECT_EQ(backend.n_speculative(0), 0);
      EXPECT_EQ(backend.n_committed(0), 0);
    }
  }
}

TEST(Engine, StatisticsCountSharedPassesOnce) {
  const BackendInfo info{
      .n_vocab = 40, .n_ctx = 256, .n_seq = 3, .max_batch = 128, .max_outputs = 64, .max_leaves = 16};
  double clock = 0;
  int passes = 0;
  TimedBackend target(info, random_script(1, 2, 6), 2, clock);
  TimedBackend draft(info, random_script(1, 2, 6, 0.3F), 2, clock);
  target.set_cost([](int) { return 7.0; });
  draft.set_cost([&](int) {
    ++passes;
    return 1.0;
  });
  Engine engine(target, &draft, {.clock = [&] { return clock; }});
  std::vector<std::unique_ptr<Session>> sessions;
  std::vector<Session*> list;
  for (int i = 0; i < 3; ++i) {
    SessionOptions o;
    o.speculation.mode = Mode::kTree;
    o.max_tokens = 60;
    sessions.push_back(engine.open(o));
    engine.set_prompt(*sessions.back(), std::vector<Token>{static_cast<Token>(i), 2, 3});
    while (engine.prefill(*sessions.back()) > 0) {
    }
    list.push_back(sessions.back().get());
  }
  passes = 0;
  const double start = clock;
  int steps = 0;
  for (; steps < 10; ++steps) engine.step(list);
  const Stats& all = engine.stats();
  EXPECT_EQ(all.draft_forwards, passes);
  EXPECT_DOUBLE_EQ(all.draft_ms, passes);
  EXPECT_DOUBLE_EQ(all.verify_ms, 7.0 * steps);
  EXPECT_DOUBLE_EQ(all.total_ms, clock - start);
  EXPECT_EQ(all.steps, 3 * steps) << "one of each session";
  Stats sum;
  for (const Session* s : list) sum.add(s->stats());
  EXPECT_EQ(all.emitted, sum.emitted);
  EXPECT_EQ(all.verified, sum.verified);
  EXPECT_EQ(list[0]->stats().total_ms, clock - start) << "each session waited for the whole of it";
}

}  // namespace
}  // namespace gsd
