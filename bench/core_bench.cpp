// What our own code costs beside the two models: the parts, and whole steps on a backend that costs nothing.
//   build/release/bin/core_bench
#include <benchmark/benchmark.h>

#include <algorithm>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "../src/core/engine_state.h"
#include "../src/core/isa.h"
#include "../src/core/topk.h"
#include "gsd/engine.h"
#include "gsd/grammar.h"
#include "gsd/scripted_backend.h"

namespace gsd {
namespace {

std::vector<float> random_row(std::size_t n) {
  std::mt19937 rng(7);
  std::normal_distribution<float> normal(0, 3);
  std::vector<float> row(n);
  for (float& x : row) x = normal(rng);
  return row;
}

// Vocabularies of our own pair, of Llama 2, 3, Qwen and Gemma.
const std::vector<std::int64_t> kVocabularies{4096, 32768, 131072, 151936, 262144};

// As a trained model's: one token is probable, most have no chance.
std::vector<float> peaked_row(std::size_t n) {
  auto row = random_row(n);
  row[n / 3] += 20;
  return row;
}

// Floor: one pass over the row, n * 4 bytes from the second-level cache or beyond.
void BM_TopKLogSoftmax(benchmark::State& state) {
  const auto row = random_row(static_cast<std::size_t>(state.range(0)));
  std::vector<Token> tokens(static_cast<std::size_t>(state.range(1)));
  std::vector<float> log_p(tokens.size());
  for (auto _ : state) benchmark::DoNotOptimize(top_k_log_softmax(row, 1, tokens, log_p));
  state.SetBytesProcessed(state.iterations() * state.range(0) * 4);
}
BENCHMARK(BM_TopKLogSoftmax)->ArgsProduct({kVocabularies, {1, 4, 16}})->Unit(benchmark::kMicrosecond);

// The draft's candidates under sampling noise.
void BM_TopKWithNoise(benchmark::State& state) {
  const auto row = random_row(static_cast<std::size_t>(state.range(0)));
  const Sampler sampler({.temperature = 0.8F, .seed = 3});
  std::vector<Token> tokens(16);
  std::vector<float> log_p(16);
  std::vector<float> score(16);
  std::uint32_t position = 0;
  for (auto _ : state) {
    top_k_log_softmax(row, 1 / 0.8F, tokens, log_p);
    sampler.perturb(tokens, log_p, ++position, score);
    benchmark::DoNotOptimize(score.data());
  }
}
BENCHMARK(BM_TopKWithNoise)->ArgsProduct({kVocabularies})->Unit(benchmark::kMicrosecond);

// The target's draw. A flat row is the worst there is: any token may win, and needs its noise. The third argument is the
// instruction set.
void BM_Sample(benchmark::State& state) {
  constexpr const char* kNames[] = {"greedy", "all", "all, flat row", "top-p 0.95", "top-p 0.95, flat row", "top-k 40"};
  const auto kind = state.range(1);
  const auto n = static_cast<std::size_t>(state.range(0));
  const auto row = kind == 2 || kind == 4 ? random_row(n) : peaked_row(n);
  SamplingParams p{.temperature = kind == 0 ? 0.0F : 0.8F};
  if (kind == 3 || kind == 4) p.top_p = 0.95F;
  if (kind == 5) p.top_k = 40;
  limit_isa(static_cast<Isa>(state.range(2)));
  Sampler sampler(p);
  std::uint32_t position = 0;
  for (auto _ : state) benchmark::DoNotOptimize(sampler.choose(row, ++position, {}, nullptr));
  const std::string set = isa() == Isa::kAvx512 ? "" : isa() == Isa::kAvx2 ? ", AVX2" : ", portable";
  state.SetLabel(kNames[kind] + set);
  limit_isa(Isa::kAvx512);
}
BENCHMARK(BM_Sample)->ArgsProduct({kVocabularies, {0, 1, 2, 3, 4, 5}, {2}})->Unit(benchmark::kMicrosecond);
BENCHMARK(BM_Sample)->ArgsProduct({{262144}, {0, 1, 2, 3, 4, 5}, {0, 1}})->Unit(benchmark::kMicrosecond);

// Whole steps on a scripted pair: vocabulary 4096, prefix 4096, width 16. Time: what Stats calls the rest, so without
// the backends' own work; the counters are per step.
void BM_Step(benchmark::State& state) {
  constexpr int kVocab = 4096;
  const BackendInfo info{
      .n_vocab = kVocab, .n_ctx = 16384, .n_seq = 1, .max_batch = 512, .max_outputs = 64, .max_leaves = 16};
  // A pool of rows chosen by the last two tokens: the script costs one copy.
  std::vector<std::vector<float>> pool;
  std::mt19937 rng(5);
  std::normal_distribution<float> normal(0, 3);
  for (int i = 0; i < 64; ++i) {
    pool.emplace_back(kVocab);
    for (float& x : pool.back()) x = normal(rng);
    pool.back()[rng() % kVocab] += 14;
  }
  const Script script = [&pool](std::span<const Token> context, std::span<float> logits) {
    const auto h = static_cast<std::size_t>(context.back()) * 31 + static_cast<std::size_t>(context.front());
    std::copy(pool[h % pool.size()].begin(), pool[h % pool.size()].end(), logits.begin());
  };
  ScriptedBackend target(info, script, 2);
  ScriptedBackend draft(info, script, 2);
  Engine engine(target, &draft);
  engine.state().planner_.target_cost().load({{1, 10}, {16, 11}, {32, 40}});
  engine.state().planner_.draft_cost().load({{1, 0.2}, {16, 0.3}});
  engine.state().planner_.target_cost().freeze(true);
  engine.state().planner_.draft_cost().freeze(true);
  SessionOptions o;
  o.speculation.mode = static_cast<Mode>(state.range(0));
  o.speculation.frontier = 4;
  o.speculation.max_width = 16;
  o.speculation.path_threshold = 0.001F;
  o.sampling.temperature = state.range(1) ? 0.8F : 0;
  std::vector<Token> prompt(4096);
  for (Token& t : prompt) t = static_cast<Token>(rng() % kVocab);
  std::unique_ptr<Session> session;
  for (auto _ : state) {
    if (!session || session->finished()) {
      session.reset();
      session = engine.open(o);
      engine.set_prompt(*session, prompt);
      while (engine.prefill(*session) > 0) {
      }
    }
    const Stats before = engine.stats();
    Session* list[] = {session.get()};
    engine.step(list);
    const Stats& after = engine.stats();
    state.SetIterationTime(
        (after.total_ms - before.total_ms - (after.draft_ms - before.draft_ms) - (after.verify_ms - before.verify_ms)) /
        1000);
  }
  const Stats& s = engine.stats();
  const auto per_step = [&](std::int64_t n) { return static_cast<double>(n) / static_cast<double>(s.steps); };
  state.counters["levels"] = per_step(s.draft_forwards);
  state.counters["drafted"] = per_step(s.drafted);
  state.counters["verified"] = per_step(s.verified);
  state.counters["us_per_level"] = benchmark::Counter((s.total_ms - s.draft_ms - s.verify_ms) * 1000 /
                                                      static_cast<double>(std::max<std::int64_t>(1, s.draft_forwards)));
  state.SetLabel(std::string(mode_name(o.speculation.mode)) + (state.range(1) ? ", temperature 0.8" : ", greedy"));
}
BENCHMARK(BM_Step)->ArgsProduct({{0, 1, 2, 3, 4}, {0, 1}})->UseManualTime()->Unit(benchmark::kMicrosecond);

// A vocabulary like a real one's: all bytes, then words and pieces of words with and without a blank, punctuation in
// runs.
std::shared_ptr<const TokenTexts> vocabulary(std::size_t n) {
  std::mt19937 rng(11);
  auto out = std::make_shared<TokenTexts>();
  for (int b = 0; b < 256; ++b) out->add(std::string(1, static_cast<char>(b)), false);
  constexpr std::string_view kMarks = "\"{}[]:,.-_()<>/\\=+*#;\n\t ";
  while (out->size() + 1 < n) {
    const bool marks = rng() % 20 == 0;
    std::string text = rng() % 2 == 0 ? " " : "";
    for (std::size_t k = 1 + rng() % 10; k > 0; --k)
      text += marks ? kMarks[rng() % kMarks.size()] : static_cast<char>('a' + std::min(rng() % 26, rng() % 26));
    out->add(text, false);
  }
  out->add("", true);
  return out;
}

constexpr const char* kJson = R"(root ::= object
value ::= object | array | string | number | "true" | "false" | "null"
object ::= "{" ws ( string ":" ws value ( "," ws string ":" ws value )* )? "}" ws
array ::= "[" ws ( value ( "," ws value )* )? "]" ws
string ::= "\"" ( [^"\\\x00-\x1F] | "\\" ( ["\\/bfnrt] | "u" [0-9a-fA-F]{4} ) )* "\"" ws
number ::= "-"? ( "0" | [1-9] [0-9]{0,15} ) ( "." [0-9]{1,16} )? ws
ws ::= | " " | "\n" [ \t]{0,20}
)";

