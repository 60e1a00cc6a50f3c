#include "history.h"

#include <algorithm>
#include <bit>

#include "gsd/error.h"

namespace gsd {

History::History(int capacity, Origin origin) : origin_(origin) {
  if (capacity < kGram || capacity > (1 << 24)) {
    throw Error(ErrorCode::kUsage, "A history takes a capacity from 3 to 16777216 tokens.");
  }
  const auto n = std::bit_ceil(static_cast<std::size_t>(capacity));
  token_.resize(n);
  older_.resize(n);
  bucket_.resize(n * 2);
  clear();
}

void History::clear() {
  std::fill(bucket_.begin(), bucket_.end(), -1);
  end_ = 0;
}

std::size_t History::bucket(Token a, Token b, Token c) const {
  std::uint64_t h = static_cast<std::uint32_t>(a);
  h = h * 0x9e3779b97f4a7c15ULL + static_cast<std::uint32_t>(b);
  h = h * 0x9e3779b97f4a7c15ULL + static_cast<std::uint32_t>(c);
  return static_cast<std::size_t>((h ^ (h >> 29)) * 0xbf58476d1ce4e5b9ULL >> 20) & (bucket_.size() - 1);
}

void History::push(Token token) {
  const std::int64_t at = end_++;
  token_[slot(at)] = token;
  older_[slot(at)] = -1;
  if (token < 0 || !holds(at - 2)) return;
  const Token a = token_[slot(at - 2)];
  const Token b = token_[slot(at - 1)];
  if (a < 0 || b < 0) return;
  std::int64_t& head = bucket_[bucket(a, b, token)];
  older_[slot(at)] = head;
  head = at;
}

void History::end_chain() {
  if (end_ > 0 && token_[slot(end_ - 1)] >= 0) push(-1);
}

Token History::after(std::int64_t position) const {
  return holds(position) && position + 1 < end_ ? token_[slot(position + 1)] : -1;
}

Source::Match History::find(std::span<const Token> context) const {
  Match best;
  const std::size_t n = context.size();
  if (n < kGram) return best;
  std::int64_t at = bucket_[bucket(context[n - 3], context[n - 2], context[n - 1])];
  for (int tried = 0; tried < kCandidates && holds(at); ++tried, at = older_[slot(at)]) {
    if (after(at) < 0) continue;
    const auto longest =
        std::min<std::int64_t>({kMaxMatch, static_cast<std::int64_t>(n), capacity() - (end_ - at) + 1});
    std::int32_t length = 0;
    while (length < longest && at - length >= 0 &&
           token_[slot(at - length)] == context[n - 1 - static_cast<std::size_t>(length)]) {
      ++length;
    }
    if (length >= kGram && length > best.length) best = {at, length};
  }
  return best;
}

}  // namespace gsd
