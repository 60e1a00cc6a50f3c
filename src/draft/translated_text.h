// A text of a target's tokens in a draft's.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "vocabulary_map.h"

namespace gsd {

// The target's tokens are kept as bytes, and these in tokens of the draft, which cover every byte once. As the text
// goes on only its last words are made into tokens anew. Not thread safe.
class TranslatedText {
 public:
  enum class End : std::uint8_t {
    kText,  // all bytes are covered
    kRoot,  // a character that has only begun is left to rest(), where its tokens mean nothing to the draft
  };

  explicit TranslatedText(std::shared_ptr<const VocabularyMap> map);

  // Tokens of the draft. At least one after go_on().
  std::int32_t size() const { return static_cast<std::int32_t>(tokens_.size()); }
  Token token(std::int32_t i) const { return tokens_[static_cast<std::size_t>(i)].token; }
  // Bytes after the last token, which the text has.
  std::string_view rest() const { return std::string_view(bytes_).substr(covered()); }
  // Of the target's tokens, how many are said by the first `held` of the draft's.
  std::int32_t n_known(std::int32_t held) const;

  // The text is now `text`, of which the first n_known(held) are known. Returns how many of the first `held` tokens are
  // what they were.
  std::int32_t go_on(std::span<const Token> text, std::int32_t held, End end);
  // The text goes on with the target's tokens `said`, none of them a control token, which are the draft's tokens `own`.
  void accept(std::span<const Token> said, std::span<const Token> own);
  // Keeps the target's first n tokens; returns how many of the draft's are left.
  std::int32_t cut(std::int32_t n);

  // Throws Error(kInternal) naming the violated invariant. For tests.
  void check_integrity() const;

 private:
  struct Own {
    Token token;
    std::int32_t end;    // bytes of the text up to here
    std::int32_t text;   // tokens of the target that are complete here
    bool fixed = false;  // no text: what follows does not change it
    bool operator==(const Own&) const = default;
  };
  std::size_t covered() const { return tokens_.empty() ? 0 : static_cast<std::size_t>(tokens_.back().end); }
  std::int32_t complete_at(std::int32_t end) const;
  std::size_t restart() const;
  void encode(std::size_t end);
  void fix(Token token);

  std::shared_ptr<const VocabularyMap> map_;
  Token stand_in_;                      // for bytes that the draft has no token for
  std::string bytes_;                   // of the text
  std::vector<std::int32_t> text_end_;  // [the target's tokens] bytes up to there
  std::vector<Own> tokens_;
  std::size_t same_ = 0;  // tokens that the call in progress has not changed
};

}  // namespace gsd
