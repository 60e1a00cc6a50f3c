#include "gsd/grammar.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "gsd/error.h"
#include "random.h"
#include "random_grammar.h"

namespace gsd {
namespace {

using testing::HasSubstr;

constexpr Token kEnd = 256;

// A token for each byte, the end of text, and some longer tokens, two of which hold parts of characters.
std::shared_ptr<const TokenTexts> bytes_and_more() {
  static const auto vocabulary = [] {
    auto out = std::make_shared<TokenTexts>();
    for (int b = 0; b < 256; ++b) out->add(std::string(1, static_cast<char>(b)), false);
    out->add("", true);
    for (const char* text : {"ab", "abc", "ba", "aa", "aaa", "\"a", "\": ", "\xC3",
                             "\xA4"
                             "a",
                             "\xE2\x82", "a\xC3", "a,b", "}", "]}", ""})
      out->add(text, false);
    return out;
  }();
  return vocabulary;
}

Grammar grammar(const std::string& gbnf) {
  return Grammar(gbnf, bytes_and_more(), [](std::string_view name) -> std::optional<Token> {
    if (name == "<end-of-thought>") return 271;  // a token without text
    return std::nullopt;
  });
}

std::string refusal(const std::string& gbnf) {
  try {
    grammar(gbnf);
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kGrammar);
    return e.what();
  }
  return "accepted";
}

enum class Fit { kNo, kBegins, kWhole };

// Byte after byte.
Fit fit(const Constraint& c, const std::string& text) {
  for (const char byte : text) {
    const Token t = static_cast<unsigned char>(byte);
    if (!c.allows(t)) return Fit::kNo;
    c.advance(t);
  }
  return c.allows(kEnd) ? Fit::kWhole : Fit::kBegins;
}
Fit fit(const std::string& gbnf, const std::string& text) { return fit(grammar(gbnf).constraint(), text); }

struct Sample {
  const char* gbnf;
  std::vector<std::string> whole, begins, no;
};

TEST(Grammar, FollowsWhatTheNotationSays) {
  const std::vector<Sample> samples{
      {R"(root ::= "yes" | "no")", {"yes", "no"}, {"", "y", "ye", "n"}, {"x", "yesno", "yes "}},
      {"root ::= [a-c]+", {"a", "abc", "cccc"}, {""}, {"d", "ad"}},
      {"root ::= [^a-c]*", {"", "xyz", "ä€😀"}, {"\xC3", "\xE2\x82", "\xF0\x9F"}, {"a", "xb", "\xC0", "\xED\xA0"}},
      {"root ::= [^ä]", {"ö", "a"}, {"\xC3"}, {"ä"}},
      {"root ::= [α-ω]", {"α", "ω", "ο"}, {"\xCE", "\xCF"}, {"a", "\xD0"}},
      {"root ::= .", {"a", "\n", "😀"}, {""}, {"ab"}},
      {R"(root ::= "\x41\u00e4\U0001F600\t\r\n\\\"\[\]\-")", {"Aä😀\t\r\n\\\"[]-"}, {"Aä"}, {"a"}},
      {R"(root ::= [\]\[\\\-"^a])", {"]", "[", "\\", "-", "\"", "^", "a"}, {""}, {"b"}},
      {"root ::= [a-]", {"a", "-"}, {}, {"b"}},
      {"root ::= [-a]", {"a", "-"}, {}, {"b"}},
      {"root ::= \"a\"? \"b\"", {"ab", "b"}, {"a"}, {"aa", "ba"}},
      {"root ::= \"ab\"*", {"", "ab", "abab"}, {"a", "aba"}, {"b", "aa"}},
      {"root ::= \"ab\"{2}", {"abab"}, {"ab", ""}, {"ababa"}},
      {"root ::= \"a\"{2,}", {"aa", "aaaa"}, {"a"}, {"b"}},
      {"root ::= \"a\"{ 1 , 3 } \"b\"", {"ab", "aab", "aaab"}, {"aaa"}, {"b", "aaaa"}},
      {"root ::= \"a\"{0} \"b\"", {"b"}, {}, {"a"}},
      {"root ::= \"a\"{0,0} \"b\"", {"b"}, {}, {"a"}},
      {"root ::= (\"a\"{2}){1,2}", {"aa", "aaaa"}, {"a", "aaa"}, {"aaaaa"}},
      {"root ::= \"a\"{2}{2}", {"aaaa"}, {"aa", "aaa"}, {"aaaaa"}},
      {"root ::= (\"a\"?){3} \"b\"", {"b", "ab", "aaab"}, {"aaa"}, {"aaaa"}},
      {"root ::= ((\"a\"*)*)*", {"", "aaa"}, {}, {"b"}},
      {"root ::= \"\" | \"a\"", {"", "a"}, {}, {"b"}},
      {"root ::= [] \"a\"", {"a"}, {}, {"b"}},
      {"root ::= # nothing yet\n  x | # or\n  y\nx ::= \"x\"\n\n# and\ny ::= (\n  \"y\"\n  | \"z\" ) # end",
       {"x", "y", "z"},
       {},
       {"a"}},
      {"root ::= a\r\na ::= \"1\"\r\n", {"1"}, {}, {"2"}},
      {"root ::= a-1\na-1 ::= \"old\"\na-1 ::= \"new\"", {"new"}, {}, {"o"}},
      {"root ::= \"(\" root \")\" | \"x\"", {"x", "(x)", "((x))"}, {"(", "((x)"}, {")", "(x))"}},
      // Right, left and hidden left recursion, and rules that only call themselves.
      {"root ::= \"a\" root | \"b\"", {"b", "ab", "aaab"}, {"aaa"}, {"ba"}},
      {"root ::= root \"a\" | \"b\"", {"b", "ba", "baaa"}, {""}, {"a", "bb"}},
      {"root ::= e root \"x\" | \"y\"\ne ::= f\nf ::= \"z\" |",
       {"y", "yx", "zyx", "zzyxx", "zyxx"},
       {"zz"},
       {"x", "yz"}},
      {"root ::= root | \"a\"", {"a"}, {""}, {"aa"}},
      // Ambiguous ones.
      {"root ::= s\ns ::= s s | \"a\"", {"a", "aaaaaaaa"}, {""}, {"b"}},
      {"root ::= \"a\" root x | \"a\" root y | \"b\"\nx ::= \"c\"\ny ::= \"d\"",
       {"b", "abc", "aabcd", "aabdd"},
       {"aab"},
       {"abb"}},
      {"root ::= (\"a\" | \"ab\" | \"b\")*", {"", "abab", "bbaab"}, {}, {"c"}},
      {"root ::= \"for\" | \"foreach\" | \"fore\" \"ign\"",
       {"for", "foreach", "foreign"},
       {"fo", "fore", "forei"},
       {"forx"}},
      // Whole tokens; 97 is "a".
      {"root ::= <[97]> \"b\"", {"ab"}, {"a"}, {"b"}},
      {"root ::= !<[97]> \"b\"", {"xb", "bb"}, {"x"}, {"a"}},
  };
  for (const Sample& s : samples) {
    for (const std::string& t : s.whole) EXPECT_EQ(fit(s.gbnf, t), Fit::kWhole) << s.gbnf << " with " << t;
    for (const std::string& t : s.begins) EXPECT_EQ(fit(s.gbnf, t), Fit::kBegins) << s.gbnf << " with " << t;
    for (const std::string& t : s.no) EXPECT_EQ(fit(s.gbnf, t), Fit::kNo) << s.gbnf << " with " << t;
  }
}

