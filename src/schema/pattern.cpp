#include "pattern.h"

#include <fmt/format.h>

#include <algorithm>

#include "../core/utf8_decoder.h"

namespace gsd::schema {
namespace {

struct Expression {
  enum Kind { kSet, kSequence, kChoice, kRepeat, kAhead, kNotAhead, kStart, kEnd } kind = kSequence;
  Ranges set = {};
  std::vector<Expression> parts = {};
  std::uint32_t least = 1, most = 1;

  bool asserts() const {
    return kind >= kAhead || std::any_of(parts.begin(), parts.end(), [](const Expression& e) { return e.asserts(); });
  }
};

const Ranges kDigits{{'0', '9'}};
const Ranges kWord{{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
const Ranges kSpace{{9, 13},          {' ', ' '},       {0xA0, 0xA0},     {0x1680, 0x1680}, {0x2000, 0x200A},
                    {0x2028, 0x2029}, {0x202F, 0x202F}, {0x205F, 0x205F}, {0x3000, 0x3000}, {0xFEFF, 0xFEFF}};
const Ranges kLineEnds{{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}};

class Parser {
 public:
  Parser(std::string_view text, const std::string& at) : at_(at), pattern_(text), text_(code_points(text)) {
    constexpr std::size_t kMostChars = 4096;
    if (text_.size() > kMostChars) refuse("a pattern of more than 4096 characters", at_);
  }

  Expression run() {
    Expression out = choice(0);
    if (!done()) fail("this ) has no (");
    return out;
  }

 private:
  [[noreturn]] void fail(const std::string& why) const {
    refuse(fmt::format("the pattern '{}' ({}, character {})", pattern_.substr(0, 80), why, i_ + 1), at_);
  }
  bool done() const { return i_ >= text_.size(); }
  std::uint32_t peek(std::size_t ahead = 0) const { return i_ + ahead < text_.size() ? text_[i_ + ahead] : 0; }
  bool take(std::string_view word) {
    for (std::size_t k = 0; k < word.size(); ++k) {
      if (peek(k) != static_cast<unsigned char>(word[k])) return false;
    }
    i_ += word.size();
    return true;
  }

  Expression choice(int depth) {
    constexpr int kMostNested = 100;
    if (depth > kMostNested) fail("groups nested more than 100 deep");
    Expression out{.kind = Expression::kChoice};
    do {
      Expression sequence;
      while (!done() && peek() != '|' && peek() != ')') sequence.parts.push_back(repeated(depth));
      out.parts.push_back(std::move(sequence));
    } while (take("|"));
    return out;
  }

  Expression repeated(int depth) {
    Expression out = atom(depth);
    std::uint32_t least = 0;
    std::uint32_t most = Languages::kNoLimit;
    if (take("+")) {
      least = 1;
    } else if (take("?")) {
      most = 1;
    } else if (peek() == '{' && peek(1) >= '0' && peek(1) <= '9') {
      ++i_;
      least = number();
      most = !take(",") ? least : peek() == '}' ? Languages::kNoLimit : number();
      if (!take("}")) fail("a } is expected");
      if (most < least) fail("the upper count is below the lower one");
    } else if (!take("*")) {
      return out;
    }
    take("?");  // lazy ones match the same texts
    if (peek() == '*' || peek() == '+' || peek() == '?') fail("nothing here to repeat");
    if (out.kind == Expression::kStart || out.kind == Expression::kEnd) fail("a repeated assertion");
    Expression r{.kind = Expression::kRepeat, .least = least, .most = most};
    r.parts.push_back(std::move(out));
    return r;
  }

  std::uint32_t number() {
    constexpr std::uint32_t kMost = 10000;
    if (peek() < '0' || peek() > '9') fail("a number is expected");
    std::uint32_t n = 0;
    for (; peek() >= '0' && peek() <= '9'; ++i_) {
      n = 10 * n + (peek() - '0');
      if (n > kMost) fail("a count above 10000");
    }
    return n;
  }

  Expression set(Ranges ranges) const { return {.kind = Expression::kSet, .set = std::move(ranges)}; }

  Expression atom(int depth) {
    if (take("^")) return {.kind = Expression::kStart};
    if (take("$")) return {.kind = Expression::kEnd};
    if (take(".")) return set(complement(kLineEnds));
    if (peek() == '[') return set(char_class());
    if (peek() == '(') return group(depth);
    if (peek() == '\\') return set(escape(false));
    if (peek() == '*' || peek() == '+' || peek() == '?') fail("nothing here to repeat");
    const std::uint32_t c = text_[i_++];
    return set({{c, c}});
  }

  Expression group(int depth) {
    ++i_;
    Expression::Kind kind = Expression::kSequence;
    if (take("?=")) {
      kind = Expression::kAhead;
    } else if (take("?!")) {
      kind = Expression::kNotAhead;
    } else if (take("?<=") || take("?<!")) {
      fail("looking behind");
    } else if (take("?<") || take("?P<")) {
      while (!done() && peek() != '>') ++i_;
      take(">");
    } else if (!take("?:") && peek() == '?') {
      fail("this kind of group");
    }
    Expression out{.kind = kind};
    out.parts.push_back(choice(depth + 1));
    if (!take(")")) fail("a ) is missing");
    return out;
  }

  Ranges char_class() {
    ++i_;
    const bool inverted = take("^");
    Ranges out;
    while (!done() && peek() != ']') {
      if (peek() == '[' && peek(1) == ':') fail("a class with a name");
      const Ranges low = class_part();
      if (peek() == '-' && peek(1) != ']' && i_ + 1 < text_.size()) {
        ++i_;
        const Ranges high = class_part();
        if (!is_single(low) || !is_single(high)) fail("a range between sets");
        if (high[0].first < low[0].first) fail("this range runs backwards");
        out.emplace_back(low[0].first, high[0].first);
      } else {
        out.insert(out.end(), low.begin(), low.end());
      }
    }
    if (!take("]")) fail("a ] is missing");
    return inverted ? complement(normalized(std::move(out))) : normalized(std::move(out));
  }
  static bool is_single(const Ranges& r) { return r.size() == 1 && r[0].first == r[0].second; }
  Ranges class_part() {
    if (peek() == '\\') return escape(true);
    const std::uint32_t c = text_[i_++];
    return {{c, c}};
  }

  Ranges escape(bool in_class) {
    ++i_;
    if (done()) fail("a \\ at the end");
    const std::uint32_t c = text_[i_++];
    const auto one = [](std::uint32_t x) { return Ranges{{x, x}}; };
    switch (c) {
      case 'd':
        return kDigits;
      case 'D':
        return complement(kDigits);
      case 'w':
        return kWord;
      case 'W':
        return complement(kWord);
      case 's':
        return kSpace;
      case 'S':
        return complement(kSpace);
      case 't':
        return one('\t');
      case 'n':
        return one('\n');
      case 'r':
        return one('\r');
      case 'v':
        return one('\v');
      case 'f':
        return one('\f');
      case 'x':
        return one(hexadecimal(2));
      case 'u':
        return one(unicode());
      case 'b':
        if (in_class) return one('\b');
        fail("a word boundary");
      case '0':
        if (peek() < '0' || peek() > '9') return one(0);
        break;
      default:
        break;
    }
    if (c >= '0' && c <= '9') fail("a back reference");
    if (c == 'p' || c == 'P') fail("a Unicode property");
    if (c == 'B') fail("a word boundary");
    if (c == 'k') fail("a back reference");
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) fail("this escape is unknown");
    return one(c);
  }

  std::uint32_t hexadecimal(std::size_t digits) {
    std::uint32_t value = 0;
    for (std::size_t k = 0; k < digits; ++k, ++i_) {
      const std::uint32_t c = peek() | 0x20;
      if (peek() >= '0' && peek() <= '9') {
        value = value << 4 | (peek() - '0');
      } else if (c >= 'a' && c <= 'f') {
        value = value << 4 | (c - 'a' + 10);
      } else {
        fail("hexadecimal digits are missing");
      }
    }
    return value;
  }

  std::uint32_t unicode() {
    std::uint32_t value = 0;
    if (take("{")) {
      std::size_t digits = 0;
      while (peek(digits) != '}' && digits < 6 && i_ + digits < text_.size()) ++digits;
      value = hexadecimal(std::max<std::size_t>(1, digits));
      if (!take("}")) fail("a } is expected");
    } else {
      value = hexadecimal(4);
      if (value >= 0xD800 && value < 0xDC00 && take("\\u")) {
        const std::uint32_t low = hexadecimal(4);
        if (low < 0xDC00 || low > 0xDFFF) fail("half a character");
        value = 0x10000 + ((value - 0xD800) << 10) + (low - 0xDC00);
      }
    }
    if (value > kMaxCodePoint || (value >= 0xD800 && value <= 0xDFFF)) fail("there is no such character");
    return value;
  }

  const std::string& at_;
  std::string_view pattern_;
  std::vector<std::uint32_t> text_;
  std::size_t i_ = 0;
};

// The language of an expression and of everything after it: only so can an assertion of what follows be said.
class Compiler {
 public:
  enum class Start { kHere, kBefore, kUnknown };

  Compiler(Languages& languages, const std::string& at) : l_(languages), at_(at) {}

  Languages::Id run(const Expression& e) {
    const Languages::Id later = l_.sequence(l_.repeated(l_.any(), 1), after(e, l_.all(), Start::kBefore));
    return l_.either({after(e, l_.all(), Start::kHere), later});
  }

 private:
  Languages::Id plain(const Expression& e) {
    std::vector<Languages::Id> parts;
    switch (e.kind) {
      case Expression::kSet:
        return l_.chars(e.set);
      case Expression::kRepeat:
        return l_.repeated(plain(e.parts[0]), e.least, e.most);
      case Expression::kChoice:
        for (const Expression& p : e.parts) parts.push_back(plain(p));
        return l_.either(std::move(parts));
      default:
        break;
    }
    Languages::Id out = l_.empty();
    for (auto it = e.parts.rbegin(); it != e.parts.rend(); ++it) out = l_.sequence(plain(*it), out);
    return out;
  }

  Languages::Id after(const Expression& e, Languages::Id rest, Start start) {
    if (!e.asserts()) return l_.sequence(plain(e), rest);
    std::vector<Languages::Id> parts;
    switch (e.kind) {
      case Expression::kStart:
        if (start == Start::kUnknown) refuse("a pattern with ^ after what may be empty", at_);
        return start == Start::kHere ? rest : l_.none();
      case Expression::kEnd:
        return l_.both({l_.empty(), rest});
      case Expression::kAhead:
        return l_.both({after(e.parts[0], l_.all(), start), rest});
      case Expression::kNotAhead:
        return l_.both({l_.negated(after(e.parts[0], l_.all(), start)), rest});
      case Expression::kChoice:
        for (const Expression& p : e.parts) parts.push_back(after(p, rest, start));
        return l_.either(std::move(parts));
      case Expression::kRepeat:
        if (e.most != 1) refuse("a pattern with an assertion within a repetition", at_);
        return e.least == 1 ? after(e.parts[0], rest, start) : l_.either({rest, after(e.parts[0], rest, start)});
      default:
        break;
    }
    return sequence(e, rest, start);
  }

  Languages::Id sequence(const Expression& e, Languages::Id rest, Start start) {
    std::vector<Start> starts;
    for (const Expression& p : e.parts) {
      starts.push_back(start);
      const bool zero = p.kind >= Expression::kAhead;
      if (zero || start == Start::kBefore) continue;
      const bool may_be_empty = p.asserts() || l_.contains(plain(p), "");
      start = may_be_empty ? Start::kUnknown : Start::kBefore;
    }
    for (std::size_t i = e.parts.size(); i-- > 0;) rest = after(e.parts[i], rest, starts[i]);
    return rest;
  }

  Languages& l_;
  const std::string& at_;
};

#define GSD_DATE                                                                                             \
  "(?!0000)(?:\\d{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\\d|30)|02-" \
  "(?:0[1-9]|1\\d|2[0-8]))|(?:\\d\\d(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)-02-29)"
#define GSD_TIME "(?:[01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(?:\\.\\d{1,9})?(?:Z|[+-](?:[01]\\d|2[0-3]):[0-5]\\d)"
#define GSD_LABEL "[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,28}[a-zA-Z0-9])?"
#define GSD_BYTE "(?:25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)"
#define GSD_IPV4 GSD_BYTE "(?:\\." GSD_BYTE "){3}"
#define GSD_16 "[0-9a-fA-F]{1,4}"
#define GSD_IPV6                                                                                         \
  "(?:(?:" GSD_16 ":){7}" GSD_16 "|(?:" GSD_16 ":){1,7}:|(?:" GSD_16 ":){1,6}:" GSD_16 "|(?:" GSD_16     \
  ":){1,5}(?::" GSD_16 "){1,2}|(?:" GSD_16 ":){1,4}(?::" GSD_16 "){1,3}|(?:" GSD_16 ":){1,3}(?::" GSD_16 \
  "){1,4}|(?:" GSD_16 ":){1,2}(?::" GSD_16 "){1,5}|" GSD_16 ":(?::" GSD_16 "){1,6}|:(?::" GSD_16 "){1,7}|::)"
#define GSD_WORD "[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]+"
#define GSD_URI_CHAR "(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})"
#define GSD_HEX4 "[0-9a-fA-F]{4}"

struct Format {
  std::string_view name;
  const char* pattern;
};
// Each is what RFC 3339, 5321, 3986 and so on allow, or a part of it.
constexpr Format kFormats[] = {
    {"date", "^" GSD_DATE "$"},
    {"time", "^" GSD_TIME "$"},
    {"date-time", "^" GSD_DATE "T" GSD_TIME "$"},
    {"duration",
     "^P(?!$)(?:(?:\\d{1,4}Y)?(?:\\d{1,4}M)?(?:\\d{1,4}D)?(?:T(?=\\d)(?:\\d{1,4}H)?(?:\\d{1,4}M)?(?:\\d{1,4}S)?)?|\\d{"
     "1,"
     "4}W)$"},
    {"email", "^" GSD_WORD "(?:\\." GSD_WORD ")*@(?:" GSD_LABEL "\\.){1,7}" GSD_LABEL "$"},
    {"idn-email", "^" GSD_WORD "(?:\\." GSD_WORD ")*@(?:" GSD_LABEL "\\.){1,7}" GSD_LABEL "$"},
    {"hostname", "^(?:" GSD_LABEL "\\.){0,7}" GSD_LABEL "$"},
    {"idn-hostname", "^(?:" GSD_LABEL "\\.){0,7}" GSD_LABEL "$"},
    {"ipv4", "^" GSD_IPV4 "$"},
    {"ipv6", "^" GSD_IPV6 "$"},
    {"ipvanyaddress", "^(?:" GSD_IPV4 "|" GSD_IPV6 ")$"},
    {"uuid", "^[0-9a-fA-F]{8}-" GSD_HEX4 "-" GSD_HEX4 "-" GSD_HEX4 "-[0-9a-fA-F]{12}$"},
    {"uuid1", "^[0-9a-fA-F]{8}-" GSD_HEX4 "-1[0-9a-fA-F]{3}-[89abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12}$"},
    {"uuid4", "^[0-9a-fA-F]{8}-" GSD_HEX4 "-4[0-9a-fA-F]{3}-[89abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12}$"},
    {"uuid5", "^[0-9a-fA-F]{8}-" GSD_HEX4 "-5[0-9a-fA-F]{3}-[89abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12}$"},
    {"uuid7", "^[0-9a-fA-F]{8}-" GSD_HEX4 "-7[0-9a-fA-F]{3}-[89abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12}$"},
    {"uri", "^[a-zA-Z][a-zA-Z0-9+.-]*:(?://(?:[A-Za-z0-9._~-]+@)?(?:" GSD_LABEL "\\.)*" GSD_LABEL
            "(?::\\d{1,5})?(?:/" GSD_URI_CHAR "*)*|/?" GSD_URI_CHAR "+(?:/" GSD_URI_CHAR "*)*)(?:\\?(?:" GSD_URI_CHAR
            "|[/?])*)?(?:#(?:" GSD_URI_CHAR "|[/?])*)?$"},
    {"json-pointer", "^(?:/(?:[^~/]|~[01])*)*$"},
    {"byte", "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"},
    {"base64", "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"},
    // Said of a text, but nothing about its characters.
    {"password", ""},
    {"binary", ""},
    {"path", ""},
    {"file-path", ""},
    {"directory-path", ""},
};

}  // namespace

Languages::Id pattern_language(Languages& languages, std::string_view pattern, const std::string& at) {
  const Expression e = Parser(pattern, at).run();
  return Compiler(languages, at).run(e);
}

const char* format_pattern(std::string_view format) {
  if (format == "uri-reference" || format == "iri" || format == "iri-reference") format = "uri";
  for (const auto& [name, pattern] : kFormats) {
    if (name == format) return pattern;
  }
  return nullptr;
}

}  // namespace gsd::schema
