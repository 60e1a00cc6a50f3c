// The llama backend and whole generations on the bundled pair.
#include <ggml-backend.h>
#include <gguf.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <llama.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "../src/core/engine_state.h"
#include "gsd/runtime.h"
#include "random.h"

namespace gsd {
namespace {

const std::string kTarget = GSD_MODELS_DIR "/toy-target.gguf";
const std::string kDraft = GSD_MODELS_DIR "/toy-draft.gguf";
const std::string kBundledTarget = GSD_MODELS_DIR "/gsd-target-q8_0.gguf";
const std::string kBundledDraft = GSD_MODELS_DIR "/gsd-draft-q8_0.gguf";

// One of each kind of text, some with much to repeat.
const std::vector<std::string> kPrompts{
    "# tar\n\n> Archiving utility.\n",
    "# git-stash\n",
    "Question: There are 50 children at the party. Three-fifths of them are boys. How many of the children are "
    "girls?\nAnswer:",
    "Question: A cup of dog food weighs 1/4 of a pound. If Mike has 2 dogs that each eat 6 cups of dog food twice a "
    "day how many pounds is that?\nAnswer:",
    "- Display help:\n\n`ls --help`\n\n- Display version:\n\n`ls --version`\n\n- Display help:\n\n",
    "# chmod\n\n> Change the access permissions of a file or directory.\n",
};

const Model& model(const std::string& path) {
  static std::map<std::string, Model> loaded;
  auto it = loaded.find(path);
  if (it == loaded.end())
    it = loaded.emplace(path, Model(ModelOptions{.path = path, .mmap = {}, .progress = {}})).first;
  return it->second;
}

double max_difference(std::span<const float> a, std::span<const float> b) {
  double d = 0;
  for (std::size_t i = 0; i < a.size(); ++i) d = std::max(d, std::abs(static_cast<double>(a[i]) - b[i]));
  return d;
}

// Root mean square difference: blind to single roundings of Q8_0 activations, which move a logit by up to 0.1.
double rms_difference(std::span<const float> a, std::span<const float> b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i)
    sum += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
  return std::sqrt(sum / static_cast<double>(a.size()));
}

void feed(Backend& b, std::int32_t seq, std::span<const Token> tokens, bool last_logits) {
  std::vector<NodeInput> nodes;
  std::vector<std::int32_t> path;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    nodes.push_back({seq, tokens[i], static_cast<std::int32_t>(i) - 1, last_logits && i + 1 == tokens.size()});
    path.push_back(static_cast<std::int32_t>(i));
  }
  b.forward(nodes);
  b.commit(seq, path);
}

// Random trees, levels, commits and cuts on two sequences; after each commit the next position's logits are those of a
// fresh context fed the same prefix. Tolerance 0.1 (root mean square over the vocabulary): other widths and cell orders
// round by up to 0.025 here.
TEST(Model, WhatProgressThrowsReachesTheCaller) {
  const auto load = [](const std::function<bool(float)>& progress) {
    Model(ModelOptions{.path = kTarget, .mmap = {}, .progress = progress});
  };
  EXPECT_THROW(load([](float) -> bool { throw std::range_error("mine"); }), std::range_error);
  EXPECT_THROW(load([](float) { return false; }), Error) << "given up";
}

