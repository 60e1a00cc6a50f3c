#include "gbnf.h"

#include <algorithm>
#include <map>
#include <string>

#include "gsd/error.h"
#include "utf8_decoder.h"

namespace gsd::gbnf {

bool CharSet::contains(std::uint32_t c) const {
  if (c < 128) return (ascii[c / 64] >> (c % 64) & 1) != 0;
  return meets(c, c);
}

bool CharSet::meets(std::uint32_t low, std::uint32_t high) const {
  const auto it =
      std::lower_bound(ranges.begin(), ranges.end(), low, [](const auto& r, auto x) { return r.second < x; });
  return it != ranges.end() && it->first <= high;
}

namespace {

using Ranges = std::vector<std::pair<std::uint32_t, std::uint32_t>>;
using Sequence = std::vector<std::uint32_t>;  // of symbols

CharSet make_set(Ranges ranges, bool inverted) {
  std::sort(ranges.begin(), ranges.end());
  CharSet out;
  for (const auto& [low, high] : ranges) {
    if (!out.ranges.empty() && low <= out.ranges.back().second + 1) {
      out.ranges.back().second = std::max(out.ranges.back().second, high);
    } else {
      out.ranges.emplace_back(low, high);
    }
  }
  if (inverted) {
    Ranges rest;
    std::uint32_t from = 0;
    for (const auto& [low, high] : out.ranges) {
      if (low > from) rest.emplace_back(from, low - 1);
      from = high + 1;
    }
    if (from <= kMaxCodePoint) rest.emplace_back(from, kMaxCodePoint);
    out.ranges = std::move(rest);
  }
  for (const auto& [low, high] : out.ranges) {
    for (std::uint32_t c = low; c < 128 && c <= high; ++c) out.ascii[c / 64] |= std::uint64_t{1} << (c % 64);
  }
  return out;
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_word(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || is_digit(c); }

class Parser {
 public:
  Parser(std::string_view text, const TokenByName& token_by_name) : text_(text), token_by_name_(token_by_name) {}

  Automaton run() {
    check_text();
    skip(true);
    while (at_ < text_.size()) rule();
    const auto root = names_.find("root");
    if (root == names_.end()) fail("has no rule named root");
    out_.root = root->second;
    for (const auto& [name, id] : names_) {
      if (!rules_[id].defined) {
        at_ = rules_[id].place;
        refuse("there is no rule named '" + std::string(name.substr(0, 60)) + "'");
      }
    }
    build();
    return std::move(out_);
  }

 private:
  struct Rule {
    std::vector<Sequence> alternatives;
    std::uint32_t loop = kNone;  // then the only alternative is the one symbol that is repeated
    std::size_t place = 0;       // where its name stands first
    bool defined = false;
  };

  [[noreturn]] static void fail(const std::string& what) {
    throw Error(ErrorCode::kGrammar, "The grammar " + what + ".");
  }

  // The place is at_.
  [[noreturn]] void refuse(const std::string& why) const {
    const std::string_view before = text_.substr(0, at_);
    const auto line = 1 + std::count(before.begin(), before.end(), '\n');
    const std::size_t line_start = before.rfind('\n') + 1;  // npos + 1 = 0
    const auto column = 1 + std::count_if(before.begin() + static_cast<std::ptrdiff_t>(line_start), before.end(),
                                          [](char c) { return (c & 0xC0) != 0x80; });
    fail("does not parse: " + why + " (line " + std::to_string(line) + ", column " + std::to_string(column) + ")");
  }

  void check_text() {
    constexpr std::size_t kMaxBytes = 1 << 20;
    if (text_.size() > kMaxBytes) fail("is larger than 1 MiB");
    if (text_.find_first_not_of(" \t\r\n") == std::string_view::npos) fail("is empty");
    Utf8Decoder utf8;
    std::size_t start = 0;  // of the character
    for (std::size_t i = 0; i < text_.size(); ++i) {
      if (!utf8.pending()) start = i;
      if (text_[i] == '\0' || !utf8.push(static_cast<unsigned char>(text_[i]))) {
        at_ = start;
        refuse(text_[i] == '\0' ? "it holds a NUL; \\x00 in a class or literal stands for one" : "it is no UTF-8");
      }
    }
    at_ = start;
    if (utf8.pending()) refuse("it ends within a character");
    at_ = 0;
  }

  char peek(std::size_t ahead = 0) const { return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\0'; }

  void skip(bool lines) {
    while (true) {
      const char c = peek();
      if (c == '#') {
        while (at_ < text_.size() && peek() != '\r' && peek() != '\n') ++at_;
      } else if (c == ' ' || c == '\t' || (lines && (c == '\r' || c == '\n'))) {
        ++at_;
      } else {
        return;
      }
    }
  }

  std::string_view name() {
    const std::size_t from = at_;
    while (is_word(peek())) ++at_;
    if (at_ == from) refuse("a rule's name is expected");
    return text_.substr(from, at_ - from);
  }

  std::uint32_t add_rule() {
    rules_.emplace_back();
    rules_.back().place = at_;
    rules_.back().defined = true;
    return static_cast<std::uint32_t>(rules_.size() - 1);
  }

  std::uint32_t named(std::string_view name, std::size_t place) {
    const auto [it, is_new] = names_.try_emplace(name, static_cast<std::uint32_t>(rules_.size()));
    if (is_new) {
      rules_.emplace_back();
      rules_.back().place = place;
    }
    return it->second;
  }

  // One definition; a later one of the same name replaces an earlier one, as in llama.cpp.
  void rule() {
    const std::size_t place = at_;
    const std::uint32_t id = named(name(), place);
    skip(false);
    if (text_.substr(at_, 3) != "::=") refuse("'::=' is expected");
    at_ += 3;
    skip(true);
    std::vector<Sequence> alternatives = this->alternatives(0);
    rules_[id].alternatives = std::move(alternatives);
    rules_[id].defined = true;
    if (at_ < text_.size() && peek() != '\r' && peek() != '\n') refuse("a new line or the end is expected");
    skip(true);
  }

  std::vector<Sequence> alternatives(int depth) {
    std::vector<Sequence> out{sequence(depth)};
    while (peek() == '|') {
      ++at_;
      skip(true);
      out.push_back(sequence(depth));
    }
    return out;
  }

  Sequence sequence(int depth) {
    Sequence out;
    std::size_t last = 0;  // where the latest item begins in `out`
    while (at_ < text_.size()) {
      const char c = peek();
      const bool repeats = c == '*' || c == '+' || c == '?' || c == '{';
      if (repeats) {
        repetition(out, last);
      } else {
        const std::size_t begin = out.size();
        if (!item(out, depth)) break;
        last = begin;
      }
      skip(depth > 0);
    }
    return out;
  }

  // False if what comes next belongs to whoever called.
  bool item(Sequence& out, int depth) {
    const char c = peek();
    if (c == '"') {
      literal(out);
    } else if (c == '[') {
      char_class(out);
    } else if (c == '.') {
      ++at_;
      out.push_back(set_symbol({}, true));
    } else if (c == '<' || c == '!') {
      out.push_back(token());
    } else if (c == '(') {
      out.push_back(group(depth + 1));
    } else if (is_word(c)) {
      const std::size_t place = at_;
      out.push_back(pack(Kind::kRule, named(name(), place)));
    } else {
      return false;
    }
    return true;
  }

  std::uint32_t group(int depth) {
    constexpr int kMaxNesting = 200;
    if (depth > kMaxNesting) refuse("groups are nested more than 200 deep");
    const std::size_t place = at_++;
    skip(true);
    std::vector<Sequence> alternatives = this->alternatives(depth);
    if (peek() != ')') {
      if (at_ >= text_.size()) at_ = place;
      refuse("this '(' has no ')'");
    }
    ++at_;
    const std::uint32_t id = add_rule();
    rules_[id].alternatives = std::move(alternatives);
    return pack(Kind::kRule, id);
  }

  void literal(Sequence& out) {
    const std::size_t place = at_++;
    while (peek() != '"') out.push_back(pack(Kind::kChar, character(place)));
    ++at_;
  }

  void char_class(Sequence& out) {
    const std::size_t place = at_++;
    const bool inverted = peek() == '^';
    if (inverted) ++at_;
    Ranges ranges;
    while (peek() != ']') {
      const std::size_t from = at_;
      const std::uint32_t low = character(place);
      std::uint32_t high = low;
      if (peek() == '-' && peek(1) != ']') {
        ++at_;
        high = character(place);
      }
      if (high < low) {
        at_ = from;
        refuse("this range runs backwards");
      }
      ranges.emplace_back(low, high);
    }
    ++at_;
    if (ranges.empty()) return;  // "[]" stands for nothing, as in llama.cpp
    if (ranges.size() == 1 && ranges[0].first == ranges[0].second && !inverted) {
      out.push_back(pack(Kind::kChar, ranges[0].first));
    } else {
      out.push_back(set_symbol(std::move(ranges), inverted));
    }
  }

  std::uint32_t set_symbol(Ranges ranges, bool inverted) {
    const auto [it, is_new] =
        sets_.try_emplace(make_set(std::move(ranges), inverted), static_cast<std::uint32_t>(sets_.size()));
    if (is_new) out_.sets.push_back(it->first);
    return pack(Kind::kSet, it->second);
  }

  // One character of a literal or class that began at `place`.
  std::uint32_t character(std::size_t place) {
    if (at_ >= text_.size()) {
      at_ = place;
      refuse(peek() == '"' ? "this literal has no end" : "this class has no end");
    }
    if (peek() == '\\') return escape();
    Utf8Decoder utf8;
    do {
      utf8.push(static_cast<unsigned char>(text_[at_++]));
    } while (utf8.pending());
    return utf8.value();
  }

  std::uint32_t escape() {
    const char c = peek(1);
    const std::size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (digits == 0) {
      constexpr std::string_view kNames = "trn\\\"[]-";
      constexpr std::string_view kValues = "\t\r\n\\\"[]-";
      const std::size_t i = at_ + 1 < text_.size() ? kNames.find(c) : std::string_view::npos;
      if (i == std::string_view::npos) refuse("this escape is unknown");
      at_ += 2;
      return static_cast<unsigned char>(kValues[i]);
    }
    std::uint32_t value = 0;
    for (std::size_t i = 0; i < digits; ++i) {
      const char d = peek(2 + i);
      const std::uint32_t digit = is_digit(d)            ? static_cast<std::uint32_t>(d - '0')
                                  : d >= 'a' && d <= 'f' ? static_cast<std::uint32_t>(d - 'a' + 10)
                                  : d >= 'A' && d <= 'F' ? static_cast<std::uint32_t>(d - 'A' + 10)
                                                         : 16;
      if (digit == 16) refuse("this escape needs " + std::to_string(digits) + " hexadecimal digits");
      value = value << 4 | digit;
    }
    if (value > kMaxCodePoint) refuse("there is no such character");
    at_ += 2 + digits;
    return value;
  }

  std::uint32_t token() {
    const std::size_t place = at_;
    const Kind kind = peek() == '!' ? Kind::kNotToken : Kind::kToken;
    if (kind == Kind::kNotToken) ++at_;
    if (peek() != '<') refuse("a token in angle brackets is expected");
    const std::size_t end = text_.find('>', at_);
    if (end == std::string_view::npos) refuse("this '<' has no '>'");
    const std::string_view name = text_.substr(at_, end + 1 - at_);
    std::optional<Token> id;
    if (name.size() > 4 && name[1] == '[' && name[name.size() - 2] == ']') {
      std::uint64_t value = 0;
      for (const char c : name.substr(2, name.size() - 4))
        value = is_digit(c) ? std::min<std::uint64_t>(10 * value + static_cast<std::uint64_t>(c - '0'), 1ULL << 40)
                            : 1ULL << 40;
      if (value <= kMaxValue) id = static_cast<Token>(value);
    } else if (token_by_name_) {
      id = token_by_name_(name);
    }
    if (!id || *id < 0) {
      at_ = place;
      refuse("there is no single token " + std::string(name.substr(0, 60)));
    }
    at_ = end + 1;
    return pack(kind, static_cast<std::uint32_t>(*id));
  }

  std::uint32_t number() {
    constexpr std::uint32_t kMost = 1000000;
    const std::size_t place = at_;
    std::uint32_t value = 0;
    if (!is_digit(peek())) refuse("a number is expected");
    for (; is_digit(peek()); ++at_) {
      value = 10 * value + static_cast<std::uint32_t>(peek() - '0');
      if (value > kMost) {
        at_ = place;
        refuse("a count may be at most 1000000");
      }
    }
    skip(true);
    return value;
  }

  Loop counts() {
    const std::size_t place = at_;
    const char c = peek();
    ++at_;
    if (c == '*') return {0, kNone};
    if (c == '+') return {1, kNone};
    if (c == '?') return {0, 1};
    skip(true);
    Loop loop{};
    loop.least = loop.most = number();
    if (peek() == ',') {
      ++at_;
      skip(true);
      loop.most = is_digit(peek()) ? number() : kNone;
    }
    if (peek() != '}') refuse("'}' is expected");
    ++at_;
    if (loop.most < loop.least) {
      at_ = place;
      refuse("the upper count " + std::to_string(loop.most) + " is below the lower one " + std::to_string(loop.least));
    }
    return loop;
  }

  // Puts a rule for the repeated item in the item's place.
  void repetition(Sequence& out, std::size_t last) {
    if (last == out.size()) refuse("there is nothing here to repeat");
    const Loop loop = counts();
    Sequence item(out.begin() + static_cast<std::ptrdiff_t>(last), out.end());
    out.resize(last);
    if (loop.most == 0) return;
    if (loop.least != 1 || loop.most != 1) {
      if (item.size() > 1) {
        const std::uint32_t body = add_rule();
        rules_[body].alternatives.push_back(std::move(item));
        item = {pack(Kind::kRule, body)};
      }
      const std::uint32_t id = add_rule();
      rules_[id].loop = static_cast<std::uint32_t>(out_.loops.size());
      rules_[id].alternatives.push_back(std::move(item));
      out_.loops.push_back(loop);
      item = {pack(Kind::kRule, id)};
    }
    out.insert(out.end(), item.begin(), item.end());
  }

  // --- rules to states
  // -------------------------------------------------------------------------------------------------

  void build() {
    for (Rule& rule : rules_) {
      out_.start.push_back(static_cast<std::uint32_t>(out_.states.size()));
      if (rule.loop != kNone) {
        add_state({{rule.alternatives[0][0], out_.start.back()}}, rule.loop, false);
      } else {
        tree(rule.alternatives);
      }
      rule = {};
    }
    const auto end = static_cast<std::uint32_t>(out_.edges.size());
    out_.states.push_back({end, end, end, end, kNone, false});
  }

  // Symbols in the order of their kinds.
  void add_state(const std::vector<Edge>& edges, std::uint32_t loop, bool accept) {
    const auto from = static_cast<std::uint32_t>(out_.edges.size());
    const auto begin_of = [&](Kind kind) {
      return from +
             static_cast<std::uint32_t>(std::partition_point(edges.begin(), edges.end(),
                                                             [&](const Edge& e) { return kind_of(e.symbol) < kind; }) -
                                        edges.begin());
    };
    out_.states.push_back({from, begin_of(Kind::kSet), begin_of(Kind::kToken), begin_of(Kind::kRule), loop, accept});
    out_.edges.insert(out_.edges.end(), edges.begin(), edges.end());
  }

  // Alternatives that begin alike are neighbours when they are sorted; a state stands for such a group.
  void tree(std::vector<Sequence>& alternatives) {
    struct Group {
      std::size_t from, to, depth;
    };
    std::sort(alternatives.begin(), alternatives.end());
    std::vector<Group> todo{{0, alternatives.size(), 0}};
    std::vector<Edge> edges;
    auto next_state = static_cast<std::uint32_t>(out_.states.size() + 1);
    for (std::size_t done = 0; done < todo.size(); ++done) {
      const auto [from, to, depth] = todo[done];
      std::size_t i = from;
      bool accept = false;
      for (; i < to && alternatives[i].size() == depth; ++i) accept = true;
      edges.clear();
      while (i < to) {
        const std::uint32_t symbol = alternatives[i][depth];
        std::size_t end = i + 1;
        while (end < to && alternatives[end][depth] == symbol) ++end;
        edges.push_back({symbol, next_state++});
        todo.push_back({i, end, depth + 1});
        i = end;
      }
      add_state(edges, kNone, accept);
    }
  }

  std::string_view text_;
  const TokenByName& token_by_name_;
  std::size_t at_ = 0;
  std::vector<Rule> rules_;
  std::map<std::string_view, std::uint32_t> names_;
  std::map<CharSet, std::uint32_t> sets_;
  Automaton out_;
};

}  // namespace

Automaton parse(std::string_view text, const TokenByName& token_by_name) { return Parser(text, token_by_name).run(); }

}  // namespace gsd::gbnf
