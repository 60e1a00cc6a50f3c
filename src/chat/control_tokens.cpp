#include "control_tokens.h"

#include <algorithm>

namespace gsd::chat {

ControlTokens::ControlTokens(const Vocabulary& vocabulary) {
  for (Token t = 0; t < vocabulary.size; ++t) {
    if (!vocabulary.piece(t, ShowControl::kNo).empty()) continue;
    std::string name = vocabulary.piece(t, ShowControl::kYes);
    if (name.empty()) continue;
    begins_[static_cast<unsigned char>(name[0])] = true;
    lengths_.insert(name.size());
    tokens_.emplace(std::move(name), t);
  }
}

std::vector<std::pair<std::size_t, std::size_t>> ControlTokens::find(std::string_view text) const {
  std::vector<std::pair<std::size_t, std::size_t>> out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (!begins_[static_cast<unsigned char>(text[i])]) continue;
    for (const std::size_t n : lengths_) {
      if (n > text.size() - i || !tokens_.contains(std::string(text.substr(i, n)))) continue;
      out.emplace_back(i, i + n);
      break;
    }
  }
  return out;
}

namespace {

// Drops a second begin-of-text token: the template wrote it, and the tokenizer adds it.
void drop_double_begin(std::vector<Token>& tokens, const Vocabulary& vocabulary) {
  const std::vector<Token> begin = vocabulary.tokenize("", AddBegin::kYes, ParseControl::kNo);
  if (!begin.empty() && tokens.size() > 1 && tokens[0] == begin[0] && tokens[1] == begin[0])
    tokens.erase(tokens.begin());
}

}  // namespace

std::vector<Token> tokenize_text(std::string_view text, ParseControl parse, const Vocabulary& vocabulary) {
  std::vector<Token> out = vocabulary.tokenize(text, AddBegin::kYes, parse);
  if (parse == ParseControl::kYes) drop_double_begin(out, vocabulary);
  return out;
}

std::vector<Token> tokenize_prompt(const Rendered& prompt, const ControlTokens& control, const Vocabulary& vocabulary) {
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
  if (from_user.empty()) return tokenize_text(prompt.text, ParseControl::kYes, vocabulary);
  // Text between two control tokens is tokenized by itself in any case: that which holds such a name goes apart, as
  // text only; all between these goes together.
  std::vector<Token> out;
  AddBegin add_begin = AddBegin::kYes;
  const auto add = [&](std::size_t begin, std::size_t end, ParseControl parse) {
    if (begin == end) return;
    const std::vector<Token> t =
        vocabulary.tokenize(std::string_view(prompt.text).substr(begin, end - begin), add_begin, parse);
    out.insert(out.end(), t.begin(), t.end());
    add_begin = AddBegin::kNo;
  };
  trusted.emplace_back(prompt.text.size(), prompt.text.size());
  std::size_t done = 0;
  std::size_t fragment = 0;
  auto user = from_user.begin();
  for (const auto& [begin, end] : trusted) {
    if (user != from_user.end() && *user < begin) {
      add(done, fragment, ParseControl::kYes);
      add(fragment, begin, ParseControl::kNo);
      done = begin;
      while (user != from_user.end() && *user < begin) ++user;
    }
    fragment = end;
  }
  add(done, prompt.text.size(), ParseControl::kYes);
  drop_double_begin(out, vocabulary);
  return out;
}

}  // namespace gsd::chat