TEST(LlamaBackend, MemoryIsRightAfterEveryStepOfARandomRun) {
  const Model& m = model(kDraft);
  for (int round = 0; round < 4; ++round) {
    GSD_SEEDED(rng, round);
    const ContextOptions options{.n_ctx = 512, .n_seq = 2, .n_threads = 1, .max_leaves = 8, .exact = round == 3};
    const auto b = make_backend(m, options);
    const auto fresh = make_backend(m, options);
    std::vector<std::vector<Token>> text(2);
    for (int step = 0; step < 40; ++step) {
      const auto seq = static_cast<std::int32_t>(rng() % 2);
      auto& committed = text[static_cast<std::size_t>(seq)];
      if (committed.size() > 300 || rng() % 10 == 0) {
        committed.resize(rng() % (committed.size() + 1));
        b->truncate(seq, static_cast<std::int32_t>(committed.size()));
      }
      // A tree grown in one to three passes; each parent's children have distinct tokens.
      std::vector<NodeInput> all;
      int leaves = 1;
      for (int pass = 1 + static_cast<int>(rng() % 3); pass > 0; --pass) {
        std::vector<NodeInput> nodes;
        const auto first = static_cast<std::int32_t>(all.size());
        for (int i = 1 + static_cast<int>(rng() % 6); i > 0; --i) {
          const auto size = static_cast<std::int32_t>(all.size());
          const std::int32_t parent =
              size == 0 ? -1 : static_cast<std::int32_t>(rng() % static_cast<std::uint64_t>(size + 1)) - 1;
          int siblings = 0;
          for (const NodeInput& n : all) siblings += n.parent == parent ? 1 : 0;
          const bool branches = siblings > 0 || (parent == -1 && size > 0);
          if (branches && leaves == 8) continue;
          leaves += branches ? 1 : 0;
          all.push_back({seq, static_cast<Token>(100 + 300 * siblings + static_cast<int>(rng() % 300)), parent, true});
        }
        nodes.assign(all.begin() + first, all.end());
        if (!nodes.empty()) b->forward(nodes);
      }
      std::vector<std::int32_t> path;
      std::int32_t at = -1;
      while (rng() % 6 != 0) {
        std::vector<std::int32_t> children;
        for (std::size_t i = 0; i < all.size(); ++i) {
          if (all[i].parent == at) children.push_back(static_cast<std::int32_t>(i));
        }
        if (children.empty()) break;
        at = children[rng() % children.size()];
        path.push_back(at);
        committed.push_back(all[static_cast<std::size_t>(at)].token);
      }
      b->commit(seq, path);
      ASSERT_EQ(b->n_committed(seq), static_cast<std::int32_t>(committed.size()));
      if (committed.empty()) continue;
      const std::vector<NodeInput> probe{{seq, 7, -1, true}};
      b->forward(probe);
      fresh->truncate(0, 0);
      feed(*fresh, 0, committed, false);
      const std::vector<NodeInput> same{{0, 7, -1, true}};
      fresh->forward(same);
      ASSERT_LT(rms_difference(b->logits(0), fresh->logits(0)), 0.1)
          << "step " << step << ", " << committed.size() << " tokens";
      b->commit(seq, {});
    }
  }
}

TEST(LlamaBackend, TreeRowsEqualChainRows) {
  const auto tree = make_backend(model(kTarget), {.n_ctx = 256, .n_threads = 1});
  const auto chain = make_backend(model(kTarget), {.n_ctx = 256, .n_threads = 1});
  const auto prompt = model(kTarget).tokenize(kPrompts[0], AddBegin::kYes, ParseControl::kNo);
  feed(*tree, 0, prompt, false);
  feed(*chain, 0, prompt, false);
  // Two paths that share their first token: 11-12-13 and 11-22-23.
  const std::vector<NodeInput> nodes{
      {0, 11, -1, true}, {0, 12, 0, true}, {0, 22, 0, true}, {0, 13, 1, true}, {0, 23, 2, true}};
  tree->forward(nodes);
  for (const auto& [a, b, row] : {std::tuple{12, 13, 3}, std::tuple{22, 23, 4}}) {
    const std::vector<NodeInput> path{{0, 11, -1, true}, {0, a, 0, true}, {0, b, 1, true}};
    chain->forward(path);
    EXPECT_LT(rms_difference(tree->logits(row), chain->logits(2)), 0.1);
    chain->commit(0, {});
  }
}

struct Text {
  std::vector<Token> tokens;
  std::vector<float> margins;
  Stats stats;
};

