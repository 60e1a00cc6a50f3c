// Grammars in GBNF, llama.cpp's notation: a parser and a matcher of our own, without libllama.
//
// Whatever a grammar is made to cost is bounded by counting: a question that would need more work than is left is
// answered with "no", and the text ends with a sentence that says why. Nothing depends on the speed of the machine.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "gsd/sampling.h"

namespace gsd {

class VocabularyTree;

// What each token of a vocabulary adds to the text. Immutable once filled: any thread may call the const functions.
class TokenTexts {
 public:
  // Appends the next token: its bytes, which may be a piece of a character or none, and whether it ends the text.
  void add(std::string_view bytes, bool end_of_text);

  std::size_t size() const { return ends_.size(); }
  bool is_end(Token t) const { return ends_[static_cast<std::size_t>(t)]; }
  std::string_view bytes(Token t) const {
    const auto i = static_cast<std::size_t>(t);
    return std::string_view(bytes_).substr(begin_[i], begin_[i + 1] - begin_[i]);
  }
  // The tokens as a tree of bytes: made when it is first asked for, then kept. Large vocabularies take a while.
  const VocabularyTree& tree() const;

 private:
  std::string bytes_;
  std::vector<std::size_t> begin_{0};  // [size() + 1]
  std::vector<bool> ends_;
  mutable std::once_flag tree_made_;
  mutable std::shared_ptr<const VocabularyTree> tree_;
};

// The id of a token that a grammar names in angle brackets, as "<think>"; none if there is no such single token.
using TokenByName = std::function<std::optional<Token>(std::string_view name)>;

// A grammar that was understood. Copies share it; any thread may use it.
//
// The notation is llama.cpp's: rules `name ::= …` with literals, [classes], `.`, groups, alternatives, `* + ? {m} {m,}
// {m,n}`, references, comments, and `<name>`, `<[id]>`, `!<name>`, `!<[id]>` for whole tokens. Left recursion is
// followed too, counts may be as high as a million, and neither is expanded.
class Grammar {
 public:
  // `vocabulary`: the tokens that the text is made of. `token_by_name` may be empty where no token has a name.
  // Takes time and memory in proportion to the text, at most 1 MiB. Throws Error(kGrammar) in one sentence, with line
  // and column, for what is no GBNF, text that is no UTF-8 or holds a NUL, a rule that is used and not defined, a count
  // out of range, and a grammar that allows no text at all.
  Grammar(std::string_view gbnf, std::shared_ptr<const TokenTexts> vocabulary, const TokenByName& token_by_name = {});

  // A new text under this grammar, with a state of its own. Its functions may be called from one thread at a time.
  // `allows` is true for a token after which the text can go on or end, and for an end-of-text token where the text may
  // end. `failure` tells why nothing is allowed any more where following the grammar took too much work.
  // REQUIRES: tokens are in [0, vocabulary size).
  Constraint constraint() const;

 private:
  struct Rules;
  friend class Matcher;
  std::shared_ptr<const Rules> rules_;
  std::shared_ptr<const TokenTexts> vocabulary_;
};

}  // namespace gsd
