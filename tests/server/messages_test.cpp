// The Messages API through the server's parts, over a scripted model.
#include "../../src/server/messages.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "scripted_answer.h"

namespace gsd::server {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;

constexpr const char* kCall =
    "I look.\n<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Ulm\", \"days\": "
    "3}}\n</tool_call>";

Json their_tools() {
  Json out = Json::array();
  for (const Json& t : tools())
    out.push_back({{"name", t["function"]["name"]}, {"input_schema", t["function"]["parameters"]}});
  return out;
}

Json request(const Json& more = Json::object()) {
  Json out{
      {"model", "x"}, {"max_tokens", 400}, {"temperature", 0}, {"messages", {{{"role", "user"}, {"content", "?"}}}}};
  out.update(more);
  return out;
}

Json ask(Rig& rig, const Json& body) {
  const auto call = rig.api.message(body.dump());
  while (!call->finished()) call->advance(milliseconds(100));
  return Json::parse(call->response());
}

// The message that a client builds from a stream, as Anthropic's package does.
Json streamed(Rig& rig, Json body) {
  body["stream"] = true;
  const auto call = rig.api.message(body.dump());
  std::string all;
  while (!call->finished()) all += call->advance(milliseconds(100));
  Json out;
  std::vector<std::string> inputs;
  bool stopped = false;
  std::size_t n_closed = 0;
  for (std::size_t at = 0; at < all.size();) {
    const std::size_t end = all.find("\n\n", at);
    const std::size_t line = all.find('\n', at);
    const Json e = Json::parse(all.substr(line + 7, end - line - 7));
    const std::string type = e["type"];
    EXPECT_EQ(all.substr(at, line - at), "event: " + type);
    EXPECT_FALSE(stopped);
    at = end + 2;
    if (type == "error") return e;
    if (type == "message_start") out = e["message"];
    if (type == "content_block_start") {
      EXPECT_EQ(e["index"], out["content"].size());
      EXPECT_EQ(n_closed, out["content"].size()) << "two blocks are open";
      out["content"].push_back(e["content_block"]);
      inputs.emplace_back();
    }
    if (type == "content_block_delta") {
      Json& block = out["content"][e["index"].get<std::size_t>()];
      const Json& d = e["delta"];
      if (d["type"] == "text_delta") block["text"] = block["text"].get<std::string>() + d["text"].get<std::string>();
      if (d["type"] == "thinking_delta")
        block["thinking"] = block["thinking"].get<std::string>() + d["thinking"].get<std::string>();
      if (d["type"] == "input_json_delta") inputs.back() += d["partial_json"].get<std::string>();
    }
    if (type == "content_block_stop") {
      ++n_closed;
      Json& block = out["content"][e["index"].get<std::size_t>()];
      if (block["type"] == "tool_use") block["input"] = Json::parse(inputs.back());
    }
    if (type == "message_delta") {
      out.update(e["delta"]);
      out["usage"] = e["usage"];
    }
    stopped = type == "message_stop";
  }
  EXPECT_TRUE(stopped);
  return out;
}

TEST(Messages, TheTextIsThatOfAChatInEveryModeStreamedOrNot) {
  Rig rig;
  rig.start();
  for (const char* mode : {"plain", "graph", "auto"}) {
    const Json body =
        request({{"temperature", 0.9}, {"seed", 5}, {"max_tokens", 60}, {"speculative", {{"mode", mode}}}});
    const auto call = rig.api.completion(body.dump(), true);
    while (!call->finished()) call->advance(milliseconds(100));
    const Json message = Json::parse(call->response())["choices"][0]["message"];
    EXPECT_EQ(ask(rig, body)["content"][0]["text"], message["content"]);
    EXPECT_EQ(streamed(rig, body)["content"][0]["text"], message["content"]);
  }
}

TEST(Messages, ThinkingTextAndCallsStreamedOrNot) {
  RigOptions o = rig_for("hermes", std::string("<think>Hm.</think>") + kCall);
  o.chat_template = std::string("{# <think> #}{% if tools %}{{ tools | tojson }}{% endif %}") + kPlainTemplate;
  Rig rig(o);
  rig.start();
  const Json body = request({{"tools", their_tools()}});
  const Json whole = ask(rig, body);
  ASSERT_EQ(whole["content"].size(), 3U) << whole;
  EXPECT_EQ(whole["content"][0]["thinking"], "Hm.");
  EXPECT_EQ(whole["content"][1]["text"], "I look.");
  EXPECT_EQ(whole["content"][2]["name"], "get_weather");
  EXPECT_EQ(whole["content"][2]["input"], (Json{{"city", "Ulm"}, {"days", 3}}));
  EXPECT_EQ(whole["stop_reason"], "tool_use");
  EXPECT_GT(whole["usage"]["input_tokens"], 0);
  Json s = streamed(rig, body);
  s["content"][2].erase("id");
  Json w = whole;
  w["content"][2].erase("id");
  EXPECT_EQ(s["content"], w["content"]);
  EXPECT_EQ(s["stop_reason"], "tool_use");
  EXPECT_EQ(s["usage"]["output_tokens"], whole["usage"]["output_tokens"]);
}

TEST(Messages, WhyItStopped) {
  Rig rig(rig_for("", "One two three four."));
  rig.start();
  EXPECT_EQ(ask(rig, request())["stop_reason"], "end_turn");
  EXPECT_EQ(ask(rig, request({{"max_tokens", 5}}))["stop_reason"], "max_tokens");
  const Json stopped = streamed(rig, request({{"stop_sequences", {"thr"}}}));
  EXPECT_EQ(stopped["stop_reason"], "stop_sequence");
  EXPECT_EQ(stopped["stop_sequence"], "thr");
  EXPECT_EQ(stopped["content"][0]["text"], "One two ");
}

TEST(Messages, TokensAreCountedAsTheyAreUsed) {
  Rig rig(rig_for("hermes", "Four."));
  rig.start();
  const Json body = request({{"tools", their_tools()}, {"system", {{{"type", "text"}, {"text", "Be brief."}}}}});
  const Json usage = ask(rig, body)["usage"];
  const Json counted = Json::parse(rig.api.count_tokens(body.dump()));
  EXPECT_EQ(counted["input_tokens"].get<int>(),
            usage["input_tokens"].get<int>() + usage["cache_read_input_tokens"].get<int>());
}

TEST(Messages, BlocksBecomeMessages) {
  const Json chat = messages_to_chat(Json::parse(R"({
    "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}],
    "tool_choice": {"type": "any", "disable_parallel_tool_use": true},
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "tools": [{"name": "now", "input_schema": {"type": "object"}, "cache_control": {"type": "ephemeral"}}],
    "messages": [
      {"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "b"}]},
      {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": ""}, {"type": "text", "text": "c"},
                                        {"type": "tool_use", "id": "t1", "name": "now", "input": {"x": 1}}]},
      {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "noon"}], "is_error": false},
                                   {"type": "text", "text": "d"}]}]})"));
  const Json& m = chat["messages"];
  ASSERT_EQ(m.size(), 5U) << m;
  EXPECT_EQ(m[0], (Json{{"role", "system"}, {"content", "s"}}));
  EXPECT_EQ(m[1]["content"].size(), 2U);
  EXPECT_EQ(m[2]["reasoning_content"], "hm");
  EXPECT_EQ(m[2]["tool_calls"][0]["function"]["arguments"], R"({"x":1})");
  EXPECT_EQ(m[3]["tool_call_id"], "t1");
  EXPECT_EQ(m[4]["content"][0]["text"], "d");
  EXPECT_EQ(chat["tool_choice"], "required");
  EXPECT_EQ(chat["parallel_tool_calls"], false);
  EXPECT_EQ(chat["enable_thinking"], true);
  EXPECT_EQ(chat["reasoning_budget"], 1024);
}

