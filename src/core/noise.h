// Random bits of tokens, and those of many tokens at once: what makes draws from large vocabularies cheap.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "groups.h"
#include "gsd/types.h"

namespace gsd {

// Gumbel noise stays below: it is made of 32 bits.
inline constexpr double kMostNoise = 22.88;  // log(2^33) = 22.874

// 32 random bits to Gumbel noise; the half keeps U away from 0 and 1. Increasing.
double to_gumbel(std::uint32_t bits);

// The bits of one draw: a pure function of its key, from Philox4x32-10 (Salmon et al., SC 2011). Four neighbouring
// tokens share a counter. Thread safe.
class Noise {
 public:
  Noise(std::uint64_t seed, std::uint32_t choice, std::uint32_t position);

  std::uint32_t bits(Token token) const;

  struct Hit {
    Token token;
    std::uint32_t bits;
  };
  // Writes the tokens of `quads` (see groups.h) whose bits are at least their quad's bound to `hits`, in the quads'
  // order. Returns how many. REQUIRES: bounds.size() == quads.size(), hits has room for all tokens.
  std::size_t find(std::span<const std::uint32_t> quads, std::span<const std::uint32_t> bounds,
                   std::span<Hit> hits) const;

  using Quad = std::array<std::uint32_t, kQuad>;
  // What all counters of a key have in common, see noise.cpp.
  struct Schedule {
    std::uint32_t third, first, second, last;
    std::array<std::uint32_t, 8> key0, key1;  // of rounds 3 to 10
  };

 private:
  Quad quad(std::uint32_t q) const;

  std::uint32_t position_;
  std::uint32_t choice_;
  std::array<std::uint32_t, 2> key_;
  Schedule schedule_;
};

}  // namespace gsd
