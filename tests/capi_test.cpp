// The C API as a program in another language uses it: through the shared library alone.
#include <gmock/gmock.h>
#include <gsd.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "random.h"

namespace {

using testing::HasSubstr;

// Closes what the test has opened.
struct Options {
  Options() { EXPECT_EQ(gsd_options_new(GSD_ABI, &handle), GSD_OK) << gsd_error(); }
  Options(std::initializer_list<std::pair<const char*, const char*>> flags) : Options() {
    for (const auto& [flag, value] : flags) set(flag, value);
  }
  ~Options() { gsd_options_close(handle); }
  void set(const char* flag, const char* value) { EXPECT_EQ(gsd_set(handle, flag, value), GSD_OK) << gsd_error(); }
  gsd_options* handle = nullptr;
};

gsd_pair* open_toy(std::initializer_list<std::pair<const char*, const char*>> flags) {
  Options o{{"model", GSD_MODELS_DIR "/toy-target.gguf"},
            {"draft", GSD_MODELS_DIR "/toy-draft.gguf"},
            {"profile", "false"},
            {"threads", "1"},
            {"ctx-size", "512"}};
  for (const auto& [flag, value] : flags) o.set(flag, value);
  gsd_pair* pair = nullptr;
  EXPECT_EQ(gsd_open(o.handle, &pair), GSD_OK) << gsd_error();
  return pair;
}

gsd_session* open_session(gsd_pair* pair, std::initializer_list<std::pair<const char*, const char*>> flags) {
  const Options o(flags);
  gsd_session* session = nullptr;
  EXPECT_EQ(gsd_session_open(pair, o.handle, &session), GSD_OK) << gsd_error();
  return session;
}

gsd_code prompt(gsd_session* s, const std::string& text) { return gsd_prompt(s, text.data(), text.size()); }

std::string take(gsd_session* s, std::size_t capacity = 64) {
  std::string out(capacity, '\0');
  std::size_t n = 0;
  EXPECT_EQ(gsd_take_text(s, out.data(), capacity, &n), GSD_OK) << gsd_error();
  return out.substr(0, n);
}

std::string rest(gsd_session* s, std::size_t capacity = 64) {
  std::string out;
  for (std::string piece; !(piece = take(s, capacity)).empty();) out += piece;
  return out;
}

std::string run(gsd_session* s, const std::string& text) {
  EXPECT_EQ(prompt(s, text), GSD_OK) << gsd_error();
  std::string out;
  while (!gsd_finished(s)) {
    EXPECT_EQ(gsd_step(&s, 1), GSD_OK) << gsd_error();
    out += rest(s);
  }
  return out + rest(s);
}

// One pair for all tests that need no other one, with four sessions.
class Capi : public testing::Test {
 protected:
  static void SetUpTestSuite() { pair = open_toy({{"parallel", "4"}}); }
  static void TearDownTestSuite() { gsd_close(pair); }
  static inline gsd_pair* pair = nullptr;
};

TEST(CapiOptions, OtherVersionsOfTheInterfaceAreRefused) {
  for (const int abi : {0, GSD_ABI - 1, GSD_ABI + 1}) {
    auto* o = reinterpret_cast<gsd_options*>(1);
    EXPECT_EQ(gsd_options_new(abi, &o), GSD_USAGE);
    EXPECT_EQ(o, nullptr);
    EXPECT_THAT(gsd_error(), HasSubstr("version " + std::to_string(abi)));
  }
}

TEST(CapiOptions, FlagsAreCheckedWhenTheyAreSet) {
  Options o;
  const auto refused = [&](const char* flag, const char* value, const char* words) {
    EXPECT_EQ(gsd_set(o.handle, flag, value), GSD_USAGE) << flag << " " << value;
    EXPECT_THAT(gsd_error(), HasSubstr(words));
  };
  refused("no-such-flag", "1", "no flag 'no-such-flag'");
  refused("exact", "yes", "true or false");
  refused("mode", "fast", "mode must be");
  refused("width", "many", "from 1 to 64");
  refused("width", "65", "from 1 to 64");
  refused("top-p", "0", "above 0");
  refused("path-threshold", "1", "below 1");
  refused("temperature", "nan", "from 0");
  refused("temperature", "0.5x", "from 0");
  refused("n-predict", "-2", "-1 (until");
  refused("n-predict", "99999999999999999999", "-1 (until");
  refused("parallel", "0", "from 1 to 64");
  refused("seed", "-3", "whole number");
  refused("stop", "", "not empty");
  refused("draft-type", "big", "one of auto, dflash, eagle3, model, mtp");
  for (const auto& [flag, value] : std::vector<std::pair<const char*, const char*>>{{"width", "auto"},
                                                                                    {"width", "12"},
                                                                                    {"mode", "graph"},
                                                                                    {"draft-top-k", "3"},
                                                                                    {"merge-length", "1"},
                                                                                    {"history", "false"},
                                                                                    {"temperature", "0.8"},
                                                                                    {"top-k", "40"},
                                                                                    {"seed", "18446744073709551615"},
                                                                                    {"seed", "-1"},
                                                                                    {"mmap", "off"}})
    o.set(flag, value);
}

TEST(CapiOpen, FailuresHaveACodeAndASentence) {
  Options o{{"profile", "false"}};
  gsd_pair* pair = nullptr;
  EXPECT_EQ(gsd_open(o.handle, &pair), GSD_USAGE);
  EXPECT_THAT(gsd_error(), HasSubstr("set the flag 'model'"));
  o.set("model", "/none.gguf");
  EXPECT_EQ(gsd_open(o.handle, &pair), GSD_MODEL_FILE);
  EXPECT_THAT(gsd_error(), HasSubstr("/none.gguf"));
  o.set("model", GSD_MODELS_DIR "/toy-target.gguf");
  o.set("lookup", "/none.txt");
  EXPECT_EQ(gsd_open(o.handle, &pair), GSD_IO);
  EXPECT_EQ(pair, nullptr);
}

TEST_F(Capi, NullIsAnswered) {
  gsd_session* s = open_session(pair, {});
  gsd_session* none = s;
  std::size_t n = 0;
  double value = 0;
  char byte[8];
  gsd_token token = 0;
  const float* logits = nullptr;
  gsd_options* const o = nullptr;
  const Options options;
  EXPECT_EQ(gsd_options_new(GSD_ABI, nullptr), GSD_USAGE);
  for (const gsd_code code : std::vector<gsd_code>{gsd_set(o, "mode", "auto"),
                                                   gsd_set(options.handle, nullptr, "auto"),
                                                   gsd_set(options.handle, "mode", nullptr),
                                                   gsd_open(o, nullptr),
                                                   gsd_open(options.handle, nullptr),
                                                   gsd_tokenize(nullptr, "x", 1, 0, &token, 1, &n),
                                                   gsd_tokenize(pair, nullptr, 1, 0, &token, 1, &n),
                                                   gsd_tokenize(pair, "x", 1, 0, nullptr, 1, &n),
                                                   gsd_tokenize(pair, "x", 1, 0, &token, 1, nullptr),
                                                   gsd_tokenize(pair, "x", 1, 64, &token, 1, &n),
                                                   gsd_piece(nullptr, 0, byte, 8, &n),
                                                   gsd_piece(pair, 0, nullptr, 8, &n),
                                                   gsd_piece(pair, 0, byte, 8, nullptr),
                                                   gsd_piece(pair, -1, byte, 8, &n),
                                                   gsd_piece(pair, gsd_n_vocab(pair), byte, 8, &n),
                                                   gsd_session_open(nullptr, nullptr, &none),
                                                   gsd_session_open(pair, nullptr, nullptr),
                                                   gsd_prompt(nullptr, "x", 1),
                                                   gsd_prompt_tokens(nullptr, &token, 1),
                                                   gsd_step(nullptr, 1),
                                                   gsd_cancel(nullptr),
                                                   gsd_take_text(nullptr, byte, 8, &n),
                                                   gsd_take_tokens(nullptr, &token, 1, &n),
                                                   gsd_logits(nullptr, 0, &logits),
                                                   gsd_take_trace(nullptr, byte, 8, &n),
                                                   gsd_statistic(nullptr, "steps", &value)}) {
    EXPECT_EQ(code, GSD_USAGE);
  }
  EXPECT_EQ(none, nullptr);
  for (const gsd_code code : std::vector<gsd_code>{
           gsd_prompt(s, nullptr, 1), gsd_prompt_tokens(s, nullptr, 1), gsd_prompt_tokens(s, nullptr, 0),
           gsd_take_text(s, nullptr, 8, &n), gsd_take_text(s, byte, 8, nullptr), gsd_take_text(s, byte, 3, &n),
           gsd_take_tokens(s, nullptr, 1, &n), gsd_take_tokens(s, &token, 1, nullptr), gsd_logits(s, 0, nullptr),
           gsd_logits(s, 0, &logits), gsd_take_trace(s, byte, 8, &n), gsd_take_trace(s, byte, 8, nullptr),
           gsd_statistic(s, nullptr, &value), gsd_statistic(s, "steps", nullptr), gsd_statistic(s, "hops", &value)}) {
    EXPECT_EQ(code, GSD_USAGE);
  }
  gsd_options_close(nullptr);
  gsd_close(nullptr);
  gsd_session_close(nullptr);
  EXPECT_EQ(gsd_n_vocab(nullptr), 0);
  EXPECT_EQ(gsd_n_ctx(nullptr), 0);
  EXPECT_EQ(gsd_finished(nullptr), 1);
  EXPECT_STREQ(gsd_finish_reason(nullptr), "");
  EXPECT_EQ(gsd_prompt_left(nullptr), 0U);
  EXPECT_EQ(gsd_n_last(nullptr), 0U);
  EXPECT_EQ(gsd_step(nullptr, 0), GSD_OK);
  gsd_session_close(s);
}

TEST_F(Capi, WrongOrdersAreAnswered) {
  gsd_session* s = open_session(pair, {{"n-predict", "4"}});
  EXPECT_EQ(gsd_step(&s, 1), GSD_USAGE);
  EXPECT_THAT(gsd_error(), HasSubstr("gsd_prompt() before"));
  EXPECT_EQ(take(s), "");
  EXPECT_STREQ(gsd_finish_reason(s), "none");
  EXPECT_EQ(gsd_prompt_left(s), 0U);
  EXPECT_EQ(gsd_cancel(s), GSD_OK);  // and the prompt begins anew
  EXPECT_NE(run(s, "# tar"), "");
  EXPECT_STREQ(gsd_finish_reason(s), "length");
  EXPECT_EQ(gsd_step(&s, 1), GSD_OK);  // finished: nothing happens
  EXPECT_EQ(take(s), "");
  EXPECT_EQ(prompt(s, std::string(100000, 'x')), GSD_CONTEXT_FULL);
  EXPECT_STREQ(gsd_finish_reason(s), "length");  // it is what it was
  gsd_session* twice[] = {s, s};
  EXPECT_EQ(gsd_step(twice, 2), GSD_USAGE);
  EXPECT_THAT(gsd_error(), HasSubstr("twice"));
  gsd_session_close(s);
  gsd_session_close(s);
  EXPECT_EQ(gsd_step(&s, 1), GSD_USAGE);
  EXPECT_THAT(gsd_error(), HasSubstr("is closed"));
  EXPECT_EQ(gsd_cancel(s), GSD_USAGE);
  EXPECT_EQ(gsd_finished(s), 1);
  EXPECT_EQ(prompt(s, "x"), GSD_USAGE);
  // A handle of another kind, and an address.
  EXPECT_EQ(gsd_finished(reinterpret_cast<gsd_session*>(pair)), 1);
  EXPECT_EQ(gsd_n_vocab(reinterpret_cast<gsd_pair*>(&s)), 0);
}

TEST_F(Capi, AsManySessionsAsWereAskedFor) {
  std::array<gsd_session*, 4> all{};
  for (auto& s : all) s = open_session(pair, {});
  gsd_session* further = nullptr;
  EXPECT_EQ(gsd_session_open(pair, nullptr, &further), GSD_USAGE);
  EXPECT_EQ(further, nullptr);
  gsd_session_close(all[2]);
  EXPECT_EQ(gsd_session_open(pair, nullptr, &all[2]), GSD_OK) << gsd_error();
  for (auto& s : all) gsd_session_close(s);
}

TEST_F(Capi, SessionsTogetherWriteWhatTheyWriteAlone) {
  const std::vector<std::string> prompts{"# tar", "# ls", "Question: How many?", "# git commit\n\n>"};
  std::vector<std::string> alone;
  gsd_session* one = open_session(pair, {{"n-predict", "24"}, {"temperature", "0.7"}, {"seed", "3"}});
  for (const auto& p : prompts) alone.push_back(run(one, p));
  gsd_session_close(one);
  std::vector<gsd_session*> all;
  for (const auto& p : prompts) {
    all.push_back(open_session(pair, {{"n-predict", "24"}, {"temperature", "0.7"}, {"seed", "3"}}));
    ASSERT_EQ(prompt(all.back(), p), GSD_OK);
  }
  while (!std::all_of(all.begin(), all.end(), gsd_finished)) ASSERT_EQ(gsd_step(all.data(), all.size()), GSD_OK);
  for (std::size_t i = 0; i < all.size(); ++i) {
    EXPECT_EQ(rest(all[i], 4), alone[i]);  // taken in the smallest pieces
    gsd_session_close(all[i]);
  }
}

TEST_F(Capi, TokensAreThoseOfTheText) {
  gsd_session* s = open_session(pair, {{"n-predict", "30"}, {"ignore-eos", "true"}, {"mode", "plain"}});
  const std::string text = run(s, "# tar");
  std::vector<gsd_token> tokens(64);
  std::size_t n = 0;
  ASSERT_EQ(gsd_take_tokens(s, tokens.data(), 10, &n), GSD_OK);
  EXPECT_EQ(n, 10U);
  ASSERT_EQ(gsd_take_tokens(s, tokens.data() + 10, 54, &n), GSD_OK);
  EXPECT_EQ(n, 20U);
  double emitted = 0;
  ASSERT_EQ(gsd_statistic(s, "emitted", &emitted), GSD_OK);
  EXPECT_EQ(emitted, 30);
  std::string pieces;
  for (std::size_t i = 0; i < 30; ++i) {
    char bytes[64];
    ASSERT_EQ(gsd_piece(pair, tokens[i], bytes, sizeof bytes, &n), GSD_OK);
    pieces.append(bytes, n);
  }
  EXPECT_EQ(pieces, text);
  // The same prompt as tokens.
  ASSERT_EQ(gsd_tokenize(pair, "# tar", 5, GSD_ADD_BEGIN, nullptr, 0, &n), GSD_OK);
  std::vector<gsd_token> in(n);
  ASSERT_EQ(gsd_tokenize(pair, "# tar", 5, GSD_ADD_BEGIN, in.data(), n, &n), GSD_OK);
  ASSERT_EQ(gsd_prompt_tokens(s, in.data(), n), GSD_OK);
  while (!gsd_finished(s)) ASSERT_EQ(gsd_step(&s, 1), GSD_OK);
  EXPECT_EQ(rest(s), text);
  gsd_session_close(s);
}

TEST_F(Capi, AStopStringEndsTheTextBeforeIt) {
  gsd_session* s = open_session(pair, {{"n-predict", "60"}});
  const std::string text = run(s, "# tar");
  gsd_session_close(s);
  ASSERT_GT(text.size(), 30U);
  const std::string stop = text.substr(20, 5);
  s = open_session(pair, {{"n-predict", "60"}, {"stop", "\x01 never"}, {"stop", stop.c_str()}});
  EXPECT_EQ(run(s, "# tar"), text.substr(0, text.find(stop)));
  EXPECT_STREQ(gsd_finish_reason(s), "stopped");
  EXPECT_EQ(run(s, "# tar"), text.substr(0, text.find(stop)));  // once more with the same session
  gsd_session_close(s);
}

TEST_F(Capi, GrammarsAreFollowed) {
  gsd_session* s = open_session(pair, {{"n-predict", "20"}, {"grammar", R"(root ::= "yes" | "no")"}});
  const std::string text = run(s, "Is it?");
  EXPECT_TRUE(text == "yes" || text == "no") << text;
  gsd_session_close(s);
  const Options o{{"grammar", "root ::= ("}};
  EXPECT_EQ(gsd_session_open(pair, o.handle, &s), GSD_GRAMMAR);
  EXPECT_EQ(s, nullptr);
}

TEST_F(Capi, ATraceIsALineForEachStepHoweverItIsTaken) {
  std::string plain;  // what a graph holds depends on what was learned
  for (const auto& [mode, capacity] :
       std::initializer_list<std::pair<const char*, std::size_t>>{{"plain", 1 << 16}, {"plain", 7}, {"graph", 1000}}) {
    gsd_session* s = open_session(pair, {{"n-predict", "20"}, {"trace", "true"}, {"mode", mode}});
    ASSERT_EQ(prompt(s, "# tar"), GSD_OK);
    while (!gsd_finished(s)) ASSERT_EQ(gsd_step(&s, 1), GSD_OK);
    std::string trace;
    std::string piece(capacity, '\0');
    for (std::size_t n = 1; n > 0; trace += piece.substr(0, n)) {
      ASSERT_EQ(gsd_take_trace(s, piece.data(), capacity, &n), GSD_OK) << gsd_error();
    }
    double steps = 0;
    EXPECT_EQ(gsd_statistic(s, "steps", &steps), GSD_OK);
    EXPECT_EQ(static_cast<double>(std::count(trace.begin(), trace.end(), '\n')), steps);
    EXPECT_THAT(trace, testing::StartsWith("{\"graph\""));
    EXPECT_THAT(trace, testing::EndsWith("}\n"));
    trace.resize(trace.find("\"emitted\""));  // times follow
    if (plain.empty()) plain = trace;
    if (std::string_view(mode) == "plain") {
      EXPECT_EQ(trace, plain);
    } else {
      EXPECT_NE(trace, plain);
    }
    gsd_session_close(s);
  }
}

TEST_F(Capi, LogitsAreThoseOfTheLastStep) {
  for (const char* mode : {"plain", "graph"}) {
    gsd_session* s = open_session(pair, {{"n-predict", "20"}, {"logits", "true"}, {"mode", mode}});
    ASSERT_EQ(prompt(s, "# tar"), GSD_OK);
    EXPECT_EQ(gsd_n_last(s), 0U);
    std::size_t seen = 0;
    while (!gsd_finished(s)) {
      ASSERT_EQ(gsd_step(&s, 1), GSD_OK);
      std::array<gsd_token, 64> tokens{};
      std::size_t n = 0;
      ASSERT_EQ(gsd_take_tokens(s, tokens.data(), tokens.size(), &n), GSD_OK);
      ASSERT_EQ(n, gsd_n_last(s));
      for (std::size_t i = 0; i < n; ++i, ++seen) {
        const float* row = nullptr;
        ASSERT_EQ(gsd_logits(s, i, &row), GSD_OK) << gsd_error();
        EXPECT_EQ(std::max_element(row, row + gsd_n_vocab(pair)) - row, tokens[i]);
      }
      const float* beyond = nullptr;
      EXPECT_EQ(gsd_logits(s, n, &beyond), GSD_USAGE);
    }
    EXPECT_EQ(seen, 20U);
    gsd_session_close(s);
  }
}

TEST_F(Capi, StatisticsAreNamed) {
  std::vector<std::string> names;
  for (std::size_t i = 0; gsd_statistic_name(i) != nullptr; ++i) names.emplace_back(gsd_statistic_name(i));
  EXPECT_THAT(names, testing::IsSupersetOf({"steps", "emitted", "drafted", "accepted", "verify_ms"}));
  gsd_session* s = open_session(pair, {{"n-predict", "20"}, {"mode", "graph"}});
  run(s, "# tar");
  for (const std::string& name : names) {
    double value = -1;
    EXPECT_EQ(gsd_statistic(s, name.c_str(), &value), GSD_OK);
    EXPECT_GE(value, 0) << name;
  }
  double steps = 0, emitted = 0;
  gsd_statistic(s, "steps", &steps);
  gsd_statistic(s, "emitted", &emitted);
  EXPECT_EQ(emitted, 20);
  EXPECT_LE(steps, emitted);
  gsd_session_close(s);
}

TEST_F(Capi, AnyThreadCancels) {
  gsd_session* s = open_session(pair, {{"n-predict", "-1"}, {"ignore-eos", "true"}});
  ASSERT_EQ(prompt(s, "# tar"), GSD_OK);
  std::thread other;
  std::size_t n_steps = 0;
  while (!gsd_finished(s)) {
    ASSERT_EQ(gsd_step(&s, 1), GSD_OK) << gsd_error();
    if (++n_steps == 3) other = std::thread([s] { EXPECT_EQ(gsd_cancel(s), GSD_OK); });
    if (n_steps == 4) other.join();
  }
  if (other.joinable()) other.join();
  EXPECT_LE(n_steps, 4U);
  EXPECT_STREQ(gsd_finish_reason(s), "cancelled");
  EXPECT_NE(rest(s), "");
  EXPECT_EQ(prompt(s, "# ls"), GSD_OK);  // and begins anew
  EXPECT_EQ(gsd_finished(s), 0);
  EXPECT_EQ(gsd_step(&s, 1), GSD_OK);
  gsd_session_close(s);
}

TEST(CapiPairs, ClosingOrderIsFree) {
  gsd_pair* a = open_toy({});
  gsd_pair* b = open_toy({});
  gsd_session* in_a = open_session(a, {{"n-predict", "8"}});
  gsd_session* in_b = open_session(b, {{"n-predict", "8"}});
  gsd_session* mixed[] = {in_a, in_b};
  EXPECT_EQ(gsd_step(mixed, 2), GSD_USAGE);
  EXPECT_THAT(gsd_error(), HasSubstr("different pairs"));
  gsd_close(a);
  gsd_close(a);
  EXPECT_EQ(gsd_n_vocab(a), 0);
  gsd_session* late = nullptr;
  EXPECT_EQ(gsd_session_open(a, nullptr, &late), GSD_USAGE);
  EXPECT_EQ(run(in_a, "# tar"), run(in_b, "# tar"));  // its pair stays as long as it does
  gsd_session_close(in_a);
  gsd_session_close(in_b);
  gsd_close(b);
}

// Every function with handles that are open, closed or nonsense, in any order, from two threads.
TEST_F(Capi, RandomCallsDoNotCrash) {
  const std::uint64_t seed = gsd::test::base_seed();
  SCOPED_TRACE("GSD_TEST_SEED=" + std::to_string(seed));
  const auto work = [this](std::uint64_t own) {
    std::mt19937_64 rng(own);
    std::vector<gsd_session*> handles{nullptr, reinterpret_cast<gsd_session*>(pair),
                                      reinterpret_cast<gsd_session*>(7777777)};
    const Options options{{"n-predict", "12"}, {"temperature", "1"}, {"logits", "true"}};
    char text[16];
    gsd_token tokens[16] = {};
    std::size_t n = 0;
    double value = 0;
    const float* logits = nullptr;
    for (int i = 0; i < 600; ++i) {
      gsd_session* s = handles[rng() % handles.size()];
      gsd_session* list[] = {s, handles[rng() % handles.size()]};
      switch (rng() % 12) {
        case 0:
          if (gsd_session_open(pair, rng() % 2 ? options.handle : nullptr, &s) == GSD_OK) handles.push_back(s);
          break;
        case 1:
          if (rng() % 3 == 0) gsd_session_close(s);
          break;
        case 2:
          gsd_prompt(s, "# tar and more text", rng() % 19);
          break;
        case 3:
          gsd_prompt_tokens(s, tokens, rng() % 16);
          break;
        case 4:
        case 5:
        case 6:
          gsd_step(list, 1 + rng() % 2);
          break;
        case 7:
          if (rng() % 4 == 0) gsd_cancel(s);
          break;
        case 8:
          gsd_take_text(s, text, rng() % 16, &n);
          break;
        case 9:
          gsd_take_tokens(s, tokens, rng() % 16, &n);
          break;
        case 10:
          gsd_logits(s, rng() % 4, &logits);
          break;
        default:
          gsd_statistic(s, gsd_statistic_name(rng() % 14), &value);
          EXPECT_NE(gsd_finish_reason(s), nullptr);
          gsd_finished(s);
          gsd_prompt_left(s);
      }
    }
    for (gsd_session* s : handles) gsd_session_close(s);
  };
  std::thread other(work, seed + 1);
  work(seed);
  other.join();
  gsd_session* s = open_session(pair, {{"n-predict", "4"}});
  EXPECT_NE(run(s, "# tar"), "");
  gsd_session_close(s);
}

}  // namespace
