// Answers in each family's format, cut at every byte, and answers that are none.
#include "../../src/chat/reply.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "../../src/chat/json_scan.h"
#include "../random.h"
#include "gsd/error.h"

namespace gsd::chat {
namespace {

using Kind = ReplyDelta::Kind;

Json tools() {
  return Json::parse(
      R"([{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties":
      {"city": {"type": "string"}, "days": {"type": "integer"}, "tags": {"type": "array"}}}}},
      {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}])");
}

// "think[…] say[…] call[name] args[…]", neighbours of one kind joined.
class Shown {
 public:
  void add(const std::vector<ReplyDelta>& deltas) {
    for (const ReplyDelta& d : deltas) {
      if (!parts_.empty() && d.kind != Kind::kCall && parts_.back().kind == d.kind && parts_.back().call == d.call) {
        parts_.back().text += d.text;
      } else {
        parts_.push_back(d);
      }
    }
  }
  std::string text() const {
    std::string out;
    for (const ReplyDelta& d : parts_) {
      const char* const name = d.kind == Kind::kReasoning ? "think"
                               : d.kind == Kind::kContent ? "say"
                               : d.kind == Kind::kCall    ? "call"
                                                          : "args";
      out += (out.empty() ? "" : " ") + std::string(name) + "[" + d.text + "]";
    }
    return out;
  }
  const std::vector<ReplyDelta>& parts() const { return parts_; }

 private:
  std::vector<ReplyDelta> parts_;
};

Shown parse(const ToolFormat& f, const std::vector<std::string>& pieces, bool reasoning_open = false,
            bool calls = true) {
  const auto parser =
      make_reply_parser(f, {.calls = calls, .reasoning = true, .reasoning_open = reasoning_open, .tools = tools()});
  Shown out;
  std::vector<ReplyDelta> deltas;
  for (const std::string& p : pieces) {
    parser->push(p, deltas);
    out.add(deltas);
    deltas.clear();
  }
  parser->finish(deltas);
  out.add(deltas);
  return out;
}

ToolFormat with_thoughts(const char* name) {
  ToolFormat f = tool_format(name);
  if (f.style != CallStyle::kHarmony && f.reasoning_open.empty()) {
    f.reasoning_open = "<think>";
    f.reasoning_close = "</think>";
  }
  return f;
}

struct Example {
  const char* format;
  const char* answer;
  const char* expected;
  bool reasoning_open = false;
};

