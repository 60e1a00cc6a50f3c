// Text to tokens. libllama splits text by std::regex for many vocabularies, which recurses with every character of a
// match and overflows an ordinary stack after some ten thousand "-" in a row.
#include <algorithm>
#include <array>
#include <mutex>

#include "deep_stack.h"
#include "handles.h"

namespace gsd {
namespace {

// An upper bound on the length of what a pre-tokenizer takes as one piece, in characters. All known ones end a piece
// where letters, digits, white space and other ASCII characters meet; what is not ASCII, and a blank, may belong to any
// of them.
std::size_t longest_piece(std::string_view text) {
  enum Class { kLetter, kDigit, kSpace, kOther, kAny };
  static constexpr auto kClass = [] {
    std::array<Class, 256> out{};
    for (int c = 0; c < 256; ++c) {
      out[static_cast<std::size_t>(c)] = c >= 128 || c == ' '                               ? kAny
                                         : (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ? kLetter
                                         : c >= '0' && c <= '9'                             ? kDigit
                                         : c >= 9 && c <= 13                                ? kSpace
                                                                                            : kOther;
    }
    return out;
  }();
  std::array<std::size_t, 4> run{};
  std::size_t longest = 0;
  for (const char byte : text) {
    if ((byte & 0xC0) == 0x80) continue;  // inside a character
    const Class c = kClass[static_cast<unsigned char>(byte)];
    for (std::size_t k = 0; k < run.size(); ++k) {
      run[k] = c == kAny || c == static_cast<Class>(k) ? run[k] + 1 : 0;
      longest = std::max(longest, run[k]);
    }
  }
  return longest;
}

std::vector<Token> call_libllama(const llama_vocab* vocab, std::string_view text, bool add_special,
                                 bool parse_special) {
  std::vector<Token> tokens(text.size() + 8);
  const auto length = static_cast<std::int32_t>(text.size());
  auto n = llama_tokenize(vocab, text.data(), length, tokens.data(), static_cast<std::int32_t>(tokens.size()),
                          add_special, parse_special);
  if (n < 0) {
    tokens.resize(static_cast<std::size_t>(-static_cast<std::int64_t>(n)));
    n = llama_tokenize(vocab, text.data(), length, tokens.data(), static_cast<std::int32_t>(tokens.size()), add_special,
                       parse_special);
  }
  tokens.resize(static_cast<std::size_t>(std::max(0, n)));
  return tokens;
}

// Bytes of stack that this vocabulary takes for each character of a piece: measured, for the most expensive of many
// kinds.
std::size_t stack_per_character(const llama_vocab* vocab) {
  constexpr std::size_t kShort = 100;
  constexpr std::size_t kLong = 400;
  constexpr std::size_t kStack = 8 << 20;
  std::size_t most = 0;
  for (const std::string_view unit : {"-", "a", "A", "aA", "7", " ", "\n", "\t", "a ", "\r\n", "-\n", "/", "é", "中",
                                      "—", "e\xCC\x81", "\xE0\xA4\x95\xE0\xA5\x8D", "😀"}) {
    const auto used = [&](std::size_t n) {
      std::string text = "x";
      for (std::size_t i = 0; i < n; ++i) text += unit;
      text += "x";
      return measure_stack(kStack, [&] { call_libllama(vocab, text, false, false); });
    };
    const std::size_t few = used(kShort);
    const std::size_t many = used(kLong);
    if (many > few) most = std::max(most, (many - few) / (kLong - kShort));
  }
  return most;
}

}  // namespace

std::vector<Token> Model::tokenize(std::string_view text, AddBegin begin, ParseControl control) const {
  const bool add_special = begin == AddBegin::kYes;
  const bool parse_special = control == ParseControl::kYes;
  constexpr std::size_t kOrdinary = 500;  // a piece of this length fits any stack
  constexpr std::size_t kMostStack = 512 << 20;
  constexpr std::size_t kBase = 1 << 20;
  const std::size_t piece = longest_piece(text);
  if (piece > kOrdinary)
    std::call_once(impl_->stack_once, [&] { impl_->stack_per_character = stack_per_character(impl_->vocab); });
  const std::size_t each = 2 * impl_->stack_per_character;  // a piece may end with a run of another kind
  std::vector<Token> tokens;
  const auto work = [&] { tokens = call_libllama(impl_->vocab, text, add_special, parse_special); };
  if (piece <= kOrdinary || each == 0) {
    work();
  } else if (piece > kMostStack / each) {
    throw Error(ErrorCode::kUsage, "The text holds " + std::to_string(piece) +
                                       " characters in a row of one kind; this model's tokenizer can take " +
                                       std::to_string(kMostStack / each) + ".");
  } else {
    constexpr std::size_t kMuch = 64 << 20;
    static std::mutex turn;  // of those that may really use so much memory
    std::unique_lock lock(turn, std::defer_lock);
    if (piece * each > kMuch) lock.lock();
    run_on_deep_stack(kBase + piece * each, work);
  }
  return tokens;
}

}  // namespace gsd