TEST(Messages, WhatFailsIsSaidInTheirShape) {
  Rig rig;
  rig.start();
  const Json body = request({{"grammar", "root ::= s\ns ::= s s s s | s s s | s s | [a-z ]"}, {"ignore_eos", true}});
  EXPECT_THROW(ask(rig, body), ApiError);
  const Json e = streamed(rig, body);
  EXPECT_EQ(e["type"], "error");
  EXPECT_EQ(e["error"]["type"], "invalid_request_error");
  EXPECT_THAT(e["error"]["message"].get<std::string>(), HasSubstr("too much work"));
  const auto type = [](int status) {
    return Json::parse(anthropic_error_json(ApiError(status, "x")))["error"]["type"].get<std::string>();
  };
  EXPECT_EQ(type(401), "authentication_error");
  EXPECT_EQ(type(404), "not_found_error");
  EXPECT_EQ(type(503), "overloaded_error");
  EXPECT_EQ(type(500), "api_error");
}

TEST(Messages, WhatIsNotSupportedIsRefusedByName) {
  Rig rig;
  rig.start();
  const auto why = [&](const Json& more) -> std::string {
    try {
      rig.api.message(request(more).dump());
    } catch (const ApiError& e) {
      EXPECT_EQ(e.status(), 400);
      return e.what();
    }
    return "accepted";
  };
  const auto content = [&](const char* block) {
    return why({{"messages", {{{"role", "user"}, {"content", {Json::parse(block)}}}}}});
  };
  EXPECT_THAT(content(R"({"type": "image", "source": {}})"), HasSubstr("'image'"));
  EXPECT_THAT(content(R"({"type": "tool_use", "id": "1", "name": "x", "input": {}})"), HasSubstr("'tool_use'"));
  EXPECT_THAT(content(R"({"type": "text"})"), HasSubstr("text"));
  EXPECT_THAT(content("5"), HasSubstr("objects"));
  EXPECT_THAT(why({{"tools", {{{"type", "web_search_20250305"}, {"name", "web_search"}}}}}), HasSubstr("web_search"));
  EXPECT_THAT(why({{"tool_choice", {{"type", "some"}}}}), HasSubstr("tool_choice.type"));
  EXPECT_THAT(why({{"thinking", {{"type", "deep"}}}}), HasSubstr("thinking.type"));
  EXPECT_THAT(why({{"mcp_servers", {{{"url", "x"}}}}}), HasSubstr("mcp_servers"));
  EXPECT_THAT(why({{"messages", Json::array()}}), HasSubstr("messages"));
  EXPECT_THAT(why({{"system", 5}}), HasSubstr("system"));
  EXPECT_EQ(why({{"metadata", {{"user_id", "u"}}}, {"service_tier", "auto"}, {"mcp_servers", Json::array()}}),
            "accepted");
}

}  // namespace
}  // namespace gsd::server