Text generate(Runtime& pair, const std::string& prompt, Mode mode, int n, float temperature = 0, int width = 16,
              int merge_length = 0) {
  SessionOptions o;
  o.speculation.mode = mode;
  o.speculation.max_width = width;
  o.speculation.merge_length = merge_length;
  o.sampling.temperature = temperature;
  o.sampling.seed = 11;
  o.max_tokens = n;
  o.ignore_eog = true;
  Text t;
  o.on_step = [&](const StepView& v) {
    v.hypotheses.tree().check_integrity();
    v.hypotheses.graph().check_integrity();
    t.margins.insert(t.margins.end(), v.acceptance.margin.begin(), v.acceptance.margin.end());
  };
  const auto s = pair.engine().open(std::move(o));
  pair.engine().set_prompt(*s, pair.target().tokenize(prompt, AddBegin::kYes, ParseControl::kNo));
  while (pair.engine().prefill(*s) > 0) {
  }
  Session* list[] = {s.get()};
  while (!s->finished()) pair.engine().step(list);
  t.tokens.assign(s->generated().begin(), s->generated().end());
  t.stats = s->stats();
  return t;
}

// How far the logits of one position lie apart when it is scored alone and inside a tree, in this configuration:
// `text` is replayed one token at a time, and in trees of twelve nodes whose path stands behind decoys.
double width_deviation(const Model& m, const ContextOptions& options, std::span<const Token> prompt,
                       std::span<const Token> text) {
  const auto alone = make_backend(m, options);
  const auto trees = make_backend(m, options);
  feed(*alone, 0, prompt, false);
  feed(*trees, 0, prompt, false);
  double deviation = 0;
  for (std::size_t at = 0; at + 6 <= text.size(); at += 6) {
    std::vector<NodeInput> nodes;
    std::vector<std::int32_t> path;
    for (std::size_t i = 0; i < 6; ++i) {
      const std::int32_t parent = path.empty() ? -1 : path.back();
      nodes.push_back({0, (text[at + i] + 1) % m.n_vocab(), parent, true});
      path.push_back(static_cast<std::int32_t>(nodes.size()));
      nodes.push_back({0, text[at + i], parent, true});
    }
    trees->forward(nodes);
    for (std::size_t i = 0; i < 6; ++i) {
      const std::vector<NodeInput> one{{0, text[at + i], -1, true}};
      const std::vector<std::int32_t> first{0};
      alone->forward(one);
      deviation = std::max(deviation, max_difference(trees->logits(path[i]), alone->logits(0)));
      alone->commit(0, first);
    }
    trees->commit(0, path);
  }
  return deviation;
}

RuntimeOptions pair_options(bool exact, int threads, bool bundled = false) {
  RuntimeOptions o;
  o.target = bundled ? kBundledTarget : kTarget;
  o.draft = bundled ? kBundledDraft : kDraft;
  o.context.n_ctx = 768;
  o.context.n_threads = threads;
  o.engine.exact = exact;
  o.profile = false;
  return o;
}

constexpr Mode kSpeculative[] = {Mode::kChain, Mode::kTree, Mode::kGraph, Mode::kAuto};

constexpr double kMostDeviation = 0.25;  // between the logits of one position at two widths: more is no rounding

