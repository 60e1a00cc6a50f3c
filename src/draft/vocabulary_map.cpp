#include "vocabulary_map.h"

#include <algorithm>
#include <numeric>

#include "../core/utf8_decoder.h"
#include "gsd/error.h"

namespace gsd {
namespace {

// Bytes at the beginning of `text` that are whole characters.
std::size_t valid_prefix(std::string_view text) {
  std::size_t whole = 0;
  Utf8Decoder decoder;
  for (std::size_t i = 0; i < text.size() && decoder.push(static_cast<unsigned char>(text[i])); ++i)
    if (!decoder.pending()) whole = i + 1;
  return whole;
}

}  // namespace

ByteVocabulary::ByteVocabulary(const Vocabulary& vocabulary) : vocabulary_(vocabulary) {
  bytes_.reserve(static_cast<std::size_t>(vocabulary.size));
  for (Token t = 0; t < vocabulary.size; ++t) {
    const std::string& piece = bytes_.emplace_back(vocabulary.piece(t, ShowControl::kNo));
    if (piece.empty()) continue;
    longest_ = std::max(longest_, piece.size());
    const auto [old, added] = by_bytes_.try_emplace(piece, t);
    if (added) continue;  // a second one: a byte's token beside its character's, as a rule
    const std::vector<Token> taken = vocabulary.tokenize(piece, AddBegin::kNo, ParseControl::kNo);
    if (taken.size() == 1 && taken[0] == t) old->second = t;
  }
  std::string probe;
  for (const Token t : vocabulary.tokenize("a", AddBegin::kNo, ParseControl::kNo)) probe += bytes(t);
  adds_blank_ = probe == " a";
}

Token ByteVocabulary::find(std::string_view bytes) const {
  const auto found = by_bytes_.find(bytes);
  return found == by_bytes_.end() ? kNone : found->second;
}

std::vector<ByteVocabulary::Piece> ByteVocabulary::encode(std::string_view text, Place place) const {
  std::vector<Piece> out;
  out.reserve(text.size() / 2 + 4);
  while (!text.empty()) {
    const std::size_t valid = valid_prefix(text);
    if (valid > 0 && !tokenize(text.substr(0, valid), place, out)) match(text.substr(0, valid), out);
    text.remove_prefix(valid);
    std::size_t broken = 0;
    while (broken < text.size() && valid_prefix(text.substr(broken, 4)) == 0) ++broken;
    match(text.substr(0, broken), out);
    text.remove_prefix(broken);
    place = Place::kMiddle;
  }
  return out;
}

// Appends the tokenizer's pieces of whole characters; false, with nothing appended, if their bytes are not the text's.
bool ByteVocabulary::tokenize(std::string_view text, Place place, std::vector<Piece>& out) const {
  const std::size_t before = out.size();
  // In the middle of a text the blank in front must be one of the text's, or be kept from it by a line's end.
  std::string input(text);
  std::string front;  // what the pieces say before the text
  if (adds_blank_ && place == Place::kStart) {
    front = " ";
  } else if (adds_blank_ && text.front() == ' ') {
    input.erase(0, 1);
  } else if (adds_blank_) {
    front = " \n";
    input.insert(0, 1, '\n');
  }
  const std::string whole = front + std::string(text);
  std::vector<Token> tokens;
  try {
    tokens = vocabulary_.tokenize(input, AddBegin::kNo, ParseControl::kNo);
  } catch (const Error& e) {  // too many characters of a kind in a row
    if (e.code() != ErrorCode::kUsage) throw;
    return false;
  }
  std::size_t at = 0;
  for (const Token t : tokens) {
    const std::string_view piece = bytes(t);
    const std::size_t end = at + piece.size();
    const bool joins = at < front.size() && end > front.size();  // what was put in front with the text
    if (piece.empty() || whole.compare(at, piece.size(), piece) != 0 || (joins && place == Place::kMiddle)) {
      out.resize(before);
      return false;
    }
    if (end > front.size() || place == Place::kStart)
      out.push_back({t, static_cast<std::int32_t>(std::max(end, front.size()) - std::max(at, front.size()))});
    at = end;
  }
  if (at == whole.size()) return true;
  out.resize(before);
  return false;
}

void ByteVocabulary::match(std::string_view text, std::vector<Piece>& out) const {
  constexpr std::size_t kLongest = 64;
  while (!text.empty()) {
    std::size_t n = std::min({text.size(), longest_, kLongest});
    while (n > 0 && find(text.substr(0, n)) == kNone) --n;
    if (n > 0) {
      out.push_back({find(text.substr(0, n)), static_cast<std::int32_t>(n)});
    } else {
      n = 1;
      out.push_back({kNone, 1});
    }
    text.remove_prefix(n);
  }
}

VocabularyMap::VocabularyMap(const Vocabulary& target, const Vocabulary& draft) : target_(target), draft_(draft) {
  to_target_.assign(static_cast<std::size_t>(draft_.size()), ByteVocabulary::kNone);
  to_draft_.assign(static_cast<std::size_t>(target_.size()), ByteVocabulary::kNone);
  const auto map = [](const ByteVocabulary& from, const ByteVocabulary& to, std::vector<Token>& out) {
    std::pair<int, int> counts;  // tokens of text, and those that map
    for (Token t = 0; t < from.size(); ++t) {
      if (from.bytes(t).empty()) continue;
      const Token other = out[static_cast<std::size_t>(t)] = to.find(from.bytes(t));
      ++counts.first;
      counts.second += other == ByteVocabulary::kNone ? 0 : 1;
    }
    return counts;
  };
  const auto of_target = map(target_, draft_, to_draft_);
  const auto of_draft = map(draft_, target_, to_target_);
  share_ = of_target.first == 0 ? 0 : static_cast<double>(of_target.second) / of_target.first;
  complete_ = of_target.first == of_target.second && of_draft.first == of_draft.second;
  map_control();
  begin_ = draft.tokenize("", AddBegin::kYes, ParseControl::kNo);
}

void VocabularyMap::map_control() {
  const auto name = [](const ByteVocabulary& v, Token t) { return v.vocabulary().piece(t, ShowControl::kYes); };
  std::unordered_map<std::string, Token> names;
  for (Token t = 0; t < target_.size(); ++t)
    if (target_.bytes(t).empty()) names.try_emplace(name(target_, t), t);
  const auto pair = [this](Token t, Token d) {
    if (t < 0 || d < 0 || !target_.bytes(t).empty() || !draft_.bytes(d).empty() ||
        to_target_[static_cast<std::size_t>(d)] >= 0)
      return;
    to_target_[static_cast<std::size_t>(d)] = t;
    Token& back = to_draft_[static_cast<std::size_t>(t)];
    if (back < 0) back = d;
  };
  for (Token d = 0; d < draft_.size(); ++d) {
    if (!draft_.bytes(d).empty()) continue;
    const std::string text = name(draft_, d);
    const auto same = names.find(text);
    if (!text.empty() && same != names.end()) pair(same->second, d);
  }
  const Vocabulary& t = target_.vocabulary();
  const Vocabulary& d = draft_.vocabulary();
  pair(t.end, d.end);
  pair(t.end_of_turn >= 0 ? t.end_of_turn : t.end, d.end_of_turn);
  for (Token i = 0; i < draft_.size(); ++i)
    if (draft_.bytes(i).empty() && d.is_eog(i)) pair(t.end, i);
}

}  // namespace gsd
