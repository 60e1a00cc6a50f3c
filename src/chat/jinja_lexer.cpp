#include "jinja_lexer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>

#include "jinja_ast.h"

namespace gsd::chat {
namespace {

using Type = JinjaToken::Type;

class Lexer {
 public:
  explicit Lexer(std::string source) : source_(std::move(source)) {
    if (source_.ends_with('\n')) source_.pop_back();  // keep_trailing_newline is off
  }

  std::vector<JinjaToken> run() {
    while (at_ < source_.size()) {
      const std::size_t tag = next_tag();
      text(tag);
      if (tag >= source_.size()) break;
      at_ = tag + 2;
      const char kind = source_[tag + 1];
      const bool sign = at_ < source_.size() && (source_[at_] == '-' || source_[at_] == '+');
      if (sign) ++at_;
      if (kind == '#') {
        comment();
      } else if (kind == '%' && raw()) {
      } else {
        inside(kind);
      }
    }
    add(Type::kEnd, "");
    return std::move(out_);
  }

 private:
  [[noreturn]] void fail(const std::string& what) const { fail_at(line(), what); }
  int line() const {
    return 1 +
           static_cast<int>(std::count(
               source_.begin(), source_.begin() + static_cast<std::ptrdiff_t>(std::min(at_, source_.size())), '\n'));
  }
  void add(Type type, std::string text) {
    counted_ = std::min(counted_, at_);
    line_ += static_cast<int>(std::count(source_.begin() + static_cast<std::ptrdiff_t>(counted_),
                                         source_.begin() + static_cast<std::ptrdiff_t>(at_), '\n'));
    counted_ = at_;
    out_.push_back({type, std::move(text), line_});
  }

  std::size_t next_tag() const {
    for (std::size_t i = source_.find('{', at_); i != std::string::npos; i = source_.find('{', i + 1)) {
      if (i + 1 < source_.size() && (source_[i + 1] == '{' || source_[i + 1] == '%' || source_[i + 1] == '#')) return i;
    }
    return source_.size();
  }

  // The text before a tag at `tag`; "-" strips all white space, and the white space between a block and the begin of
  // its line goes too (lstrip_blocks).
  void text(std::size_t tag) {
    std::string_view t = std::string_view(source_).substr(at_, tag - at_);
    if (tag < source_.size()) {
      const char sign = tag + 2 < source_.size() ? source_[tag + 2] : ' ';
      if (sign == '-') {
        while (!t.empty() && std::isspace(static_cast<unsigned char>(t.back())) != 0) t.remove_suffix(1);
      } else if (sign != '+' && source_[tag + 1] != '{') {
        const std::size_t newline = t.rfind('\n');
        const std::size_t begin = newline == std::string_view::npos ? 0 : newline + 1;
        const bool blank = std::all_of(t.begin() + static_cast<std::ptrdiff_t>(begin), t.end(),
                                       [](char c) { return std::isspace(static_cast<unsigned char>(c)) != 0; });
        if (blank && (begin > 0 || line_begins_)) t = t.substr(0, begin);
      }
    }
    if (!t.empty()) add(Type::kText, std::string(t));
    at_ = tag;
  }

  // After a tag: "-" has stripped what follows; the first line break after a block or comment goes (trim_blocks).
  void after_tag(bool strip, bool trim) {
    const std::size_t begin = at_;
    if (strip) {
      while (at_ < source_.size() && std::isspace(static_cast<unsigned char>(source_[at_])) != 0) ++at_;
    } else if (trim && at_ < source_.size() && source_[at_] == '\n') {
      ++at_;
    }
    line_begins_ = at_ > begin && source_[at_ - 1] == '\n';
  }

  void comment() {
    const std::size_t end = source_.find("#}", at_);
    if (end == std::string::npos) fail("a comment has no end");
    const char sign = end > at_ ? source_[end - 1] : ' ';
    at_ = end + 2;
    after_tag(sign == '-', sign != '+');
  }

  // {% raw %} … {% endraw %}: what is between stands as it is.
  bool raw() {
    const auto word = [&](std::size_t at, std::string_view name) -> std::size_t {  // the end of `name %}` at `at`, or 0
      while (at < source_.size() && std::isspace(static_cast<unsigned char>(source_[at])) != 0) ++at;
      if (source_.compare(at, name.size(), name) != 0) return 0;
      at += name.size();
      while (at < source_.size() && std::isspace(static_cast<unsigned char>(source_[at])) != 0) ++at;
      if (at < source_.size() && (source_[at] == '-' || source_[at] == '+')) ++at;
      return source_.compare(at, 2, "%}") == 0 ? at + 2 : 0;
    };
    const std::size_t begin = word(at_, "raw");
    if (begin == 0) return false;
    at_ = begin;
    after_tag(source_[begin - 3] == '-', source_[begin - 3] != '+');
    for (std::size_t i = source_.find("{%", at_); i != std::string::npos; i = source_.find("{%", i + 2)) {
      const bool sign = i + 2 < source_.size() && (source_[i + 2] == '-' || source_[i + 2] == '+');
      const std::size_t end = word(i + (sign ? 3 : 2), "endraw");
      if (end == 0) continue;
      text(i);
      at_ = end;
      after_tag(source_[end - 3] == '-', source_[end - 3] != '+');
      return true;
    }
    fail("{% raw %} has no {% endraw %}");
  }

