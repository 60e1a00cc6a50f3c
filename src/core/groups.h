// A row of logits in groups of neighbours. Where the largest of a group has no chance, none of the group has: few
// groups are looked into.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "gsd/types.h"

namespace gsd {

// Group g begins with token g * kGroup; the last one may be shorter.
inline constexpr std::size_t kGroup = 64;
inline std::size_t group_count(std::size_t n_tokens) { return (n_tokens + kGroup - 1) / kGroup; }

// maxima[g] = the largest entry of group g, -inf where all are NaN.
// REQUIRES: maxima.size() == group_count(row.size()). Thread safe.
void group_maxima(std::span<const float> row, std::span<float> maxima);

// Four neighbours share a random number's counter: quad q begins with token q * kQuad.
inline constexpr std::size_t kQuad = 4;

// Writes to `quads` those quads of `groups` that hold an entry of at least `floor`, and to `bounds` beside each the
// bound of its group. Returns how many. REQUIRES: group_bounds.size() == groups.size(); room for all quads of the
// groups. Thread safe.
std::size_t quads_at_least(std::span<const float> row, float floor, std::span<const std::uint32_t> groups,
                           std::span<const std::uint32_t> group_bounds, std::span<std::uint32_t> quads,
                           std::span<std::uint32_t> bounds);

// The same with all quads of the groups, kGroup / kQuad each, without looking at the row.
void all_quads(std::span<const std::uint32_t> groups, std::span<const std::uint32_t> group_bounds,
               std::span<std::uint32_t> quads, std::span<std::uint32_t> bounds);

// Fills `tokens` and `values` with the entries that are at least `floor`, in their order. Returns how many.
// REQUIRES: maxima as above; tokens and values have room for the row and 16 entries more, which may be written to.
// Thread safe.
std::size_t at_least(std::span<const float> row, std::span<const float> maxima, float floor, std::span<Token> tokens,
                     std::span<float> values);

}  // namespace gsd
