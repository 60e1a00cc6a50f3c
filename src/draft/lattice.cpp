#include "lattice.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <tuple>
#include <utility>

namespace gsd {
namespace {

constexpr std::size_t kPairs = std::size_t{1} << 14;
constexpr std::size_t kSingles = std::size_t{1} << 12;
constexpr float kGuessWeight = 8;  // observations that a guess counts as

std::size_t place(std::uint64_t key, std::size_t size) {
  key *= 0x9e3779b97f4a7c15ULL;
  return static_cast<std::size_t>(key >> 40) % size;
}

}  // namespace

PairTable::PairTable() : pairs_(kPairs), singles_(kSingles) {}

std::uint64_t PairTable::key_of(Token before, Token after) {
  return (static_cast<std::uint64_t>(static_cast<std::uint32_t>(before)) << 32 | static_cast<std::uint32_t>(after)) + 1;
}

void PairTable::count(Count& c, std::uint64_t key) {
  if (c.key == key) {
    ++c.times;
  } else if (--c.times < 0) {
    c = {key, 1};
  }
}

void PairTable::learn(Token before, Token after) {
  const std::uint64_t alone = key_of(before, -1);
  count(singles_[place(alone, kSingles)], alone);
  const std::uint64_t key = key_of(before, after);
  count(pairs_[place(key, kPairs)], key);
}

float PairTable::probability(Token before, Token after, float q) const {
  const std::uint64_t key = key_of(before, after);
  const std::uint64_t alone = key_of(before, -1);
  const Count& single = singles_[place(alone, kSingles)];
  if (single.key != alone) return q;
  const Count& pair = pairs_[place(key, kPairs)];
  const float times = pair.key == key ? std::min(pair.times, single.times) : 0;
  return (times + kGuessWeight * q) / (single.times + kGuessWeight);
}

void Lattice::add(const Hypotheses& hypotheses, std::span<const float> logits) {
  Position& p = positions_.emplace_back();
  p.n = hypotheses.likeliest(logits, p.token, p.log_q);
}

void Lattice::expand(Hypotheses& hypotheses, const PairTable& pairs, int drafter) {
  for (std::int32_t node = 0; node >= 0; node = hypotheses.next_to_expand(drafter, static_cast<int>(positions_.size())))
    expand(hypotheses, pairs, drafter, node);
}

void Lattice::expand(Hypotheses& hypotheses, const PairTable& pairs, int drafter, std::int32_t node) {
  const GraphNode& n = hypotheses.graph().node(node);
  const Position& p = positions_[static_cast<std::size_t>(n.depth)];
  std::array<std::pair<float, Token>, kCandidates> ranked;
  for (std::size_t i = 0; i < p.n; ++i)
    ranked[i] = {std::log(std::max(1e-30F, pairs.probability(n.token, p.token[i], std::exp(p.log_q[i])))), p.token[i]};
  std::sort(ranked.begin(), ranked.begin() + static_cast<std::ptrdiff_t>(p.n), std::greater<>());
  std::array<Token, kCandidates> token;
  std::array<float, kCandidates> log_q;
  for (std::size_t i = 0; i < p.n; ++i) std::tie(log_q[i], token[i]) = ranked[i];
  hypotheses.expand(node, std::span(token).first(p.n), std::span(log_q).first(p.n), drafter);
}

}  // namespace gsd
