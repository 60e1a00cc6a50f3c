// The Responses API through the server's parts, over a scripted model.
#include "../../src/server/responses.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "scripted_answer.h"

namespace gsd::server {
namespace {

using std::chrono::milliseconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr const char* kCall =
    "I look.\n<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Ulm\", \"days\": "
    "3}}\n</tool_call>";

Json flat_tools() {
  Json out = Json::array();
  for (const Json& t : tools()) {
    Json flat = t["function"];
    flat["type"] = "function";
    out.push_back(std::move(flat));
  }
  return out;
}

Json request(const Json& more = Json::object()) {
  Json out{{"input", "?"}, {"temperature", 0}, {"max_output_tokens", 400}};
  out.update(more);
  return out;
}

Json ask(Rig& rig, const Json& body) {
  const auto call = rig.api.response(body.dump());
  while (!call->finished()) call->advance(milliseconds(100));
  return Json::parse(call->response());
}

// The events of a stream, whose names and numbers must be right.
std::vector<Json> stream(Rig& rig, Json body) {
  body["stream"] = true;
  const auto call = rig.api.response(body.dump());
  std::string all;
  while (!call->finished()) all += call->advance(milliseconds(100));
  std::vector<Json> out;
  for (std::size_t at = 0; at < all.size();) {
    const std::size_t end = all.find("\n\n", at);
    const std::size_t line = all.find('\n', at);
    out.push_back(Json::parse(all.substr(line + 7, end - line - 7)));
    EXPECT_EQ(all.substr(at, line - at), "event: " + out.back()["type"].get<std::string>());
    EXPECT_EQ(out.back()["sequence_number"], out.size() - 1);
    at = end + 2;
  }
  return out;
}

// What a client builds from the events, as the `openai` package does.
Json built(const std::vector<Json>& events) {
  Json output = Json::array();
  for (const Json& e : events) {
    const std::string type = e["type"];
    if (type == "response.output_item.added") {
      EXPECT_EQ(e["output_index"], output.size());
      output.push_back(e["item"]);
    }
    if (!e.contains("output_index")) continue;
    Json& item = output[e["output_index"].get<std::size_t>()];
    if (e.contains("item_id")) {
      EXPECT_EQ(e["item_id"], item["id"]);
    }
    if (type == "response.content_part.added") item["content"].push_back(e["part"]);
    if (type == "response.output_text.delta" || type == "response.reasoning_text.delta") {
      Json& text = item["content"][e["content_index"].get<std::size_t>()]["text"];
      text = text.get<std::string>() + e["delta"].get<std::string>();
    }
    if (type == "response.function_call_arguments.delta")
      item["arguments"] = item["arguments"].get<std::string>() + e["delta"].get<std::string>();
    if (type == "response.output_text.done" || type == "response.reasoning_text.done") {
      EXPECT_EQ(e["text"], item["content"][0]["text"]);
    }
    if (type == "response.content_part.done") {
      EXPECT_EQ(e["part"], item["content"][0]);
    }
    if (type == "response.function_call_arguments.done") {
      EXPECT_EQ(e["arguments"], item["arguments"]);
    }
    if (type == "response.output_item.done") {
      item["status"] = e["item"]["status"];
      EXPECT_EQ(item, e["item"]);
    }
  }
  return output;
}

std::vector<std::string> types(const std::vector<Json>& events) {
  std::vector<std::string> out;
  for (const Json& e : events) {
    std::string type = e["type"];
    type.erase(0, std::string_view("response.").size());
    if (out.empty() || out.back() != type) out.push_back(type);  // deltas once
  }
  return out;
}

TEST(Responses, TheTextIsThatOfAChatInEveryModeStreamedOrNot) {
  Rig rig;
  rig.start();
  for (const char* mode : {"plain", "graph", "auto"}) {
    const Json more{{"temperature", 0.9}, {"seed", 5}, {"speculative", {{"mode", mode}}}};
    Json chat{{"messages", {{{"role", "user"}, {"content", "?"}}}}, {"max_tokens", 60}};
    chat.update(more);
    const auto call = rig.api.completion(chat.dump(), true);
    while (!call->finished()) call->advance(milliseconds(100));
    const Json message = Json::parse(call->response())["choices"][0]["message"];
    Json body = request(more);
    body["max_output_tokens"] = 60;
    const Json whole = ask(rig, body);
    EXPECT_EQ(whole["output"][0]["content"][0]["text"], message["content"]);
    EXPECT_EQ(built(stream(rig, body))[0]["content"][0]["text"], message["content"]);
  }
}

TEST(Responses, AWholeResponseSaysWhatItWasAskedAndWhatItCost) {
  Rig rig(rig_for("", "Four."));
  rig.start();
  const Json r = ask(rig, request({{"metadata", {{"a", "b"}}},
                                   {"instructions", "Be brief."},
                                   {"top_p", 1},
                                   {"reasoning", {{"effort", "low"}, {"summary", "auto"}}},
                                   {"include", {"reasoning.encrypted_content"}},
                                   {"prompt_cache_key", "k"}}));
  EXPECT_EQ(r["object"], "response");
  EXPECT_EQ(r["status"], "completed");
  EXPECT_TRUE(r["error"].is_null() && r["incomplete_details"].is_null());
  EXPECT_EQ(r["metadata"]["a"], "b");
  EXPECT_EQ(r["instructions"], "Be brief.");
  EXPECT_EQ(r["reasoning"]["effort"], "low");
  EXPECT_EQ(r["max_output_tokens"], 400);
  EXPECT_EQ(r["temperature"], 0);
  EXPECT_EQ(r["text"]["format"]["type"], "text");
  ASSERT_EQ(r["output"].size(), 1U);
  EXPECT_EQ(r["output"][0]["type"], "message");
  EXPECT_EQ(r["output"][0]["status"], "completed");
  EXPECT_EQ(r["output"][0]["content"][0]["text"], "Four.");
  EXPECT_EQ(r["usage"]["output_tokens"], 6);  // with the end of text
  EXPECT_EQ(r["usage"]["total_tokens"].get<int>(), r["usage"]["input_tokens"].get<int>() + 6);
}

TEST(Responses, TheEventsOfReasoningTextAndCalls) {
  RigOptions o = rig_for("hermes", std::string("<think>Hm.</think>") + kCall);
  o.chat_template = std::string("{# <think> #}{% if tools %}{{ tools | tojson }}{% endif %}") + kPlainTemplate;
  Rig rig(o);
  rig.start();
  const Json body = request({{"tools", flat_tools()}});
  const std::vector<Json> events = stream(rig, body);
  EXPECT_THAT(types(events),
              ElementsAre("created", "in_progress", "output_item.added", "content_part.added", "reasoning_text.delta",
                          "reasoning_text.done", "content_part.done", "output_item.done", "output_item.added",
                          "content_part.added", "output_text.delta", "output_text.done", "content_part.done",
                          "output_item.done", "output_item.added", "function_call_arguments.delta",
                          "function_call_arguments.done", "output_item.done", "completed"));
  EXPECT_EQ(events[0]["response"]["status"], "in_progress");
  EXPECT_TRUE(events[0]["response"]["output"].empty());
  const Json output = built(events);
  EXPECT_EQ(output, events.back()["response"]["output"]);
  EXPECT_EQ(output[0]["content"][0]["text"], "Hm.");
  EXPECT_EQ(output[1]["content"][0]["text"], "I look.");
  EXPECT_EQ(output[2]["name"], "get_weather");
  EXPECT_EQ(Json::parse(output[2]["arguments"].get<std::string>()), (Json{{"city", "Ulm"}, {"days", 3}}));
  const Json whole = ask(rig, body);
  EXPECT_EQ(whole["output"][2]["arguments"], output[2]["arguments"]);
}

TEST(Responses, WhatIsCutIsIncomplete) {
  Rig rig(rig_for("", "One two three four five six seven."));
  rig.start();
  const Json body = request({{"max_output_tokens", 7}});
  const Json r = ask(rig, body);
  EXPECT_EQ(r["status"], "incomplete");
  EXPECT_EQ(r["incomplete_details"]["reason"], "max_output_tokens");
  EXPECT_EQ(r["output"][0]["status"], "incomplete");
  const std::vector<Json> events = stream(rig, body);
  EXPECT_EQ(events.back()["type"], "response.incomplete");
  EXPECT_EQ(built(events), events.back()["response"]["output"]);
}

TEST(Responses, AnEmptyAnswerIsAnEmptyMessage) {
  Rig rig(rig_for("", ""));
  rig.start();
  const std::vector<Json> events = stream(rig, request());
  EXPECT_EQ(events.back()["response"]["output"][0]["content"][0]["text"], "");
  EXPECT_EQ(built(events), events.back()["response"]["output"]);
}

TEST(Responses, WhatFailsIsSaid) {
  Rig rig;
  rig.start();
  const Json body = request({{"grammar", "root ::= s\ns ::= s s s s | s s s | s s | [a-z ]"}, {"ignore_eos", true}});
  EXPECT_THROW(ask(rig, body), ApiError);
  const Json last = stream(rig, body).back();
  EXPECT_EQ(last["type"], "response.failed");
  EXPECT_EQ(last["response"]["status"], "failed");
  EXPECT_THAT(last["response"]["error"]["message"].get<std::string>(), HasSubstr("too much work"));
}

TEST(Responses, AStructuredAnswer) {
  Rig rig;
  rig.start();
  const Json schema{{"type", "object"},
                    {"properties", {{"a", {{"enum", {"x", "y"}}}}}},
                    {"required", {"a"}},
                    {"additionalProperties", false}};
  const Json r =
      ask(rig, request({{"text", {{"format", {{"type", "json_schema"}, {"name", "n"}, {"schema", schema}}}}}}));
  const Json value = Json::parse(r["output"][0]["content"][0]["text"].get<std::string>());
  EXPECT_TRUE(value["a"] == "x" || value["a"] == "y") << value;
  EXPECT_EQ(r["text"]["format"]["name"], "n");
}

// What the translation makes of items: a chat's messages.
Json messages_for(const Json& input, ResponseStore& store, const Json& more = Json::object()) {
  Json body{{"input", input}};
  body.update(more);
  return read_response(body, store).chat["messages"];
}

TEST(Responses, ItemsBecomeMessages) {
  ResponseStore store;
  const Json input = Json::parse(R"([
    {"role": "developer", "content": "d"},
    {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
    {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
    {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [{"type": "output_text", "text": "c", "annotations": []}]},
    {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "now", "arguments": "{}"},
    {"type": "function_call", "call_id": "c2", "name": "now", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c1", "output": "noon"},
    {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "night"}]}])");
  const Json m = messages_for(input, store, {{"instructions", "i"}});
  ASSERT_EQ(m.size(), 5U) << m;
  EXPECT_EQ(m[0]["content"], "i\n\nd");
  EXPECT_EQ(m[1]["content"].size(), 2U);
  EXPECT_EQ(m[2]["reasoning_content"], "hm");
  EXPECT_EQ(m[2]["content"][0]["text"], "c");
  EXPECT_EQ(m[2]["tool_calls"].size(), 2U);
  EXPECT_EQ(m[2]["tool_calls"][1]["id"], "c2");
  EXPECT_EQ(m[3]["tool_call_id"], "c1");
  EXPECT_EQ(m[4]["content"][0]["text"], "night");
}

TEST(Responses, AConversationGoesOnFromAResponseThatWasKept) {
  Rig rig(rig_for("hermes", kCall));
  rig.start();
  const Json first = ask(rig, request({{"tools", flat_tools()}, {"instructions", "old"}}));
  const std::string id = first["id"];
  const Json& call = first["output"][1];
  EXPECT_EQ(Json::parse(rig.api.kept_response(id)), first);
  const Json result{{"type", "function_call_output"}, {"call_id", call["call_id"]}, {"output", "rain"}};
  const Json second = ask(rig, request({{"tools", flat_tools()}, {"previous_response_id", id}, {"input", {result}}}));
  EXPECT_EQ(second["previous_response_id"], id);
  EXPECT_GT(second["usage"]["input_tokens"].get<int>(), first["usage"]["input_tokens"].get<int>());
  // The same in references to items, as @ai-sdk/openai sends it.
  const Json reference{{"type", "item_reference"}, {"id", call["id"]}};
  EXPECT_EQ(ask(rig, request({{"input", {reference, result}}}))["status"], "completed");
  EXPECT_THAT(rig.api.delete_response(id), HasSubstr("true"));
  for (const Json& body : {request({{"previous_response_id", id}}), request({{"input", {reference}}})}) {
    try {
      rig.api.response(body.dump());
      FAIL() << body;
    } catch (const ApiError& e) {
      EXPECT_EQ(e.status(), 404);
    }
  }
  const Json unkept = ask(rig, request({{"store", false}}));
  EXPECT_THROW(rig.api.kept_response(unkept["id"]), ApiError);
}

TEST(Responses, WhatIsKeptIsBoundedByBytes) {
  ResponseStore store(10000);
  for (int i = 0; i < 50; ++i) {
    store.put(std::to_string(i), {std::string(700, 'm'), std::string(700, 'r')});
    EXPECT_LE(store.n_bytes(), 10000U);
    store.find("0");  // stays because it is used
  }
  EXPECT_NE(store.find("0"), nullptr);
  EXPECT_NE(store.find("49"), nullptr);
  EXPECT_EQ(store.find("20"), nullptr);
  store.put("large", {std::string(20000, 'm'), ""});
  EXPECT_EQ(store.find("large"), nullptr);
  EXPECT_NE(store.find("49"), nullptr);
}

TEST(Responses, WhatIsNotSupportedIsRefusedByName) {
  Rig rig;
  rig.start();
  const auto why = [&](const Json& more) -> std::string {
    try {
      rig.api.response(request(more).dump());
    } catch (const ApiError& e) {
      EXPECT_EQ(e.status(), 400);
      return e.what();
    }
    return "accepted";
  };
  EXPECT_THAT(why({{"tools", {{{"type", "web_search"}}}}}), HasSubstr("web_search"));
  EXPECT_THAT(why({{"tools", {{{"type", "custom"}, {"name", "x"}}}}}), HasSubstr("custom"));
  EXPECT_THAT(why({{"tool_choice", {{"type", "file_search"}}}}), HasSubstr("file_search"));
  EXPECT_THAT(why({{"background", true}}), HasSubstr("background"));
  EXPECT_THAT(why({{"conversation", "conv_1"}}), HasSubstr("conversation"));
  EXPECT_THAT(why({{"truncation", "auto"}}), HasSubstr("truncation"));
  EXPECT_THAT(why({{"reasoning", {{"summary", "detailed"}}}}), HasSubstr("reasoning.summary"));
  EXPECT_THAT(why({{"include", {"message.output_text.logprobs"}}}), HasSubstr("include"));
  EXPECT_THAT(why({{"text", {{"format", {{"type", "grammar"}}}}}}), HasSubstr("grammar"));
  EXPECT_THAT(why({{"input", {{{"type", "web_search_call"}}}}}), HasSubstr("web_search_call"));
  EXPECT_THAT(
      why(Json::parse(R"({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]})")),
      HasSubstr("input_image"));
  EXPECT_THAT(why({{"input", 5}}), HasSubstr("'input'"));
  EXPECT_THAT(why({{"input", Json::array()}}), HasSubstr("messages"));
  EXPECT_THAT(why({{"n", 2}}), HasSubstr("'n'"));
  EXPECT_EQ(why({{"truncation", "disabled"},
                 {"service_tier", "auto"},
                 {"background", false},
                 {"store", false},
                 {"user", "u"},
                 {"stream_options", {{"include_obfuscation", false}}},
                 {"parallel_tool_calls", false}}),
            "accepted");
}

}  // namespace
}  // namespace gsd::server
