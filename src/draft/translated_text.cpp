#include "translated_text.h"

#include <algorithm>
#include <cassert>

#include "../core/utf8_decoder.h"
#include "gsd/error.h"

namespace gsd {
namespace {

bool is_blank(char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; }

// Bytes at the end of `text` that begin a character and do not end it.
std::size_t unfinished(std::string_view text) {
  for (std::size_t n = 1; n <= std::min<std::size_t>(3, text.size()); ++n) {
    const auto c = static_cast<unsigned char>(text[text.size() - n]);
    if ((c & 0xC0) == 0x80) continue;
    Utf8Decoder decoder;
    bool valid = true;
    for (const char byte : text.substr(text.size() - n))
      valid = valid && decoder.push(static_cast<unsigned char>(byte));
    return valid && decoder.pending() ? n : 0;
  }
  return 0;
}

}  // namespace

TranslatedText::TranslatedText(std::shared_ptr<const VocabularyMap> map)
    : map_(std::move(map)), stand_in_(std::max(0, map_->draft().find(" "))) {}

std::int32_t TranslatedText::n_known(std::int32_t held) const {
  const auto n = std::min(static_cast<std::size_t>(held), tokens_.size());
  return n == 0 ? 0 : tokens_[n - 1].text;
}

std::int32_t TranslatedText::complete_at(std::int32_t end) const {
  return static_cast<std::int32_t>(std::upper_bound(text_end_.begin(), text_end_.end(), end) - text_end_.begin());
}

void TranslatedText::fix(Token token) {
  const auto end = static_cast<std::int32_t>(covered());
  tokens_.push_back({token, end, complete_at(end), true});
}

std::int32_t TranslatedText::go_on(std::span<const Token> text, std::int32_t held, End end) {
  const auto known = static_cast<std::size_t>(n_known(held));
  assert(known <= text.size());
  tokens_.resize(std::min(tokens_.size(), static_cast<std::size_t>(held)));
  text_end_.resize(known);
  bytes_.resize(known == 0 ? 0 : static_cast<std::size_t>(text_end_.back()));
  while (covered() > bytes_.size()) tokens_.pop_back();
  same_ = tokens_.size();
  if (tokens_.empty())
    for (const Token t : map_->begin()) fix(t);
  const ByteVocabulary& target = map_->target();
  for (std::size_t i = known; i < text.size(); ++i) {
    const Token t = text[i];
    const std::string_view piece = target.bytes(t);
    const bool begins = i == 0 && t == target.vocabulary().begin && !map_->begin().empty();
    const bool control = piece.empty() && !begins && map_->to_draft(t) != ByteVocabulary::kNone;
    if (control) encode(bytes_.size());
    bytes_ += piece;
    text_end_.push_back(static_cast<std::int32_t>(bytes_.size()));
    if (control) fix(map_->to_draft(t));
  }
  std::size_t rest = 0;
  if (end == End::kRoot && !text.empty() && map_->to_draft(text.back()) == ByteVocabulary::kNone)
    rest = unfinished(bytes_);
  encode(bytes_.size() - rest);
  if (tokens_.empty()) fix(stand_in_);  // nothing that the draft could be shown
  if (covered() == bytes_.size()) tokens_.back().text = static_cast<std::int32_t>(text_end_.size());
  return static_cast<std::int32_t>(same_);
}

// The first token that is made anew when the text goes on: one that begins a word some bytes back, since what follows a
// word does not change the words before it.
std::size_t TranslatedText::restart() const {
  constexpr std::size_t kBack = 24;  // bytes
  constexpr std::size_t kMost = 64;  // tokens
  const std::size_t n = tokens_.size();
  std::size_t best = n;
  for (std::size_t k = n; k > 0; --k) {
    const Own& before = tokens_[k - 1];
    if (before.fixed) return k;
    if (n - k >= kMost && best < n) return best;
    const auto at = static_cast<std::size_t>(before.end);
    if (covered() - at < kBack) continue;
    if (best == n) best = k;
    if (at > 0 && at < bytes_.size() && is_blank(bytes_[at]) && !is_blank(bytes_[at - 1])) return k;
  }
  return 0;
}

// Covers the first `end` bytes.
void TranslatedText::encode(std::size_t end) {
  if (covered() == end) return;
  while (covered() > end) tokens_.pop_back();
  same_ = std::min(same_, tokens_.size());
  std::size_t at = restart();
  auto from = at == 0 ? 0 : tokens_[at - 1].end;
  const auto place = at == 0 || tokens_[at - 1].fixed ? ByteVocabulary::Place::kStart : ByteVocabulary::Place::kMiddle;
  bool same = true;
  for (const auto& piece : map_->draft().encode(
           std::string_view(bytes_).substr(static_cast<std::size_t>(from), end - static_cast<std::size_t>(from)),
           place)) {
    from += piece.bytes;
    const Own own{piece.token == ByteVocabulary::kNone ? stand_in_ : piece.token, from, complete_at(from)};
    same = same && at < tokens_.size() && tokens_[at].token == own.token && tokens_[at].end == own.end;
    if (!same) {
      same_ = std::min(same_, at);
      tokens_.resize(at);
      tokens_.push_back(own);
    }
    ++at;
  }
  tokens_.resize(at);
  same_ = std::min(same_, at);
}

void TranslatedText::accept(std::span<const Token> said, std::span<const Token> own) {
  auto end = static_cast<std::int32_t>(covered());
  for (const Token t : said) {
    bytes_ += map_->target().bytes(t);
    text_end_.push_back(static_cast<std::int32_t>(bytes_.size()));
  }
  for (const Token t : own) {
    end += static_cast<std::int32_t>(map_->draft().bytes(t).size());
    tokens_.push_back({t, end, complete_at(end)});
  }
  assert(covered() == bytes_.size());
}

std::int32_t TranslatedText::cut(std::int32_t n) {
  const auto keep = std::min(static_cast<std::size_t>(n), text_end_.size());
  text_end_.resize(keep);
  bytes_.resize(keep == 0 ? 0 : static_cast<std::size_t>(text_end_.back()));
  while (!tokens_.empty() && (covered() > bytes_.size() || tokens_.back().text > n)) tokens_.pop_back();
  return size();
}

void TranslatedText::check_integrity() const {
  const auto check = [](bool ok, const char* what) {
    if (!ok) throw Error(ErrorCode::kInternal, std::string("translated text: ") + what);
  };
  std::int32_t at = 0;
  std::int32_t known = 0;
  for (const Own& o : tokens_) {
    check(o.end >= at && o.end <= static_cast<std::int32_t>(bytes_.size()), "tokens do not cover one after the other");
    const std::string_view part =
        std::string_view(bytes_).substr(static_cast<std::size_t>(at), static_cast<std::size_t>(o.end - at));
    if (o.fixed) check(part.empty(), "a token that is no text covers bytes");
    if (!o.fixed && o.token != stand_in_)
      check(map_->draft().bytes(o.token).ends_with(part), "a token covers bytes that it does not say");
    check(o.text >= known && o.text <= static_cast<std::int32_t>(text_end_.size()), "known tokens become fewer");
    if (o.text > 0)
      check(text_end_[static_cast<std::size_t>(o.text) - 1] <= o.end, "a token of the text counts before it is said");
    at = o.end;
    known = o.text;
  }
}

}  // namespace gsd
