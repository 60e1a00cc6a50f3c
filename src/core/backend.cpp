#include "gsd/backend.h"

#include <algorithm>

#include "gsd/error.h"

namespace gsd {

std::int32_t SavedPrefix::reach(std::int32_t wanted) const {
  if (wanted >= n || ends.empty()) return std::min(wanted, n);
  const auto end = std::upper_bound(ends.begin(), ends.end(), wanted);
  return end == ends.begin() ? 0 : *std::prev(end);
}

std::optional<SavedPrefix> Backend::save(std::int32_t /*seq*/, std::size_t /*most*/) { return std::nullopt; }

std::int32_t Backend::restore(std::int32_t seq, const SavedPrefix& /*saved*/, std::span<const Token> /*text*/) {
  return truncate(seq, 0);
}

void Backend::adapt(std::span<const float> scales) {
  if (std::any_of(scales.begin(), scales.end(), [](float s) { return s != 0; }))
    throw Error(ErrorCode::kUsage, "There is no such adapter.");
}

}  // namespace gsd
