// What reaches the program of its words.
#include "../src/app/arguments.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>

#include "../src/app/llama_flags.h"
#include "gsd/error.h"

namespace gsd::app {
namespace {

using ::testing::HasSubstr;

struct Program {
  Program() {
    program.option_defaults()->take_last();
    CLI::App* const generate = program.add_subcommand("generate");
    generate->add_option("-p,--prompt", prompt);
    generate->add_option("-c,--ctx-size", n_ctx);
    generate->add_option("-n,--n-predict", n);
    generate->add_option("-d,--draft,--model-draft", draft);
    generate->add_option("--gpu-layers,--n-gpu-layers", layers);
    generate->add_option("--key", keys)->expected(1)->take_all();
    generate->add_option("--list", list)->delimiter(',');
    generate->add_flag("--exact", exact);
    program.add_subcommand("serve");
  }
  // The sentence of the failure, or "".
  std::string run(std::vector<const char*> words) {
    words.insert(words.begin(), "gsd");
    environment.clear();
    notes.clear();
    try {
      program.parse(arguments(program, static_cast<int>(words.size()), words.data(), environment, notes));
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kUsage);
      return e.what();
    } catch (const CLI::ParseError& e) {
      return e.get_name();
    }
    return "";
  }

  CLI::App program{"", "gsd"};
  std::string prompt;
  std::string draft;
  int n_ctx = 0;
  int n = 0;
  int layers = 0;
  bool exact = false;
  std::vector<std::string> keys;
  std::vector<int> list;
  std::vector<std::string> environment, notes;
};

TEST(Arguments, ShortNamesOfSeveralLettersAreKnownInEveryCommand) {
  Program p;
  EXPECT_EQ(p.run({"generate", "-md", "draft.gguf", "-ngl", "7", "-c", "12"}), "");
  EXPECT_EQ(p.draft, "draft.gguf");
  EXPECT_EQ(p.layers, 7);
  EXPECT_EQ(p.n_ctx, 12);
}

TEST(Arguments, NoWordThatIsAValueIsTouched) {
  Program p;
  EXPECT_EQ(p.run({"generate", "-p", "-md", "--draft", "--exact", "-n", "-1"}), "");
  EXPECT_EQ(p.prompt, "-md");
  EXPECT_EQ(p.draft, "--exact");
  EXPECT_FALSE(p.exact);
  EXPECT_EQ(p.n, -1);
  EXPECT_EQ(p.run({"generate", "--prompt=-md"}), "");
  EXPECT_EQ(p.prompt, "-md");
}

TEST(Arguments, TheLastOfARepeatedFlagWins) {
  Program p;
  EXPECT_EQ(p.run({"generate", "-c", "1", "--ctx-size", "2", "-c", "3", "--exact", "--exact"}), "");
  EXPECT_EQ(p.n_ctx, 3);
  EXPECT_EQ(p.run({"generate", "--key", "a,b", "--key", "c", "--list", "1,2", "--list", "3"}), "");
  EXPECT_EQ(p.keys, (std::vector<std::string>{"a,b", "c"})) << "what may be repeated adds up, and is not split";
  EXPECT_EQ(p.list, (std::vector<int>{1, 2, 3}));
}

TEST(Arguments, SeveralLettersAreNeverOneFlagAndItsValue) {
  Program p;
  EXPECT_THAT(p.run({"generate", "-n64"}), HasSubstr("has no flag '-n64'; did you mean -n 64?"));
  EXPECT_THAT(p.run({"generate", "-pc"}), HasSubstr("has no flag '-pc'"));
  EXPECT_THAT(p.run({"generate", "-mdx", "f"}), HasSubstr("did you mean -md?"));
  EXPECT_EQ(p.n_ctx, 0);
  EXPECT_THAT(p.run({"serve", "-md", "f"}), HasSubstr("gsd serve has no flag '-md'")) << "this one has no drafts";
}

TEST(Arguments, TheNearestNameIsShown) {
  Program p;
  EXPECT_THAT(p.run({"generate", "--promt", "x"}), HasSubstr("did you mean --prompt?"));
  EXPECT_THAT(p.run({"generate", "--ctx_size=3"}), HasSubstr("did you mean --ctx-size?"));
  EXPECT_THAT(p.run({"generate", "--frobnicate"}), HasSubstr("'--frobnicate'; gsd help generate lists them."));
  EXPECT_THAT(p.run({"generat"}), HasSubstr("no command 'generat'; did you mean generate?"));
  EXPECT_THAT(p.run({"frobnicate"}), HasSubstr("gsd help lists them."));
}

TEST(Arguments, HelpTakesACommand) {
  Program p;
  EXPECT_EQ(p.run({"help"}), "CallForHelp");
  EXPECT_EQ(p.run({"help", "generate"}), "CallForHelp");
  EXPECT_THAT(p.run({"help", "generat"}), HasSubstr("did you mean generate?"));
}

TEST(Arguments, LlamasEnvironmentCountsAndFlagsWin) {
  setenv("LLAMA_ARG_CTX_SIZE", "77", 1);
  setenv("LLAMA_ARG_MODEL_DRAFT", "-d.gguf", 1);
  setenv("LLAMA_ARG_PORT", "99", 1);  // not an option here
  Program p;
  EXPECT_EQ(p.run({"generate"}), "");
  EXPECT_EQ(p.n_ctx, 77);
  EXPECT_EQ(p.draft, "-d.gguf");
  EXPECT_EQ(p.environment, (std::vector<std::string>{"LLAMA_ARG_MODEL_DRAFT", "LLAMA_ARG_CTX_SIZE"}));
  EXPECT_EQ(p.run({"generate", "-c", "5"}), "");
  EXPECT_EQ(p.n_ctx, 5);
  setenv("LLAMA_ARG_CTX_SIZE", "many", 1);
  EXPECT_EQ(p.run({"generate"}), "ConversionError");
  for (const char* name : {"LLAMA_ARG_CTX_SIZE", "LLAMA_ARG_MODEL_DRAFT", "LLAMA_ARG_PORT"}) unsetenv(name);
}

TEST(Arguments, FlagsOfLlamaServerWithoutMeaningHereArePassedOverWithANote) {
  Program p;
  EXPECT_EQ(p.run({"generate", "-fa", "on", "-b", "512", "--batch-size=7", "--no-warmup", "-p", "x", "--predict", "3"}),
            "");
  EXPECT_EQ(p.prompt, "x");
  EXPECT_EQ(p.n, 3);
  ASSERT_EQ(p.notes.size(), 4U);
  EXPECT_THAT(p.notes[0], HasSubstr("-fa has no effect here"));
  EXPECT_EQ(p.run({"generate", "--mirostat", "0", "--adaptive-target=-1", "-p", "y"}), "");
  EXPECT_TRUE(p.notes.empty());
  EXPECT_EQ(p.prompt, "y");
}

TEST(Arguments, FlagsOfLlamaServerThatWouldChangeTheAnswerAreRefusedByName) {
  Program p;
  EXPECT_THAT(p.run({"generate", "--mirostat", "2"}), HasSubstr("llama-server's --mirostat is not supported"));
  EXPECT_THAT(p.run({"generate", "--control-vector=x.gguf"}), HasSubstr("--control-vector is not supported"));
  EXPECT_THAT(p.run({"serve", "-hf", "user/model"}), HasSubstr("--model"));
}

TEST(Arguments, VariablesOfLlamaServerAreHonouredNotedOrRefused) {
  Program p;
  ASSERT_EQ(setenv("LLAMA_ARG_BATCH", "64", 1), 0);
  EXPECT_EQ(p.run({"serve"}), "");
  ASSERT_EQ(p.notes.size(), 1U);
  EXPECT_THAT(p.notes[0], HasSubstr("LLAMA_ARG_BATCH has no effect here"));
  ASSERT_EQ(setenv("LLAMA_ARG_SSL_KEY_FILE", "key.pem", 1), 0);
  EXPECT_THAT(p.run({"serve"}), HasSubstr("LLAMA_ARG_SSL_KEY_FILE is not supported"));
  EXPECT_EQ(p.run({"generate"}), "") << "what is meant for a server";
  unsetenv("LLAMA_ARG_SSL_KEY_FILE");
  unsetenv("LLAMA_ARG_BATCH");
}

TEST(LlamaFlags, NoNameStandsTwice) {
  std::vector<std::string> names;
  for (const LlamaFlag& f : llama_flags()) {
    EXPECT_FALSE(f.names.empty());
    names.insert(names.end(), f.names.begin(), f.names.end());
    if (!f.variable.empty()) names.push_back(f.variable);
  }
  std::sort(names.begin(), names.end());
  EXPECT_EQ(std::adjacent_find(names.begin(), names.end()), names.end());
}

}  // namespace
}  // namespace gsd::app
