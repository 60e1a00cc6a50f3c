#include "gsd/sampling.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string>

#include "cut.h"
#include "groups.h"
#include "gsd/error.h"
#include "noise.h"
#include "topk.h"

namespace gsd {
namespace {

constexpr float kLowest = -std::numeric_limits<float>::infinity();

}  // namespace

double gumbel_noise(std::uint64_t seed, std::uint32_t choice, std::uint32_t position, Token token) {
  return to_gumbel(Noise(seed, choice, position).bits(token));
}

namespace {

struct Candidate {
  Token token;
  double score;
  // Best first, equal ones by id.
  static bool better(const Candidate& a, const Candidate& b) {
    return a.score > b.score || (a.score == b.score && a.token < b.token);
  }
};

// The winner of logit / T + G and the runner-up.
struct Race {
  void enter(const Candidate& c) {
    if (Candidate::better(c, best)) {
      second = best.score;
      best = c;
    } else {
      second = std::max(second, c.score);
    }
  }
  Candidate best{-1, -std::numeric_limits<double>::infinity()};
  double second = best.score;
};

// A heap gives the first candidates in order without sorting; where those do not help, all others are looked at once.
Token first_allowed(std::span<Candidate> candidates, const Constraint& constraint) {
  constexpr int kFew = 32;
  const auto worse = [](const Candidate& a, const Candidate& b) { return Candidate::better(b, a); };
  std::make_heap(candidates.begin(), candidates.end(), worse);
  auto end = candidates.end();
  for (int n = 0; n < kFew && end != candidates.begin(); ++n) {
    std::pop_heap(candidates.begin(), end, worse);
    --end;
    if (constraint.allows(end->token)) return end->token;
  }
  Candidate best{-1, -std::numeric_limits<double>::infinity()};
  for (auto c = candidates.begin(); c != end; ++c) {
    if (Candidate::better(*c, best) && constraint.allows(c->token)) best = *c;
  }
  return best.token;
}

Token most_probable_allowed(std::span<const float> row, const Constraint& constraint) {
  std::array<Token, 32> first;
  std::array<float, 32> unused;
  const int n = top_k_log_softmax(row, 1, first, unused);
  for (const Token t : std::span(first).first(static_cast<std::size_t>(n))) {
    if (constraint.allows(t)) return t;
  }
  Token best = -1;
  float most = kLowest;
  for (std::size_t i = 0; i < row.size(); ++i) {
    if (row[i] > most && constraint.allows(static_cast<Token>(i))) {
      best = static_cast<Token>(i);
      most = row[i];
    }
  }
  return best;
}

}  // namespace

// A row and what is left of it, and the buffers for looking at it.
struct Sampler::Work {
  std::span<const float> row;
  std::vector<float> maxima;  // of the row's groups
  Cutter cutter;
  Cut cut;
  std::vector<Candidate> candidates;

  void look_at(std::span<const float> logits, const SamplingParams& params) {
    row = logits;
    maxima.resize(group_count(row.size()));
    group_maxima(row, maxima);
    cut = cutter.cut(row, maxima, params);
  }

  // Calls enter(candidate) for each token that the cut keeps and whose score is at least bound(), and for a few others.
  // -log(-log U) <= -log(1 - U), so a token needs 1 - U <= exp(logit / T - bound). Noise is made only where that can be
  // at all, and looked at in the light of the group's largest logit.
  template <typename Bound, typename Enter>
  void contenders(const Noise& noise, double temperature, Bound bound, Enter enter) const {
    constexpr std::size_t kChunk = 32;
    std::array<std::uint32_t, kChunk> group, least;  // least: bits that a token needs
    std::array<float, kChunk> ahead, chance;
    std::array<std::uint32_t, kChunk * kGroup / kQuad> quads, bounds;
    std::array<Noise::Hit, kChunk * kGroup> hits;
    for (std::size_t chunk = 0; chunk < maxima.size(); chunk += kChunk) {
      const double wanted = bound();
      const auto floor =
          std::max(cut.logit, std::nextafter(static_cast<float>((wanted - kMostNoise) * temperature), kLowest));
      std::size_t n = 0;
      for (std::size_t g = chunk; g < std::min(chunk + kChunk, maxima.size()); ++g) {
        if (!(maxima[g] >= floor)) continue;
        const double d = static_cast<double>(maxima[g]) / temperature - wanted;
        group[n] = static_cast<std::uint32_t>(g);
        ahead[n++] = d < 1 ? static_cast<float>(d) : 1.0F;  // no number where both are infinite
      }
      if (n == 0) continue;
      exp_shifted(std::span(ahead).first(n), 1, -1e-4F, std::span(chance).first(n));  // the exponential rounds
      for (std::size_t i = 0; i < n; ++i)
        least[i] = chance[i] < 1 ? ~static_cast<std::uint32_t>(chance[i] * 0x1p32F) : 0;
      const std::size_t n_quads =
          quads_at_least(row, floor, std::span(group).first(n), std::span(least).first(n), quads, bounds);
      const std::size_t n_hits = noise.find(std::span(quads).first(n_quads), std::span(bounds).first(n_quads), hits);
      for (const Noise::Hit& hit : std::span(hits).first(n_hits)) {
        const auto t = static_cast<std::size_t>(hit.token);
        if (t < row.size() && cut.keeps(row[t], hit.token))
          enter(Candidate{hit.token, static_cast<double>(row[t]) / temperature + to_gumbel(hit.bits)});
      }
    }
  }
};

Sampler::Sampler(SamplingParams params) : params_(std::move(params)), work_(std::make_unique<Work>()) {
  validate(params_);
}

Sampler::~Sampler() = default;

void Sampler::perturb(std::span<const Token> tokens, std::span<const float> log_q, std::uint32_t position,
                      std::span<float> score) const {
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    score[i] = log_q[i];
    if (!params_.greedy())
      score[i] += static_cast<float>(gumbel_noise(params_.seed, params_.choice, position, tokens[i]));
  }
}

