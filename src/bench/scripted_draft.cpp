#include "scripted_draft.h"

#include <algorithm>
#include <cmath>

namespace gsd::bench {
namespace {

constexpr float kOthers = -30;   // logit of the tokens that a row does not name
constexpr double kLeast = 1e-4;  // probability that a row shows, so that its logarithm is finite

std::uint64_t mix(std::uint64_t z) {  // splitmix64
  z += 0x9E3779B97F4A7C15U;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
  return z ^ (z >> 31);
}

}  // namespace

ScriptedDraft::ScriptedDraft(Backend& real)
    : real_(real),
      sequences_(static_cast<std::size_t>(real.info().n_seq)),
      rows_(static_cast<std::size_t>(real.info().max_outputs)) {}

void ScriptedDraft::script(std::int32_t seq, std::vector<Token> text, double acceptance) {
  Sequence& s = at(seq);
  // What the memory holds was committed under another script: it counts as followed as far as both agree.
  const auto same = std::mismatch(text.begin(), text.end(), s.text.begin(), s.text.end()).first - text.begin();
  s.follows = std::min(s.follows, static_cast<std::int32_t>(same));
  s.text = std::move(text);
  s.acceptance = acceptance;
}

void ScriptedDraft::forward(std::span<const NodeInput> nodes) {
  std::size_t row = 0;
  try {
    real_.forward(nodes);
  } catch (...) {
    for (std::size_t i = 0; i < sequences_.size(); ++i)
      sequences_[i].nodes.resize(static_cast<std::size_t>(real_.n_speculative(static_cast<std::int32_t>(i))));
    throw;
  }
  for (const NodeInput& in : nodes) {
    Sequence& s = at(in.seq);
    Node node{n_committed(in.seq), s.follows >= n_committed(in.seq)};
    if (in.parent >= 0) {
      node = s.nodes[static_cast<std::size_t>(in.parent)];
      ++node.position;
    }
    const auto place = static_cast<std::size_t>(node.position);
    node.follows = node.follows && place < s.text.size() && s.text[place] == in.token;
    s.nodes.push_back(node);
    if (in.want_logits) fill(rows_[row++], s, node, in.token);
  }
}

void ScriptedDraft::fill(Row& row, const Sequence& s, const Node& node, Token token) const {
  const auto n_vocab = static_cast<std::uint64_t>(info().n_vocab);
  row.logits.resize(n_vocab, kOthers);
  for (const Token t : row.named) row.logits[static_cast<std::size_t>(t)] = kOthers;
  row.named.clear();
  const auto next = static_cast<std::size_t>(node.position) + 1;
  const bool knows = node.follows && next < s.text.size() && static_cast<std::uint64_t>(s.text[next]) < n_vocab;
  std::uint64_t state =
      mix(mix(next) ^ static_cast<std::uint64_t>(token) ^ (node.follows ? 0 : std::uint64_t{1} << 40));
  const auto uniform = [&state] { return static_cast<double>((state = mix(state)) >> 11) * 0x1p-53; };
  bool named = !knows;
  double left = 1;
  for (int rank = 0; rank < std::min<int>(kCandidates, static_cast<int>(n_vocab)); ++rank) {
    const bool now = !named && uniform() < s.acceptance;
    named |= now;
    Token t = now ? s.text[next] : static_cast<Token>((state = mix(state)) % n_vocab);
    const auto taken = [&](Token other) {
      return std::find(row.named.begin(), row.named.end(), other) != row.named.end() ||
             (knows && !now && other == s.text[next]);
    };
    for (std::uint64_t tries = 0; taken(t) && tries < n_vocab; ++tries)
      t = static_cast<Token>((static_cast<std::uint64_t>(t) + 1) % n_vocab);
    row.logits[static_cast<std::size_t>(t)] =
        static_cast<float>(std::log(std::max(kLeast, left * s.acceptance)) - 1e-3 * rank);
    row.named.push_back(t);
    left *= 1 - s.acceptance;
  }
}

void ScriptedDraft::commit(std::int32_t seq, std::span<const std::int32_t> path) {
  Sequence& s = at(seq);
  if (s.follows >= n_committed(seq)) {
    s.follows = n_committed(seq);
    for (const std::int32_t i : path) s.follows += s.nodes[static_cast<std::size_t>(i)].follows ? 1 : 0;
  }
  s.nodes.clear();
  real_.commit(seq, path);
}

std::int32_t ScriptedDraft::truncate(std::int32_t seq, std::int32_t n_tokens) {
  Sequence& s = at(seq);
  s.nodes.clear();
  const std::int32_t left = real_.truncate(seq, n_tokens);
  s.follows = std::min(s.follows, left);
  return left;
}

}  // namespace gsd::bench