// Every mode against plain decoding; a text may part only where the target's two best lie closer than twice what
// widths differ by in this very configuration.
void expect_plain_text(Runtime& pair, const ContextOptions& context, const std::vector<std::string>& prompts, int n) {
  int compared = 0;
  int near_ties = 0;
  for (const std::string& prompt : prompts) {
    const Text plain = generate(pair, prompt, Mode::kPlain, n);
    double deviation = -1;  // measured when it is needed
    for (const Mode mode : kSpeculative) {
      const Text text = generate(pair, prompt, mode, n);
      ++compared;
      const auto [a, b] =
          std::mismatch(text.tokens.begin(), text.tokens.end(), plain.tokens.begin(), plain.tokens.end());
      if (a == text.tokens.end()) continue;
      const auto at = static_cast<std::size_t>(a - text.tokens.begin());
      ++near_ties;
      if (deviation < 0)
        deviation = width_deviation(pair.target(), context,
                                    pair.target().tokenize(prompt, AddBegin::kYes, ParseControl::kNo), plain.tokens);
      std::printf("near-tie: mode %s, token %zu, logit gap %.5f (deviation between widths %.5f)\n", mode_name(mode), at,
                  plain.margins[at], deviation);
      EXPECT_LE(deviation, kMostDeviation) << "rounding does not come so far";
      EXPECT_LE(plain.margins[at], 2 * deviation);
    }
  }
  std::printf("%d texts of %d tokens compared, %d part at a near-tie\n", compared, n, near_ties);
}

TEST(ToyPair, GreedyTextOfEveryModeEqualsPlainUpToProvenNearTies) {
  const RuntimeOptions options = pair_options(false, 2);
  Runtime pair(options);
  expect_plain_text(pair, options.context, kPrompts, 150);
}

TEST(BundledPair, GreedyTextOfEveryModeEqualsPlainOverTheBundledPrompts) {
  const RuntimeOptions options = pair_options(false, 2, true);
  Runtime pair(options);
  std::vector<std::string> prompts;
  std::ifstream file(GSD_MODELS_DIR "/prompts/prompts.jsonl");
  for (std::string line; std::getline(file, line);) prompts.push_back(nlohmann::json::parse(line).at("prompt"));
  ASSERT_EQ(prompts.size(), 60U);
  expect_plain_text(pair, options.context, prompts, 64);
}

TEST(BundledPair, ExactModeGivesTheSameTokens) {
  Runtime pair(pair_options(true, 2, true));
  for (const std::string& prompt : kPrompts) {
    const Text plain = generate(pair, prompt, Mode::kPlain, 60, 0.8F);
    for (const Mode mode : kSpeculative)
      ASSERT_EQ(generate(pair, prompt, mode, 60, 0.8F).tokens, plain.tokens) << mode_name(mode);
  }
}

TEST(ToyPair, ExactModeGivesTheSameTokensFromEveryModeWidthAndThreadCount) {
  std::size_t compared = 0;
  for (const float temperature : {0.0F, 0.9F}) {
    std::vector<std::vector<Token>> plain;
    for (const int threads : {1, 2}) {
      Runtime pair(pair_options(true, threads));
      for (std::size_t p = 0; p < 3; ++p) {
        if (threads == 1) plain.push_back(generate(pair, kPrompts[p], Mode::kPlain, 60, temperature).tokens);
        for (const Mode mode : kSpeculative) {
          for (const int width : {3, 8, 24}) {
            const Text text = generate(pair, kPrompts[p], mode, 60, temperature, width, width == 8 ? 1 : 0);
            ASSERT_EQ(text.tokens, plain[p]) << mode_name(mode) << ", width " << width << ", " << threads << " threads";
            compared += text.tokens.size();
          }
        }
      }
    }
  }
  EXPECT_GE(compared, 5000U);
  std::printf("%zu tokens compared, all equal\n", compared);
}

// The logits that each token of a greedy text was drawn from.
std::vector<std::vector<float>> drawn_rows(Runtime& pair, Mode mode) {
  std::vector<std::vector<float>> rows;
  SessionOptions o;
  o.speculation.mode = mode;
  o.max_tokens = 40;
  o.on_step = [&](const StepView& v) {
    for (std::size_t i = 0; i < v.acceptance.token.size(); ++i) {
      const auto row = v.logits(i);
      rows.emplace_back(row.begin(), row.end());
    }
  };
  pair.generate(kPrompts[0], std::move(o));
  return rows;
}

