// Endpoints without HTTP, on the scripted backend.
#include "../../src/server/api.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "server_rig.h"

namespace gsd::server {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;
using ::testing::Not;

Json ask(Api& api, const Json& body, bool chat = false) {
  const auto call = api.completion(body.dump(), chat);
  while (!call->finished()) call->advance(milliseconds(100));
  return Json::parse(call->response());
}

// The chunks of a stream.
std::vector<Json> stream(Api& api, Json body, bool chat = false) {
  body["stream"] = true;
  const auto call = api.completion(body.dump(), chat);
  std::string all;
  while (!call->finished()) all += call->advance(milliseconds(100));
  std::vector<Json> out;
  std::size_t at = 0;
  while (at < all.size()) {
    EXPECT_EQ(all.substr(at, 6), "data: ");
    const std::size_t end = all.find("\n\n", at);
    const std::string line = all.substr(at + 6, end - at - 6);
    at = end + 2;
    if (line == "[DONE]") {
      EXPECT_EQ(at, all.size());
      return out;
    }
    out.push_back(Json::parse(line));
  }
  ADD_FAILURE() << "no [DONE]: " << all;
  return out;
}

std::string text_of(const Json& answer, std::size_t choice = 0) { return answer["choices"][choice]["text"]; }

TEST(Api, TheSameTextInEveryModeStreamedOrNot) {
  Rig rig;
  rig.start();
  Json body{{"prompt", "once upon"}, {"max_tokens", 80}, {"temperature", 0.8}, {"seed", 4}};
  const std::string plain = text_of(ask(rig.api, body));
  EXPECT_GT(plain.size(), 20U);
  for (const char* mode : {"plain", "chain", "tree", "graph", "auto"}) {
    body["speculative"] = {{"mode", mode}};
    EXPECT_EQ(text_of(ask(rig.api, body)), plain) << mode;
    std::string streamed;
    for (const Json& c : stream(rig.api, body)) streamed += c["choices"][0]["text"].get<std::string>();
    EXPECT_EQ(streamed, plain) << mode;
  }
}

TEST(Api, EchoBeginsEachTextWithItsPromptAsItWasGiven) {
  Rig rig;
  rig.start();
  Json body{{"prompt", {"once upon", Json::array({97, "b c", 100})}}, {"n", 2}, {"max_tokens", 20}, {"temperature", 0}};
  const Json without = ask(rig.api, body);
  body["echo"] = true;
  const Json with = ask(rig.api, body);
  std::vector<std::string> streamed(4);
  for (const Json& c : stream(rig.api, body))
    streamed[c["choices"][0]["index"].get<std::size_t>()] += c["choices"][0]["text"].get<std::string>();
  for (std::size_t i = 0; i < 4; ++i) {
    const std::string text = (i < 2 ? "once upon" : "ab cd") + text_of(without, i);
    EXPECT_EQ(text_of(with, i), text);
    EXPECT_EQ(streamed[i], text);
  }
  EXPECT_EQ(with["usage"]["completion_tokens"], without["usage"]["completion_tokens"]);
  body["max_tokens"] = 0;
  EXPECT_EQ(text_of(ask(rig.api, body)), "once upon");
}

TEST(Api, EchoBesideLogprobsScoresThePromptAsItScoresWhatItWrites) {
  Rig rig;
  rig.start();
  const std::string prompt = "once upon a time, and then once more";
  Json body{{"prompt", prompt}, {"max_tokens", 30}, {"temperature", 0}, {"logprobs", 3}, {"ignore_eos", true}};
  const Json written = ask(rig.api, body);
  const Json& own = written["choices"][0]["logprobs"];
  const std::size_t n = prompt.size();
  body["prompt"] = prompt + text_of(written);
  body["echo"] = true;
  for (const int more : {0, 5}) {
    body["max_tokens"] = more;
    const Json answer = ask(rig.api, body);
    const Json& all = answer["choices"][0]["logprobs"];
    ASSERT_EQ(all["tokens"].size(), n + 30 + static_cast<std::size_t>(more));
    EXPECT_EQ(answer["timings"]["cache_n"], 0);
    EXPECT_TRUE(all["token_logprobs"][0].is_null());
    EXPECT_TRUE(all["top_logprobs"][0].is_null());
    std::string text;
    for (std::size_t i = 0; i < all["tokens"].size(); ++i) {
      EXPECT_EQ(all["text_offset"][i], i);
      text += all["tokens"][i];
      if (i == 0) continue;
      EXPECT_LE(all["token_logprobs"][i].get<double>(), 0);
      if (i < n || i >= n + 30) continue;
      EXPECT_FLOAT_EQ(all["token_logprobs"][i], own["token_logprobs"][i - n]) << i;
      EXPECT_EQ(all["top_logprobs"][i], own["top_logprobs"][i - n]) << i;
    }
    EXPECT_EQ(text, text_of(answer));
    Json streamed = Json::array();
    for (const Json& c : stream(rig.api, body)) {
      for (const Json& p : c["choices"][0]["logprobs"]["token_logprobs"]) streamed.push_back(p);
    }
    EXPECT_EQ(streamed, all["token_logprobs"]);
  }
}

TEST(Api, HonoursSpeculationPerRequest) {
  Rig rig;
  rig.start();
  Json body{{"prompt", "once upon"}, {"max_tokens", 60}, {"temperature", 0}, {"speculative", {{"mode", "plain"}}}};
  Json t = ask(rig.api, body)["timings"];
  EXPECT_EQ(t["draft_n"], 0);
  EXPECT_EQ(t["steps"], t["predicted_n"]);
  body["speculative"] = {{"mode", "graph"}, {"max_width", 4}};
  t = ask(rig.api, body)["timings"];
  EXPECT_GT(t["draft_n_accepted"].get<int>(), 0);
  EXPECT_LE(t["verified"].get<int>(), 3 * t["steps"].get<int>());
  EXPECT_GT(t["tokens_per_step"].get<double>(), 1);
}

TEST(Api, StopStringsCutTheTextWhereverTokensEnd) {
  Rig rig;
  rig.start();
  Json body{{"prompt", "once upon"}, {"max_tokens", 80}, {"temperature", 0}, {"ignore_eos", true}};
  const std::string all = text_of(ask(rig.api, body));
  const std::string stop = all.substr(30, 3);  // three tokens
  body["stop"] = {stop, "not there"};
  const Json answer = ask(rig.api, body);
  EXPECT_EQ(text_of(answer), all.substr(0, all.find(stop)));
  EXPECT_EQ(answer["choices"][0]["finish_reason"], "stop");
  std::string streamed;
  for (const Json& c : stream(rig.api, body)) {
    streamed += c["choices"][0]["text"].get<std::string>();
    EXPECT_THAT(streamed, Not(HasSubstr(stop.substr(0, 1) + stop.substr(1, 1)))) << "half a stop string was shown";
  }
  EXPECT_EQ(streamed, text_of(answer));
}

TEST(Api, ChoicesDifferAndAreReproducible) {
  Rig rig;
  rig.start();
  const Json body{{"prompt", {"one", "two"}}, {"max_tokens", 30}, {"temperature", 1.5}, {"seed", 6}, {"n", 3}};
  const Json a = ask(rig.api, body);
  ASSERT_EQ(a["choices"].size(), 6U);
  EXPECT_NE(text_of(a, 0), text_of(a, 1));
  EXPECT_NE(text_of(a, 0), text_of(a, 3));
  const Json b = ask(rig.api, body);
  for (std::size_t i = 0; i < 6; ++i) {
    EXPECT_EQ(a["choices"][i]["index"], i);
    EXPECT_EQ(text_of(a, i), text_of(b, i));
  }
  EXPECT_EQ(a["usage"]["prompt_tokens"], 6);
  std::vector<std::string> streamed(6);
  std::vector<int> ends(6);
  for (const Json& c : stream(rig.api, body)) {
    const auto i = c["choices"][0]["index"].get<std::size_t>();
    streamed[i] += c["choices"][0]["text"].get<std::string>();
    ends[i] += c["choices"][0]["finish_reason"].is_null() ? 0 : 1;
  }
  for (std::size_t i = 0; i < 6; ++i) {
    EXPECT_EQ(streamed[i], text_of(a, i));
    EXPECT_EQ(ends[i], 1);
  }
}

TEST(Api, LogprobsAreThoseOfTheTarget) {
  Rig rig;
  rig.start();
  const std::string prompt = "once upon";
  Json body{{"prompt", prompt},
            {"max_tokens", 40},
            {"temperature", 0},
            {"logprobs", 3},
            {"speculative", {{"mode", "graph"}}}};
  const Json answer = ask(rig.api, body);
  const Json& report = answer["choices"][0]["logprobs"];
  const std::string all = prompt + text_of(answer);
  const Script script = Rig::script(0);
  std::vector<float> row(128);
  ASSERT_EQ(report["tokens"].size(), text_of(answer).size());
  for (std::size_t i = 0; i < report["tokens"].size(); ++i) {
    const std::size_t at = prompt.size() + i;
    const Token context[] = {all[at - 2], all[at - 1]};
    script(context, row);
    double sum = 0;
    for (const float x : row) sum += std::exp(x);
    EXPECT_EQ(report["tokens"][i], all.substr(at, 1));
    EXPECT_EQ(report["text_offset"][i], i);
    EXPECT_NEAR(report["token_logprobs"][i].get<double>(), row[static_cast<std::size_t>(all[at])] - std::log(sum),
                1e-3);
    EXPECT_EQ(report["top_logprobs"][i].size(), 3U);
    EXPECT_NEAR(report["top_logprobs"][i][all.substr(at, 1)].get<double>(), report["token_logprobs"][i].get<double>(),
                1e-4);
  }
}

TEST(Api, ChatStreamsInOpenAisShape) {
  Rig rig;
  rig.start();
  const Json body{{"messages", {{{"role", "system"}, {"content", "be"}}, {{"role", "user"}, {"content", "good"}}}},
                  {"max_completion_tokens", 25},
                  {"temperature", 0},
                  {"stream_options", {{"include_usage", true}}},
                  {"logprobs", true},
                  {"top_logprobs", 2},
                  {"timings_per_token", true},
                  {"speculative", {{"trace", true}}}};
  const Json whole = ask(rig.api, body, true);
  EXPECT_EQ(whole["object"], "chat.completion");
  const std::vector<Json> chunks = stream(rig.api, body, true);
  ASSERT_GE(chunks.size(), 3U);
  std::string text;
  std::size_t n_tokens = 0;
  std::size_t n_traced = 0;
  for (std::size_t i = 0; i + 1 < chunks.size(); ++i) {
    const Json& c = chunks[i];
    EXPECT_EQ(c["object"], "chat.completion.chunk");
    EXPECT_EQ(c["id"], chunks[0]["id"]);
    EXPECT_TRUE(c["usage"].is_null());
    EXPECT_EQ(c["choices"][0]["delta"].contains("role"), i == 0);
    EXPECT_TRUE(c.contains("timings"));
    text += c["choices"][0]["delta"].value("content", "");
    n_tokens += c["choices"][0]["logprobs"]["content"].size();
    if (!c.contains("gsd")) continue;
    n_traced += c["gsd"]["emitted"].size();
    EXPECT_EQ(c["gsd"]["tree"][0]["origin"], "root");
    EXPECT_EQ(c["gsd"]["drafters"][0]["name"], "model");
    for (const auto& node : c["gsd"]["tree"]) {
      const bool drafted = node["origin"] == "draft" || node["origin"] == "merged";
      EXPECT_TRUE(!drafted || node["drafters"] == Json::array({"model"})) << node;
    }
    EXPECT_GE(c["gsd"]["graph"]["nodes"].size(), 1U);
  }
  EXPECT_EQ(text, whole["choices"][0]["message"]["content"]);
  EXPECT_EQ(n_tokens, whole["choices"][0]["logprobs"]["content"].size());
  EXPECT_EQ(n_traced, whole["usage"]["completion_tokens"].get<std::size_t>());
  const Json& last = chunks.back();
  EXPECT_TRUE(last["choices"].empty());
  EXPECT_EQ(last["usage"]["completion_tokens"], whole["usage"]["completion_tokens"]);
  EXPECT_EQ(last["timings"]["predicted_n"], whole["usage"]["completion_tokens"]);
  EXPECT_EQ(last["usage"]["total_tokens"],
            last["usage"]["prompt_tokens"].get<int>() + last["usage"]["completion_tokens"].get<int>());
}

TEST(Api, CachePromptIsHonoured) {
  Rig rig;
  rig.start();
  Json body{{"prompt", std::string(50, 'k')}, {"max_tokens", 5}, {"temperature", 0}};
  ask(rig.api, body);
  EXPECT_EQ(ask(rig.api, body)["usage"]["prompt_tokens_details"]["cached_tokens"], 49);
  body["cache_prompt"] = false;
  EXPECT_EQ(ask(rig.api, body)["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
}

TEST(Api, GrammarAndBiasRuleTheText) {
  Rig rig;
  rig.start();
  const std::string digits =
      text_of(ask(rig.api, {{"prompt", "x"}, {"max_tokens", 30}, {"grammar", "root ::= [0-9]*"}}));
  EXPECT_FALSE(digits.empty());
  EXPECT_EQ(digits.find_first_not_of("0123456789"), std::string::npos);
  EXPECT_EQ(
      text_of(ask(rig.api, {{"prompt", "x"}, {"max_tokens", 4}, {"temperature", 0}, {"logit_bias", {{"90", 1000}}}})),
      "ZZZZ");
  EXPECT_EQ(
      text_of(ask(rig.api, {{"prompt", {120}}, {"max_tokens", 4}, {"temperature", 0}, {"logit_bias", {{90, 1000}}}})),
      "ZZZZ");
}

TEST(Api, AGrammarThatExplodesEndsItsRequestOnly) {
  Rig rig;
  rig.start();
  const auto other = rig.api.completion(R"({"prompt": "abc", "max_tokens": 50, "ignore_eos": true})", false);
  // Ever more ways to read the same text.
  const std::string many = "root ::= s\ns ::= s s s s | s s s | s s | [a-z ]";
  const Json body{{"prompt", "x"}, {"grammar", many}, {"ignore_eos", true}};
  try {
    ask(rig.api, body);
    FAIL() << "it was followed to the end of the context";
  } catch (const ApiError& e) {
    EXPECT_EQ(e.status(), 400);
    EXPECT_THAT(e.what(), HasSubstr("too much work"));
  }
  while (!other->finished()) other->advance(milliseconds(100));
  EXPECT_EQ(Json::parse(other->response())["usage"]["completion_tokens"], 50);
}

TEST(Api, ABiasThatBansEveryTokenIsAnErrorAndNoEndlessText) {
  Rig rig;
  rig.start();
  Json bias = Json::array();
  for (int t = 0; t < 128; ++t) bias.push_back({t, false});
  for (const double temperature : {0.0, 1.0}) {
    const Json body{{"prompt", "x"}, {"max_tokens", 5}, {"temperature", temperature}, {"logit_bias", bias}};
    try {
      ADD_FAILURE() << ask(rig.api, body);
    } catch (const ApiError& e) {
      EXPECT_EQ(e.status(), 400);
      EXPECT_THAT(e.what(), HasSubstr("logit_bias leaves no token"));
    }
  }
}

TEST(Api, AStructuredRequestOfManyChoicesAndManyStrings) {
  Rig rig;
  rig.start();
  Json list = Json::array();
  for (int i = 0; i < 20000; ++i) list.push_back("item " + std::to_string(7919 * i));
  const Json answer = ask(rig.api, {{"prompt", "x"}, {"n", 3}, {"max_tokens", 40}, {"json_schema", {{"enum", list}}}});
  for (const Json& c : answer["choices"]) {
    const std::string text = c["text"];
    const std::size_t begin = text.find('"');
    ASSERT_NE(begin, std::string::npos);
    EXPECT_THAT(text.substr(begin), testing::StartsWith("\"item "));
    if (c["finish_reason"] == "stop") {
      EXPECT_NE(std::find(list.begin(), list.end(), Json::parse(text)), list.end());
    }
  }
}

// 40 levels of "one of two equal things".
TEST(Api, ASchemaThatDoublesIsFollowed) {
  Rig rig;
  rig.start();
  Json defs = Json::object();
  for (int i = 0; i < 14; ++i) {
    const Json next{{"$ref", "#/$defs/d" + std::to_string(i + 1)}};
    defs[std::string("d").append(std::to_string(i))] = {{"anyOf", {next, next}}};
  }
  defs["d14"] = {{"const", "deep"}};
  const Json schema{{"$defs", defs}, {"$ref", "#/$defs/d0"}};
  EXPECT_THAT(text_of(ask(rig.api, {{"prompt", "x"}, {"max_tokens", 40}, {"json_schema", schema}})),
              HasSubstr("\"deep\""));
}

TEST(Api, RefusesInOpenAisTerms) {
  RigOptions o;
  o.max_queue = 0;
  o.n_seq = 1;
  Rig rig(o);
  const auto refused = [&](const Json& body, int status, const char* code) {
    try {
      rig.api.completion(body.dump(), false);
      ADD_FAILURE() << "accepted: " << body;
    } catch (const ApiError& e) {
      EXPECT_EQ(e.status(), status) << e.what();
      EXPECT_EQ(e.code(), code) << e.what();
      const Json shown = Json::parse(error_json(e));
      EXPECT_EQ(shown["error"]["message"], e.what());
      EXPECT_TRUE(shown["error"].contains("type") && shown["error"].contains("param"));
    }
  };
  refused({{"prompt", std::string(512, 'x')}}, 400, "context_length_exceeded");
  refused({{"prompt", ""}}, 400, "");
  refused({{"prompt", {5, 128}}}, 400, "");
  refused({{"prompt", "x"}, {"grammar", "root ::= ("}}, 400, "");
  refused({{"prompt", "x"}, {"n", 2}}, 400, "");  // never, not "try again later"
  refused({{"prompt", {"x", "y"}}}, 400, "");
  refused({{"prompt", "x"}, {"grammar", "root ::= \"a\"{5,3}"}}, 400, "");
  refused({{"prompt", "x"}, {"grammar", std::string("root ::= \"a\"\0 \"b\"", 17)}}, 400, "");
  const auto first = rig.api.completion(R"({"prompt": "x", "model": "other-name", "max_tokens": 3})", false);
  refused({{"prompt", "x"}}, 503, "queue_full");
}

TEST(Api, TokenEndpointsAndProperties) {
  Rig rig;
  EXPECT_EQ(rig.api.tokenize(R"({"content": "ab"})"), R"({"tokens":[97,98]})");
  EXPECT_EQ(rig.api.tokenize(R"({"content": "a", "with_pieces": true})"), R"({"tokens":[{"id":97,"piece":"a"}]})");
  EXPECT_EQ(rig.api.detokenize(R"({"tokens": [97, 98]})"), R"({"content":"ab"})");
  EXPECT_THROW(rig.api.detokenize(R"({"tokens": [128]})"), ApiError);
  EXPECT_THROW(rig.api.detokenize(R"({"tokens": "a"})"), ApiError);
  EXPECT_EQ(rig.api.apply_template(R"({"messages": [{"role": "user", "content": "q"}]})"),
            R"({"prompt":"<user>q<assistant>"})");
  EXPECT_EQ(Json::parse(rig.api.models())["data"][0]["id"], "ascii");
  EXPECT_THROW(rig.api.model("nobody"), ApiError);
  const Json props = Json::parse(rig.api.props());
  EXPECT_EQ(props["total_slots"], 3);
  EXPECT_EQ(props["default_generation_settings"]["params"]["speculative"]["mode"], "auto");
  EXPECT_EQ(Json::parse(rig.api.slots()).size(), 3U);
}

TEST(Api, ACallThatIsDroppedFreesItsSlot) {
  RigOptions o;
  o.n_seq = 1;
  o.n_ctx = 4096;
  o.step_us = 200;
  Rig rig(o);
  rig.start();
  {
    const auto call = rig.api.completion(R"({"prompt": "x", "ignore_eos": true, "stream": true})", false);
    while (call->advance(milliseconds(100)).empty()) {
    }
  }
  EXPECT_EQ(ask(rig.api, {{"prompt", "y"}, {"max_tokens", 3}})["usage"]["completion_tokens"], 3);
  EXPECT_THAT(rig.api.metrics(), HasSubstr("gsd:requests_cancelled_total 1\n"));
}

// Characters of several bytes, some spread over tokens, and stop strings that hold text back.
TEST(Api, TextOffsetsAreInCharactersAndTheSameInAStream) {
  Rig rig;
  // Each letter of the script stands for one of these.
  const std::vector<std::string> pieces{"a", "\xc3\xa9", "\xe2\x82", "\xac", "\xf0\x9f\x98\x80", "bc", "\xff", "stop"};
  rig.model.vocabulary.piece = [&](Token t, ShowControl) {
    return pieces[static_cast<std::size_t>(t) % pieces.size()];
  };
  rig.start();
  Json body{{"prompt", "once upon"},
            {"max_tokens", 120},
            {"temperature", 0.9},
            {"seed", 5},
            {"ignore_eos", true},
            {"logprobs", 0},
            {"stop", {"stopstopstopstop", "bcbcbcbc"}}};
  for (const char* mode : {"plain", "graph"}) {
    body["speculative"] = {{"mode", mode}};
    const Json whole = ask(rig.api, body)["choices"][0];
    // Characters of the text before each token.
    const std::string text = whole["text"];
    const auto count = [](const std::string& s) {
      return std::count_if(s.begin(), s.end(), [](char c) { return (c & 0xC0) != 0x80; });
    };
    Json streamed = Json::array();
    Json shown = Json::array();
    for (const Json& c : stream(rig.api, body)) {
      for (const Json& at : c["choices"][0]["logprobs"]["text_offset"]) streamed.push_back(at);
      for (const Json& t : c["choices"][0]["logprobs"]["tokens"]) shown.push_back(t);
    }
    const Json& offsets = whole["logprobs"]["text_offset"];
    EXPECT_EQ(offsets, streamed);
    EXPECT_EQ(whole["logprobs"]["tokens"], shown);
    ASSERT_GT(offsets.size(), 30U);
    EXPECT_LT(offsets.back(), count(text));
    EXPECT_GT(static_cast<std::ptrdiff_t>(text.size()), count(text) + 20) << "nothing but ASCII was generated";
    // Where a token is whole characters, they stand there in the text.
    std::vector<std::string> characters;
    for (const char c : text) {
      if ((c & 0xC0) != 0x80) characters.emplace_back();
      characters.back() += c;
    }
    for (std::size_t i = 0; i < offsets.size(); ++i) {
      const std::string token = whole["logprobs"]["tokens"][i];
      if (token == "a" || token == "\xc3\xa9" || token == "\xf0\x9f\x98\x80") {
        EXPECT_EQ(characters[offsets[i].get<std::size_t>()], token) << i;
      }
    }
  }
}

TEST(Api, ANegativeSeedIsTakenBackAsItIsReported) {
  Rig rig;
  rig.start();
  Json body{{"prompt", "once upon"}, {"max_tokens", 30}, {"temperature", 1.2}, {"seed", -5}};
  const Json first = ask(rig.api, body);
  EXPECT_EQ(first["seed"], -5);
  body["seed"] = first["seed"];
  EXPECT_EQ(text_of(ask(rig.api, body)), text_of(first));
  body["seed"] = -1;
  EXPECT_GE(ask(rig.api, body)["seed"].get<std::int64_t>(), 0);
}

TEST(Api, WhatCannotFitIsNotTokenized) {
  Rig rig;
  std::size_t tokenized = 0;
  rig.model.max_token_bytes = 4;
  rig.model.vocabulary.tokenize = [&, inner = rig.model.vocabulary.tokenize](std::string_view text, AddBegin begin,
                                                                             ParseControl control) {
    tokenized += text.size();
    return inner(text, begin, control);
  };
  const std::string large(8 << 20, 'x');
  for (const Json& body : {Json{{"prompt", large}}, Json{{"prompt", {"a", large}}},
                           Json{{"messages", {{{"role", "user"}, {"content", large}}}}}}) {
    try {
      rig.api.completion(body.dump(), body.contains("messages"));
      ADD_FAILURE() << "accepted";
    } catch (const ApiError& e) {
      EXPECT_EQ(e.status(), 400);
      EXPECT_EQ(e.code(), "context_length_exceeded");
      EXPECT_THAT(e.what(), HasSubstr("at least 2097"));
    }
  }
  EXPECT_LT(tokenized, 100U);
  EXPECT_NE(rig.api.completion(Json{{"prompt", std::string(511, 'x')}}.dump(), false), nullptr) << "it fits";
}

TEST(Api, AnyModelNameIsServedUnlessAskedOtherwise) {
  Rig rig;
  rig.start();
  const Json body{{"prompt", "x"}, {"model", "gpt-9"}, {"max_tokens", 3}};
  EXPECT_EQ(ask(rig.api, body)["model"], "ascii") << "the answer names what wrote it";
  ApiOptions strict = api_options();
  strict.strict_model = true;
  Api api(rig.model, rig.scheduler, rig.metrics, strict);
  try {
    api.completion(body.dump(), false);
    FAIL() << "accepted";
  } catch (const ApiError& e) {
    EXPECT_EQ(e.status(), 404);
    EXPECT_EQ(e.code(), "model_not_found");
  }
}

}  // namespace
}  // namespace gsd::server
