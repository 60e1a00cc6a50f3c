// Conversations in the shape that each template takes.
#include "../../src/chat/format.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "gsd/error.h"

namespace gsd::chat {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

JinjaFormat family(const std::string& name) {
  std::ifstream in(std::string(GSD_CHAT_TESTS) + "/templates/" + name + ".jinja");
  EXPECT_TRUE(in) << name;
  std::stringstream out;
  out << in.rdbuf();
  return JinjaFormat(out.str(), "<s>", "</s>", [] { return std::time_t{1750000000}; });
}

ChatRequest request(const char* messages) {
  ChatRequest r;
  r.messages = Json::parse(messages);
  return r;
}

std::string render(const JinjaFormat& f, const char* messages) { return f.render(request(messages)).text; }

TEST(ChatFormat, EveryFamilyTakesTheCommonConversations) {
  int n = 0;
  for (const auto& entry : std::filesystem::directory_iterator(std::string(GSD_CHAT_TESTS) + "/templates")) {
    const JinjaFormat f = family(entry.path().stem().string());
    if (entry.path().stem() == "language") continue;
    ++n;
    EXPECT_EQ(f.problem(), "") << entry.path();
    // A system message, parts, neighbours of one role, a developer: whatever the template lacks is made up for.
    const std::string text = render(
        f, R"([{"role": "system", "content": "SYSTEM"}, {"role": "user", "content": [{"type": "text", "text": "ONE"}]},
        {"role": "user", "content": "TWO"}, {"role": "assistant", "content": "THREE"}, {"role": "user", "content": "FOUR"}])");
    for (const char* word : {"SYSTEM", "ONE", "TWO", "THREE", "FOUR"})
      EXPECT_THAT(text, HasSubstr(word)) << entry.path();
  }
  EXPECT_GT(n, 40);
}

TEST(ChatFormat, ASystemMessageGoesToTheUserWhereTheTemplateHasNone) {
  EXPECT_EQ(
      render(family("gemma2"), R"([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}])"),
      "<s><start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\n");
}

TEST(ChatFormat, TheLastMessageOfTheAssistantGoesOn) {
  ChatRequest r = request(R"([{"role": "user", "content": "Count"}, {"role": "assistant", "content": "One, "}])");
  r.continue_final = true;
  const Rendered out = family("qwen2.5").render(r);
  EXPECT_THAT(out.text, ::testing::EndsWith("<|im_start|>assistant\nOne, "));
  EXPECT_EQ(out.from_request.back(), std::make_pair(out.text.size() - 5, out.text.size()));
}

TEST(ChatFormat, TraitsAreFoundByTrial) {
  EXPECT_FALSE(family("gemma2").traits().system_role);
  EXPECT_TRUE(family("qwen3").traits().system_role);
  EXPECT_FALSE(family("mistral-v1").traits().consecutive_roles);
  EXPECT_TRUE(family("qwen3").traits().tools);
  EXPECT_FALSE(family("phi4").traits().tools);
  EXPECT_TRUE(family("glm4").traits().object_arguments);
  EXPECT_FALSE(family("deepseek-v3").traits().object_arguments);
  EXPECT_TRUE(family("hermes3").traits().object_arguments);
}

TEST(ChatFormat, ArgumentsArriveAsTheTemplateWantsThem) {
  const char* const messages =
      R"([{"role": "user", "content": "x"}, {"role": "assistant", "content": null, "tool_calls":
      [{"id": "abcdefghi", "type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"}}]},
      {"role": "tool", "tool_call_id": "abcdefghi", "name": "f", "content": "y"}])";
  EXPECT_THAT(render(family("qwen3"), messages), HasSubstr(R"({"name": "f", "arguments": {"a": 1}})"));
  EXPECT_THAT(render(family("deepseek-v3"), messages), HasSubstr("f\n```json\n{\"a\": 1}\n```"));
  EXPECT_THAT(render(family("glm4"), messages), HasSubstr("<arg_key>a</arg_key>\n<arg_value>1</arg_value>"));
  EXPECT_THAT(render(family("lfm2"), messages), HasSubstr("[f(a=1)]"));
}

TEST(ChatFormat, ATemplateThatCannotBeRenderedIsAProblemAndAnError) {
  for (const char* source : {"{% include 'x' %}", "{{ 1", "{{ raise_exception('never') }}", "no messages at all",
                             "{{ messages[0].content + 1 }}"}) {
    const JinjaFormat f(source, "", "");
    EXPECT_NE(f.problem(), "") << source;
    EXPECT_THROW(render(f, R"([{"role": "user", "content": "x"}])"), Error) << source;
  }
}

TEST(ChatFormat, AKnownNamesContentsAreTheRequests) {
  const NamedFormat f("plain", [](const auto& messages, bool add) {
    std::string out;
    for (const auto& [role, content] : messages) {
      const std::size_t begin = content.find_first_not_of(' ');
      out += "<" + role + ">" + content.substr(begin, content.find_last_not_of(' ') - begin + 1);
    }
    return out + (add ? "<assistant>" : "");
  });
  const Rendered r =
      f.render(request(R"([{"role": "developer", "content": "S"}, {"role": "user", "content": "  a <user> b "}])"));
  EXPECT_EQ(r.text, "<system>S<user>a <user> b<assistant>");
  ASSERT_EQ(r.from_request.size(), 2U);
  EXPECT_EQ(r.text.substr(r.from_request[1].first, r.from_request[1].second - r.from_request[1].first), "a <user> b");
  EXPECT_EQ(f.render(request(R"([{"role": "user", "content": "x"}, {"role": "assistant", "content": null, "tool_calls":
                [{"id": "1", "type": "function", "function": {"name": "now", "arguments": "{}"}}]},
                {"role": "tool", "name": "now", "content": "noon"}])"))
                .text,
            R"(<user>x<assistant>{"name": "now", "arguments": {}}<user>Result of now: noon<assistant>)");
}

}  // namespace
}  // namespace gsd::chat
