// Text streams and requests: no engine.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "../../src/server/metrics.h"
#include "../../src/server/request.h"
#include "../../src/server/text_stream.h"
#include "../random.h"

namespace gsd::server {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(TextStream, HoldsBackWhatMayBecomeAStopString) {
  TextStream s({"END", "stop here"});
  EXPECT_TRUE(s.push("abc E"));
  EXPECT_EQ(s.take(), "abc ");
  EXPECT_TRUE(s.push("N"));
  EXPECT_EQ(s.take(), "");
  EXPECT_TRUE(s.push("X sto"));
  EXPECT_EQ(s.take(), "ENX ");
  EXPECT_FALSE(s.push("p here and more"));
  EXPECT_EQ(s.take(), "");
  EXPECT_EQ(s.stop(), "stop here");
  EXPECT_FALSE(s.push("later"));
  s.finish();
  EXPECT_EQ(s.take(), "");
}

TEST(TextStream, ReleasesTheRestAtTheEnd) {
  TextStream s({"END"});
  s.push("tail EN");
  s.finish();
  EXPECT_EQ(s.take(), "tail EN");
  EXPECT_EQ(s.n_released(), 7U);
}

TEST(TextStream, NeverCutsACharacterAndReplacesWhatIsNone) {
  TextStream s({"é!"});
  EXPECT_TRUE(s.push("a\xC3"));
  EXPECT_EQ(s.take(), "a");
  EXPECT_TRUE(s.push("\xA9"));  // é, which may begin the stop string
  EXPECT_EQ(s.take(), "");
  EXPECT_TRUE(s.push("?\xE6\x97"));
  EXPECT_EQ(s.take(), "é?");
  s.finish();
  EXPECT_EQ(s.take(), "\xEF\xBF\xBD");
}

TEST(TextStream, AgreesWithSearchingTheWholeText) {
  for (int round = 0; round < 2000; ++round) {
    GSD_SEEDED(rng, round);
    const auto word = [&](std::size_t most) {
      std::string out;
      for (std::size_t n = 1 + rng() % most; n > 0; --n) out += static_cast<char>('a' + rng() % 2);
      return out;
    };
    std::vector<std::string> stops;
    for (std::size_t n = rng() % 3; n > 0; --n) stops.push_back(word(5));
    TextStream s(stops);
    std::string all;
    std::string shown;
    for (int piece = 0; piece < 10; ++piece) {
      const std::string p = word(4);
      all += p;
      if (!s.push(p)) break;
      shown += s.take();
      ASSERT_EQ(shown, all.substr(0, shown.size()));
    }
    s.finish();
    shown += s.take();
    std::size_t cut = all.size();
    for (const std::string& stop : stops) cut = std::min(cut, all.find(stop));
    ASSERT_EQ(shown, all.substr(0, cut));
    ASSERT_EQ(s.stopped(), cut < all.size());
    ASSERT_EQ(s.n_released(), shown.size());
  }
}

std::string message_of(const std::string& body, bool chat = false) {
  try {
    chat ? parse_chat(body, {}) : parse_completion(body, {});
  } catch (const ApiError& e) {
    EXPECT_EQ(e.status(), 400);
    return e.what();
  }
  return "accepted";
}

TEST(Request, ReadsOpenAisAndLlamaCppsFields) {
  const CompletionRequest r = parse_completion(
      R"({"model": "m", "prompt": "x", "max_tokens": 5, "temperature": 0.5, "top_p": 0.9, "top_k": 7, "min_p": 0.1,
          "stop": ["a", "", "b"], "n": 3, "seed": 9, "logprobs": 2, "logit_bias": {"5": -100, "6": 2.5},
          "presence_penalty": 0.25, "frequency_penalty": 0.5, "repeat_penalty": 1.1, "repeat_last_n": 12, "stream": true,
          "stream_options": {"include_usage": true}, "cache_prompt": false, "timings_per_token": true, "user": "u",
          "speculative": {"mode": "graph", "max_width": 5, "depth": 3, "merge_length": 2, "history": false, "trace": true}})",
      {});
  EXPECT_EQ(r.max_tokens, 5);
  EXPECT_FLOAT_EQ(r.sampling.temperature, 0.5F);
  EXPECT_EQ(r.sampling.top_k, 7);
  EXPECT_EQ(r.sampling.seed, 9U);
  EXPECT_EQ(r.sampling.penalty_last_n, 12);
  EXPECT_EQ(r.sampling.logit_bias, (std::vector<std::pair<Token, float>>{{5, -100}, {6, 2.5F}}));
  EXPECT_EQ(r.stop, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(r.n, 3);
  EXPECT_EQ(r.logprobs, 2);
  EXPECT_TRUE(r.stream && r.include_usage && !r.cache_prompt && r.timings_per_token && r.trace);
  EXPECT_EQ(r.speculation.mode, Mode::kGraph);
  EXPECT_EQ(r.speculation.max_width, 5);
  EXPECT_EQ(r.speculation.merge_length, 2);
  EXPECT_FALSE(r.speculation.history);
}