TEST(ToyPair, AnotherPairOfTheProcessTakesNothingFromAnExactOne) {
  Runtime exact(pair_options(true, 1));
  const auto plain = drawn_rows(exact, Mode::kPlain);
  {
    Runtime ordinary(pair_options(false, 1));
    drawn_rows(ordinary, Mode::kGraph);
    EXPECT_EQ(drawn_rows(exact, Mode::kGraph), plain);
    RuntimeOptions without = pair_options(false, 1);
    without.narrow = false;
    EXPECT_THROW(Runtime{without}, Error) << "it would switch the kernels off for the others";
  }
  EXPECT_EQ(drawn_rows(exact, Mode::kGraph), plain);
}

TEST(ToyPair, SeveralSessionsInExactModeKeepTheirBits) {
  RuntimeOptions o = pair_options(true, 2);
  o.context.n_seq = 3;
  Runtime pair(o);
  std::vector<std::vector<Token>> alone;
  for (std::size_t p = 0; p < 3; ++p) alone.push_back(generate(pair, kPrompts[p], Mode::kPlain, 80, 0.7F).tokens);
  std::vector<std::unique_ptr<Session>> sessions;
  for (std::size_t p = 0; p < 3; ++p) {
    SessionOptions s;
    s.speculation.mode = Mode::kGraph;
    s.sampling.temperature = 0.7F;
    s.sampling.seed = 11;
    s.max_tokens = 80;
    s.ignore_eog = true;
    sessions.push_back(pair.engine().open(s));
    pair.engine().set_prompt(*sessions.back(), pair.target().tokenize(kPrompts[p], AddBegin::kYes, ParseControl::kNo));
    while (pair.engine().prefill(*sessions.back()) > 0) {
    }
  }
  while (true) {
    std::vector<Session*> running;
    for (const auto& s : sessions) {
      if (!s->finished()) running.push_back(s.get());
    }
    if (running.empty()) break;
    pair.engine().step(running);
  }
  for (std::size_t p = 0; p < 3; ++p) {
    EXPECT_EQ(std::vector<Token>(sessions[p]->generated().begin(), sessions[p]->generated().end()), alone[p]);
  }
}

TEST(ToyPair, MergingDraftsLessAndAcceptsTheSame) {
  Runtime pair(pair_options(false, 2));
  Stats tree;
  Stats graph;
  for (const std::string& prompt : kPrompts) {
    for (const auto& [mode, sum] : {std::pair{Mode::kTree, &tree}, std::pair{Mode::kGraph, &graph}}) {
      SessionOptions o;
      o.speculation.mode = mode;
      o.speculation.path_threshold = 0.005F;
      o.speculation.max_width = 32;
      o.speculation.history = false;
      o.max_tokens = 150;
      o.ignore_eog = true;
      const auto s = pair.engine().open(std::move(o));
      pair.engine().set_prompt(*s, pair.target().tokenize(prompt, AddBegin::kYes, ParseControl::kNo));
      while (pair.engine().prefill(*s) > 0) {
      }
      Session* list[] = {s.get()};
      while (!s->finished()) pair.engine().step(list);
      sum->add(s->stats());
    }
  }
  const auto per_step = [](std::int64_t n, const Stats& s) {
    return static_cast<double>(n) / static_cast<double>(s.steps);
  };
  std::printf(
      "tree: %.2f nodes drafted, %.2f passes, %.3f tokens a step; graph: %.2f nodes, %.2f passes, %.3f tokens\n",
      per_step(tree.drafted, tree), per_step(tree.draft_forwards, tree), tree.tokens_per_step(),
      per_step(graph.drafted, graph), per_step(graph.draft_forwards, graph), graph.tokens_per_step());
  EXPECT_LE(per_step(graph.drafted, graph), 0.8 * per_step(tree.drafted, tree));
  EXPECT_GE(graph.tokens_per_step(), 0.98 * tree.tokens_per_step());
}

