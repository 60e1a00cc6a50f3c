// No allocation in the step loop after warm-up: counted by replacing operator new of the whole program.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "../src/core/engine_state.h"
#include "gsd/engine.h"
#include "gsd/scripted_backend.h"

namespace {
std::atomic<long> allocations{0};
}

void* operator new(std::size_t size) {
  ++allocations;
  if (void* p = std::malloc(size)) return p;
  throw std::bad_alloc();
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }

namespace gsd {
namespace {

TEST(Allocation, CountsAtAll) {
  const long before = allocations;
  ::operator delete(::operator new(8));  // a direct call: the compiler may leave out a new-expression
  EXPECT_EQ(allocations, before + 1);
}

TEST(Allocation, NoneInTheStepLoopAfterWarmUp) {
  for (const bool sampled : {false, true}) {
    for (const Mode mode : {Mode::kPlain, Mode::kChain, Mode::kTree, Mode::kGraph, Mode::kAuto}) {
      SCOPED_TRACE(mode_name(mode));
      const BackendInfo info{
          .n_vocab = 64, .n_ctx = 4096, .n_seq = 2, .max_batch = 256, .max_outputs = 64, .max_leaves = 16};
      ScriptedBackend target(info, random_script(1, 2, 6), 2);
      ScriptedBackend draft(info, random_script(1, 2, 6, 0.3F), 2);
      Engine engine(target, &draft);
      engine.state().planner_.target_cost().load({{1, 10}, {8, 12}, {16, 16}, {32, 40}});
      engine.state().planner_.draft_cost().load({{1, 0.5}, {16, 1}});
      engine.state().planner_.target_cost().freeze(true);
      engine.state().planner_.draft_cost().freeze(true);
      std::vector<std::unique_ptr<Session>> sessions;
      std::vector<Session*> list;
      for (int i = 0; i < 2; ++i) {
        SessionOptions o;
        o.speculation.mode = mode;
        o.sampling.temperature = sampled ? 0.8F : 0;
        o.sampling.top_p = sampled ? 0.95F : 1;
        o.sampling.repeat_penalty = sampled ? 1.1F : 1;
        o.sampling.seed = static_cast<std::uint64_t>(i);
        sessions.push_back(engine.open(o));
        engine.set_prompt(*sessions.back(), std::vector<Token>{1, 2, 3, 4, 5});
        while (engine.prefill(*sessions.back()) > 0) {
        }
        list.push_back(sessions.back().get());
      }
      for (int i = 0; i < 100; ++i) engine.step(list);
      const long before = allocations;
      for (int i = 0; i < 200; ++i) engine.step(list);
      EXPECT_EQ(allocations, before);
    }
  }
}

}  // namespace
}  // namespace gsd
