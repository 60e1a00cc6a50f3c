#include "prefix_cache.h"

#include <algorithm>
#include <utility>

namespace gsd {
namespace {

// Copying a token's state takes a small part of the time in which it is computed.
constexpr std::int32_t kCopiesForOne = 16;

bool same_owner(const Engine::Kept& kept, std::uint64_t client, std::span<const float> adapters) {
  return kept.client == client && std::ranges::equal(kept.adapters, adapters);
}

}  // namespace

std::int32_t n_common(std::span<const Token> a, std::span<const Token> b) {
  return static_cast<std::int32_t>(std::ranges::mismatch(a, b).in1 - a.begin());
}

std::size_t PrefixCache::n_bytes(const Engine::Kept& kept) {
  return kept.state.bytes.size() + kept.text.size() * sizeof(Token);
}

PrefixCache::Entries::iterator PrefixCache::at(const Engine::Kept* kept) {
  return std::find_if(entries_.begin(), entries_.end(), [&](const Engine::Kept& k) { return &k == kept; });
}

void PrefixCache::erase(Entries::iterator entry) {
  bytes_ -= n_bytes(*entry);
  entries_.erase(entry);
}

bool PrefixCache::holds(std::uint64_t client, std::span<const float> adapters, std::span<const Token> text) {
  for (auto e = entries_.begin(); e != entries_.end(); ++e) {
    if (!same_owner(*e, client, adapters)) continue;
    if (e->state.reach(n_common(e->text, text)) + kLeast <= static_cast<std::int32_t>(text.size())) continue;
    entries_.splice(entries_.end(), entries_, e);
    return true;
  }
  return false;
}

void PrefixCache::add(Engine::Kept kept) {
  const std::size_t size = n_bytes(kept);
  if (size > most_) return;
  for (auto e = entries_.begin(); e != entries_.end();) {
    const auto old = e++;
    const bool covered = same_owner(kept, old->client, old->adapters) &&
                         kept.state.reach(n_common(kept.text, old->text)) >= old->state.n;
    if (covered) erase(old);
  }
  while (bytes_ + size > most_) erase(entries_.begin());
  entries_.push_back(std::move(kept));
  bytes_ += size;
}

PrefixCache::Found PrefixCache::find(std::uint64_t client, std::span<const float> adapters, std::span<const Token> text,
                                     std::int32_t have) const {
  Found best;
  for (const Engine::Kept& k : entries_) {
    if (!same_owner(k, client, adapters)) continue;
    const std::int32_t n = k.state.reach(n_common(k.text, text));
    if (n - have < kLeast || (n - have) * kCopiesForOne < k.state.n || n <= best.n) continue;
    best = {&k, n};
  }
  return best;
}

void PrefixCache::use(const Found& found) { entries_.splice(entries_.end(), entries_, at(found.kept)); }
void PrefixCache::drop(const Found& found) { erase(at(found.kept)); }

}  // namespace gsd