TEST(ToyPair, GrammarHolds) {
  Runtime pair(pair_options(false, 2));
  for (const Mode mode : {Mode::kPlain, Mode::kGraph, Mode::kAuto}) {
    SessionOptions o;
    o.speculation.mode = mode;
    o.max_tokens = 40;
    o.constraint = make_grammar(pair.target(), "root ::= \"yes\" | \"no\" [0-9] [0-9]").constraint();
    EXPECT_THAT(pair.generate("Question: Is it so?\nAnswer:", o), testing::MatchesRegex("yes|no[0-9][0-9]"));
  }
  for (const std::string& bad :
       {std::string("root ::= ("), std::string(), std::string(" \n"), "root ::= " + std::string(200000, '(')}) {
    try {
      make_grammar(pair.target(), bad);
      FAIL() << bad.substr(0, 20);
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kGrammar);
    }
  }
}

TEST(ToyPair, MeasuresItsCostsOnceAndKeepsThemWithWhatItLearned) {
  const auto dir = std::filesystem::temp_directory_path() / ("gsd-profile-" + std::to_string(::getpid()));
  RuntimeOptions o = pair_options(false, 2);
  o.profile = true;
  o.profile_dir = dir.string();
  for (const char* source : {"measured", "cached"}) {
    Runtime pair(o);
    EXPECT_EQ(pair.profile_source(), source);
    EXPECT_GE(pair.engine().state().planner_.target_cost().points().size(), 2U);
    EXPECT_FALSE(pair.engine().state().planner_.draft_cost().points().empty());
    EXPECT_EQ(pair.engine().state().calibrations_.empty(), std::string(source) == "measured");
    SessionOptions session;
    session.max_tokens = 20;
    session.speculation.mode = Mode::kTree;
    pair.generate(kPrompts[0], session);
    pair.save_profile();
  }
  std::ifstream in(dir / "profiles.json");
  std::string kept((std::istreambuf_iterator<char>(in)), {});
  const auto at = kept.find("\"-1\": [");
  ASSERT_NE(at, std::string::npos);
  std::ofstream(dir / "profiles.json") << kept.insert(at + 7, "-7,");
  EXPECT_TRUE(Runtime(o).engine().state().calibrations_.empty()) << "counts that are none are left out";
  std::filesystem::remove_all(dir);
}

TEST(ToyPair, GenerateHandsOutWholeTextAndStops) {
  Runtime pair(pair_options(false, 2));
  SessionOptions o;
  o.max_tokens = 40;
  std::string streamed;
  const std::string text = pair.generate(kPrompts[0], o, [&](std::string_view piece) {
    streamed += piece;
    return true;
  });
  EXPECT_EQ(streamed, text);
  EXPECT_FALSE(text.empty());
  int pieces = 0;
  pair.generate(kPrompts[0], o, [&](std::string_view) { return ++pieces < 3; });
  EXPECT_EQ(pieces, 3);
}

// --- bad input
// --------------------------------------------------------------------------------------------------------

class BadModel : public testing::Test {
 protected:
  std::string write(const std::string& name, const std::string& bytes) {
    const auto path = dir_ / name;
    std::ofstream(path, std::ios::binary) << bytes;
    return path.string();
  }
  static std::string read(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  static void expect(const std::string& path, ErrorCode code, const std::string& part) {
    try {
      Model m(ModelOptions{.path = path, .mmap = {}, .progress = {}});
      FAIL() << path << " was loaded";
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), code) << e.what();
      EXPECT_THAT(e.what(), testing::HasSubstr(part));
    }
  }
  void SetUp() override { std::filesystem::create_directories(dir_); }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  std::filesystem::path dir_ = std::filesystem::temp_directory_path() / ("gsd-bad-model-" + std::to_string(::getpid()));
};