TEST(Grammar, RefusesInOneSentenceWithThePlace) {
  const std::vector<std::pair<std::string, std::string>> cases{
      {"", "is empty"},
      {" \n\t", "is empty"},
      {"a ::= \"x\"", "no rule named root"},
      {"root ::= \"a\"{5,3}", "the upper count 3 is below the lower one 5 (line 1, column 13)"},
      {"root ::= \"a\"{1000001}", "at most 1000000 (line 1, column 14)"},
      {"root ::= \"a\"{99999999999999999999999}", "at most 1000000"},
      {"root ::= \"a\"{,3}", "a number is expected (line 1, column 14)"},
      {"root ::= \"a\"{3", "'}' is expected"},
      {"root ::= *", "nothing here to repeat (line 1, column 10)"},
      {"root ::= \"a\" | *", "nothing here to repeat"},
      {"root ::= \"\"*", "nothing here to repeat"},
      {"root ::= \"a\"{0}*", "nothing here to repeat"},
      {"root ::= (", "this '(' has no ')' (line 1, column 10)"},
      {"root ::= \"a\" )", "a new line or the end is expected (line 1, column 14)"},
      {"root ::= \"a", "this literal has no end (line 1, column 10)"},
      {"root ::= [a", "this class has no end (line 1, column 10)"},
      {"root ::= [z-a]", "this range runs backwards (line 1, column 11)"},
      {"root ::= \"\\q\"", "this escape is unknown (line 1, column 11)"},
      {"root ::= \"\\x4\"", "needs 2 hexadecimal digits"},
      {"root ::= \"\\UFFFFFFFF\"", "no such character"},
      {"root = \"a\"", "'::=' is expected (line 1, column 6)"},
      {"root ::= \"a\"\n | \"b\"", "a rule's name is expected (line 2, column 2)"},
      {"root ::= \"ä\" nowhere", "there is no rule named 'nowhere' (line 1, column 14)"},
      {"root ::= \"a\"\nunused ::= nowhere", "there is no rule named 'nowhere' (line 2, column 12)"},
      {"root ::= <nobody>", "there is no single token <nobody> (line 1, column 10)"},
      {"root ::= <nobody", "this '<' has no '>'"},
      {"root ::= !x", "a token in angle brackets is expected"},
      {"root ::= <[99999999999]>", "no single token"},
      {std::string("root ::= \"a\0\" x", 15),
       "it holds a NUL; \\x00 in a class or literal stands for one (line 1, column 12)"},
      {"root ::= \"\xFF\"", "it is no UTF-8 (line 1, column 11)"},
      {"root ::= \"a\" #\xC3", "it ends within a character"},
      {"root ::= root \"a\"", "allows no text at all"},
      {"root ::= " + std::string(300, '(') + "\"a\"" + std::string(300, ')'), "nested more than 200 deep"},
      {"root ::= \"" + std::string(1 << 20, 'a') + "\"", "larger than 1 MiB"},
  };
  for (const auto& [gbnf, why] : cases) {
    const std::string said = refusal(gbnf);
    EXPECT_THAT(said, HasSubstr(why)) << gbnf.substr(0, 60);
    EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), 0);
    EXPECT_EQ(said.back(), '.');
  }
}