  void inside(char kind) {
    const std::string close = kind == '{' ? "}}" : "%}";
    add(kind == '{' ? Type::kOpenOutput : Type::kOpenBlock, "");
    int brackets = 0;
    for (;;) {
      while (at_ < source_.size() && std::isspace(static_cast<unsigned char>(source_[at_])) != 0) ++at_;
      if (at_ >= source_.size()) fail("a tag has no end");
      const char c = source_[at_];
      const bool sign = c == '-' || c == '+';
      if (brackets == 0 && source_.compare(at_ + (sign ? 1 : 0), 2, close) == 0) {
        at_ += sign ? 3 : 2;
        add(kind == '{' ? Type::kCloseOutput : Type::kCloseBlock, "");
        after_tag(c == '-', kind == '%' && c != '+');
        return;
      }
      if (c == '(' || c == '[' || c == '{') ++brackets;
      if (c == ')' || c == ']' || c == '}') --brackets;
      if (brackets < 0) fail("a bracket is closed that was not opened");
      one(c);
    }
  }

  void one(char c) {
    if (std::isalpha(static_cast<unsigned char>(c)) != 0 || c == '_') {
      const std::size_t begin = at_;
      while (at_ < source_.size() &&
             (std::isalnum(static_cast<unsigned char>(source_[at_])) != 0 || source_[at_] == '_'))
        ++at_;
      add(Type::kName, source_.substr(begin, at_ - begin));
    } else if (std::isdigit(static_cast<unsigned char>(c)) != 0) {
      number();
    } else if (c == '"' || c == '\'') {
      string(c);
    } else {
      symbol();
    }
  }

  void number() {
    std::string text;
    bool is_float = false;
    const auto digits = [&] {
      while (at_ < source_.size() &&
             (std::isdigit(static_cast<unsigned char>(source_[at_])) != 0 || source_[at_] == '_')) {
        if (source_[at_] != '_') text += source_[at_];
        ++at_;
      }
    };
    const auto digit_at = [&](std::size_t i) {
      return i < source_.size() && std::isdigit(static_cast<unsigned char>(source_[i])) != 0;
    };
    digits();
    if (at_ < source_.size() && source_[at_] == '.' && digit_at(at_ + 1)) {
      is_float = true;
      text += source_[at_++];
      digits();
    }
    const bool e = at_ < source_.size() && (source_[at_] == 'e' || source_[at_] == 'E');
    const bool signed_e = e && at_ + 1 < source_.size() && (source_[at_ + 1] == '-' || source_[at_ + 1] == '+');
    if (e && digit_at(at_ + (signed_e ? 2 : 1))) {
      is_float = true;
      text += source_[at_++];
      if (signed_e) text += source_[at_++];
      digits();
    }
    if (text.size() > 18 && !is_float) fail("a number is too large");
    add(is_float ? Type::kFloat : Type::kInt, text);
  }

  void string(char quote) {
    std::string text;
    for (++at_;; ++at_) {
      if (at_ >= source_.size()) fail("a string has no end");
      if (source_[at_] == quote) break;
      if (source_[at_] == '\\') {
        escape(text);
      } else {
        text += source_[at_];
      }
    }
    ++at_;
    add(Type::kString, std::move(text));
  }

  // At a backslash; leaves at_ at the escape's last character. Unknown escapes stand as they are, as in Python.
  void escape(std::string& out) {
    if (++at_ >= source_.size()) fail("a string has no end");
    const char c = source_[at_];
    constexpr std::string_view kFrom = "nrtbfav0";
    constexpr std::string_view kTo{"\n\r\t\b\f\a\v\0", 8};
    if (c == 'x' || c == 'u' || c == 'U') {
      const std::size_t n = c == 'x' ? 2 : c == 'u' ? 4 : 8;
      std::uint32_t value = 0;
      for (std::size_t i = 0; i < n; ++i) {
        const char h = at_ + 1 < source_.size() ? source_[at_ + 1] : ' ';
        if (std::isxdigit(static_cast<unsigned char>(h)) == 0) fail("an escape in a string lacks digits");
        value = value * 16 + static_cast<std::uint32_t>(
                                 std::isdigit(static_cast<unsigned char>(h)) != 0 ? h - '0' : (h | 32) - 'a' + 10);
        ++at_;
      }
      if (value > 0x10FFFF) fail("an escape in a string is no character");
      out += to_utf8(Text(1, static_cast<char32_t>(value)));
    } else if (const auto i = kFrom.find(c); i != std::string_view::npos) {
      out += kTo[i];
    } else if (c == '\\' || c == '\'' || c == '"') {
      out += c;
    } else if (c != '\n') {
      out += '\\';
      out += c;
    }
  }

  void symbol() {
    constexpr std::array<std::string_view, 26> kSymbols{"**", "//", "==", "!=", "<=", ">=", "+", "-", "*",
                                                        "/",  "%",  "~",  "<",  ">",  "=",  "(", ")", "[",
                                                        "]",  "{",  "}",  ".",  ",",  ":",  "|", ";"};
    for (const std::string_view s : kSymbols) {
      if (source_.compare(at_, s.size(), s) != 0) continue;
      at_ += s.size();
      add(Type::kSymbol, std::string(s));
      return;
    }
    fail(fmt::format("the character '{}' makes no sense there", source_[at_]));
  }

  std::string source_;
  std::size_t at_ = 0;
  std::size_t counted_ = 0;  // line breaks before here are in line_
  int line_ = 1;
  bool line_begins_ = true;  // nothing but a removed line break stands before at_ in its line
  std::vector<JinjaToken> out_;
};

}  // namespace

std::vector<JinjaToken> lex_jinja(std::string_view source) {
  std::string text;
  text.reserve(source.size());
  for (std::size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      text += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      text += source[i];
    }
  }
  return Lexer(std::move(text)).run();
}

}  // namespace gsd::chat