const std::vector<Example>& examples() {
  static const std::vector<Example> all{
      {"hermes", "Hello, world!\n", "say[Hello, world!\n]"},
      {"hermes", "<think>\nHm.\n\nYes.\n</think>\n\nFour.", "think[Hm.\n\nYes.] say[Four.]"},
      {"hermes", "\nHm.\n</think>\n\nFour.", "think[Hm.] say[Four.]", true},
      {"hermes", "Hm, for ever", "think[Hm, for ever]", true},
      {"hermes", "a < b <tool b", "say[a < b <tool b]"},
      {"hermes",
       "Let me look.\n<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Ulm \\\"}{\", \"days\": "
       "3}}\n</tool_call>",
       "say[Let me look.] call[get_weather] args[{\"city\": \"Ulm \\\"}{\", \"days\": 3}]"},
      {"hermes",
       "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>\n<tool_call>\n{\"arguments\": {\"city\": "
       "\"x\"}, \"name\": \"get_weather\"}\n</tool_call>\n",
       "call[now] args[{}] call[get_weather] args[{\"city\": \"x\"}]"},
      {"hermes", "<think>\nI call.\n</think>\n\n<tool_call>{\"name\": \"now\"}</tool_call>",
       "think[I call.] call[now] args[{}]"},
      {"hermes", "<tool_call> is a tag", "say[<tool_call> is a tag]"},
      {"hermes", "text <tool_call>\n{\"nam", "say[text <tool_call>\n{\"nam]"},
      {"hermes", "<tool_call>{\"name\": \"now\", \"arguments\": {\"a\": 1", "call[now] args[{\"a\": 1]"},
      {"hermes", "<tool_call>{\"name\": \"now\", \"arguments\": {}}</tool_call> Done.",
       "call[now] args[{}] say[Done.]"},
      {"qwen3-coder",
       "Look:\n<tool_call>\n<function=get_weather>\n<parameter=city>\nUlm\n\"<b>\"\n</"
       "parameter>\n<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>",
       R"(say[Look:] call[get_weather] args[{"city": "Ulm\n\"<b>\"", "days": 3}])"},
      {"qwen3-coder",
       "<tool_call>\n<function=now>\n</function>\n</"
       "tool_call>\n<tool_call>\n<function=get_weather>\n<parameter=city>\n5\n</parameter>\n</function>\n</tool_call>",
       R"(call[now] args[{}] call[get_weather] args[{"city": "5"}])"},
      {"seed",
       "<seed:tool_call>\n<function=get_weather>\n<parameter=tags>[1, 2]</parameter>\n</function>\n</seed:tool_call>",
       R"(call[get_weather] args[{"tags": [1,2]}])"},
      {"minimax",
       "Hm.\n</think>\n\nOk.\n<minimax:tool_call>\n<invoke name=\"get_weather\">\n<parameter "
       "name=\"city\">Ulm</parameter>\n</invoke>\n<invoke name=\"now\">\n</invoke>\n</minimax:tool_call>",
       R"(think[Hm.] say[Ok.] call[get_weather] args[{"city": "Ulm"}] call[now] args[{}])", true},
      {"glm",
       "\n<think>So.</think>\nI "
       "ask.\n<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Ulm</arg_value>\n<arg_key>days</"
       "arg_key>\n<arg_value>2</arg_value>\n</tool_call>",
       R"(think[So.] say[I ask.] call[get_weather] args[{"city": "Ulm", "days": 2}])"},
      {"glm", "<tool_call>now\n</tool_call>", "call[now] args[{}]"},
      {"llama3", "{\"name\": \"get_weather\", \"parameters\": {\"city\": \"Ulm\"}}",
       R"(call[get_weather] args[{"city": "Ulm"}])"},
      {"llama3", " \n{ \"name\" : \"now\", \"parameters\": {}}", "call[now] args[{}]"},
      {"llama3", "{\"answer\": 5}", "say[{\"answer\": 5}]"},
      {"llama3", "It is {\"name\": 1}", "say[It is {\"name\": 1}]"},
      {"llama3-python-tag",
       "<|python_tag|>{\"name\": \"now\", \"parameters\": {}}; {\"name\": \"get_weather\", \"parameters\": {\"days\": "
       "1}}",
       R"(call[now] args[{}] call[get_weather] args[{"days": 1}])"},
      {"llama3-python-tag", "<|python_tag|>print(5)", "say[<|python_tag|>print(5)]"},
      {"mistral",
       "[TOOL_CALLS][{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Ulm\"}, \"id\": \"abcdefghi\"}, "
       "{\"name\": \"now\", \"arguments\": {}}]",
       R"(call[get_weather] args[{"city": "Ulm"}] call[now] args[{}])"},
      {"mistral", "Text [1] first.[TOOL_CALLS][]", "say[Text [1] first.]"},
      {"mistral-args", "Ok.[TOOL_CALLS]get_weather[ARGS]{\"city\": \"Ulm\"}[TOOL_CALLS]now[CALL_ID]123[ARGS]{}",
       R"(say[Ok.] call[get_weather] args[{"city": "Ulm"}] call[now] args[{}])"},
      {"deepseek-r1",
       "Hm.</"
       "think>\n\nOk.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n{\"city\": "
       "\"Ulm\"}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```<"
       "｜tool▁call▁end｜><｜tool▁calls▁end｜>",
       R"(think[Hm.] say[Ok.] call[get_weather] args[{"city": "Ulm"}] call[now] args[{}])", true},
      {"deepseek",
       "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{\"city\": "
       "\"Ulm\"}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
       R"(call[get_weather] args[{"city": "Ulm"}])"},
      {"kimi",
       "Ok.<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>{\"city\":"
       " \"Ulm\"}<|tool_call_end|><|tool_calls_section_end|>",
       R"(say[Ok.] call[get_weather] args[{"city": "Ulm"}])"},
      {"granite", "<|tool_call|>[{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Ulm\"}}]",
       R"(call[get_weather] args[{"city": "Ulm"}])"},
      {"nemotron", "<think>\nI see.\n</think>\n<TOOLCALL>[{\"name\": \"now\", \"arguments\": {}}]</TOOLCALL>",
       "think[I see.] call[now] args[{}]"},
      {"command-r",
       "<|START_ACTION|>[\n    {\"tool_call_id\": \"0\", \"tool_name\": \"get_weather\", \"parameters\": {\"city\": "
       "\"Ulm\"}}\n]<|END_ACTION|>",
       R"(call[get_weather] args[{"city": "Ulm"}])"},
      {"command-r", "<|START_RESPONSE|>Hello.<|END_RESPONSE|>", "say[Hello.]"},
      {"lfm2",
       "<|tool_call_start|>[get_weather(city='Ulm \\'x\\', (b)', days=2, tags=[\"a\", None, True]), "
       "now()]<|tool_call_end|>Checking.",
       R"x(call[get_weather] args[{"city":"Ulm 'x', (b)","days":2,"tags":["a",null,true]}] call[now] args[{}] say[Checking.])x"},
      {"gemma",
       "<|tool_call>call:get_weather{city:<|\"|>Ulm, "
       "{x}<|\"|>,days:2,tags:[<|\"|>a<|\"|>,true]}<tool_call|><|tool_call>call:now{}<tool_call|>",
       R"(call[get_weather] args[{"city":"Ulm, {x}","days":2,"tags":["a",true]}] call[now] args[{}])"},
      {"harmony",
       "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Four.<|return|>",
       "think[Hm.] say[Four.]"},
      {"harmony",
       "<|channel|>analysis<|message|>I call.<|end|><|start|>assistant to=functions.get_weather<|channel|>commentary "
       "json<|message|>{\"city\": \"Ulm\"}<|call|>",
       R"(think[I call.] call[get_weather] args[{"city": "Ulm"}])"},
      {"harmony", "<|channel|>commentary to=functions.now <|constrain|>json<|message|>{}", "call[now] args[{}]"},
      {"harmony", "<|channel|>commentary<|message|>First.<|end|><|start|>assistant<|channel|>final<|message|>a <b> c",
       "say[First.a <b> c]"},
      {"harmony", "<|channel|>commentary to=functions.get_weather<|message|>{\"city\": \"<|end|>\"}<|call|>",
       R"(call[get_weather] args[{"city": "<|end|>"}])"},
      {"generic", "{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Ulm\"}}",
       R"(call[get_weather] args[{"city": "Ulm"}])"},
  };
  return all;
}

