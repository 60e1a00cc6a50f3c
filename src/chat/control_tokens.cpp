#include "control_tokens.h"

#include <algorithm>

namespace gsd::chat {

ControlTokens::ControlTokens(int n_vocab, const Piece& piece) {
  for (Token t = 0; t < n_vocab; ++t) {
    if (!piece(t, false).empty()) continue;
    std::string name = piece(t, true);
    if (name.empty()) continue;
    begins_[static_cast<unsigned char>(name[0])] = true;
    lengths_.insert(name.size());
    names_.insert(std::move(name));
  }
}

std::vector<std::pair<std::size_t, std::size_t>> ControlTokens::find(std::string_view text) const {
  std::vector<std::pair<std::size_t, std::size_t>> out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (!begins_[static_cast<unsigned char>(text[i])]) continue;
    for (const std::size_t n : lengths_) {
      if (n > text.size() - i || !names_.contains(std::string(text.substr(i, n)))) continue;
      out.emplace_back(i, i + n);
      break;
    }
  }
  return out;
}

namespace {

// Drops a second begin-of-text token: the template wrote it, and the tokenizer adds it.
void drop_double_begin(std::vector<Token>& tokens, const Tokenize& tokenize) {
  const std::vector<Token> begin = tokenize("", true, false);
  if (!begin.empty() && tokens.size() > 1 && tokens[0] == begin[0] && tokens[1] == begin[0])
    tokens.erase(tokens.begin());
}

}  // namespace

std::vector<Token> tokenize_text(std::string_view text, bool parse_special, const Tokenize& tokenize) {
  std::vector<Token> out = tokenize(text, true, parse_special);
  if (parse_special) drop_double_begin(out, tokenize);
  return out;
}

std::vector<Token> tokenize_prompt(const Rendered& prompt, const ControlTokens& control, const Tokenize& tokenize) {
  std::vector<std::size_t> from_user;                        // begins of names that a request wrote, at least in part
  std::vector<std::pair<std::size_t, std::size_t>> trusted;  // apart from each other
  auto range = prompt.from_request.begin();
  for (const auto& [begin, end] : control.find(prompt.text)) {
    while (range != prompt.from_request.end() && range->second <= begin) ++range;
    if (range != prompt.from_request.end() && range->first < end) {
      from_user.push_back(begin);
    } else if (trusted.empty() || trusted.back().second <= begin) {
      trusted.emplace_back(begin, end);
    }
  }
  if (from_user.empty()) return tokenize_text(prompt.text, true, tokenize);
  // Text between two control tokens is tokenized by itself in any case: that which holds such a name goes apart, as
  // text only; all between these goes together.
  std::vector<Token> out;
  bool first = true;
  const auto add = [&](std::size_t begin, std::size_t end, bool parse_special) {
    if (begin == end) return;
    const std::vector<Token> t =
        tokenize(std::string_view(prompt.text).substr(begin, end - begin), first, parse_special);
    out.insert(out.end(), t.begin(), t.end());
    first = false;
  };
  trusted.emplace_back(prompt.text.size(), prompt.text.size());
  std::size_t done = 0;
  std::size_t fragment = 0;
  auto user = from_user.begin();
  for (const auto& [begin, end] : trusted) {
    if (user != from_user.end() && *user < begin) {
      add(done, fragment, true);
      add(fragment, begin, false);
      done = begin;
      while (user != from_user.end() && *user < begin) ++user;
    }
    fragment = end;
  }
  add(done, prompt.text.size(), true);
  drop_double_begin(out, tokenize);
  return out;
}

}  // namespace gsd::chat