TEST_F(BadModel, GivesOneClearSentence) {
  expect((dir_ / "nowhere.gguf").string(), ErrorCode::kModelFile, "cannot be opened");
  expect(write("text.gguf", "this is no model"), ErrorCode::kModelFile, "not a GGUF");
  expect(write("empty.gguf", ""), ErrorCode::kModelFile, "not a GGUF");
  expect(write("short.gguf", "GGUF"), ErrorCode::kModelFile, "cannot be loaded");
  const std::string whole = read(kDraft);
  expect(write("half.gguf", whole.substr(0, whole.size() / 2)), ErrorCode::kModelFile, "cannot be loaded");
  expect(write("head.gguf", whole.substr(0, 5000)), ErrorCode::kModelFile, "cannot be loaded");
  std::string other = whole;
  const auto arch = other.find("llama", other.find("general.architecture"));
  other.replace(arch, 5, "lxama");
  expect(write("arch.gguf", other), ErrorCode::kModelFile, "unknown architecture");
}

// A tiny Mamba with zero weights, written by libllama itself.
TEST_F(BadModel, AModelWithoutAVocabularyIsRefused) {
  gguf_context* meta = gguf_init_empty();
  gguf_set_val_str(meta, "general.architecture", "mamba");
  for (const auto& [key, value] :
       std::initializer_list<std::pair<const char*, std::uint32_t>>{{"mamba.context_length", 64},
                                                                    {"mamba.embedding_length", 32},
                                                                    {"mamba.feed_forward_length", 0},
                                                                    {"mamba.attention.head_count", 0},
                                                                    {"mamba.block_count", 1},
                                                                    {"mamba.ssm.conv_kernel", 4},
                                                                    {"mamba.ssm.inner_size", 64},
                                                                    {"mamba.ssm.state_size", 16},
                                                                    {"mamba.ssm.time_step_rank", 2},
                                                                    {"mamba.vocab_size", 32}}) {
    gguf_set_val_u32(meta, key, value);
  }
  gguf_set_val_f32(meta, "mamba.attention.layer_norm_rms_epsilon", 1e-5F);
  gguf_set_val_str(meta, "tokenizer.ggml.model", "no_vocab");
  const auto zero = [](ggml_tensor* t, void*) { ggml_backend_tensor_memset(t, 0, 0, ggml_nbytes(t)); };
  model(kDraft);  // starts libllama
  llama_model* made = llama_model_init_from_user(meta, zero, nullptr, llama_model_default_params());
  ASSERT_NE(made, nullptr);
  const std::string path = (dir_ / "mamba.gguf").string();
  llama_model_save_to_file(made, path.c_str());
  llama_model_free(made);
  gguf_free(meta);
  expect(path, ErrorCode::kModelUnsupported, "no vocabulary");
}

// Same length, so that the file stays well-formed.
TEST_F(BadModel, PairsWithOtherTokensAreTranslatedAndNamed) {
  std::string bytes = read(kDraft);
  const auto at = bytes.find("help", bytes.find("tokenizer.ggml.tokens"));
  ASSERT_NE(at, std::string::npos);
  bytes.replace(at, 4, "zelp");
  RuntimeOptions o = pair_options(false, 1);
  o.draft = write("other.gguf", bytes);
  const Runtime pair(o);
  EXPECT_THAT(pair.vocabulary_note(), testing::HasSubstr("zelp"));
}

