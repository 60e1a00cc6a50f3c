// Grammars of calls, byte by byte.
#include "../../src/chat/call_grammar.h"

#include <gtest/gtest.h>

namespace gsd::chat {
namespace {

// A vocabulary of no tokens but the 256 bytes and an end.
std::shared_ptr<const TokenTexts> bytes() {
  return call_texts(
      1, [](Token) { return std::string(); }, [](Token) { return true; });
}

std::string grammar_of(const char* format, CallGrammarOptions options) {
  options.rules = "args ::= \"{\\\"a\\\": 1}\"\nnumber ::= [0-9]+\n";
  const FunctionRules f{
      .name = "f",
      .arguments = "args",
      .parameters = {{.name = "a", .required = true, .text = false, .scalar = false, .texts = {}, .value = "number"},
                     {.name = "b", .required = false, .text = true, .scalar = false, .texts = {}, .value = ""}}};
  return call_grammar(tool_format(format), {f}, options);
}

enum class Verdict { kRefused, kOpen, kWhole };  // not allowed; a begin; it may end here

Verdict judge(const Constraint& c, std::string_view text) {
  for (const char b : text) {
    const Token t = 1 + static_cast<unsigned char>(b);
    if (!c.allows(t)) return Verdict::kRefused;
    c.advance(t);
  }
  return c.allows(0) ? Verdict::kWhole : Verdict::kOpen;
}

TEST(CallGrammar, AllowsEachFormatsCallsAndNothingElse) {
  const std::pair<const char*, std::string> calls[] = {
      {"hermes", "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>"},
      {"qwen3-coder",
       "<tool_call>\n<function=f>\n<parameter=a>\n12\n</parameter>\n<parameter=b>\n</ "
       "parameter></p\n</parameter>\n</function>\n</tool_call>"},
      {"seed", "<seed:tool_call>\n<function=f>\n<parameter=a>1</parameter>\n</function>\n</seed:tool_call>"},
      {"minimax",
       "<minimax:tool_call>\n<invoke name=\"f\">\n<parameter "
       "name=\"a\">1</parameter>\n</invoke>\n</minimax:tool_call>"},
      {"glm", "<tool_call>f\n<arg_key>a</arg_key>\n<arg_value>1</arg_value>\n</tool_call>"},
      {"llama3", "{\"name\": \"f\", \"parameters\": {\"a\": 1}}"},
      {"llama3-python-tag", "<|python_tag|>{\"name\": \"f\", \"parameters\": {\"a\": 1}}"},
      {"mistral", "[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {\"a\": 1}, \"id\": \"abcdefghi\"}]"},
      {"mistral-args", "[TOOL_CALLS]f[ARGS]{\"a\": 1}"},
      {"harmony", "<|start|>assistant to=functions.f<|channel|>commentary json<|message|>{\"a\": 1}"},
      {"deepseek-r1",
       "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{\"a\": "
       "1}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>"},
      {"deepseek",
       "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{\"a\": 1}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"},
      {"kimi",
       "<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{\"a\": "
       "1}<|tool_call_end|><|tool_calls_section_end|>"},
      {"granite", "<|tool_call|>[{\"name\": \"f\", \"arguments\": {\"a\": 1}}]"},
      {"nemotron", "<TOOLCALL>[{\"name\": \"f\", \"arguments\": {\"a\": 1}}]</TOOLCALL>"},
      {"command-r",
       "<|START_ACTION|>[\n {\"tool_call_id\": \"0\", \"tool_name\": \"f\", \"parameters\": {\"a\": "
       "1}}\n]<|END_ACTION|>"},
      {"lfm2", "<|tool_call_start|>[f(a=1)]<|tool_call_end|>"},
      {"gemma", "<|tool_call>call:f{a:1,b:<|\"|>x\"<|y<|\"|>}<tool_call|>"},
      {"generic", "{\"name\": \"f\", \"arguments\": {\"a\": 1}}"},
  };
  EXPECT_EQ(std::size(calls), tool_format_names().size());
  for (const auto& [format, call] : calls) {
    const Grammar g(grammar_of(format, {}), bytes());
    EXPECT_EQ(judge(g.constraint(), call), Verdict::kWhole) << format;
    for (std::size_t n = 0; n < call.size(); ++n)
      EXPECT_EQ(judge(g.constraint(), call.substr(0, n)), Verdict::kOpen) << format << " " << n;
    // Another function, and text after the call.
    std::string other = call;
    const std::size_t name = call.find(format == std::string("lfm2")      ? "f("
                                       : format == std::string("gemma")   ? "f{"
                                       : format == std::string("harmony") ? ".f"
                                                                          : "a\": 1");
    if (name != std::string::npos) {
      other[name] = 'x';
      EXPECT_EQ(judge(g.constraint(), other), Verdict::kRefused) << format;
    }
    EXPECT_EQ(judge(g.constraint(), call + "x"), Verdict::kRefused) << format;
    // Nothing is allowed differently after free text, up to the whole call.
    const ToolFormat f = tool_format(format);
    const bool marked = !f.trigger().empty() || f.style == CallStyle::kHarmony;
    const std::string before = f.style == CallStyle::kHarmony ? "<|channel|>analysis<|message|>Hm.<|end|>"
                               : marked                       ? "Some text, {} and <.\n"
                                                              : " \n";
    const Constraint lazy = lazy_constraint(f, g, bytes(), false);
    EXPECT_EQ(judge(lazy, before + call), Verdict::kWhole) << format;
    EXPECT_EQ(judge(lazy, "x"), Verdict::kRefused) << format;
    lazy.reset();
    EXPECT_EQ(judge(lazy, "Just text."), Verdict::kWhole) << format;
  }
}

TEST(CallGrammar, RequiredCallsComeAfterTheReasoning) {
  ToolFormat f = tool_format("hermes");
  f.reasoning_open = "<think>";
  f.reasoning_close = "</think>";
  const FunctionRules fn{.name = "f", .arguments = "args", .parameters = {}};
  CallGrammarOptions o{.rules = "args ::= \"{}\"\n", .from_start = true};
  const std::string call = "<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>";
  const Grammar closed(call_grammar(f, {fn}, o), bytes());
  EXPECT_EQ(judge(closed.constraint(), "<think>a <b> </thin</think>\n\n" + call), Verdict::kWhole);
  EXPECT_EQ(judge(closed.constraint(), call), Verdict::kWhole);
  EXPECT_EQ(judge(closed.constraint(), "Text"), Verdict::kRefused);
  o.reasoning_open = true;
  const Grammar open(call_grammar(f, {fn}, o), bytes());
  EXPECT_EQ(judge(open.constraint(), "a <b> </think>" + call), Verdict::kWhole);
  EXPECT_EQ(judge(open.constraint(), call), Verdict::kOpen);
}

TEST(CallGrammar, OneCallOrSeveral) {
  const std::string call = "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1}}</tool_call>";
  EXPECT_EQ(
      judge(Grammar(grammar_of("hermes", {.rules = "", .parallel = true}), bytes()).constraint(), call + "\n" + call),
      Verdict::kWhole);
  EXPECT_EQ(
      judge(Grammar(grammar_of("hermes", {.rules = "", .parallel = false}), bytes()).constraint(), call + "\n" + call),
      Verdict::kRefused);
}

TEST(CallGrammar, ATokenThatBeginsACallAndGoesOnOtherwiseIsNotAllowed) {
  const auto texts = call_texts(
      4,
      [](Token t) {
        return std::vector<std::string>{"", "<tool_call>", "<tool_call>x", "l><"}[static_cast<std::size_t>(t)];
      },
      [](Token t) { return t == 0; });
  const Grammar g(grammar_of("hermes", {}), texts);
  const Constraint c = lazy_constraint(tool_format("hermes"), g, texts, false);
  EXPECT_TRUE(c.allows(1));
  EXPECT_FALSE(c.allows(2));
  EXPECT_TRUE(c.allows(3));
  for (const char b : std::string("a <tool_cal")) c.advance(4 + static_cast<unsigned char>(b));
  EXPECT_FALSE(c.allows(3));
  EXPECT_TRUE(c.allows(0));
}

}  // namespace
}  // namespace gsd::chat
