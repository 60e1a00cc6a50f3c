// Debug builds check what the headers require of their callers: each broken rule ends the program at its assertion.
#ifndef NDEBUG

#include <gtest/gtest.h>

#include <array>
#include <memory>
#include <vector>

#include "../src/core/calibration.h"
#include "../src/core/engine_state.h"
#include "../src/core/topk.h"
#include "../src/core/utf8_decoder.h"
#include "gsd/engine.h"
#include "gsd/grammar.h"
#include "gsd/scripted_backend.h"
#include "gsd/token_graph.h"

namespace gsd {
namespace {

TEST(RequiresDeathTest, TokenGraph) {
  TokenGraph graph;
  EXPECT_DEATH(graph.reset({}), "context");
  const std::array<Token, 2> context{1, 2}, twice{3, 3}, two{3, 4};
  const std::array<float, 2> log_q{-1, -2};
  graph.reset(context);
  EXPECT_DEATH(graph.expand(0, twice, log_q), "find");
  EXPECT_DEATH(graph.expand(0, two, std::span(log_q).first(1)), "log_q");
  graph.expand(0, two, log_q);
  EXPECT_DEATH(graph.expand(0, two, log_q), "expanded");
  graph.add_child(0, 0);
  EXPECT_DEATH(graph.add_child(0, 0), "child");
}

TEST(RequiresDeathTest, Calibration) {
  const Calibration c(true);
  EXPECT_DEATH(c.source_cell(Origin::kDraft, 3), "origin");
  EXPECT_DEATH(c.draft_cell(-1, 0, 0), "rank");
  EXPECT_DEATH(c.merge_cell(0), "agreement");
}

TEST(RequiresDeathTest, Rows) {
  const std::vector<float> row(8, 0.5F);
  std::vector<float> out(7);
  std::vector<Token> tokens(8);
  EXPECT_DEATH(top_k_log_softmax(row, 1, tokens, out), "size");
  out.resize(8);
  EXPECT_DEATH(top_k_log_softmax(row, 0, tokens, out), "inv_temperature");
  EXPECT_DEATH(arg_max({}, nullptr), "empty");
  EXPECT_DEATH(exp_shifted(std::span(row).first(3), 1, 0, out), "size");
}

TEST(RequiresDeathTest, Utf8Decoder) {
  Utf8Decoder utf8;
  EXPECT_DEATH(utf8.lowest(), "pending");
  EXPECT_DEATH(utf8.highest(), "pending");
  ASSERT_TRUE(utf8.push(0xC3));
  EXPECT_DEATH(utf8.value(), "pending");
}

TEST(RequiresDeathTest, Grammar) {
  const auto vocabulary = std::make_shared<TokenTexts>();
  vocabulary->add("a", false);
  const Constraint c = Grammar("root ::= \"a\"", vocabulary, {}).constraint();
  EXPECT_DEATH(c.allows(1), "size");
  EXPECT_DEATH(c.allows(-1), "t >= 0");
}

TEST(RequiresDeathTest, Engine) {
  ScriptedBackend target({.n_vocab = 16, .n_ctx = 64, .n_seq = 2, .max_batch = 16, .max_outputs = 16, .max_leaves = 4},
                         random_script(1, 2, 1), 2);
  Engine engine(target, nullptr);
  SessionOptions options;
  options.max_tokens = 1;
  const auto session = engine.open(options);
  const std::array<Token, 2> prompt{1, 2};
  engine.set_prompt(*session, prompt);
  Learned learned;
  EXPECT_DEATH(engine.state().exchange(learned), "taken");
  Session* const twice[] = {session.get(), session.get()};
  while (engine.prefill(*session) > 0) {
  }
  EXPECT_DEATH(engine.step(twice), "sessions");
  run_to_end(engine, *session);
  EXPECT_DEATH(engine.step(std::span(twice).first(1)), "finished");
}

}  // namespace
}  // namespace gsd

#endif