// A pass that ends half-way leaves cells behind. Wherever that is, the text is the same once the session goes on.
TEST(LlamaBackend, APassThatIsCancelledCostsTimeAndNoToken) {
  std::int64_t left = -1;  // times that the pass is let go on; below 0: always
  const ContextOptions o{
      .n_ctx = 256, .n_threads = 1, .max_batch = 64, .type_k = "f32", .type_v = "f32", .cancelled = [&left] {
        return left >= 0 && left-- == 0;
      }};
  const auto target = make_backend(model(kTarget), o);
  const auto draft = make_backend(model(kDraft), o);
  Engine engine(*target, draft.get(), {.prefill_chunk = 8});
  const auto prompt = model(kTarget).tokenize(kPrompts[4], AddBegin::kYes, ParseControl::kNo);
  const auto run = [&](Mode mode) {
    SessionOptions s;
    s.speculation.mode = mode;
    s.max_tokens = 24;
    s.ignore_eog = true;
    const auto session = engine.open(s);
    engine.set_prompt(*session, prompt);
    int failed = 0;
    while (!session->finished() && failed < 2) {
      try {
        while (engine.prefill(*session) > 0) {
        }
        Session* list[] = {session.get()};
        engine.step(list);
      } catch (const Error& e) {
        EXPECT_EQ(e.code(), ErrorCode::kBackend);
        EXPECT_THAT(e.what(), testing::HasSubstr("cancelled"));
        ++failed;
      }
    }
    return std::pair(std::vector<Token>(session->generated().begin(), session->generated().end()), failed);
  };
  const auto [want, none] = run(Mode::kPlain);
  EXPECT_EQ(none, 0);
  int failed = 0;
  for (std::int64_t at = 0; at < 4000; at += 1 + at / 8) {
    left = at;
    const auto [text, failures] = run(at % 2 == 0 ? Mode::kGraph : Mode::kChain);
    ASSERT_EQ(text, want) << "cancelled at question " << at;
    failed += failures;
  }
  EXPECT_GT(failed, 20) << "the passes are asked";
}

TEST(LlamaBackend, RefusesAbsurdPassesAndGoesOnWithoutRoom) {
  const auto b = make_backend(model(kDraft), {.n_ctx = 16, .n_threads = 1});
  const auto pass = [&](int n, bool outputs) {
    std::vector<NodeInput> nodes;
    for (int i = 0; i < n; ++i) nodes.push_back({0, 10 + i, i - 1, outputs});
    b->forward(nodes);
  };
  EXPECT_THROW(pass(0, false), Error);
  EXPECT_THROW(pass(b->info().max_batch + 1, false), Error);
  EXPECT_THROW(pass(b->info().max_outputs + 1, true), Error);
  // Speculative nodes until the cache is full; the failed pass changes nothing.
  pass(4, true);
  int passes = 0;
  try {
    for (; passes < 100; ++passes) {
      std::vector<NodeInput> nodes;
      for (int i = 0; i < 60; ++i)
        nodes.push_back({0, 20 + i + 60 * passes, i == 0 ? 3 : b->n_speculative(0) + i - 1, false});
      b->forward(nodes);
    }
    FAIL() << "the cache never filled";
  } catch (const Error& e) {
    ASSERT_EQ(e.code(), ErrorCode::kNoKvSlot) << e.what();
  }
  EXPECT_EQ(b->n_speculative(0), 4 + 60 * passes);
  const std::vector<std::int32_t> path{0, 1, 2, 3};
  b->commit(0, path);
  const std::vector<NodeInput> next{{0, 7, -1, true}};
  b->forward(next);
  const auto fresh = make_backend(model(kDraft), {.n_ctx = 16, .n_threads = 1});
  feed(*fresh, 0, std::vector<Token>{10, 11, 12, 13}, false);
  fresh->forward(next);
  EXPECT_LT(rms_difference(b->logits(0), fresh->logits(0)), 0.1);
}

TEST(LlamaBackend, RefusesAbsurdContexts) {
  const auto code = [](const ContextOptions& o) {
    try {
      make_backend(model(kDraft), o);
    } catch (const Error& e) {
      return e.code();
    }
    return ErrorCode{};
  };
  EXPECT_EQ(code({.n_ctx = 1}), ErrorCode::kUsage);
  EXPECT_EQ(code({.n_seq = 300}), ErrorCode::kUsage);
  EXPECT_EQ(code({.n_seq = 20, .max_leaves = 16}), ErrorCode::kUsage);
  EXPECT_EQ(code({.type_k = "q3"}), ErrorCode::kUsage);
  EXPECT_EQ(code({.type_v = "q8_0", .exact = true}), ErrorCode::kUsage);
}

}  // namespace
}  // namespace gsd