TEST(Grammar, TokensOfSeveralCharactersAndPartsOfCharacters) {
  const Grammar g = grammar("root ::= \"ab\" [äöü]+ \"c\"");
  const Constraint c = g.constraint();
  EXPECT_TRUE(c.allows(257)) << "ab";
  EXPECT_FALSE(c.allows(258)) << "abc";
  c.advance(257);
  EXPECT_TRUE(c.allows(264)) << "the first byte of an umlaut";
  EXPECT_FALSE(c.allows(267)) << "a and such a byte";
  EXPECT_FALSE(c.allows(266)) << "two bytes of the euro sign";
  c.advance(264);
  EXPECT_FALSE(c.allows(kEnd));
  EXPECT_FALSE(c.allows(0xA5)) << "å";
  EXPECT_FALSE(c.allows('c'));
  c.advance(0xB6);
  EXPECT_TRUE(c.allows('c'));
  c.advance('c');
  EXPECT_TRUE(c.allows(kEnd));
  EXPECT_FALSE(c.allows(271)) << "a token without text";
  c.reset();
  EXPECT_TRUE(c.allows('a')) << "a new text";
  EXPECT_TRUE(g.constraint().allows('a'));
}

TEST(Grammar, WholeTokensAndTheirText) {
  const Constraint c = grammar("root ::= <end-of-thought> \"x\" | \"ab\" \"y\" | <[257]> \"z\"").constraint();
  EXPECT_TRUE(c.allows(271));
  c.advance(271);
  EXPECT_EQ(fit(c, "x"), Fit::kWhole);
  c.reset();
  EXPECT_TRUE(c.allows(257));
  c.advance(257);
  EXPECT_TRUE(c.allows('y')) << "read as text";
  EXPECT_TRUE(c.allows('z')) << "read as the token";
  c.advance('z');
  EXPECT_TRUE(c.allows(kEnd));
}

