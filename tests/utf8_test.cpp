#include "../src/core/utf8.h"

#include <gtest/gtest.h>

#include <string>

namespace gsd {
namespace {

const std::string kReplacement = "\xEF\xBF\xBD";

TEST(Utf8Buffer, WholeCharactersWhereverThePiecesEnd) {
  const std::string text = "a\u00e9\u20ac\U0001F600z";
  for (std::size_t cut = 0; cut <= text.size(); ++cut) {
    for (std::size_t second = cut; second <= text.size(); ++second) {
      Utf8Buffer b;
      std::string out = b.push(text.substr(0, cut));
      out += b.push(text.substr(cut, second - cut));
      out += b.push(text.substr(second));
      out += b.flush();
      EXPECT_EQ(out, text);
    }
  }
}

TEST(Utf8Buffer, HoldsBackWhatIsNotComplete) {
  Utf8Buffer b;
  EXPECT_EQ(b.push("x\xE2\x82"), "x");
  EXPECT_EQ(b.push("\xAC"), "\u20ac");
  EXPECT_EQ(b.push("\xF0\x9F"), "");
  EXPECT_EQ(b.flush(), kReplacement);
  EXPECT_EQ(b.flush(), "");
}

TEST(Utf8Buffer, ReplacesWhatIsNoCharacter) {
  Utf8Buffer b;
  EXPECT_EQ(b.push("\xFFz"), kReplacement + "z");
  EXPECT_EQ(b.push("\xC0\xAF."), kReplacement + kReplacement + ".") << "overlong";
  EXPECT_EQ(b.push("\xED\xA0\x80."), kReplacement + kReplacement + kReplacement + ".") << "surrogate";
  EXPECT_EQ(b.push("\xE2\x82z"), kReplacement + "z") << "cut short by another character";
}

}  // namespace
}  // namespace gsd
