#include "json_scan.h"

#include <cctype>
#include <cstdlib>
#include <cstring>
#include <optional>

namespace gsd::chat {

std::size_t JsonScanner::take(std::string_view text) {
  std::size_t i = 0;
  for (; i < text.size() && !done_; ++i) {
    const char c = text[i];
    if (string_) {
      if (escape_) {
        escape_ = false;
      } else if (c == '\\') {
        escape_ = true;
      } else if (c == '"') {
        string_ = false;
        done_ = depth_ == 0;
      }
    } else if (word_) {
      if (std::isalnum(static_cast<unsigned char>(c)) == 0 && c != '.' && c != '-' && c != '+') {
        done_ = true;
        return i;
      }
    } else if (c == '"') {
      string_ = begun_ = true;
    } else if (c == '{' || c == '[') {
      ++depth_;
      begun_ = true;
    } else if (c == '}' || c == ']') {
      if (depth_ == 0) {  // no value at all
        done_ = true;
        return i;
      }
      done_ = --depth_ == 0;
    } else if (depth_ == 0 && std::isspace(static_cast<unsigned char>(c)) == 0) {
      word_ = begun_ = true;
      if (std::isalnum(static_cast<unsigned char>(c)) == 0 && c != '-') {
        done_ = true;
        return i;
      }
    }
  }
  return i;
}

namespace {

constexpr int kMaxJsonDepth = 60;
constexpr std::string_view kQuote = "<|\"|>";

// Reads values of one of the two notations.
class Reader {
 public:
  Reader(std::string_view text, bool gemma) : text_(text), gemma_(gemma) {}

  // a=1, b=2 or a:1,b:2, to the end.
  bool members(Json& out) {
    out = Json::object();
    space();
    while (!at_end()) {
      if (!member(out)) return false;
      space();
      if (at_end()) break;
      if (!take(",")) return false;
      space();
    }
    return true;
  }

 private:
  bool at_end() const { return at_ >= text_.size(); }
  char now() const { return at_end() ? '\0' : text_[at_]; }
  void space() {
    while (!at_end() && std::isspace(static_cast<unsigned char>(text_[at_])) != 0) ++at_;
  }
  bool take(std::string_view s) {
    if (!text_.substr(at_).starts_with(s)) return false;
    at_ += s.size();
    return true;
  }

  bool member(Json& out) {
    std::string key;
    if (const auto quoted = string()) {
      key = *quoted;
    } else {
      const std::string_view stop = gemma_ ? ":,{}[]" : "=,()[]{}";
      while (!at_end() && stop.find(now()) == std::string_view::npos) key += text_[at_++];
      while (!key.empty() && key.back() == ' ') key.pop_back();
    }
    space();
    if (key.empty() || !take(gemma_ ? ":" : "=")) return false;
    space();
    return value(out[key], 0);
  }

  std::optional<std::string> string() {
    if (gemma_ && take(kQuote)) {
      const std::size_t end = text_.find(kQuote, at_);
      if (end == std::string_view::npos) return std::nullopt;
      std::string out(text_.substr(at_, end - at_));
      at_ = end + kQuote.size();
      return out;
    }
    const char quote = now();
    if (quote != '"' && (gemma_ || quote != '\'')) return std::nullopt;
    std::string out;
    const std::size_t begin = at_;
    for (++at_; !at_end(); ++at_) {
      if (now() == quote) {
        ++at_;
        return out;
      }
      if (now() != '\\') {
        out += now();
        continue;
      }
      ++at_;
      const std::string_view from = "ntrbf";
      const std::string_view to = "\n\t\r\b\f";
      if (const auto i = from.find(now()); i != std::string_view::npos && now() != '\0') {
        out += to[i];
      } else if (now() == 'u' || now() == 'x') {
        const std::size_t n = now() == 'u' ? 4 : 2;
        const std::string digits(text_.substr(at_ + 1, n));
        out += to_utf8(Text(1, static_cast<char32_t>(std::strtoul(digits.c_str(), nullptr, 16))));
        at_ += digits.size();
      } else if (!at_end()) {
        out += now();
      }
    }
    at_ = begin;
    return std::nullopt;
  }

  bool value(Json& out, int depth) {
    if (depth > kMaxJsonDepth) return false;
    if (const auto s = string()) {
      out = *s;
      return true;
    }
    if (take("[") || (!gemma_ && take("("))) return list(out, depth);
    if (take("{")) return object(out, depth);
    std::string word;
    while (std::isalnum(static_cast<unsigned char>(now())) != 0 ||
           (now() != '\0' && std::strchr(".-+_", now()) != nullptr))
      word += text_[at_++];
    if (word == "True") word = "true";
    if (word == "False") word = "false";
    if (word == "None") word = "null";
    out = Json::parse(word, nullptr, false);
    return !out.is_discarded();
  }

  bool list(Json& out, int depth) {
    out = Json::array();
    for (space(); !take("]") && (gemma_ || !take(")")); space()) {
      if (!out.empty() && !take(",")) return false;
      space();
      Json item;
      if (!value(item, depth + 1)) return false;
      out.push_back(std::move(item));
    }
    return true;
  }

  bool object(Json& out, int depth) {
    out = Json::object();
    bool first = true;
    for (space(); !take("}"); space()) {
      if (!first && !take(",")) return false;
      first = false;
      space();
      std::string key;
      if (const auto quoted = string()) {
        key = *quoted;
      } else {
        while (std::isalnum(static_cast<unsigned char>(now())) != 0 ||
               (now() != '\0' && std::strchr("._-", now()) != nullptr))
          key += text_[at_++];
      }
      space();
      if (!take(":")) return false;
      space();
      if (!value(out[key], depth + 1)) return false;
    }
    return true;
  }

  std::string_view text_;
  bool gemma_;
  std::size_t at_ = 0;
};

std::size_t closing(std::string_view text, bool gemma) {
  int depth = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (gemma && text.substr(i).starts_with(kQuote)) {
      const std::size_t end = text.find(kQuote, i + kQuote.size());
      if (end == std::string_view::npos) return end;
      i = end + kQuote.size() - 1;
    } else if (c == '"' || (c == '\'' && !gemma)) {
      for (++i; i < text.size() && text[i] != c; ++i) i += text[i] == '\\' ? 1 : 0;
      if (i >= text.size()) return std::string_view::npos;
    } else if (c == '(' || c == '[' || c == '{') {
      ++depth;
    } else if ((c == ')' || c == ']' || c == '}') && depth-- == 0) {
      return i;
    }
  }
  return std::string_view::npos;
}

}  // namespace

std::size_t python_end(std::string_view text) { return closing(text, false); }
bool python_arguments(std::string_view text, Json& out) { return Reader(text, false).members(out); }
std::size_t gemma_end(std::string_view text) { return closing(text, true); }
bool gemma_arguments(std::string_view text, Json& out) { return Reader(text, true).members(out); }

}  // namespace gsd::chat
