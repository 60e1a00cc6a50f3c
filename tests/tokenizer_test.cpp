// Tokenizing hostile text with every pre-tokenizer that libllama knows.
#include <ggml.h>
#include <gguf.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <functional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "../src/llama/deep_stack.h"
#include "gsd/llama.h"

namespace gsd {
namespace {

// The toy model with another pre-tokenizer in its metadata. Empty if libllama does not know it.
std::unique_ptr<Model> model_with(const std::string& pre) {
  const std::string path = testing::TempDir() + "pre-" + pre + "-" + std::to_string(::getpid()) + ".gguf";
  ggml_context* tensors = nullptr;
  gguf_context* in = gguf_init_from_file(GSD_MODELS_DIR "/toy-draft.gguf", {.no_alloc = false, .ctx = &tensors});
  gguf_context* out = gguf_init_empty();
  gguf_set_kv(out, in);
  for (std::int64_t i = 0; i < gguf_get_n_tensors(in); ++i)
    gguf_add_tensor(out, ggml_get_tensor(tensors, gguf_get_tensor_name(in, i)));
  gguf_set_val_str(out, "tokenizer.ggml.pre", pre.c_str());
  gguf_write_to_file(out, path.c_str(), false);
  gguf_free(out);
  gguf_free(in);
  ggml_free(tensors);
  std::unique_ptr<Model> model;
  try {
    model = std::make_unique<Model>(ModelOptions{.path = path, .mmap = false, .progress = {}});
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), testing::HasSubstr("unknown pre-tokenizer")) << pre;
  }
  std::filesystem::remove(path);
  return model;
}

const char* const kPre[] = {"default",      "llama3",
                            "llama-v3",     "llama-bpe",
                            "falcon3",      "falcon-h1",
                            "pixtral",      "midm-2.0",
                            "lfm2",         "jina-v5-nano",
                            "deepseek-llm", "deepseek-coder",
                            "deepseek-v3",  "deepseek-r1-qwen",
                            "youtu",        "falcon",
                            "mpt",          "starcoder",
                            "gpt-2",        "phi-2",
                            "jina-es",      "jina-de",
                            "gigachat",     "jina-v1-en",
                            "jina-v2-es",   "jina-v2-de",
                            "jina-v2-code", "roberta-bpe",
                            "refact",       "command-r",
                            "qwen2",        "qwen35",
                            "stablelm2",    "olmo",
                            "dbrx",         "smaug-bpe",
                            "poro-chat",    "glm4",
                            "chatglm-bpe",  "viking",
                            "jais",         "jais-2",
                            "tekken",       "chameleon",
                            "minerva-7b",   "megrez",
                            "gpt-4o",       "llama4",
                            "gpt-oss",      "superbpe",
                            "trillion",     "granite-docling",
                            "bailingmoe",   "bailingmoe2",
                            "llada-moe",    "seed-coder",
                            "hunyuan",      "hunyuan-dense",
                            "joyai-llm",    "kimi-k2",
                            "grok-2",       "minimax-m2",
                            "afmoe",        "a.x-4.0",
                            "mellum",       "modern-bert",
                            "solar-open",   "exaone",
                            "exaone4",      "exaone-moe",
                            "bloom",        "gpt3-finnish",
                            "codeshell",    "kormo",
                            "tiny_aya",     "sarvam-moe",
                            "gemma4",       "granite"};

std::string repeat(const std::string& unit, std::size_t n) {
  std::string out;
  while (out.size() < n) out += unit;
  return out;
}

