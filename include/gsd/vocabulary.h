// A model's vocabulary, apart from the model: text to tokens and back.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "gsd/types.h"

namespace gsd {

enum class AddBegin : std::uint8_t { kNo, kYes };      // the model's own begin-of-text token in front, where it has one
enum class ParseControl : std::uint8_t { kNo, kYes };  // names of control tokens in the text become these tokens
enum class ShowControl : std::uint8_t { kNo, kYes };   // the piece of a control token is its name, otherwise empty

// Tokens that frame what is to be filled in (fill in the middle); -1: there is none.
struct FillTokens {
  Token prefix = -1;
  Token suffix = -1;
  Token middle = -1;
  Token repository = -1;  // before a repository's name
  Token file = -1;        // before a file's name
};

// Functions, so that what only reads and writes text is built and tested without libllama: see vocabulary(Model).
// Whether they may be called from several threads is for who makes one to say.
struct Vocabulary {
  int size = 0;
  std::function<std::vector<Token>(std::string_view text, AddBegin, ParseControl)> tokenize;
  std::function<std::string(Token, ShowControl)> piece;  // the bytes of one token; may end within a UTF-8 character
  std::function<bool(Token)> is_eog;                     // it ends the text
  Token begin = -1;                                      // of a text; -1 = none, as with those that follow
  Token end = -1;                                        // of a text
  Token end_of_turn = -1;
  FillTokens fill = {};
};

}  // namespace gsd