// --- against a naive model -------------------------------------------------------------------------------------------

using test::Alternatives;
using test::Part;

// All readings as lists of what is still to come, as far as they are not too many.
class Naive {
 public:
  explicit Naive(const std::vector<Alternatives>& rules) : rules_(rules) {
    std::vector<Part> start{Part{"", 0, 1, 1}};
    expand(start);
  }
  bool may_end() const { return readings_.contains({}); }
  // It gave up: its answers mean nothing.
  bool too_many() const { return too_many_; }
  bool advance(char c) {
    const std::set<std::vector<Part>, Less> before = std::exchange(readings_, {});
    seen_.clear();
    for (const std::vector<Part>& r : before) {
      if (r.empty() || r.back().chars.find(c) == std::string::npos) continue;
      std::vector<Part> next = r;
      next.pop_back();
      expand(next);
    }
    return !readings_.empty();
  }

 private:
  struct Less {
    bool operator()(const std::vector<Part>& a, const std::vector<Part>& b) const {
      return std::lexicographical_compare(a.begin(), a.end(), b.begin(), b.end(), [](const Part& x, const Part& y) {
        return std::tie(x.chars, x.rule, x.least, x.most) < std::tie(y.chars, y.rule, y.least, y.most);
      });
    }
  };

  // The next part stands last.
  void expand(const std::vector<Part>& r) {
    if (r.size() > 20 || seen_.size() > 500) too_many_ = true;
    if (too_many_ || !seen_.insert(r).second) return;
    if (r.empty()) {
      readings_.insert(r);
      return;
    }
    const Part p = r.back();
    std::vector<Part> rest(r.begin(), r.end() - 1);
    if (p.least == 0) expand(rest);
    if (p.most == 0) return;
    if (p.least != 1 || p.most != 1) {
      if (p.most < 0 || p.most > 1)
        rest.push_back({p.chars, p.rule, std::max(0, p.least - 1), p.most < 0 ? -1 : p.most - 1});
      rest.push_back({p.chars, p.rule, 1, 1});
      expand(rest);
    } else if (p.rule < 0) {
      readings_.insert(r);
    } else {
      for (const std::vector<Part>& a : rules_[static_cast<std::size_t>(p.rule)]) {
        std::vector<Part> next = rest;
        next.insert(next.end(), a.rbegin(), a.rend());
        expand(next);
      }
    }
  }

  const std::vector<Alternatives>& rules_;
  std::set<std::vector<Part>, Less> readings_;
  std::set<std::vector<Part>, Less> seen_;
  bool too_many_ = false;
};

