// LoRA adapters on libllama: texts are judged by libllama alone with the same adapters.
#include <gtest/gtest.h>
#include <llama.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <random>

#include "../src/core/engine_state.h"
#include "gsd/llama.h"
#include "gsd/runtime.h"

namespace gsd {
namespace {

const std::string kTarget = GSD_MODELS_DIR "/toy-target.gguf";
const std::string kDraft = GSD_MODELS_DIR "/toy-draft.gguf";

class Lora : public testing::Test {
 protected:
  void SetUp() override {
    dir = std::filesystem::temp_directory_path() / ("gsd-lora-" + std::to_string(getpid()));
    std::filesystem::create_directories(dir);
    for (int i = 1; i <= 2; ++i) write(kTarget, i);
  }
  void TearDown() override { std::filesystem::remove_all(dir); }

  std::string adapter(int i) const { return dir / ("adapter" + std::to_string(i) + ".gguf"); }
  void write(const std::string& model, int i) const {
    const std::string command =
        std::string(GSD_EDIT_GGUF) + " " + model + " " + adapter(i) + " --lora " + std::to_string(i);
    ASSERT_EQ(std::system(command.c_str()), 0);
  }
  RuntimeOptions options() const {
    RuntimeOptions o;
    o.target = kTarget;
    o.draft = kDraft;
    o.context = {.n_ctx = 512, .n_seq = 2, .n_threads = 1, .max_leaves = 8};
    o.adapters = {{adapter(1), 1}, {adapter(2), 0.5F}};
    o.profile = false;
    return o;
  }
  static std::vector<Token> run(Engine& engine, const std::vector<Token>& prompt, const std::vector<float>& scales,
                                Mode mode) {
    SessionOptions o;
    o.speculation.mode = mode;
    o.max_tokens = 48;
    o.ignore_eog = true;
    o.adapters = scales;
    const auto s = engine.open(o, prompt);
    engine.set_prompt(*s, prompt);
    EXPECT_TRUE(run_to_end(engine, *s));
    return {s->generated().begin(), s->generated().end()};
  }
  // Tokens that libllama alone, token by token, with these adapters finds worse than its best by more than rounding.
  int n_wrong(const std::vector<Token>& prompt, const std::vector<Token>& text, std::vector<float> scales) const {
    const NarrowKernels off({.enabled = false});
    llama_model_params mp = llama_model_default_params();
    llama_model* model = llama_model_load_from_file(kTarget.c_str(), mp);
    llama_context_params cp = llama_context_default_params();
    cp.n_ctx = 512;
    cp.n_threads = cp.n_threads_batch = 1;
    llama_context* context = llama_init_from_model(model, cp);
    std::vector<llama_adapter_lora*> adapters;
    for (int i = 1; i <= 2; ++i) adapters.push_back(llama_adapter_lora_init(model, adapter(i).c_str()));
    EXPECT_EQ(llama_set_adapters_lora(context, adapters.data(), adapters.size(), scales.data()), 0);
    std::vector<Token> all = prompt;
    EXPECT_EQ(llama_decode(context, llama_batch_get_one(all.data(), static_cast<std::int32_t>(all.size()))), 0);
    int wrong = 0;
    for (Token t : text) {
      const float* row = llama_get_logits_ith(context, -1);
      const auto n = llama_vocab_n_tokens(llama_model_get_vocab(model));
      double sum = 0;
      double squares = 0;
      for (int i = 0; i < n; ++i) sum += row[i], squares += static_cast<double>(row[i]) * row[i];
      const double deviation = std::sqrt(squares / n - sum / n * sum / n);
      wrong +=
          row[t] < *std::max_element(row, row + n) - 0.02 * deviation ? 1 : 0;  // nearer ones are rounding's to decide
      EXPECT_EQ(llama_decode(context, llama_batch_get_one(&t, 1)), 0);
    }
    llama_free(context);
    llama_model_free(model);
    return wrong;
  }
  std::filesystem::path dir;
};

TEST_F(Lora, TextsAreLibllamasWithTheSameAdaptersInEveryMode) {
  const std::vector<std::vector<float>> all{{0, 0}, {1, 0}, {0, 1}, {1, 0.5F}, {-0.5F, 2}};
  std::vector<std::vector<std::vector<Token>>> texts;  // of scales, of mode
  std::vector<Token> prompt;
  {
    RuntimeOptions o = options();
    o.engine.keep_prefixes = true;  // what one scale leaves in a slot must not be taken for another's
    Runtime r(o);
    prompt = r.target().tokenize("# tar\n\nThe program", AddBegin::kYes, ParseControl::kNo);
    for (const auto& scales : all) {
      texts.emplace_back();
      for (const Mode m : {Mode::kPlain, Mode::kGraph, Mode::kAuto})
        texts.back().push_back(run(r.engine(), prompt, scales, m));
    }
  }
  for (std::size_t i = 0; i < all.size(); ++i) {
    for (const auto& text : texts[i]) EXPECT_EQ(n_wrong(prompt, text, all[i]), 0) << i;
    EXPECT_EQ(i > 0, texts[i][0] != texts[0][0]) << "the adapters do something";
  }
}

TEST_F(Lora, ExactModeGivesTheTokensOfPlainDecoding) {
  RuntimeOptions o = options();
  o.engine.exact = true;
  o.draft_adapters = {{adapter(3), 1}};
  write(kDraft, 3);
  Runtime r(o);
  EXPECT_EQ(width_obstacles(r.target(), !r.narrow().empty()), "");
  const std::vector<Token> prompt = r.target().tokenize("# ls\n\n", AddBegin::kYes, ParseControl::kNo);
  for (const std::vector<float>& scales : {std::vector<float>{1, 0.5F}, {0, 2}, {}}) {
    const std::vector<Token> plain = run(r.engine(), prompt, scales, Mode::kPlain);
    for (const Mode m : {Mode::kChain, Mode::kGraph}) EXPECT_EQ(run(r.engine(), prompt, scales, m), plain);
  }
}

TEST_F(Lora, SessionsWithOtherAdaptersDoNotShareAStep) {
  Runtime r(options());
  Engine& engine = r.engine();
  const std::vector<Token> prompt = r.target().tokenize("# ls", AddBegin::kYes, ParseControl::kNo);
  SessionOptions o;
  o.max_tokens = 4;
  const auto a = engine.open(o);
  o.adapters = {1, 0};
  const auto b = engine.open(o);
  for (Session* s : {a.get(), b.get()}) {
    engine.set_prompt(*s, prompt);
    while (engine.prefill(*s) > 0) {
    }
  }
  Session* both[] = {a.get(), b.get()};
  EXPECT_THROW(engine.step(both), Error);
}

TEST_F(Lora, WhatIsNoAdapterOfTheModelIsRefused) {
  const auto refused = [&](RuntimeOptions o) {
    try {
      Runtime r(o);
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kUsage);
      return std::string(e.what());
    }
    return std::string();
  };
  for (const std::string& path : {dir.string() + "/none", kDraft, std::string(GSD_EDIT_GGUF)}) {
    RuntimeOptions o = options();
    o.adapters = {{path, 1}};
    EXPECT_NE(refused(o).find(path), std::string::npos) << path;
  }
  RuntimeOptions o = options();
  o.draft.clear();
  o.draft_adapters = {{adapter(1), 1}};
  EXPECT_NE(refused(o), "");
}

}  // namespace
}  // namespace gsd