// Each ended the process with one of the vocabularies.
TEST(Tokenizer, LongRunsOfOneKindEndNoProcess) {
  int loaded = 0;
  for (const char* pre : kPre) {
    const auto m = model_with(pre);
    if (!m) continue;
    ++loaded;
    // All kinds of runs where the splitting is known to recurse with their length; elsewhere those that are met most.
    const bool recurses = std::set<std::string>{"tekken", "gpt-4o", "llama4", "deepseek-llm", "falcon"}.contains(pre);
    std::vector<const char*> units{"-", "a", " "};
    if (recurses) units.insert(units.end(), {"A", "aA", "7", "\n", "a ", "-\n", "中", "—", "e\xCC\x81"});
    for (const char* unit : units) {
      const std::string text = repeat(unit, 28000);
      const std::string back = m->detokenize(m->tokenize(text, AddBegin::kNo, ParseControl::kNo));
      // Vocabularies of these write blanks as a character that the toy model's tokens do not have.
      const bool no_blanks = std::set<std::string>{"gemma4", "sarvam-moe"}.contains(pre);
      if (!no_blanks) {
        EXPECT_EQ(back, text) << pre << ": " << unit;
      }
    }
  }
  EXPECT_GE(loaded, 40);
}

// On a thread with a small stack, as a program around the library may have.
TEST(Tokenizer, ShortTextsAreTokenizedAlikeWhereverTheyRun) {
  const auto m = model_with("tekken");
  ASSERT_TRUE(m);
  const std::string text = "Once upon a time, " + repeat("-", 400) + " 12345 äöü 中文。\n\n" + repeat("a", 400);
  std::vector<Token> deep;
  run_on_deep_stack(16 << 20, [&] { deep = m->tokenize(text, AddBegin::kYes, ParseControl::kNo); });
  EXPECT_EQ(m->tokenize(text, AddBegin::kYes, ParseControl::kNo), deep);
  // Long enough for a stack of its own: the pieces before and after are those of the short text.
  const auto longer = m->tokenize(text + "\n1\n" + repeat("-", 5000), AddBegin::kYes, ParseControl::kNo);
  EXPECT_TRUE(std::equal(deep.begin(), deep.end(), longer.begin()));
}

TEST(DeepStack, HoldsWhatItWasMeasuredToNeed) {
  const std::function<int(int)> recurse = [&](int n) {
    volatile char frame[200];
    frame[0] = static_cast<char>(n);
    return n == 0 ? 0 : recurse(n - 1) + frame[0];
  };
  int sum = 0;
  const auto run = [&](int depth) { return [&, depth] { sum = recurse(depth); }; };
  const std::size_t few = measure_stack(8 << 20, run(100));
  const std::size_t many = measure_stack(8 << 20, run(1100));
  const std::size_t each = (many - few) / 1000;
  EXPECT_GE(each, 200U);
  EXPECT_LT(each, 2000U);
  run_on_deep_stack((1 << 20) + 100000 * 2 * each, run(100000));  // far more than an ordinary stack holds
  EXPECT_NE(sum, 0);
  EXPECT_THROW(run_on_deep_stack(1 << 20, [] { throw Error(ErrorCode::kUsage, "passes through"); }), Error);
}

TEST(Tokenizer, WhatNoStackCanHoldIsRefusedInOneSentence) {
  int refused = 0;
  for (const char* pre : {"tekken", "falcon"}) {
    const auto m = model_with(pre);
    ASSERT_TRUE(m) << pre;
    try {
      m->tokenize(repeat("-", 2'000'000), AddBegin::kNo, ParseControl::kNo);
    } catch (const Error& e) {
      ++refused;
      EXPECT_EQ(e.code(), ErrorCode::kUsage);
      EXPECT_THAT(e.what(), testing::HasSubstr("2000000 characters in a row of one kind"));
    }
  }
  if (refused == 0) GTEST_SKIP() << "this libllama was built with a std::regex that does not recurse";
}

TEST(Tokenizer, ANulIsTextAndNoEnd) {
  const auto m = model_with("gpt-2");
  ASSERT_TRUE(m);
  const std::string text("before\0after", 12);
  EXPECT_EQ(m->detokenize(m->tokenize(text, AddBegin::kNo, ParseControl::kNo)), text);
  const std::vector<ChatMessage> messages{{"user", text}};
  try {
    m->apply_template(messages, true, "chatml");
    FAIL() << "the rest was cut off";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kUsage);
    EXPECT_THAT(e.what(), testing::HasSubstr("NUL"));
  }
}

}  // namespace
}  // namespace gsd
