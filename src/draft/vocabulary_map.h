// Two vocabularies beside each other, by the bytes of their tokens.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "gsd/vocabulary.h"

namespace gsd {

// A vocabulary as bytes: what each token adds to a text, and a text as tokens that cover all of it.
// Thread safe where the vocabulary's functions are.
class ByteVocabulary {
 public:
  static constexpr Token kNone = -1;

  struct Piece {
    Token token;         // kNone: bytes that no token stands for
    std::int32_t bytes;  // of the text that it covers; those of all pieces are the text. 0: a blank that the tokenizer
                         // puts in front
  };
  enum class Place : std::uint8_t { kStart, kMiddle };  // of a text: some tokenizers put a blank in front of one

  explicit ByteVocabulary(const Vocabulary& vocabulary);

  int size() const { return static_cast<int>(bytes_.size()); }
  const Vocabulary& vocabulary() const { return vocabulary_; }
  // What the token adds to a text; empty for control tokens.
  std::string_view bytes(Token token) const { return bytes_[static_cast<std::size_t>(token)]; }
  // The token of these bytes, the one that the tokenizer takes where there are several; kNone if there is none.
  Token find(std::string_view bytes) const;
  // Bytes of the longest token.
  std::size_t longest() const { return longest_; }
  // As the tokenizer does it, where that gives back the text; else, and where bytes are no UTF-8, the longest tokens
  // from the left.
  std::vector<Piece> encode(std::string_view text, Place place) const;

 private:
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view s) const { return std::hash<std::string_view>()(s); }
  };
  bool tokenize(std::string_view text, Place place, std::vector<Piece>& out) const;
  void match(std::string_view text, std::vector<Piece>& out) const;

  Vocabulary vocabulary_;
  std::vector<std::string> bytes_;  // [size]
  std::unordered_map<std::string, Token, Hash, std::equal_to<>> by_bytes_;
  std::size_t longest_ = 0;
  bool adds_blank_ = false;  // the tokenizer puts a blank in front
};

// Which tokens of a target and a draft stand for the same. Tokens of text map by their bytes, control tokens by their
// names; the draft's other ends of text map to the target's.
class VocabularyMap {
 public:
  VocabularyMap(const Vocabulary& target, const Vocabulary& draft);

  const ByteVocabulary& target() const { return target_; }
  const ByteVocabulary& draft() const { return draft_; }
  Token to_target(Token draft) const { return to_target_[static_cast<std::size_t>(draft)]; }  // or kNone
  Token to_draft(Token target) const { return to_draft_[static_cast<std::size_t>(target)]; }  // or kNone
  // Of the target's tokens of text, how many the draft has; [0, 1].
  double share() const { return share_; }
  // Every token of text of either side has one on the other.
  bool complete() const { return complete_; }
  // The draft's tokens in front of every text.
  const std::vector<Token>& begin() const { return begin_; }

 private:
  void map_control();

  ByteVocabulary target_;
  ByteVocabulary draft_;
  std::vector<Token> to_target_;
  std::vector<Token> to_draft_;
  std::vector<Token> begin_;
  double share_ = 0;
  bool complete_ = false;
};

}  // namespace gsd
