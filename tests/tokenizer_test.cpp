// Tokenizing hostile text with every pre-tokenizer that libllama knows.
#include <ggml.h>
#include <gguf.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
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
    for (const char* unit : {"-", "a", "A", "aA", "7", " ", "\n", "a ", "-\n", "中", "—", "e\xCC\x81"}) {
      const std::string text = repeat(unit, 60000);
      EXPECT_EQ(m->detokenize(m->tokenize(text, false, false)), text) << pre << ": " << unit;
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
  run_on_deep_stack(16 << 20, [&] { deep = m->tokenize(text, true, false); });
  EXPECT_EQ(m->tokenize(text, true, false), deep);
  // Long enough for a stack of its own: the pieces before and after are those of the short text.
  const auto longer = m->tokenize(text + "\n1\n" + repeat("-", 5000), true, false);
  EXPECT_TRUE(std::equal(deep.begin(), deep.end(), longer.begin()));
}

TEST(Tokenizer, WhatNoStackCanHoldIsRefusedInOneSentence) {
  const auto m = model_with("tekken");
  ASSERT_TRUE(m);
  try {
    m->tokenize(repeat("-", 5'000'000), false, false);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kUsage);
    EXPECT_THAT(e.what(), testing::HasSubstr("5000000 characters in a row of one kind"));
  }
}

TEST(Tokenizer, ANulIsTextAndNoEnd) {
  const auto m = model_with("gpt-2");
  ASSERT_TRUE(m);
  const std::string text("before\0after", 12);
  EXPECT_EQ(m->detokenize(m->tokenize(text, false, false)), text);
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