// All of a vocabulary asked for at one place: what a draw costs whose grammar allows next to nothing of what is
// probable. In a string nearly everything is allowed; after a key a colon only; in a name only what a pattern says.
void BM_GrammarMask(benchmark::State& state) {
  const auto texts = vocabulary(static_cast<std::size_t>(state.range(0)));
  constexpr const char* kNames[] = {"in a string", "before a colon", "at a value", "in a pattern"};
  const std::string begun[] = {"{\"some te", "{\"key\"", "{\"key\": ", "abc"};
  const auto place = static_cast<std::size_t>(state.range(1));
  const Grammar grammar(place == 3 ? "root ::= ( [a-e]+ \"-\" ){1,9} [a-z]{3,20}" : kJson, texts);
  Constraint c = grammar.constraint();
  for (auto _ : state) {
    state.PauseTiming();
    if (state.range(2) == 0) {
      c = grammar.constraint();
    } else {
      c.reset();
    }
    for (const char byte : begun[place]) c.advance(static_cast<Token>(static_cast<unsigned char>(byte)));
    state.ResumeTiming();
    std::int64_t allowed = 0;
    for (Token t = 0; t < state.range(0); ++t) allowed += c.allows(t) ? 1 : 0;
    benchmark::DoNotOptimize(allowed);
    state.counters["allowed"] = static_cast<double>(allowed);
    if (!c.failure().empty()) state.SkipWithError("the grammar took too much work");
  }
  state.SetLabel(std::string(kNames[place]) + (state.range(2) == 0 ? ", the first time" : ", again"));
}
BENCHMARK(BM_GrammarMask)->ArgsProduct({{4096, 32768, 151936}, {0, 1, 2, 3}, {0, 1}})->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace gsd

BENCHMARK_MAIN();
