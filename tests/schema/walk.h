// Follows a compiled grammar byte by byte.
#pragma once

#include <algorithm>
#include <memory>
#include <numeric>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "gsd/grammar.h"

namespace gsd::test {

constexpr Token kEnd = 256;

// One token a byte, and an end.
inline std::shared_ptr<const TokenTexts> bytes() {
  auto out = std::make_shared<TokenTexts>();
  for (int b = 0; b < 256; ++b) out->add(std::string(1, static_cast<char>(b)), false);
  out->add("", true);
  return out;
}

inline bool accepts(const Grammar& grammar, std::string_view text) {
  const Constraint c = grammar.constraint();
  for (const char byte : text) {
    const auto t = static_cast<Token>(static_cast<unsigned char>(byte));
    if (!c.allows(t)) return false;
    c.advance(t);
  }
  return c.allows(kEnd);
}

// A random text of the grammar; after some 300 bytes whatever leads to an end is taken. None, with the way so far in
// `dead`, where nothing is allowed; none and an empty `dead` where no end was found.
inline std::optional<std::string> walk(const Grammar& grammar, std::mt19937_64& rng, std::string& dead) {
  constexpr std::size_t kLong = 300;
  constexpr std::size_t kTooLong = 20'000;
  const Constraint c = grammar.constraint();
  std::string out;
  std::vector<Token> order(kEnd + 1);
  std::iota(order.begin(), order.end(), 0);
  dead.clear();
  while (out.size() < kTooLong) {
    Token t = -1;
    const auto take = [&](Token wanted) {
      if (t < 0 && c.allows(wanted)) t = wanted;
    };
    if (rng() % 2 == 0 || out.size() > kLong) take(kEnd);  // few texts would ever end otherwise
    if (rng() % 4 == 0 || out.size() > kLong) {
      for (const char wanted : {'}', ']', '"'}) take(wanted);
    }
    std::shuffle(order.begin(), order.end(), rng);
    for (const Token any : order) take(any);
    if (t == kEnd) return out;
    if (t < 0) {
      dead = out.empty() ? "(at once)" : out;
      return std::nullopt;
    }
    c.advance(t);
    out += static_cast<char>(t);
  }
  return std::nullopt;
}

}  // namespace gsd::test
