// Calls of functions through the server's parts: a scripted model answers in each family's format.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "scripted_answer.h"

namespace gsd::server {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;
using ::testing::Not;

Json question(const Json& more = Json::object()) {
  Json out{{"messages", {{{"role", "user"}, {"content", "?"}}}},
           {"temperature", 0},
           {"max_tokens", 400},
           {"tools", tools()}};
  out.update(more);
  return out;
}

Json ask(Rig& rig, const Json& body) {
  const auto call = rig.api.completion(body.dump(), true);
  while (!call->finished()) call->advance(milliseconds(100));
  return Json::parse(call->response())["choices"][0];
}

// A stream's deltas put together as clients do; the first chunk of a call must name it.
Json streamed(Rig& rig, Json body) {
  body["stream"] = true;
  const auto call = rig.api.completion(body.dump(), true);
  std::string all;
  while (!call->finished()) all += call->advance(milliseconds(100));
  Json message{{"content", ""}};
  Json out;
  for (std::size_t at = 0; (at = all.find("data: {", at)) != std::string::npos; ++at) {
    const Json chunk = Json::parse(all.substr(at + 6, all.find("\n\n", at) - at - 6));
    const Json& choice = chunk["choices"][0];
    const Json& d = choice["delta"];
    for (const char* field : {"content", "reasoning_content"}) {
      if (d.contains(field)) message[field] = message.value(field, "") + d[field].get<std::string>();
    }
    for (const Json& c : d.value("tool_calls", Json::array())) {
      Json& list = message["tool_calls"];
      const auto index = c["index"].get<std::size_t>();
      if (index >= list.size()) {
        EXPECT_EQ(index, list.size());
        EXPECT_TRUE(c.contains("id") && c["function"].contains("name")) << c;
        list.push_back({{"name", c["function"]["name"]}, {"arguments", ""}});
      } else {
        EXPECT_FALSE(c.contains("id"));
      }
      list[index]["arguments"] =
          list[index]["arguments"].get<std::string>() + c["function"]["arguments"].get<std::string>();
    }
    if (!choice["finish_reason"].is_null()) out["finish_reason"] = choice["finish_reason"];
  }
  out["message"] = message;
  return out;
}

const std::map<std::string, std::string>& answers() {
  static const std::map<std::string, std::string> all{
      {"hermes",
       "I look.\n<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Ulm\", \"days\": "
       "3}}\n</tool_call>\n<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>"},
      {"qwen3-coder",
       "I "
       "look.\n<tool_call>\n<function=get_weather>\n<parameter=city>\nUlm\n</parameter>\n<parameter=days>\n3\n</"
       "parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=now>\n</function>\n</tool_call>"},
      {"seed",
       "I "
       "look.<seed:tool_call>\n<function=get_weather>\n<parameter=city>Ulm</parameter>\n<parameter=days>3</"
       "parameter>\n</function>\n</seed:tool_call>\n<seed:tool_call>\n<function=now>\n</function>\n</seed:tool_call>"},
      {"minimax",
       "I look.<minimax:tool_call>\n<invoke name=\"get_weather\">\n<parameter "
       "name=\"city\">Ulm</parameter>\n<parameter name=\"days\">3</parameter>\n</invoke>\n<invoke "
       "name=\"now\">\n</invoke>\n</minimax:tool_call>"},
      {"glm",
       "I "
       "look.\n<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Ulm</arg_value>\n<arg_key>days</"
       "arg_key>\n<arg_value>3</arg_value>\n</tool_call>\n<tool_call>now\n</tool_call>"},
      {"llama3-python-tag",
       "I look.<|python_tag|>{\"name\": \"get_weather\", \"parameters\": {\"city\": \"Ulm\", \"days\": 3}}; {\"name\": "
       "\"now\", \"parameters\": {}}"},
      {"mistral",
       "I look.[TOOL_CALLS][{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Ulm\", \"days\": 3}, \"id\": "
       "\"abcdefghi\"}, {\"name\": \"now\", \"arguments\": {}}]"},
      {"mistral-args", "I look.[TOOL_CALLS]get_weather[ARGS]{\"city\": \"Ulm\", \"days\": 3}[TOOL_CALLS]now[ARGS]{}"},
      {"granite",
       "I look.<|tool_call|>[{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Ulm\", \"days\": 3}}, {\"name\": "
       "\"now\", \"arguments\": {}}]"},
      {"nemotron",
       "I look.<TOOLCALL>[{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Ulm\", \"days\": 3}}, {\"name\": "
       "\"now\", \"arguments\": {}}]</TOOLCALL>"},
      {"command-r",
       "I look.<|START_ACTION|>[\n {\"tool_call_id\": \"0\", \"tool_name\": \"get_weather\", \"parameters\": "
       "{\"city\": \"Ulm\", \"days\": 3}},\n {\"tool_call_id\": \"1\", \"tool_name\": \"now\", \"parameters\": "
       "{}}\n]<|END_ACTION|>"},
      {"kimi",
       "I "
       "look.<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>{"
       "\"city\": \"Ulm\", \"days\": "
       "3}<|tool_call_end|><|tool_call_begin|>functions.now:1<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_"
       "calls_section_end|>"},
      {"lfm2", "I look.<|tool_call_start|>[get_weather(city=\"Ulm\", days=3), now()]<|tool_call_end|>"},
      {"gemma",
       "I "
       "look.<|tool_call>call:get_weather{city:<|\"|>Ulm<|\"|>,days:3}<tool_call|><|tool_call>call:now{}<tool_call|>"},
      {"harmony",
       "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant to=functions.get_weather<|channel|>commentary "
       "json<|message|>{\"city\": \"Ulm\", \"days\": 3}"},
      {"llama3", "{\"name\": \"get_weather\", \"parameters\": {\"city\": \"Ulm\", \"days\": 3}}"},
      {"generic", "{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Ulm\", \"days\": 3}}"},
  };
  return all;
}

TEST(Calls, EveryFormatInEveryModeStreamedOrNot) {
  for (const auto& [format, answer] : answers()) {
    Rig rig(rig_for(format, answer));
    rig.start();
    const bool two = format != "harmony" && format != "llama3" && format != "generic";
    for (const char* mode : {"plain", "graph", "auto"}) {
      const Json body = question({{"speculative", {{"mode", mode}}}});
      const Json choice = ask(rig, body);
      const Json& message = choice["message"];
      EXPECT_EQ(choice["finish_reason"], "tool_calls") << format << ": " << choice;
      ASSERT_EQ(message["tool_calls"].size(), two ? 2U : 1U) << format << ": " << choice;
      const Json& call = message["tool_calls"][0];
      EXPECT_EQ(call["function"]["name"], "get_weather") << format;
      EXPECT_EQ(Json::parse(call["function"]["arguments"].get<std::string>()), (Json{{"city", "Ulm"}, {"days", 3}}))
          << format;
      EXPECT_GE(call["id"].get<std::string>().size(), 9U);
      EXPECT_EQ(message["content"], two || format == "harmony" ? Json("I look.") : Json()) << format;
      const Json s = streamed(rig, body);
      EXPECT_EQ(s["finish_reason"], "tool_calls");
      ASSERT_EQ(s["message"]["tool_calls"].size(), message["tool_calls"].size()) << format;
      for (std::size_t i = 0; i < message["tool_calls"].size(); ++i) {
        EXPECT_EQ(s["message"]["tool_calls"][i]["name"], message["tool_calls"][i]["function"]["name"]);
        EXPECT_EQ(s["message"]["tool_calls"][i]["arguments"], message["tool_calls"][i]["function"]["arguments"]);
      }
    }
  }
}

// The model would rather end, or close something: what comes is a call all the same.
TEST(Calls, RequiredCallsAreValidWhateverTheModelWants) {
  for (const std::string& format : chat::tool_format_names()) {
    if (format.starts_with("deepseek")) continue;  // its markers are no ASCII
    Rig rig(rig_for(format, "No."));
    rig.start();
    for (const char* mode : {"plain", "graph"}) {
      const Json choice =
          ask(rig, question({{"tool_choice", {{"type", "function"}, {"function", {{"name", "get_weather"}}}}},
                             {"speculative", {{"mode", mode}}},
                             {"max_tokens", 1500},
                             {"parallel_tool_calls", false}}));
      ASSERT_EQ(choice["finish_reason"], "tool_calls") << format << ": " << choice;
      ASSERT_EQ(choice["message"]["tool_calls"].size(), 1U) << format << ": " << choice;
      const Json& f = choice["message"]["tool_calls"][0]["function"];
      EXPECT_EQ(f["name"], "get_weather");
      const Json arguments = Json::parse(f["arguments"].get<std::string>());
      EXPECT_TRUE(arguments["city"].is_string() && arguments["days"].is_number_integer() && arguments.size() == 2)
          << format << ": " << arguments;
    }
  }
}

// From where a call begins only what the schema says may come.
TEST(Calls, ACallThatBeganIsKeptToTheSchema) {
  const std::map<std::string, std::string> wrong{
      {"hermes", "Hm. <tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": 5"},
      {"qwen3-coder",
       "<tool_call>\n<function=get_weather>\n<parameter=city>\nUlm\n</parameter>\n<parameter=days>\nmany"},
      {"glm", "<tool_call>get_weather\n<arg_key>town</arg_key>"},
      {"llama3", "{\"name\": \"launch\""},
      {"mistral", "[TOOL_CALLS] five"},
      {"harmony",
       "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary to=functions.launch"},
      {"gemma", "<|tool_call>call:get_weather{days"},
      {"lfm2", "<|tool_call_start|>print"},
  };
  for (const auto& [format, answer] : wrong) {
    Rig rig(rig_for(format, answer));
    rig.start();
    const Json choice = ask(rig, question({{"parallel_tool_calls", false}}));
    ASSERT_EQ(choice["finish_reason"], "tool_calls") << format << ": " << choice;
    for (const Json& call : choice["message"]["tool_calls"]) {
      const std::string name = call["function"]["name"];
      const Json arguments = Json::parse(call["function"]["arguments"].get<std::string>());
      EXPECT_TRUE(name == "now" || name == "get_weather") << format << ": " << call;
      const bool weather = name == "get_weather";
      EXPECT_TRUE(!weather || (arguments["city"].is_string() && arguments["days"].is_number_integer())) << call;
    }
  }
}

TEST(Calls, TextWithoutACallStaysText) {
  const std::string answer = "It is < 5 [1] {\"name\": 2} and to=functions.x <tool.";
  for (const char* format : {"hermes", "llama3", "mistral", "glm", "generic", "lfm2"}) {
    Rig rig(rig_for(format, answer));
    rig.start();
    const Json choice = ask(rig, question());
    EXPECT_EQ(choice["message"]["content"], answer) << format;
    EXPECT_EQ(choice["finish_reason"], "stop");
    EXPECT_FALSE(choice["message"].contains("tool_calls"));
  }
}

TEST(Calls, NoneMeansThatNothingIsACall) {
  Rig rig(rig_for("hermes", answers().at("hermes")));
  rig.start();
  const Json choice = ask(rig, question({{"tool_choice", "none"}}));
  EXPECT_EQ(choice["message"]["content"], answers().at("hermes"));
  EXPECT_EQ(choice["finish_reason"], "stop");
}

// The properties are those that a call of a function without a marker has too.
Json name_and_days() {
  const Json schema{{"type", "object"},
                    {"properties", {{"name", {{"type", "string"}}}, {"days", {{"type", "integer"}}}}},
                    {"required", {"name", "days"}},
                    {"additionalProperties", false}};
  return {{"type", "json_schema"}, {"json_schema", {{"name", "n"}, {"schema", schema}}}};
}

TEST(Calls, BesideResponseFormatTheAnswerIsACallOrWhatTheSchemaSays) {
  for (const auto& [format, both] : answers()) {
    // Text before a call is no JSON.
    const std::size_t begin = format == "harmony"           ? both.rfind("assistant") + 9
                              : both.starts_with("I look.") ? both.find_first_not_of(" \n", 7)
                                                            : 0;
    Rig rig(rig_for(format, both.substr(begin)));
    rig.start();
    for (const char* mode : {"plain", "graph"}) {
      const Json body = question({{"speculative", {{"mode", mode}}}, {"response_format", name_and_days()}});
      for (const Json& choice : {ask(rig, body), streamed(rig, body)}) {
        EXPECT_EQ(choice["finish_reason"], "tool_calls") << format << ": " << choice;
        EXPECT_GE(choice["message"]["tool_calls"].size(), 1U);
        EXPECT_TRUE(choice["message"]["content"].is_null() || choice["message"]["content"] == "") << choice;
      }
    }
  }
}

TEST(Calls, AnAnswerInJsonIsNoCallWhateverItHolds) {
  const std::vector<std::string> wanted{R"({"name": "Ulm", "days": 3})", R"({"name": "get_weather", "days": 3})",
                                        R"({"name": "<tool_call><function=now></function></tool_call>", "days": 3})",
                                        R"({"name": "[TOOL_CALLS]now[ARGS]{}", "days": 3})"};
  for (const std::string& format : chat::tool_format_names()) {
    if (format.starts_with("deepseek")) continue;  // its markers are no ASCII
    for (const std::string& json : wanted) {
      const std::string before = format == "harmony"     ? "<|channel|>final<|message|>"
                                 : format == "command-r" ? "<|START_RESPONSE|>"
                                                         : "";
      Rig rig(rig_for(format, before + json));
      rig.start();
      for (const char* mode : {"plain", "graph"}) {
        Json body = question({{"speculative", {{"mode", mode}}}, {"response_format", name_and_days()}});
        for (const Json& choice : {ask(rig, body), streamed(rig, body)}) {
          EXPECT_EQ(choice["finish_reason"], "stop") << format << ": " << choice;
          EXPECT_EQ(choice["message"]["content"], json) << format << ": " << choice;
          EXPECT_FALSE(choice["message"].contains("tool_calls")) << format << ": " << choice;
        }
        body["tool_choice"] = "none";
        EXPECT_EQ(ask(rig, body)["message"]["content"], json) << format;
        body["tool_choice"] = "required";
        body["max_tokens"] = 1500;
        body["parallel_tool_calls"] = false;
        EXPECT_EQ(ask(rig, body)["finish_reason"], "tool_calls") << format;
      }
    }
  }
}

RigOptions thinking(const std::string& answer) {
  RigOptions o = rig_for("", answer);
  o.chat_template = std::string(kPlainTemplate) + "{% if open %}<think>{% endif %}{# <think> #}";
  return o;
}

// A model that thinks first does so before it answers in a form, too.
TEST(Calls, ReasoningComesBeforeAnAnswerInJson) {
  const std::string json = R"({"name": "Ulm", "days": 3})";
  Json body{{"messages", {{{"role", "user"}, {"content", "?"}}}},
            {"temperature", 0},
            {"max_tokens", 200},
            {"response_format", name_and_days()}};
  const auto expect = [&](Rig& rig) {
    for (const char* mode : {"plain", "graph"}) {
      body["speculative"] = {{"mode", mode}};
      for (const Json& choice : {ask(rig, body), streamed(rig, body)}) {
        EXPECT_EQ(choice["message"]["reasoning_content"], "Hm.") << choice;
        EXPECT_EQ(choice["message"]["content"], json) << choice;
      }
    }
  };
  Rig closed(thinking("<think>\nHm.\n</think>\n\n" + json));
  closed.start();
  expect(closed);
  Json none = body;
  none["reasoning_format"] = "none";
  const Json message = ask(closed, none)["message"];
  EXPECT_TRUE(Json::accept(message["content"].get<std::string>())) << message;
  RigOptions o = thinking("");
  o.script = writes("<think>Hm.</think>" + json);
  Rig opened(o);
  opened.start();
  body["chat_template_kwargs"] = {{"open", true}};
  expect(opened);
  body.erase("chat_template_kwargs");
  Rig harmony(rig_for("harmony",
                      "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final "
                      "<|constrain|>json<|message|>" +
                          json));
  harmony.start();
  expect(harmony);
}

TEST(Calls, ReasoningIsGivenApart) {
  Rig rig(thinking("<think>\nHm.\n</think>\n\nFour."));
  rig.start();
  const Json body{{"messages", {{{"role", "user"}, {"content", "?"}}}}, {"temperature", 0}};
  Json message = ask(rig, body)["message"];
  EXPECT_EQ(message["reasoning_content"], "Hm.");
  EXPECT_EQ(message["content"], "Four.");
  message = streamed(rig, body)["message"];
  EXPECT_EQ(message["reasoning_content"], "Hm.");
  EXPECT_EQ(message["content"], "Four.");
  Json raw = body;
  raw["reasoning_format"] = "none";
  EXPECT_EQ(ask(rig, raw)["message"]["content"], "<think>\nHm.\n</think>\n\nFour.");
}

TEST(Calls, ReasoningThatThePromptOpened) {
  RigOptions o = thinking("");
  o.script = writes("<think>Hm.</think>Four.");
  Rig rig(o);
  rig.start();
  Json body{{"messages", {{{"role", "user"}, {"content", "?"}}}},
            {"temperature", 0},
            {"chat_template_kwargs", {{"open", true}}}};
  const Json message = ask(rig, body)["message"];
  EXPECT_EQ(message["reasoning_content"], "Hm.");
  EXPECT_EQ(message["content"], "Four.");
}

// Thinks without end until the tag stands there.
Script thinker() {
  return [](std::span<const Token> context, std::span<float> logits) {
    std::fill(logits.begin(), logits.end(), 0.0F);
    const std::string text = text_of(context);
    const auto after = [&](const std::string& tag) {
      const std::size_t at = text.rfind(tag);
      return at == std::string::npos ? at : text.size() - at - tag.size();
    };
    const auto next = [](const std::string& all, std::size_t n) { return n < all.size() ? all[n] : '\0'; };
    char c = 'a';
    if (const std::size_t n = after("</think>"); n != std::string::npos) {
      c = next("Four.", n);
    } else if (after("<think>") == std::string::npos) {
      const std::size_t begun = after(std::string(kAssistant));
      c = next("<think>", begun == std::string::npos ? 99 : begun);
    }
    logits[static_cast<unsigned char>(c)] = 30;
  };
}

TEST(Calls, ReasoningIsEndedAtItsBound) {
  for (const bool opened : {false, true}) {
    RigOptions o = thinking("");
    o.script = thinker();
    Rig rig(o);
    rig.start();
    for (const int budget : {0, 1, 7}) {
      for (const char* mode : {"plain", "graph", "auto"}) {
        const Json body{{"messages", {{{"role", "user"}, {"content", "?"}}}},
                        {"temperature", 0},
                        {"max_tokens", 100},
                        {"chat_template_kwargs", {{"open", opened}}},
                        {"speculative", {{"mode", mode}}},
                        {"reasoning_budget", budget}};
        const Json choice = ask(rig, body);
        EXPECT_EQ(choice["message"].value("reasoning_content", ""), std::string(static_cast<std::size_t>(budget), 'a'));
        EXPECT_EQ(choice["message"]["content"], "Four.") << opened << budget << mode;
        EXPECT_EQ(choice["finish_reason"], "stop");
      }
    }
  }
}

TEST(Calls, ABoundLeavesRoomForToolsAndIsRefusedWhereItCannotBeKept) {
  RigOptions o = thinking("");
  o.script = thinker();
  o.tool_format = "hermes";
  Rig rig(o);
  rig.start();
  EXPECT_EQ(ask(rig, question({{"thinking_budget_tokens", 5}}))["message"]["content"], "Four.");
  Rig harmony(rig_for("harmony", "x"));
  harmony.start();
  try {
    harmony.api.completion(question({{"reasoning_budget", 5}}).dump(), true);
    FAIL() << "accepted";
  } catch (const ApiError& e) {
    EXPECT_EQ(e.param(), "reasoning_budget");
  }
  Rig plain;
  plain.start();
  EXPECT_FALSE(ask(plain, {{"messages", {{{"role", "user"}, {"content", "?"}}}},
                           {"max_tokens", 5},
                           {"reasoning_budget", 0}})["message"]["content"]
                   .get<std::string>()
                   .empty())
      << "there is no reasoning to bound";
}

// A tag that the model has begun itself is let come to its end.
TEST(Calls, ABoundDoesNotBreakATag) {
  const TextModel m = ascii_model(64);
  auto texts = std::make_shared<TokenTexts>();
  for (Token t = 0; t < 128; ++t) texts->add(m.vocabulary.piece(t, ShowControl::kNo), t == 0);
  Constraint c = chat::reasoning_bound({"<t>", "</t>", {'<', '/', 't', '>'}, 3, true}, texts, std::nullopt);
  const auto write = [&](const std::string& text) {
    for (const char b : text) {
      EXPECT_TRUE(c.allows(b)) << text;
      c.advance(b);
    }
  };
  write("ab</");
  EXPECT_TRUE(c.allows('x')) << "inside a tag anything may come";
  write("t>xyz");  // it has ended by itself
  write("<t>abc");
  EXPECT_FALSE(c.allows('d'));
  write("</t>and so on <t>abc</");
  c.reset();
  write("ab<");
  write("x");  // no tag after all
  EXPECT_FALSE(c.allows('y'));
  write("</t>y");
}

TEST(Calls, ToolsAreRefusedByName) {
  Rig rig;
  rig.start();
  const auto why = [&](const Json& more) -> std::string {
    try {
      rig.api.completion(question(more).dump(), true);
    } catch (const ApiError& e) {
      EXPECT_EQ(e.status(), 400);
      return e.what();
    }
    return "accepted";
  };
  EXPECT_THAT(why({{"tools", {{{"type", "retrieval"}}}}}), HasSubstr("'tools'"));
  EXPECT_THAT(why({{"tools", {{{"type", "function"}, {"function", {{"name", "a b"}}}}}}}),
              HasSubstr("'tools.function.name'"));
  EXPECT_THAT(why({{"tool_choice", "always"}}), HasSubstr("'tool_choice'"));
  EXPECT_THAT(why({{"tool_choice", {{"type", "function"}, {"function", {{"name", "launch"}}}}}}), HasSubstr("launch"));
  EXPECT_THAT(why({{"tools", nullptr}, {"tool_choice", "required"}}), HasSubstr("needs tools"));
  EXPECT_THAT(why({{"reasoning_format", "latin"}}), HasSubstr("'reasoning_format'"));
  EXPECT_THAT(why({{"grammar", "root ::= [a-z]*"}}), HasSubstr("beside a grammar"));
  Json strict = tools();
  strict[0]["function"]["parameters"] = {{"type", "object"},
                                         {"properties", {{"a", {{"type", "array"}, {"uniqueItems", true}}}}}};
  EXPECT_EQ(why({{"tools", strict}}), "accepted");
  strict[0]["function"]["strict"] = true;
  EXPECT_THAT(why({{"tools", strict}}), HasSubstr("uniqueItems"));
}

TEST(Calls, AConversationWithResultsIsRendered) {
  Rig rig;
  const Json body = Json::parse(
      R"({"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": null, "tool_calls":
      [{"id": "1", "type": "function", "function": {"name": "now", "arguments": "{}"}}]}, {"role": "tool", "tool_call_id": "1", "content": "noon"}]})");
  EXPECT_THAT(rig.api.apply_template(body.dump()), HasSubstr("noon<assistant>"));
  // A template that writes no tools: the model is told in a system message.
  EXPECT_THAT(rig.api.apply_template(question().dump()), HasSubstr("get_weather"));
}

}  // namespace
}  // namespace gsd::server
