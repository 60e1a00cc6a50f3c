// Basic vocabulary of the library.
#pragma once

#include <cstdint>

namespace gsd {

using Token = std::int32_t;  // id in the target's vocabulary, [0, n_vocab)

constexpr int kMaxDrafters = 4;   // of an engine; they are told apart by their place in its list
using DrafterSet = std::uint8_t;  // bit d: drafter d

constexpr DrafterSet only(int drafter) { return static_cast<DrafterSet>(1U << drafter); }
constexpr bool contains(DrafterSet set, int drafter) { return (set >> drafter & 1U) != 0; }

}  // namespace gsd
