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

double position_noise(std::uint64_t seed, std::uint32_t choice, std::uint32_t position) {
  // Token -1 is in no vocabulary: its bits are nobody's noise.
  return (Noise(seed, choice, position).bits(-1) + 0.5) * 0x1p-32;
}

// A token in the race for the draw. Named outside, since Sampler::Work holds some.
struct Runner {
  Token token;
  double score;
  // Best first, equal ones by id.
  static bool better(const Runner& a, const Runner& b) {
    return a.score > b.score || (a.score == b.score && a.token < b.token);
  }
};

namespace {

// The winner of logit / T + G and the runner-up.
struct Race {
  void enter(const Runner& c) {
    if (Runner::better(c, best)) {
      second = best.score;
      best = c;
    } else {
      second = std::max(second, c.score);
    }
  }
  // How far the winner is ahead, in logits. Of infinite scores the difference is no number.
  float margin(double temperature) const {
    return best.score == second ? 0 : static_cast<float>((best.score - second) * temperature);
  }
  Runner best{-1, -std::numeric_limits<double>::infinity()};
  double second = best.score;
};

// A heap gives the first runners in order without sorting; where those do not help, all others are looked at once.
Token first_allowed(std::span<Runner> runners, const Constraint& constraint) {
  constexpr int kFew = 32;
  const auto worse = [](const Runner& a, const Runner& b) { return Runner::better(b, a); };
  std::make_heap(runners.begin(), runners.end(), worse);
  auto end = runners.end();
  for (int n = 0; n < kFew && end != runners.begin(); ++n) {
    std::pop_heap(runners.begin(), end, worse);
    --end;
    if (constraint.allows(end->token)) return end->token;
  }
  Runner best{-1, -std::numeric_limits<double>::infinity()};
  for (auto c = runners.begin(); c != end; ++c) {
    if (Runner::better(*c, best) && constraint.allows(c->token)) best = *c;
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

bool has_effect(const SamplingParams& p, Stage stage) {
  switch (stage) {
    case Stage::kPenalties:
      return p.penalised();
    case Stage::kDry:
      return p.dry();
    case Stage::kTopNSigma:
      return p.top_n_sigma > 0;
    case Stage::kTopK:
      return p.top_k > 0;
    case Stage::kTypicalP:
      return p.typical_p < 1;
    case Stage::kTopP:
      return p.top_p < 1;
    case Stage::kMinP:
      return p.min_p > 0;
    case Stage::kXtc:
      return p.xtc_probability > 0 && p.xtc_threshold <= 0.5F;
    case Stage::kTemperature:
      return p.temperature != 1 || p.dynatemp_range > 0;
    case Stage::kInfill:
      return p.infill != nullptr;
  }
  return false;
}

// Those that the short way knows.
bool is_usual(Stage s) {
  return s == Stage::kPenalties || s == Stage::kDry || s == Stage::kTopK || s == Stage::kTopP || s == Stage::kMinP ||
         s == Stage::kTemperature;
}

}  // namespace

// A row and what is left of it, and the buffers for looking at it.
struct Sampler::Work {
  std::span<const float> row;
  std::vector<float> maxima;  // of the row's groups
  Cutter cutter;
  Cut cut;
  std::vector<Runner> runners;

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
    constexpr std::size_t kQuads = kGroup / kQuad;
    std::array<std::uint32_t, kChunk> group, least;  // least: bits that a token needs
    std::array<float, kChunk> ahead, chance;
    std::array<std::uint32_t, kChunk * kQuads> quads, bounds;
    std::array<Noise::Hit, kChunk * kGroup> hits;
    const auto inverse = static_cast<float>(1 / temperature);
    // Which quads have a chance is found out for as long as there are some that have none.
    std::size_t unlisted = 0;  // chunks that are yet to be taken whole
    for (std::size_t chunk = 0; chunk < maxima.size(); chunk += kChunk) {
      const double wanted = bound();
      const auto floor =
          std::max(cut.logit, std::nextafter(static_cast<float>((wanted - kMostNoise) * temperature), kLowest));
      const auto lead = static_cast<float>(wanted);
      const float rounding = 1e-4F + 1e-6F * std::abs(lead);  // of the exponential; of the difference
      std::size_t n = 0;
      for (std::size_t g = chunk; g < std::min(chunk + kChunk, maxima.size()); ++g) {  // without branches
        const float d = maxima[g] * inverse - lead;
        group[n] = static_cast<std::uint32_t>(g);
        ahead[n] = d < 1 ? d : 1.0F;  // no number where both are infinite
        n += maxima[g] >= floor ? 1 : 0;
      }
      if (n == 0) continue;
      exp_shifted(std::span(ahead).first(n), 1, -rounding, std::span(chance).first(n));
      for (std::size_t i = 0; i < n; ++i)
        least[i] = chance[i] < 1 ? ~static_cast<std::uint32_t>(chance[i] * 0x1p32F) : 0;
      std::size_t n_quads = n * kQuads;
      if (unlisted > 0) {
        --unlisted;
        all_quads(std::span(group).first(n), std::span(least).first(n), quads, bounds);
      } else {
        n_quads = quads_at_least(row, floor, std::span(group).first(n), std::span(least).first(n), quads, bounds);
        if (n_quads > n * kQuads / 8 * 7) unlisted = 15;
      }
      const std::size_t n_hits = noise.find(std::span(quads).first(n_quads), std::span(bounds).first(n_quads), hits);
      for (const Noise::Hit& hit : std::span(hits).first(n_hits)) {
        const auto t = static_cast<std::size_t>(hit.token);
        if (t < row.size() && cut.keeps(row[t], hit.token))
          enter(Runner{hit.token, static_cast<double>(row[t]) / temperature + to_gumbel(hit.bits)});
      }
    }
  }
};

Sampler::Sampler(SamplingParams params) : params_(std::move(params)), work_(std::make_unique<Work>()) {
  validate(params_);
  for (const Stage s : params_.stages) {
    if (has_effect(params_, s)) stages_.push_back(s);
  }
  usual_ = params_.min_keep <= 1 && params_.dynatemp_range == 0 &&
           std::all_of(stages_.begin(), stages_.end(), is_usual) && std::is_sorted(stages_.begin(), stages_.end());
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
  Choice c;
  std::span<const float> logits = raw;
  if (!usual_) {
    run_stages(raw, position, recent);
    c = draw_candidates(position);
  } else if (logits = adjust(raw, recent); params_.greedy()) {
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
  if (!usual_) {
    c.token = first_allowed(work_->runners, *constraint);
    if (c.token < 0) logits = adjust(raw, recent);
  } else if (!params_.greedy()) {
    c.token = next_allowed(position, *constraint);
  }
  if (c.token < 0) c.token = most_probable_allowed(logits, *constraint);
  return c;
}

void Sampler::distribution(std::span<const float> raw, std::uint32_t position, std::span<const Token> recent,
                           std::vector<TokenProbability>& out) {
  run_stages(raw, position, recent);
  sort_candidates();
  find_probabilities();
  out.clear();
  for (std::size_t i = 0; i < candidates_.size(); ++i) out.push_back({candidates_[i].token, static_cast<float>(p_[i])});
}

std::span<const float> Sampler::biased(std::span<const float> logits) {
  if (params_.logit_bias.empty()) return logits;
  adjusted_.assign(logits.begin(), logits.end());
  for (const auto& [token, bias] : params_.logit_bias) {
    if (token >= 0 && static_cast<std::size_t>(token) < adjusted_.size())
      adjusted_[static_cast<std::size_t>(token)] += bias;
  }
  return adjusted_;
}

// The tokens that count as recent, counted in count_.
std::span<const Token> Sampler::count_recent(std::span<const Token> recent) {
  const auto window = params_.penalty_last_n < 0
                          ? recent.size()
                          : std::min(recent.size(), static_cast<std::size_t>(params_.penalty_last_n));
  const auto last = recent.last(window);
  for (const Token t : last) {
    if (t >= 0 && static_cast<std::size_t>(t) < count_.size()) ++count_[static_cast<std::size_t>(t)];
  }
  return last;
}

float Sampler::penalised(float x, std::int32_t count) const {
  x = x > 0 ? x / params_.repeat_penalty : x * params_.repeat_penalty;
  return x - (static_cast<float>(count) * params_.frequency_penalty + params_.presence_penalty);
}

std::span<const float> Sampler::adjust(std::span<const float> logits, std::span<const Token> recent) {
  const std::span<const float> row = biased(logits);
  if (!params_.penalised() && !params_.dry()) return row;
  if (row.data() != adjusted_.data()) adjusted_.assign(row.begin(), row.end());
  const auto in_range = [&](Token t) { return t >= 0 && static_cast<std::size_t>(t) < adjusted_.size(); };
  if (params_.penalised()) {
    count_.resize(adjusted_.size());
    for (const Token t : count_recent(recent)) {
      if (!in_range(t) || count_[static_cast<std::size_t>(t)] == 0) continue;  // already done
      float& x = adjusted_[static_cast<std::size_t>(t)];
      x = penalised(x, std::exchange(count_[static_cast<std::size_t>(t)], 0));
    }
  }
  if (params_.dry()) {
    dry_.penalties(params_, recent, repeating_);
    for (const auto& [token, penalty] : repeating_) {
      if (in_range(token)) adjusted_[static_cast<std::size_t>(token)] -= penalty;
    }
  }
  return adjusted_;
}

// The race among candidates_, who are the runners; the temperature is in their logits.
Choice Sampler::draw_candidates(std::uint32_t position) {
  const Noise noise(params_.seed, params_.choice, position);
  Race race;
  work_->runners.clear();
  for (const Candidate& c : candidates_)
    race.enter(
        work_->runners.emplace_back(Runner{c.token, static_cast<double>(c.logit) + to_gumbel(noise.bits(c.token))}));
  const float ahead = params_.temperature > 0 ? race.margin(static_cast<double>(params_.temperature)) : margin_;
  return {race.best.token, ahead};
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
      [&](const Runner& c) {
        if (std::find(first.begin(), end, c.token) == end) race.enter(c);
      });
  return {race.best.token, race.margin(temperature)};
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
    w.runners.clear();
    w.contenders(
        noise, temperature, [bound] { return bound; },
        [&](const Runner& c) {
          if (c.score >= bound && !(c.score >= above)) w.runners.push_back(c);
        });
    const Token found = first_allowed(w.runners, constraint);
    if (found >= 0) return found;
    above = bound;
  }
  return -1;
}

}  // namespace gsd
