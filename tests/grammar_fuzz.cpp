// libFuzzer target: whatever a client sends as a grammar is refused with a sentence or can be followed, in bounded
// work. How to run it: CONTRIBUTING.md, "Fuzzing".
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>

#include "gsd/error.h"
#include "gsd/grammar.h"

namespace {

std::shared_ptr<const gsd::TokenTexts> vocabulary() {
  auto out = std::make_shared<gsd::TokenTexts>();
  for (int b = 0; b < 256; ++b) out->add(std::string(1, static_cast<char>(b)), false);
  for (const char* text : {"ab", "\": ", "\xC3\xA4", "\xE2\x82", "    "}) out->add(text, false);
  out->add("", true);
  return out;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  using namespace gsd;
  static const std::shared_ptr<const TokenTexts> tokens = vocabulary();
  const auto n = static_cast<Token>(tokens->size());
  try {
    const Grammar grammar({reinterpret_cast<const char*>(data), size}, tokens, [](std::string_view name) {
      return name.size() == 3 ? std::optional(Token{7}) : std::nullopt;
    });
    const Constraint c = grammar.constraint();
    for (int length = 0; length < 24; ++length) {
      // The tokens in an order of their own at every place, so that different ones are followed.
      Token next = -1;
      for (Token i = 0; i < n && next < 0; ++i) {
        const auto t = static_cast<Token>((i * 37 + length * 11 + static_cast<Token>(size)) % n);
        if (c.allows(t)) next = t;
      }
      if (next < 0) break;
      if (!c.failure().empty()) break;
      if (!c.allows(next)) std::abort();  // the same question again
      c.advance(next);
    }
  } catch (const Error& e) {
    if (e.code() != ErrorCode::kGrammar || *e.what() == '\0') std::abort();
  }
  return 0;
}
