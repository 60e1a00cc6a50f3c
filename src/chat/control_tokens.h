// Which tokens are control tokens, and text to tokens without letting a request write one.
#pragma once

#include <cstddef>
#include <functional>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "gsd/types.h"
#include "gsd/vocabulary.h"
#include "marked_text.h"

namespace gsd::chat {

// Immutable: any thread may use it.
class ControlTokens {
 public:
  ControlTokens() = default;
  // Control tokens are those whose piece is empty unless they are to be shown.
  explicit ControlTokens(const Vocabulary& vocabulary);

  // Names in `text` that would become a control token: half-open byte ranges, which may overlap, ascending by begin.
  std::vector<std::pair<std::size_t, std::size_t>> find(std::string_view text) const;
  const std::unordered_multimap<std::string, Token>& tokens() const { return tokens_; }  // by name

 private:
  std::unordered_multimap<std::string, Token> tokens_;
  std::set<std::size_t, std::greater<>> lengths_;
  std::vector<bool> begins_ = std::vector<bool>(256);  // a name begins with this byte
};

// The tokens of a rendered prompt, with the model's own begin of text, which is not doubled where the template writes
// it too. A control token's name counts as one only where the template wrote all of it; tokens of everything else are
// those that the model's tokenizer gives the whole text.
std::vector<Token> tokenize_prompt(const Rendered& prompt, const ControlTokens& control, const Vocabulary& vocabulary);

// The tokens of a text that may name control tokens, with the model's own begin of text, not doubled.
std::vector<Token> tokenize_text(std::string_view text, ParseControl parse, const Vocabulary& vocabulary);

}  // namespace gsd::chat