TEST(Grammar, RandomGrammarsAgreeWithAllReadingsWrittenOut) {
  long asked = 0;
  long allowed = 0;
  for (int round = 0; round < 1000; ++round) {
    GSD_SEEDED(rng, round);
    const std::vector<Alternatives> rules = test::random_rules(rng, "abc");
    SCOPED_TRACE(test::to_gbnf(rules));
    const Constraint c = grammar(test::to_gbnf(rules)).constraint();
    Naive naive(rules);
    for (int length = 0; length < 12; ++length) {
      if (naive.too_many()) break;
      ASSERT_EQ(c.allows(kEnd), naive.may_end());
      std::string possible;
      for (const char x : {'a', 'b', 'c', 'd'}) {
        Naive next = naive;
        const bool good = next.advance(x);
        if (next.too_many()) continue;
        ASSERT_EQ(c.allows(x), good) << x << " after " << length;
        for (const Token t : {257, 258, 259, 260, 261}) {  // longer tokens: the same as their characters
          if (rng() % 4 != 0) continue;
          Naive longer = naive;
          const std::string_view text = bytes_and_more()->bytes(t);
          const bool all = std::all_of(text.begin(), text.end(), [&](char y) { return longer.advance(y); });
          if (!longer.too_many()) {
            ASSERT_EQ(c.allows(t), all) << text;
          }
        }
        ++asked;
        allowed += good ? 1 : 0;
        if (good) possible += x;
      }
      if (possible.empty()) break;
      const char x = possible[rng() % possible.size()];
      c.advance(x);
      naive.advance(x);
    }
    ASSERT_EQ(c.failure(), "");
  }
  EXPECT_GT(allowed, asked / 5);
  EXPECT_LT(allowed, asked * 4 / 5);
}

// Whoever asks for all tokens at one place gets the answers that single questions get.
TEST(Grammar, ManyQuestionsGetTheAnswersOfFew) {
  constexpr Token kTokens = 272;
  for (int round = 0; round < 300; ++round) {
    GSD_SEEDED(rng, round);
    std::string gbnf = test::to_gbnf(test::random_rules(rng, "ab\xC3\xA4"));
    if (round % 3 == 0) gbnf = "root ::= \"\\\"\" [^\"]{0,3} ( \"\\\"\" | <end-of-thought> ) [ab]* | !<[97]> \"c\"";
    SCOPED_TRACE(gbnf);
    Grammar g = grammar("root ::= \"x\"");
    try {
      g = grammar(gbnf);
    } catch (const Error&) {
      continue;  // a random class that cuts a character
    }
    const Constraint many = g.constraint();
    const Constraint few = g.constraint();
    std::vector<Token> text;
    for (int length = 0; length < 6; ++length) {
      std::vector<Token> allowed;
      for (Token t = 0; t < kTokens; ++t) {
        if (t % 10 == 0) {
          few.reset();
          for (const Token before : text) few.advance(before);
        }
        const bool answer = many.allows(t);
        ASSERT_EQ(answer, few.allows(t)) << t << " after " << length;
        if (answer && t != kEnd) allowed.push_back(t);
      }
      if (allowed.empty()) break;
      text.push_back(allowed[rng() % allowed.size()]);
      many.advance(text.back());
    }
    EXPECT_EQ(many.failure(), "");
  }
}

// --- what is made to cost
// ----------------------------------------------------------------------------------------------

std::string rule_name(int i) {
  std::string out = "r";
  return out += std::to_string(i);  // GCC 12 warns of "r" + …
}

TEST(Grammar, SizesThatExpandCostNothing) {
  std::string doubling = "root ::= r0\n";
  for (int i = 0; i < 60; ++i) {
    const std::string name = rule_name(i);
    const std::string next = rule_name(i + 1);
    doubling += name + " ::= " + next + " | " + next + " " + next + " | (" + next + " | " + next + ")\n";
  }
  doubling += "r60 ::= \"a\" |\n";
  EXPECT_EQ(fit(doubling, "aaaa"), Fit::kWhole);
  EXPECT_EQ(fit("root ::= ((((\"a\"{1000}){1000}){1000}){1000}){1000}", std::string(5000, 'a')), Fit::kBegins);
  EXPECT_EQ(fit("root ::= \"a\"" + std::string(20, '+'), std::string(50, 'a')), Fit::kWhole);
  EXPECT_EQ(fit("root ::= [a-z]{1,5000} \"!\"", std::string(5000, 'q') + "!"), Fit::kWhole);
  EXPECT_EQ(fit("root ::= [a-z]{1,5000} \"!\"", std::string(5001, 'q')), Fit::kNo);
}