TEST(Reply, EachFormatIsTakenApart) {
  for (const Example& e : examples())
    EXPECT_EQ(parse(with_thoughts(e.format), {e.answer}, e.reasoning_open).text(), e.expected)
        << e.format << ": " << e.answer;
}

TEST(Reply, WhereverTheTextIsCut) {
  for (const Example& e : examples()) {
    const ToolFormat f = with_thoughts(e.format);
    const std::string all = e.answer;
    std::vector<std::string> bytes;
    for (std::size_t i = 0; i < all.size(); ++i) {
      bytes.emplace_back(1, all[i]);
      ASSERT_EQ(parse(f, {all.substr(0, i), all.substr(i)}, e.reasoning_open).text(), e.expected)
          << e.format << " at " << i;
    }
    ASSERT_EQ(parse(f, bytes, e.reasoning_open).text(), e.expected) << e.format << ", byte by byte";
  }
}

TEST(Reply, NamesComeFirstAndArgumentsInPieces) {
  const auto parser = make_reply_parser(tool_format("hermes"),
                                        {.calls = true, .reasoning = true, .reasoning_open = false, .tools = tools()});
  std::vector<ReplyDelta> out;
  parser->push("<tool_call>\n{\"name\": \"get_weather\", ", out);
  ASSERT_EQ(out.size(), 1U);
  EXPECT_EQ(out[0].kind, Kind::kCall);
  out.clear();
  parser->push("\"arguments\": {\"city\": \"U", out);
  ASSERT_EQ(out.size(), 1U);
  EXPECT_EQ(out[0].text, "{\"city\": \"U");
}

TEST(Reply, WithoutToolsNothingIsACall) {
  const std::string call = "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>";
  EXPECT_EQ(parse(with_thoughts("hermes"), {"<think>a</think>" + call}, false, false).text(),
            "think[a] say[" + call + "]");
}

TEST(Reply, AnAnswerThatIsCutShortLosesNothing) {
  for (const Example& e : examples()) {
    const ToolFormat f = with_thoughts(e.format);
    const std::string all = e.answer;
    for (std::size_t n = 0; n <= all.size(); ++n) {
      const Shown shown = parse(f, {all.substr(0, n)}, e.reasoning_open);
      // As far as it goes, the arguments are the whole answer's.
      (void)shown.text();
      for (const ReplyDelta& d : shown.parts()) {
        if (d.kind == Kind::kCall) {
          EXPECT_TRUE(d.text == "get_weather" || d.text == "now")
              << e.format << ": " << d.text << " of " << all.substr(0, n);
        }
      }
    }
  }
}

