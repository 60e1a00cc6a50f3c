// The interpreter of chat templates, against Python's jinja2 (rendered.json, made by render.py) and against templates
// that mean harm.
#include "../../src/chat/jinja.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <sstream>

#include "../random.h"
#include "gsd/error.h"

namespace gsd::chat {
namespace {

using ::testing::HasSubstr;

constexpr std::time_t kNow = 1750000000;  // render.py's

std::string read(const std::string& name) {
  std::ifstream in(std::string(GSD_CHAT_TESTS) + "/" + name);
  EXPECT_TRUE(in) << name;
  std::stringstream out;
  out << in.rdbuf();
  return out.str();
}

std::vector<Variable> variables(const Json& object) {
  std::vector<Variable> out;
  for (const auto& [name, value] : object.items()) out.push_back({name, value, Origin::kRequest});
  return out;
}

// What is wrong with it, or "rendered".
std::string failure(const std::string& source, const Json& values = Json::object(), const JinjaLimits& limits = {}) {
  try {
    (void)JinjaTemplate(source).render(variables(values), kNow, limits);
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kModelUnsupported);
    return e.what();
  }
  return "rendered";
}

TEST(Jinja, RendersWhatPythonRenders) {
  ::setenv("TZ", "UTC", 1);
  const Json cases = Json::parse(read("cases.json"));
  const Json expected = Json::parse(read("rendered.json"));
  ASSERT_GT(expected.size(), 40U);
  for (const auto& [name, texts] : expected.items()) {
    const JinjaTemplate t(read("templates/" + name + ".jinja"));
    ASSERT_EQ(texts.size(), cases.size());
    for (const auto& [title, text] : texts.items()) {
      std::string got;
      try {
        got = t.render(variables(cases[title]), kNow).text;
      } catch (const Error& e) {
        EXPECT_TRUE(text.is_null()) << name << ", " << title << ": " << e.what();
        continue;
      }
      EXPECT_EQ(Json(got), text) << name << ", " << title;
    }
  }
}

TEST(Jinja, KnowsWhichCharactersARequestWrote) {
  const Json messages = Json::array({{{"role", "user"}, {"content", "a<b> c"}}});
  const Rendered r =
      JinjaTemplate(
          "{% for m in messages %}<{{ m.role }}>{{ m.content.split('<')[1] | upper | replace('C', 'x') }}."
          "{{ m | tojson }}{{ m.content ~ m.content[:1] }}{% endfor %}")
          .render({{"messages", messages}}, kNow);
  std::string marked;
  std::size_t at = 0;
  for (const auto& [begin, end] : r.from_request) {
    marked += r.text.substr(at, begin - at) + "[" + r.text.substr(begin, end - begin) + "]";
    at = end;
  }
  EXPECT_EQ(marked + r.text.substr(at), R"(<user>[B> ]x.{"[role]": "user", "[content]": "[a<b> c]"}[a<b> ca])");
}

TEST(Jinja, AHostileTemplateEndsWithASentence) {
  const std::pair<const char*, const char*> cases[] = {
      {"{{ 1 % 0 }}", "division by zero"},
      {"{{ 1 // 0 }}", "division by zero"},
      {"{{ (-9223372036854775807 - 1) // -1 }}", "too large"},
      {"{{ 9223372036854775807 + 1 }}", "too large"},
      {"{{ 2 ** 9999 }}", "too large"},
      {"{{ 'x' * 999999999999 }}", "too much memory"},
      {"{{ [0] * 999999999999 }}", "too much memory"},
      {"{% for i in range(999999999999) %}{% endfor %}", "too much memory"},
      {"{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "too much"},
      {"{% set x = 'ab' %}{% for i in range(99) %}{% set x %}{{ x }}{{ x }}{% endset %}{{ x }}{% endfor %}",
       "rendered"},
      {"{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
       "too much memory"},
      {"{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}", "too much"},
      {"{% set ns = namespace(x=[1]) %}{% for i in range(9999) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
       "too deep"},
      {"{% set ns = namespace(x=[1]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}", "rendered"},
      {"{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}", "too deep"},
      {"{% set ns = namespace() %}{% set ns.x = ns %}{{ ns == namespace(x=ns) }}", "rendered"},
      {"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "too deep"},
      {"{% for i in [[1]] recursive %}{{ loop([[1]]) }}{% endfor %}", "too deep"},
      {"{% set ns = namespace() %}{% macro m() %}{% for i in [1] recursive %}{% set ns.f = loop %}{% endfor %}{% "
       "endmacro %}{{ m() }}{{ ns.f([1]) }}",
       "rendered"},
      {"{{ 'abc'[0:99999999999:2] }}", "rendered"},
      {"{{ 'abc'[::-922337203685477580] }}", "rendered"},
      {"{{ 'abc'[::0] }}", "step"},
      {"{{ ''[5] }}{{ []|first }}{{ [][-1] }}", "rendered"},
      {"{{ x.y }}", "'x' is undefined"},
      {"{{ 'x'.nothing() }}", "no function"},
      {"{{ [].append(1) }}", "may not"},
      {"{{ messages | groupby('x') }}", "not known"},
      {"{% include 'x' %}", "not known"},
      {"{% extends 'x' %}", "not known"},
      {"{{ strftime_now('%Y' * 99999) }}", "format"},
      {"{{ 'a' | indent(99999999999999) }}", "rendered"},
      {"{{ {'a': 1} | tojson(indent=99999999999) }}", "rendered"},
      {"{{ 1", "no end"},
      {"{% if 1 %}", "missing"},
      {"{# never", "no end"},
      {"{{ 'never }}", "no end"},
      {"{% raw %}", "no {% endraw %}"},
      {"{{ ) }}", "bracket"},
      {"{{ 99999999999999999999 }}", "too large"},
      {"{{ '\\u12' }}", "digits"},
      {"{% endfor %}", "not known"},
      {"{", "rendered"},
      {"", "rendered"},
  };
  for (const auto& [source, words] : cases) EXPECT_THAT(failure(source), HasSubstr(words)) << source;
}

TEST(Jinja, WhatIsNestedOrLongIsBounded) {
  const auto repeated = [](const std::string& s, int n) {
    std::string out;
    for (int i = 0; i < n; ++i) out += s;
    return out;
  };
  constexpr int kMany = 100000;
  for (const std::string& source :
       {"{{ " + repeated("(", kMany) + repeated(")", kMany) + " }}",
        "{{ " + repeated("[", kMany) + repeated("]", kMany) + " }}", "{{ 1" + repeated(" + 1", kMany) + " }}",
        "{{ 1" + repeated(" | abs", kMany) + " }}", "{{ x" + repeated(".a", kMany) + " }}",
        "{{ " + repeated("not ", kMany) + "1 }}", "{{ " + repeated("-", kMany) + "1 }}",
        repeated("{% if 1 %}", kMany) + repeated("{% endif %}", kMany),
        "{% if 1 %}" + repeated("{% elif 1 %}", kMany) + "{% endif %}",
        "{{ 1" + repeated(" if 1 else 1", kMany) + " }}", "{{ x" + repeated("(1)", kMany) + " }}"})
    EXPECT_NE(failure(source), "rendered") << source.substr(0, 20);
  EXPECT_EQ(failure("{#" + std::string(1000000, 'x') + "#}" + std::string(1000000, 'y')), "rendered");
  Json deep = 1;
  for (int i = 0; i < 60; ++i) deep = Json::array({deep});
  EXPECT_EQ(failure("{{ x }}{{ x | tojson }}", {{"x", deep}}), "rendered");
}

TEST(Jinja, TextMadeOfPiecesOfTemplatesDoesNoHarm) {
  const char* const pieces[] = {"{{",        "}}",       "{%",    "%}",    "{#",     "#}",       "-",  " if ",
                                " for ",     " in ",     " set ", "endif", "endfor", "else",     "x",  "=",
                                "(",         ")",        "[",     "]",     "'",      "\"",       "|",  ".",
                                ",",         " is ",     " not ", "1",     "loop",   "range(3)", "\n", " ",
                                "macro m()", "endmacro", "~",     "+",     "%",      "*",        ":",  "messages"};
  for (int round = 0; round < 20000; ++round) {
    GSD_SEEDED(rng, round);
    std::string source;
    for (std::size_t n = 1 + rng() % 30; n > 0; --n) source += pieces[rng() % std::size(pieces)];
    (void)failure(source, {{"messages", {1, "a", {{"b", 2}}}}, {"x", "text"}},
                  {.work = 20000, .memory = 20000, .for_each_character = 0});
  }
}

TEST(Jinja, ALongConversationIsNoMisuse) {
  Json messages = Json::array();
  for (int i = 0; i < 4000; ++i)
    messages.push_back({{"role", i % 2 == 0 ? "user" : "assistant"}, {"content", std::string(1000, 'x')}});
  for (const char* name : {"qwen3", "glm4", "gemma4", "deepseek-r1", "llama3", "mistral-nemo"}) {
    const JinjaTemplate t(read(std::string("templates/") + name + ".jinja"));
    const Json all{{"messages", messages}, {"bos_token", ""}, {"eos_token", ""}, {"add_generation_prompt", true}};
    EXPECT_GT(t.render(variables(all), kNow).text.size(), 3900000U) << name;
  }
}

TEST(Jinja, AnErrorNamesItsLine) { EXPECT_THAT(failure("a\nb\n{{ 1 + 'x' }}"), HasSubstr("line 3")); }

}  // namespace
}  // namespace gsd::chat
