// llama-server's own form of requests and answers, on the scripted backend.
#include "../../src/server/native.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "../../src/server/infill.h"
#include "server_rig.h"

namespace gsd::server {
namespace {

using std::chrono::milliseconds;
using testing::HasSubstr;

Json finish(std::unique_ptr<Call> call) {
  while (!call->finished()) call->advance(milliseconds(100));
  return Json::parse(call->response());
}

Json ask(Api& api, const Json& body) { return finish(api.native(body.dump())); }

std::vector<Json> stream(Api& api, Json body) {
  body["stream"] = true;
  const auto call = api.native(body.dump());
  std::string all;
  while (!call->finished()) all += call->advance(milliseconds(100));
  std::vector<Json> out;
  for (std::size_t at = 0; at < all.size();) {
    EXPECT_EQ(all.substr(at, 6), "data: ");
    const std::size_t end = all.find("\n\n", at);
    out.push_back(Json::parse(all.substr(at + 6, end - at - 6)));
    at = end + 2;
  }
  return out;
}

template <typename Ask>
ApiError refused(Ask ask) {
  try {
    ask();
  } catch (const ApiError& e) {
    return e;
  }
  ADD_FAILURE() << "accepted";
  return {0, ""};
}

TEST(Native, TellsWhatWasAskedAndWhyItEnded) {
  Rig rig;
  rig.start();
  const Json body{{"prompt", "once upon"}, {"n_predict", 20}, {"temperature", 0}, {"ignore_eos", true}};
  const Json a = ask(rig.api, body);
  EXPECT_EQ(a["content"].get<std::string>().size(), 20U);
  EXPECT_EQ(a["stop"], true);
  EXPECT_EQ(a["stop_type"], "limit");
  EXPECT_EQ(a["truncated"], false);
  EXPECT_EQ(a["prompt"], "once upon");
  EXPECT_EQ(a["tokens"], Json::array());
  EXPECT_EQ(a["tokens_predicted"], 20);
  EXPECT_EQ(a["tokens_evaluated"], 9);
  EXPECT_EQ(a["tokens_cached"], 28);
  EXPECT_GE(a["id_slot"].get<int>(), 0);
  EXPECT_EQ(a["generation_settings"]["n_predict"], 20);
  EXPECT_EQ(a["generation_settings"]["samplers"][0], "penalties");
  EXPECT_EQ(a["timings"]["predicted_n"], 20);
  EXPECT_FALSE(a.contains("completion_probabilities"));
  Json stopped = body;
  const std::string word = a["content"].get<std::string>().substr(10, 2);
  stopped["stop"] = Json::array({word});
  const Json b = ask(rig.api, stopped);
  EXPECT_EQ(b["stop_type"], "word");
  EXPECT_EQ(b["stopping_word"], word);
  Json full = body;
  full["n_predict"] = -1;
  const Json c = ask(rig.api, full);
  EXPECT_EQ(c["stop_type"], "limit");
  EXPECT_EQ(c["truncated"], true);
  EXPECT_EQ(ask(rig.api, {{"prompt", "x"}, {"grammar", "root ::= \"ab\""}})["stop_type"], "eos");
}

TEST(Native, AStreamHasAChunkForEachTokenAndSaysTheSame) {
  Rig rig;
  rig.start();
  Json body{{"prompt", "once upon"},
            {"n_predict", 40},
            {"temperature", 0.9},
            {"seed", 3},
            {"n_probs", 3},
            {"return_tokens", true},
            {"ignore_eos", true},
            {"timings_per_token", true},
            {"speculative", {{"mode", "graph"}}}};
  const Json whole = ask(rig.api, body);
  EXPECT_EQ(whole["tokens"].size(), 40U);
  const std::vector<Json> chunks = stream(rig.api, body);
  ASSERT_EQ(chunks.size(), 41U);
  std::string text;
  for (std::size_t i = 0; i < 40; ++i) {
    const Json& c = chunks[i];
    EXPECT_EQ(c["stop"], false);
    EXPECT_EQ(c["tokens"], Json::array({whole["tokens"][i]}));
    EXPECT_EQ(c["content"].get<std::string>().size(), 1U);
    EXPECT_EQ(c["tokens_predicted"], i + 1);
    EXPECT_EQ(c["completion_probabilities"], Json::array({whole["completion_probabilities"][i]}));
    EXPECT_TRUE(c.contains("timings"));
    text += c["content"];
  }
  EXPECT_EQ(text, whole["content"]);
  const Json& last = chunks.back();
  EXPECT_EQ(last["stop"], true);
  EXPECT_EQ(last["content"], "");
  EXPECT_EQ(last["tokens"], Json::array());
  EXPECT_EQ(last["tokens_predicted"], 40);
  EXPECT_EQ(last["generation_settings"]["stream"], true);
}

// Characters of several tokens come with the token that completes them, and what is no text with the last one.
TEST(Native, ChunksHoldWholeCharacters) {
  Rig rig;
  const std::vector<std::string> pieces{"a", "\xc3\xa9", "\xe2\x82", "\xac", "bc", "\xff"};
  rig.model.vocabulary.piece = [&](Token t, ShowControl) {
    return pieces[static_cast<std::size_t>(t) % pieces.size()];
  };
  rig.start();
  for (int seed = 0; seed < 8; ++seed) {
    const Json body{{"prompt", "x"}, {"n_predict", 30}, {"temperature", 1.2}, {"seed", seed}, {"ignore_eos", true}};
    std::string text;
    std::size_t n_tokens = 0;
    for (const Json& c : stream(rig.api, body)) {
      text += c["content"];
      n_tokens += c["tokens"].size();
    }
    EXPECT_EQ(n_tokens, 30U);
    EXPECT_EQ(text, ask(rig.api, body)["content"]);
  }
}

TEST(Native, ProbabilitiesBeforeAndAfterTheSamplers) {
  Rig rig;
  rig.start();
  Json body{{"prompt", "once upon"},
            {"n_predict", 30},
            {"temperature", 0.7},
            {"top_k", 3},
            {"top_p", 1},
            {"min_p", 0},
            {"seed", 5},
            {"n_probs", 5},
            {"ignore_eos", true}};
  const Json before = ask(rig.api, body);
  body["post_sampling_probs"] = true;
  const Json after = ask(rig.api, body);
  EXPECT_EQ(before["content"], after["content"]);
  for (std::size_t i = 0; i < 30; ++i) {
    const Json& b = before["completion_probabilities"][i];
    const Json& a = after["completion_probabilities"][i];
    ASSERT_EQ(b["top_logprobs"].size(), 5U);
    ASSERT_EQ(a["top_probs"].size(), 3U) << "top-k left three";
    EXPECT_EQ(a["id"], b["id"]);
    // softmax of log p / 0.7 over the three
    double sum = 0;
    for (std::size_t k = 0; k < 3; ++k) sum += std::exp(b["top_logprobs"][k]["logprob"].get<double>() / 0.7);
    double total = 0;
    for (std::size_t k = 0; k < 3; ++k) {
      EXPECT_EQ(a["top_probs"][k]["id"], b["top_logprobs"][k]["id"]);
      EXPECT_NEAR(a["top_probs"][k]["prob"].get<double>(),
                  std::exp(b["top_logprobs"][k]["logprob"].get<double>() / 0.7) / sum, 1e-4);
      total += a["top_probs"][k]["prob"].get<double>();
      if (a["top_probs"][k]["id"] == a["id"]) {
        EXPECT_EQ(a["prob"], a["top_probs"][k]["prob"]);
      }
    }
    EXPECT_NEAR(total, 1, 1e-4);
    EXPECT_EQ(a["bytes"], Json::array({a["id"]}));
  }
}

TEST(Native, PromptsOfTextsAndTokensAndListsOfThem) {
  Rig rig;
  rig.start();
  const auto prompt = [&](const Json& p) {
    return ask(rig.api, {{"prompt", p}, {"n_predict", 2}, {"response_fields", {"prompt"}}});
  };
  EXPECT_EQ(prompt("ab"), (Json{{"prompt", "ab"}}));
  EXPECT_EQ(prompt({97, "xy", 98, 99}), (Json{{"prompt", "axybc"}}));
  EXPECT_EQ(prompt({"xy", 98}), (Json{{"prompt", "xyb"}}));
  EXPECT_EQ(prompt({{"prompt_string", "ab"}}), (Json{{"prompt", "ab"}}));
  const Json list = prompt({"ab", Json::array({97, 98}), Json::array({97, "c"}), Json{{"prompt_string", "z"}}});
  ASSERT_EQ(list.size(), 4U);
  EXPECT_EQ(list[1]["prompt"], "ab");
  EXPECT_EQ(list[2]["prompt"], "ac");
  EXPECT_EQ(list[3]["prompt"], "z");
  EXPECT_EQ(ask(rig.api, {{"prompt", "x"}, {"n_predict", 2}, {"n", 3}}).size(), 3U);
  Json many = Json::array();
  for (int i = 0; i < 60; ++i) many.push_back("p" + std::to_string(i));
  EXPECT_EQ(prompt(many).size(), 60U);
  for (int i = 0; i < 2000000; ++i) many.push_back("p");
  EXPECT_THAT(refused([&] {
                rig.api.native(Json{{"prompt", many}, {"n", 16}}.dump());
              }).what(),
              HasSubstr("takes in 67 at a time"));
}

TEST(Native, FieldsOfTheAnswerMayBeChosen) {
  Rig rig;
  rig.start();
  const Json body{{"prompt", "x"},
                  {"n_predict", 3},
                  {"response_fields", {"content", "generation_settings/n_predict", "nothing/at/all", "prompt"}}};
  const Json a = ask(rig.api, body);
  EXPECT_EQ(a.size(), 3U);
  EXPECT_EQ(a["generation_settings/n_predict"], 3);
  EXPECT_EQ(stream(rig.api, body).back().size(), 3U);
}

TEST(Native, ProgressOfThePromptComesBeforeTheText) {
  Rig rig;
  rig.start();
  const std::string prompt(100, 'k');
  const Json body{{"prompt", prompt}, {"n_predict", 3}, {"return_progress", true}, {"ignore_eos", true}};
  for (const std::size_t reused : {0U, 99U}) {
    std::vector<std::size_t> processed;
    bool text = false;
    for (const Json& c : stream(rig.api, body)) {
      if (!c.contains("prompt_progress")) {
        text = true;
        continue;
      }
      EXPECT_FALSE(text) << "after the first token";
      EXPECT_EQ(c["prompt_progress"]["total"], 100);
      EXPECT_EQ(c["prompt_progress"]["cache"], reused);
      processed.push_back(c["prompt_progress"]["processed"]);
    }
    ASSERT_GE(processed.size(), 2U);
    EXPECT_EQ(processed.front(), reused);
    EXPECT_EQ(processed.back(), 100U);
    EXPECT_TRUE(std::is_sorted(processed.begin(), processed.end()));
  }
  const auto chat = rig.api.completion(
      R"({"messages": [{"role": "user", "content": "q"}], "max_tokens": 2, "stream": true, "return_progress": true})",
      true);
  std::string all;
  while (!chat->finished()) all += chat->advance(milliseconds(100));
  EXPECT_THAT(all, HasSubstr("\"prompt_progress\":{\"total\":"));
}

TEST(Native, TheTimeOfAnAnswerIsBoundedAfterItsFirstLine) {
  RigOptions o;
  o.step_us = 3000;
  Rig rig(o);
  rig.model.vocabulary.piece = [](Token, ShowControl) { return std::string("\n"); };
  rig.start();
  const Json body{{"prompt", "x"}, {"ignore_eos", true}, {"n_predict", 60}, {"t_max_predict_ms", 20}};
  const Json a = ask(rig.api, body);
  EXPECT_EQ(a["stop_type"], "limit");
  EXPECT_EQ(a["stopping_word"], "");
  EXPECT_EQ(a["has_new_line"], true);
  EXPECT_LT(a["tokens_predicted"].get<int>(), 60);
  rig.model.vocabulary.piece = [](Token, ShowControl) { return std::string("x"); };
  EXPECT_EQ(ask(rig.api, body)["tokens_predicted"], 60) << "a line is not broken off";
}

TEST(Native, SamplersKeepTheTextTheSameInEveryMode) {
  Rig rig;
  rig.start();
  const Json variants =
      Json::array({{{"typical_p", 0.6}},
                   {{"top_n_sigma", 0.05}},
                   {{"dynatemp_range", 0.6}, {"dynatemp_exponent", 0.8}},
                   {{"xtc_probability", 0.5}, {"xtc_threshold", 0.005}},
                   {{"dry_multiplier", 5.0}, {"dry_allowed_length", 0}, {"dry_penalty_last_n", -1}},
                   {{"samplers", {"temperature", "min_p", "xtc"}}, {"xtc_probability", 0.6}, {"xtc_threshold", 0.005}},
                   {{"min_keep", 3}, {"top_p", 0.1}},
                   {{"temperature", 0}, {"typical_p", 0.3}}});
  Json body{{"prompt", "once upon"}, {"n_predict", 60}, {"temperature", 0.9}, {"seed", 8}, {"ignore_eos", true}};
  const std::string usual = ask(rig.api, body)["content"];
  for (const Json& v : variants) {
    Json one = body;
    one.update(v);
    one["speculative"] = {{"mode", "plain"}};
    const std::string plain = ask(rig.api, one)["content"];
    EXPECT_NE(plain, usual) << v << " has no effect";
    for (const char* mode : {"chain", "tree", "graph", "auto"}) {
      one["speculative"] = {{"mode", mode}};
      EXPECT_EQ(ask(rig.api, one)["content"], plain) << v << " " << mode;
    }
  }
  // What asks for nothing changes nothing.
  Json neutral = body;
  neutral.update({{"typical_p", 1},
                  {"top_n_sigma", -1},
                  {"dynatemp_range", 0},
                  {"xtc_probability", 0},
                  {"min_keep", 0},
                  {"mirostat", 0},
                  {"dry_multiplier", 0},
                  {"adaptive_target", -1},
                  {"n_indent", 0},
                  {"n_keep", 5},
                  {"id_slot", -1},
                  {"lora", Json::array()},
                  {"samplers", "edskypmxt"}});
  EXPECT_EQ(ask(rig.api, neutral)["content"], usual);
}

TEST(Native, ABiasMayNameATokenByItsText) {
  Rig rig;
  rig.start();
  for (const Json& bias : {Json{{"Z", 1000}}, Json::array({Json::array({"Z", 1000})})}) {
    EXPECT_EQ(ask(rig.api, {{"prompt", "x"}, {"n_predict", 4}, {"temperature", 0}, {"logit_bias", bias}})["content"],
              "ZZZZ");
  }
}

TEST(Native, TheServersLimitHoldsForEveryRequest) {
  Rig rig;
  rig.start();
  ApiOptions o = api_options();
  o.defaults.max_tokens = 5;
  Api api(rig.model, rig.scheduler, rig.metrics, o);
  for (const int asked : {-1, 3, 100}) {
    const Json a = ask(api, {{"prompt", "x"}, {"n_predict", asked}, {"ignore_eos", true}});
    EXPECT_EQ(a["tokens_predicted"], asked == 3 ? 3 : 5);
    EXPECT_EQ(a["generation_settings"]["n_predict"], asked == 3 ? 3 : 5);
  }
}

TEST(Native, PropertiesAndTokensAsLlamaServerTellsThem) {
  Rig rig;
  rig.model.path = "/models/a.gguf";
  rig.model.vocabulary.begin = 1;
  rig.model.vocabulary.end = 0;
  rig.model.vocabulary.piece = [](Token t, ShowControl show) {
    if (t == 1) return std::string(show == ShowControl::kYes ? "<s>" : "");
    return std::string(1, static_cast<char>(t));
  };
  const Json props = Json::parse(rig.api.props());
  EXPECT_EQ(props["model_path"], "/models/a.gguf");
  EXPECT_EQ(props["bos_token"], "<s>");
  EXPECT_EQ(props["chat_template"], kPlainTemplate);
  const Json& params = props["default_generation_settings"]["params"];
  EXPECT_EQ(params["samplers"],
            Json({"penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature"}));
  EXPECT_EQ(params["typical_p"], 1);
  EXPECT_EQ(rig.api.detokenize(R"({"tokens": [1, 97]})"), R"({"content":"<s>a"})");
}

// --- Infill
// ------------------------------------------------------------------------------------------------------------

Vocabulary filling(bool files) {
  Vocabulary v = ascii_model(512).vocabulary;
  v.fill = {.prefix = 1, .suffix = 2, .middle = 3, .repository = files ? 4 : -1, .file = files ? 5 : -1};
  v.piece = [](Token t, ShowControl) {
    return t > 0 && t < 6 ? "[" + std::to_string(t) + "]" : std::string(1, static_cast<char>(t));
  };
  return v;
}

std::string shown(const Json& body, bool files, int n_ctx = 512) {
  const Vocabulary v = filling(files);
  std::string out;
  for (const Token t : infill_prompt(parse_infill(body.dump(), {}), v, n_ctx)) out += v.piece(t, ShowControl::kYes);
  return out;
}

TEST(Infill, FramesWhatStandsAroundTheGap) {
  const Json body{{"input_prefix", "int a"}, {"input_suffix", ";\n"}, {"prompt", " ="}};
  EXPECT_EQ(shown(body, false), "[1]int a =[2];\n[3]");
  EXPECT_EQ(shown(body, true), "[4]myproject\n[5]filename\n[1]int a =[2];\n[3]");
  Json more = body;
  more["input_extra"] = {{{"filename", "b.h"}, {"text", "int b;"}}, {{"text", "c"}}};
  EXPECT_EQ(shown(more, true), "[4]myproject\n[5]b.h\nint b;[5]tmp\nc[5]filename\n[1]int a =[2];\n[3]");
  EXPECT_EQ(shown(more, false), "\n\n--- snippet ---\n\nint b;\n\n--- snippet ---\n\nc[1]int a =[2];\n[3]");
}

TEST(Infill, CutsWhatIsFurthestFromTheGap) {
  const std::string prefix = std::string(500, 'a') + "P";
  const std::string suffix = "S" + std::string(500, 'b');
  const Json body{{"input_prefix", prefix}, {"input_suffix", suffix}, {"n_predict", 50}};
  const std::string both = shown(body, false, 256);
  EXPECT_THAT(both, HasSubstr("aP[2]Sb"));
  const auto count = [&](const std::string& text, char c) { return std::count(text.begin(), text.end(), c); };
  EXPECT_EQ(count(both, 'b') + count(both, 'S'), (256 - 54) / 4);
  EXPECT_EQ(count(both, 'a') + count(both, 'b') + 2, 256 - 54);
  const std::string one = shown({{"input_prefix", "P"}, {"input_suffix", suffix}, {"n_predict", 50}}, false, 256);
  EXPECT_EQ(count(one, 'b') + 2, 256 - 54) << "a short prefix leaves its room to the suffix";
  const Json extra{{"input_prefix", "P"},
                   {"input_suffix", "S"},
                   {"n_predict", 50},
                   {"input_extra", {{{"text", std::string(900, 'x') + "X"}}}}};
  const std::string cut = shown(extra, true, 256);
  EXPECT_THAT(cut, testing::MatchesRegex("x+X\\[5\\]filename\n\\[1\\]P\\[2\\]S\\[3\\]"));
}

TEST(Infill, AnswersInTheNativeFormAndSaysWhatItLacks) {
  Rig rig;
  const Json body{{"input_prefix", "int a"}, {"input_suffix", ";"}, {"n_predict", 6}, {"ignore_eos", true}};
  const ApiError lacking = refused([&] { rig.api.infill(body.dump()); });
  EXPECT_EQ(lacking.status(), 501);
  EXPECT_THAT(lacking.what(), HasSubstr("no token for prefix, suffix, middle"));
  rig.model.vocabulary = filling(false);
  rig.model.vocabulary.end = 0;
  rig.start();
  const Json a = finish(rig.api.infill(body.dump()));
  EXPECT_EQ(a["prompt"], "[1]int a[2];[3]");
  EXPECT_EQ(a["tokens_predicted"], 6);
  // A suffix of OpenAI's completions asks for the same.
  const Json suffix{{"prompt", "int a"}, {"suffix", ";"}, {"max_tokens", 6}, {"ignore_eos", true}, {"temperature", 0}};
  Json same = body;
  same["temperature"] = 0;
  const Json completion = finish(rig.api.completion(suffix.dump(), false));
  EXPECT_EQ(completion["choices"][0]["text"], finish(rig.api.infill(same.dump()))["content"]);
  EXPECT_EQ(completion["usage"]["prompt_tokens"], a["tokens_evaluated"]);
  Json tokens = suffix;
  tokens["prompt"] = {97, 98};
  EXPECT_THAT(refused([&] { rig.api.completion(tokens.dump(), false); }).what(), HasSubstr("'suffix' needs prompts"));
  EXPECT_EQ(refused([&] { rig.api.native(R"({"prompt": "x", "suffix": "y"})"); }).param(), "suffix");
  EXPECT_EQ(refused([&] { rig.api.native(R"({"prompt": "x", "echo": true})"); }).param(), "echo");
  const auto field = [&](const Json& b) { return refused([&] { rig.api.infill(b.dump()); }).param(); };
  EXPECT_EQ(field({{"input_suffix", "x"}}), "input_prefix");
  EXPECT_EQ(field({{"input_prefix", "x"}}), "input_suffix");
  EXPECT_EQ(field({{"input_prefix", "x"}, {"input_suffix", "x"}, {"prompt", 3}}), "prompt");
  EXPECT_EQ(field({{"input_prefix", "x"}, {"input_suffix", "x"}, {"input_extra", "x"}}), "input_extra");
  EXPECT_EQ(field({{"input_prefix", "x"}, {"input_suffix", "x"}, {"input_extra", {{{"filename", "y"}}}}}),
            "input_extra[0].text");
  // What llama.vim sends.
  Json vim = body;
  vim.update({{"samplers", {"top_k", "top_p", "infill"}},
              {"top_k", 40},
              {"top_p", 0.9},
              {"n_indent", 0},
              {"t_max_prompt_ms", 500},
              {"t_max_predict_ms", 1000},
              {"response_fields", {"content", "timings/prompt_n"}}});
  EXPECT_EQ(finish(rig.api.infill(vim.dump())).size(), 2U);
}

}  // namespace
}  // namespace gsd::server