// Words of their own between pieces of formats: each of them comes out somewhere, and cuts change nothing.
TEST(Reply, RandomAnswersLoseNothing) {
  for (const std::string& name : tool_format_names()) {
    const ToolFormat f = with_thoughts(name.c_str());
    std::vector<std::string> pieces = f.markers();
    for (const char* p : {"{",
                          "}",
                          "[",
                          "]",
                          "\"name\"",
                          ": ",
                          "\"arguments\"",
                          "\"now\"",
                          "now",
                          "(",
                          ")",
                          ", ",
                          "\n",
                          " ",
                          "=",
                          "\"",
                          "'",
                          "\\",
                          "<",
                          ">",
                          "é",
                          "{\"name\": \"now\", \"arguments\": "})
      pieces.emplace_back(p);
    // Members of a call other than these two, and what stands in headers and numbers of calls, are no part of the
    // answer.
    const bool keeps_all = f.style != CallStyle::kJson && f.style != CallStyle::kHarmony && f.name_cut.empty();
    for (int round = 0; round < 400; ++round) {
      GSD_SEEDED(rng, round);
      std::string all;
      std::vector<std::string> words;
      std::vector<std::string> cut{""};
      for (std::size_t n = 1 + rng() % 20; n > 0; --n) {
        std::string piece = pieces[rng() % pieces.size()];
        if (rng() % 3 == 0) {
          words.push_back("w" + std::to_string(words.size()) + "w");
          piece = words.back();
        }
        all += piece;
        for (const char c : piece) {
          if (rng() % 4 == 0) cut.emplace_back();
          cut.back() += c;
        }
      }
      const Shown whole = parse(f, {all});
      ASSERT_EQ(parse(f, cut).text(), whole.text()) << name << ": " << all;
      for (const std::string& w : words) {
        if (!keeps_all) break;
        ASSERT_THAT(whole.text(), ::testing::HasSubstr(w)) << name << ": " << all;
      }
    }
  }
}

TEST(JsonScanner, FindsTheEndOfAValueWhereverItIsCut) {
  const std::pair<const char*, std::size_t> cases[] = {{"{\"a\": [1, \"]}\\\"\"]} tail", 18},
                                                       {"\"a\\\\\" x", 5},
                                                       {"12.5e3, 4", 6},
                                                       {"true}", 4},
                                                       {"[]]", 2},
                                                       {" {}x", 3}};
  for (const auto& [text, size] : cases) {
    for (std::size_t i = 0; i <= std::string(text).size(); ++i) {
      JsonScanner s;
      const std::string all = text;
      std::size_t n = s.take(all.substr(0, i));
      if (n == i) n += s.take(all.substr(i));
      EXPECT_EQ(n, size) << text << " at " << i;
      EXPECT_TRUE(s.done());
    }
  }
}

TEST(ToolFormat, IsFoundByTrial) {
  const std::pair<const char*, const char*> cases[] = {{"qwen2.5", "hermes"},
                                                       {"qwen3", "hermes"},
                                                       {"hermes3", "hermes"},
                                                       {"smollm3", "hermes"},
                                                       {"granite4", "hermes"},
                                                       {"exaone4", "generic"},
                                                       {"qwen3-coder", "qwen3-coder"},
                                                       {"qwen3.5", "qwen3-coder"},
                                                       {"nemotron3", "qwen3-coder"},
                                                       {"llama3.1", "llama3"},
                                                       {"llama3-python-tag", "llama3-python-tag"},
                                                       {"mistral-nemo", "mistral"},
                                                       {"devstral", "mistral-args"},
                                                       {"gpt-oss", "harmony"},
                                                       {"deepseek-r1", "generic"},
                                                       {"glm4", "glm"},
                                                       {"granite3", "granite"},
                                                       {"lfm2", "lfm2"},
                                                       {"command-r7b", "command-r"},
                                                       {"nemotron-nano2", "nemotron"},
                                                       {"minimax-m2", "minimax"},
                                                       {"kimi-k2", "kimi"},
                                                       {"gemma4", "gemma"},
                                                       {"gemma3", "generic"},
                                                       {"phi4", "generic"},
                                                       {"chatml", "generic"}};
  for (const auto& [family, format] : cases) {
    std::ifstream in(std::string(GSD_CHAT_TESTS) + "/templates/" + family + ".jinja");
    std::stringstream text;
    text << in.rdbuf();
    EXPECT_EQ(find_tool_format(JinjaFormat(text.str(), "<s>", "</s>")).name, format) << family;
  }
  EXPECT_THROW(tool_format("nonsense"), Error);
}

TEST(ToolFormat, ReasoningThatThePromptOpens) {
  ToolFormat f = with_thoughts("hermes");
  EXPECT_TRUE(opens_reasoning(f, "<|im_start|>assistant\n<think>\n"));
  EXPECT_FALSE(opens_reasoning(f, "<|im_start|>assistant\n<think>\n\n</think>\n\n"));
  EXPECT_FALSE(opens_reasoning(tool_format("hermes"), "<think>"));
}

}  // namespace
}  // namespace gsd::chat