Choice Sampler::choose(std::span<const float> raw, std::uint32_t position, std::span<const Token> recent,
                       const Constraint* constraint) {
  const std::span<const float> logits = adjust(raw, recent);
  Choice c;
  if (params_.greedy()) {
    float second = kLowest;
    c.token = arg_max(logits, &second);
    if (!(logits[static_cast<std::size_t>(c.token)] > kLowest)) return {};
    c.margin = logits[static_cast<std::size_t>(c.token)] - second;
  } else {
    work_->look_at(logits, params_);
    c = draw(position);
  }
  if (!constraint || (c.token >= 0 && constraint->allows(c.token))) return c;
  c = {};
  if (!params_.greedy()) c.token = next_allowed(position, *constraint);
  if (c.token < 0) c.token = most_probable_allowed(logits, *constraint);
  return c;
}

std::span<const float> Sampler::adjust(std::span<const float> logits, std::span<const Token> recent) {
  if (!params_.penalised() && params_.logit_bias.empty()) return logits;
  adjusted_.assign(logits.begin(), logits.end());
  const auto in_range = [&](Token t) { return t >= 0 && static_cast<std::size_t>(t) < adjusted_.size(); };
  for (const auto& [token, bias] : params_.logit_bias) {
    if (in_range(token)) adjusted_[static_cast<std::size_t>(token)] += bias;
  }
  if (!params_.penalised()) return adjusted_;
  count_.resize(adjusted_.size());
  const auto window = params_.penalty_last_n < 0
                          ? recent.size()
                          : std::min(recent.size(), static_cast<std::size_t>(params_.penalty_last_n));
  const auto last = recent.last(window);
  for (const Token t : last) {
    if (in_range(t)) ++count_[static_cast<std::size_t>(t)];
  }
  for (const Token t : last) {
    if (!in_range(t) || count_[static_cast<std::size_t>(t)] == 0) continue;  // already done
    float& x = adjusted_[static_cast<std::size_t>(t)];
    x = x > 0 ? x / params_.repeat_penalty : x * params_.repeat_penalty;
    x -= static_cast<float>(count_[static_cast<std::size_t>(t)]) * params_.frequency_penalty + params_.presence_penalty;
    count_[static_cast<std::size_t>(t)] = 0;
  }
  return adjusted_;
}

// The race with noise for those only that can still win it or come second: tokens of large logits run first.
Choice Sampler::draw(std::uint32_t position) {
  constexpr std::size_t kFirst = 16;
  const Work& w = *work_;
  const Noise noise(params_.seed, params_.choice, position);
  const auto temperature = static_cast<double>(params_.temperature);
  std::array<Token, kFirst> first;  // groups, then the largest of each
  std::array<float, kFirst> unused;
  const auto n = static_cast<std::size_t>(top_k_log_softmax(w.maxima, 1.0F, first, unused));
  const auto end = first.begin() + static_cast<std::ptrdiff_t>(n);
  Race race;
  for (auto at = first.begin(); at != end; ++at) {
    const float x = w.maxima[static_cast<std::size_t>(*at)];
    auto i = kGroup * static_cast<std::size_t>(*at);
    while (w.row[i] != x) ++i;
    *at = static_cast<Token>(i);
    if (w.cut.keeps(x, *at)) race.enter({*at, static_cast<double>(x) / temperature + to_gumbel(noise.bits(*at))});
  }
  w.contenders(
      noise, temperature, [&race] { return race.second; },
      [&](const Candidate& c) {
        if (std::find(first.begin(), end, c.token) == end) race.enter(c);
      });
  const bool tie = race.best.score == race.second;  // of infinite ones the difference is no number
  return {race.best.token, tie ? 0 : static_cast<float>((race.best.score - race.second) * temperature)};
}

// The first token in order of score that the constraint allows, or -1. The order is looked at in three pieces: asking
// is expensive, and so is noise for all.
Token Sampler::next_allowed(std::uint32_t position, const Constraint& constraint) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  Work& w = *work_;
  const Noise noise(params_.seed, params_.choice, position);
  const auto temperature = static_cast<double>(params_.temperature);
  const double top = static_cast<double>(*std::max_element(w.maxima.begin(), w.maxima.end())) / temperature;
  double above = std::numeric_limits<double>::quiet_NaN();  // nothing was asked yet
  for (const double bound : {top - 2, top - 8, -kInfinity}) {
    w.candidates.clear();
    w.contenders(
        noise, temperature, [bound] { return bound; },
        [&](const Candidate& c) {
          if (c.score >= bound && !(c.score >= above)) w.candidates.push_back(c);
        });
    const Token found = first_allowed(w.candidates, constraint);
    if (found >= 0) return found;
    above = bound;
  }
  return -1;
}

}  // namespace gsd