TEST(Request, TheWidthSuitsTheModeUnlessItIsNamed) {
  for (const Mode mode : {Mode::kAuto, Mode::kGraph}) {
    RequestDefaults d;
    d.speculation.mode = mode;  // the server's
    const auto width = [&](const std::string& speculative) {
      return parse_completion(R"({"prompt": "x", "speculative": )" + speculative + "}", d).speculation.width();
    };
    EXPECT_EQ(width(R"({"mode": "auto"})"), 32);
    EXPECT_EQ(width(R"({"mode": "chain"})"), 16);
    EXPECT_EQ(width("{}"), mode == Mode::kAuto ? 32 : 16);
    EXPECT_EQ(width(R"({"mode": "auto", "max_width": 5})"), 5);
  }
}

TEST(Request, NullCountsAsAbsentAndDefaultsApply) {
  RequestDefaults d;
  d.sampling.temperature = 0.7F;
  d.max_tokens = 99;
  d.random_seed = false;
  const CompletionRequest r = parse_chat(
      R"({"messages": [{"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
          {"role": "user", "content": null}], "temperature": null, "stop": null, "tools": [], "logit_bias": null})",
      d);
  EXPECT_FLOAT_EQ(r.sampling.temperature, 0.7F);
  EXPECT_EQ(r.max_tokens, 99);
  EXPECT_EQ(r.sampling.seed, 0U);
  const Json& messages = r.conversation.chat.messages;
  ASSERT_EQ(messages.size(), 2U);
  EXPECT_EQ(messages[0]["role"], "developer");
  EXPECT_EQ(chat::content_text(messages[0]), "ab");
  EXPECT_EQ(messages[1]["content"], nullptr);
}

TEST(Request, ASeedIsDrawnWhereNoneIsGiven) {
  const auto seed = [](const char* body) { return parse_completion(body, {}).sampling.seed; };
  EXPECT_NE(seed(R"({"prompt": "x"})"), seed(R"({"prompt": "x"})"));
  EXPECT_NE(seed(R"({"prompt": "x", "seed": -1})"), seed(R"({"prompt": "x", "seed": -1})"));
  EXPECT_EQ(seed(R"({"prompt": "x", "seed": 5})"), 5U);
}

TEST(Request, RefusesByName) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"prompt": 5})", "'prompt'"},
      {R"({})", "'prompt' is missing"},
      {R"({"prompt": []})", "'prompt'"},
      {R"({"prompt": [1, true]})", "'prompt' must be a text"},
      {R"({"prompt": [1, -4]})", "token numbers only"},
      {R"({"prompt": [["a", {}]]})", "'prompt' must be a text"},
      {R"({"prompt": "x", "temperature": "hot"})", "'temperature' must be a number"},
      {R"({"prompt": "x", "temperature": 1e400})", "not valid JSON"},
      {R"({"prompt": "x", "temperature": NaN})", "not valid JSON"},
      {R"({"prompt": "x", "temperature": 1e39})", "'temperature'"},
      {R"({"prompt": "x", "temperature": -1})", "temperature"},
      {R"({"prompt": "x", "top_p": 0})", "top_p"},
      {R"({"prompt": "x", "min_p": 2})", "min_p"},
      {R"({"prompt": "x", "max_tokens": 1.5})", "'max_tokens' must be a whole number"},
      {R"({"prompt": "x", "max_tokens": -2})", "'max_tokens'"},
      {R"({"prompt": "x", "max_tokens": 99999999999999999999})", "'max_tokens'"},
      {R"({"prompt": "x", "seed": 18446744073709551615})", "'seed'"},
      {R"({"prompt": "x", "n": 0})", "'n'"},
      {R"({"prompt": "x", "n": 17})", "'n'"},
      {R"({"prompt": "x", "stream": "yes"})", "'stream' must be true or false"},
      {R"({"prompt": "x", "stop": [1]})", "'stop'"},
      {R"({"prompt": "x", "stop": {}})", "'stop'"},
      {R"({"prompt": "x", "logit_bias": {"": 1}})", "'logit_bias'"},
      {R"({"prompt": "x", "logit_bias": {"1": "a"}})", "'logit_bias'"},
      {R"({"prompt": "x", "logit_bias": 5})", "'logit_bias'"},
      {R"({"prompt": "x", "logprobs": 21})", "'logprobs'"},
      {R"({"prompt": "x", "best_of": 2})", "'best_of' is not supported"},
      {R"({"prompt": "x", "echo": true, "logprobs": 1, "suffix": "y"})",
       "'echo' cannot be given beside logprobs and suffix"},
      {R"({"prompt": "x", "echo": 1})", "'echo' must be true or false"},
      {R"({"prompt": "x", "suffix": 1})", "'suffix' must be a string"},
      {R"({"prompt": "x", "mirostat": 2})", "'mirostat' is not supported"},
      {R"({"prompt": "x", "adaptive_target": 0.5})", "'adaptive_target' is not supported"},
      {R"({"prompt": "x", "samplers": ["nope"]})", "no sampler 'nope'"},
      {R"({"prompt": "x", "samplers": ["top_k", "top_k"]})", "'top_k' stands twice"},
      {R"({"prompt": "x", "samplers": 3})", "'samplers'"},
      {R"({"prompt": "x", "dry_sequence_breakers": []})", "'dry_sequence_breakers'"},
      {R"({"prompt": "x", "xtc_probability": 2})", "xtc_probability"},
      {R"({"prompt": "x", "n_probs": 2})", "'n_probs' is not supported"},
      {R"({"prompt": "x", "speculative": 3})", "'speculative'"},
      {R"({"prompt": "x", "speculative": {"mode": "fast"}})", "fast"},
      {R"({"prompt": "x", "speculative": {"with": 1}})", "'speculative.with' is not known"},
      {R"({"prompt": "x", "speculative": {"max_width": 65}})", "'speculative.max_width'"},
      {R"({"prompt": "x", "speculative": {"path_threshold": 1.5}})", "path"},
      {R"({"prompt": "x", "response_format": {"type": "xml"}})", "'response_format.type'"},
      {R"({"prompt": "x", "response_format": {"type": "json_schema"}})", "'response_format.json_schema'"},
      {R"({"prompt": "x", "grammar": "root ::= x", "response_format": {"type": "json_object"}})", "'grammar'"},
      {R"([1])", "must be a JSON object"},
      {R"("x")", "must be a JSON object"},
      {"", "not valid JSON"},
      {R"({"prompt": "x")", "not valid JSON"},
      {"{\"prompt\": \"\xff\"}", "not valid JSON"},
      {R"({"prompt": "\ud800"})", "not valid JSON"},
  };
  for (const auto& [body, words] : cases) EXPECT_THAT(message_of(body), HasSubstr(words)) << body;
  EXPECT_THAT(message_of(R"({"messages": []})", true), HasSubstr("'messages'"));
  EXPECT_THAT(message_of(R"({"messages": [], "echo": true})", true), HasSubstr("'echo' is not supported"));
  EXPECT_THAT(message_of(R"({"messages": [], "suffix": "y"})", true), HasSubstr("'suffix' is not supported"));
  EXPECT_THAT(message_of(R"({"messages": [{"role": "robot", "content": ""}]})", true), HasSubstr("'messages.role'"));
  EXPECT_THAT(message_of(R"({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]})", true),
              HasSubstr("'messages.content'"));
  EXPECT_THAT(message_of(R"({"messages": [{"role": "user", "content": "x"}], "top_logprobs": 3})", true),
              HasSubstr("'top_logprobs' needs"));
}