TEST(Grammar, TwentyThousandStringsAreNoBurden) {
  std::string gbnf = "root ::= (";
  for (int i = 0; i < 20000; ++i)
    gbnf += (i > 0 ? " | " : "") + std::string("\"\\\"item ") + std::to_string(7919 * i) + "\\\"\"";
  const Constraint c = grammar(gbnf + ")").constraint();
  EXPECT_EQ(fit(c, "\"item 158372081\""), Fit::kWhole);
  EXPECT_EQ(c.failure(), "");
  c.reset();
  EXPECT_EQ(fit(c, "\"item 158372082\""), Fit::kNo);
}

TEST(Grammar, LongTextsOfAmbiguousGrammarsAreFollowed) {
  const std::string gbnf = "root ::= \"a\" root x | \"a\" root y | \"b\"\nx ::= \"c\"\ny ::= \"c\"";
  const Constraint c = grammar(gbnf).constraint();
  EXPECT_EQ(fit(c, std::string(3000, 'a') + "b" + std::string(3000, 'c')), Fit::kWhole) << c.failure();
}

// Each character that is asked for has 24000 readings, each of which must be looked at.
TEST(Grammar, WhatTakesTooMuchWorkSaysSoInsteadOfTakingTime) {
  std::string optional = "root ::=";
  for (int i = 0; i < 24000; ++i) optional += " r" + std::to_string(i) + "?";
  for (int i = 0; i < 24000; ++i)
    optional += "\nr" + std::to_string(i) + " ::= [a-z] [a-z] \"" + std::to_string(i) + "\"";
  const Constraint c = grammar(optional).constraint();
  int asked = 0;
  while (asked < 26 && c.allows('a' + asked)) ++asked;  // never advanced: nothing is earned
  EXPECT_LT(asked, 26);
  EXPECT_THAT(c.failure(), HasSubstr("too much work"));
  EXPECT_FALSE(c.allows('a'));
  EXPECT_FALSE(c.allows(kEnd));
  c.reset();
  EXPECT_TRUE(c.allows('a')) << "a new text";
  EXPECT_EQ(c.failure(), "");

  // Ever more rules that wait for their end.
  std::string open = "root ::= \"!\"";
  for (int i = 0; i < 1000; ++i) open += " | r" + std::to_string(i);
  for (int i = 0; i < 1000; ++i) open += "\nr" + std::to_string(i) + " ::= \"a\" root \"" + std::to_string(i) + "\"";
  const Constraint deep = grammar(open).constraint();
  int length = 0;
  for (; length < 5000 && deep.allows('a'); ++length) deep.advance('a');
  EXPECT_GT(length, 100);
  EXPECT_LT(length, 5000);
  EXPECT_THAT(deep.failure(), HasSubstr("too much work"));

  EXPECT_THAT(refusal("root ::= (\"a\"?){1000000} (\"b\"?){1000000}"), HasSubstr("too much work"));
}

// However long the text, no question to an honest grammar needs more: the work of one JSON document per token is flat.
TEST(Grammar, ALongDocumentNeverRunsOutOfWork) {
  const std::string json = R"(root ::= value
value ::= object | array | string | number
object ::= "{" ( string ":" value ( "," string ":" value )* )? "}"
array ::= "[" ( value ( "," value )* )? "]"
string ::= "\"" [^"\\]* "\""
number ::= "-"? [0-9]{1,16}
)";
  const Constraint c = grammar(json).constraint();
  std::string text = "[";
  for (int i = 0; i < 20000; ++i) text += "{\"name\":\"some text\",\"value\":[1,-2,3]},";
  EXPECT_EQ(fit(c, text + "1]"), Fit::kWhole);
  EXPECT_EQ(c.failure(), "");
}

}  // namespace
}  // namespace gsd