TEST(Request, BoundsDepthAndKeys) {
  const auto nested = [](int depth) {
    return R"({"prompt": "x", "user": )" + std::string(static_cast<std::size_t>(depth), '[') +
           std::string(static_cast<std::size_t>(depth), ']') + "}";
  };
  EXPECT_EQ(message_of(nested(60)), "accepted");
  EXPECT_THAT(message_of(nested(100)), HasSubstr("nested more than"));
  EXPECT_THAT(message_of(std::string(5'000'000, '[')), HasSubstr("nested more than"));
  std::string keys = R"({"prompt": "x")";
  for (int i = 0; i < 30000; ++i) keys += ",\"k" + std::to_string(i) + "\":1";
  EXPECT_THAT(message_of(keys + "}"), HasSubstr("keys"));
}

TEST(Metrics, CountAndPrintHistograms) {
  Metrics m;
  Stats step;
  step.steps = 1;
  step.emitted = 3;
  step.accepted = 2;
  step.verified = 7;
  step.drafter[0] = {"mtp", 1, 2, 5, 1, 0.5};
  m.session_step(step, 0);
  m.session_step(step, 6);
  m.first_token(30);
  m.refused();
  const std::string text = m.prometheus(2, 5);
  EXPECT_THAT(text, HasSubstr("\ngsd:tokens_predicted_total 6\n"));
  EXPECT_THAT(text, HasSubstr("\ngsd:requests_deferred 5\n"));
  EXPECT_THAT(text, HasSubstr("\ngsd:spec_decode_num_draft_tokens_total 14\n"));
  EXPECT_THAT(text, HasSubstr("\ngsd:drafter_tokens_total{drafter=\"mtp\"} 10\n"));
  EXPECT_THAT(text, HasSubstr("\ngsd:drafter_accepted_tokens_total{drafter=\"mtp\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("per_pos_total{position=\"1\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("per_pos_total{position=\"2\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("gsd:accepted_tokens_per_step_bucket{le=\"1\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("gsd:accepted_tokens_per_step_bucket{le=\"2\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("gsd:time_between_tokens_seconds_count 3\n"));
  EXPECT_THAT(text, HasSubstr("gsd:time_to_first_token_seconds_bucket{le=\"0.025\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("gsd:time_to_first_token_seconds_bucket{le=\"0.05\"} 1\n"));
  EXPECT_THAT(text, Not(HasSubstr("nan")));
}

}  // namespace
}  // namespace gsd::server
