#include "gsd/sampling.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>
#include <utility>

#include "gsd/error.h"
#include "topk.h"

namespace gsd {
namespace {

constexpr float kLowest = -std::numeric_limits<float>::infinity();

// Philox4x32-10: ten rounds of two 32x32->64 multiplications.
std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> c, std::uint32_t k0, std::uint32_t k1) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{0xD2511F53} * c[0];
    const std::uint64_t p1 = std::uint64_t{0xCD9E8D57} * c[2];
    c = {static_cast<std::uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<std::uint32_t>(p1),
         static_cast<std::uint32_t>(p0 >> 32) ^ c[3] ^ k1, static_cast<std::uint32_t>(p0)};
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  return c;
}

// The block of four neighbouring tokens that `token` belongs to.
std::array<std::uint32_t, 4> noise_bits(std::uint64_t seed, std::uint32_t choice, std::uint32_t position, Token token) {
  return philox({static_cast<std::uint32_t>(token) / 4, position, choice, 0x67736421}, static_cast<std::uint32_t>(seed),
                static_cast<std::uint32_t>(seed >> 32));
}

// 32 random bits to Gumbel noise; the half keeps U away from 0 and 1.
double to_gumbel(std::uint32_t bits) { return -std::log(-std::log((bits + 0.5) * 0x1p-32)); }

}  // namespace

double gumbel_noise(std::uint64_t seed, std::uint32_t choice, std::uint32_t position, Token token) {
  return to_gumbel(noise_bits(seed, choice, position, token)[static_cast<std::uint32_t>(token) % 4]);
}

double position_noise(std::uint64_t seed, std::uint32_t choice, std::uint32_t position) {
  const auto bits = philox({0, position, choice, 0x67736422}, static_cast<std::uint32_t>(seed),
                           static_cast<std::uint32_t>(seed >> 32));
  return (bits[0] + 0.5) * 0x1p-32;
}

namespace {

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

Sampler::Sampler(SamplingParams params) : params_(std::move(params)) {
  validate(params_);
  for (const Stage s : params_.stages) {
    if (has_effect(params_, s)) stages_.push_back(s);
  }
  usual_ = params_.min_keep <= 1 && params_.dynatemp_range == 0 &&
           std::all_of(stages_.begin(), stages_.end(), is_usual) && std::is_sorted(stages_.begin(), stages_.end());
}

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
  if (!usual_) {
    run_stages(raw, position, recent);
    Choice c = draw(position, 1);
    c.margin = params_.temperature > 0 ? c.margin * params_.temperature : margin_;
    if (!constraint || (c.token >= 0 && constraint->allows(c.token))) return c;
    return draw_allowed(adjust(raw, recent), *constraint);
  }
  const std::span<const float> logits = adjust(raw, recent);
  if (params_.greedy()) {
    Choice c;
    float second = kLowest;
    c.token = arg_max(logits, &second);
    if (!(logits[static_cast<std::size_t>(c.token)] > kLowest)) return {};
    c.margin = logits[static_cast<std::size_t>(c.token)] - second;
    if (!constraint || constraint->allows(c.token)) return c;
    candidates_.clear();
    return draw_allowed(logits, *constraint);
  }
  if (!constraint && params_.top_k == 0 && params_.top_p >= 1 && params_.min_p == 0) return draw_all(logits, position);
  survivors(logits);
  const Choice c = draw(position, params_.temperature);
  if (!constraint || (c.token >= 0 && constraint->allows(c.token))) return c;
  return draw_allowed(logits, *constraint);
}

void Sampler::distribution(std::span<const float> raw, std::uint32_t position, std::span<const Token> recent,
                           std::vector<TokenProbability>& out) {
  if (usual_) {
    survivors(adjust(raw, recent));
    heat();
  } else {
    run_stages(raw, position, recent);
  }
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

// Leaves in candidates_ what top-k, top-p and min-p let through, the best one in front.
void Sampler::survivors(std::span<const float> logits) {
  if (!few_survivors(logits)) all_survivors(logits);
  if (params_.min_p > 0 && !candidates_.empty()) {
    const float floor = candidates_.front().logit + std::log(params_.min_p);
    std::erase_if(candidates_, [&](const Candidate& c) { return c.logit < floor; });
  }
}

// The common case in one pass over the row: the cuts leave at most kFew. False if that cannot be told.
bool Sampler::few_survivors(std::span<const float> logits) {
  constexpr std::size_t kFew = 256;
  if (params_.top_k > static_cast<int>(kFew) && params_.top_p < 1) return false;  // top-p asks what top-k leaves
  const bool by_k = params_.top_k > 0 && params_.top_k <= static_cast<int>(kFew);
  std::array<Token, kFew> token;
  std::array<float, kFew> log_p;
  const std::size_t wanted = by_k ? static_cast<std::size_t>(params_.top_k) : kFew;
  const auto n = static_cast<std::size_t>(
      top_k_log_softmax(logits, 1, std::span(token).first(wanted), std::span(log_p).first(wanted)));
  // Top-p looks at what top-k left.
  double total = 1;
  if (by_k) {
    total = 0;
    for (std::size_t i = 0; i < n; ++i) total += std::exp(static_cast<double>(log_p[i]));
  }
  double sum = 0;
  std::size_t keep = 0;
  while (keep < n && (params_.top_p >= 1 || sum < static_cast<double>(params_.top_p) * total))
    sum += std::exp(static_cast<double>(log_p[keep++]));
  const bool below_floor = params_.min_p > 0 && n > 0 && log_p[n - 1] < log_p[0] + std::log(params_.min_p);
  if (!by_k && keep == n && n == kFew && (!below_floor || params_.top_p < 1)) return false;
  candidates_.clear();
  for (std::size_t i = 0; i < keep; ++i)
    candidates_.push_back({token[i], logits[static_cast<std::size_t>(token[i])], 0});
  return true;
}

void Sampler::all_survivors(std::span<const float> logits) {
  candidates_.clear();
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] > kLowest) candidates_.push_back({static_cast<Token>(i), logits[i], 0});
  }
  if (params_.top_k > 0 && static_cast<std::size_t>(params_.top_k) < candidates_.size()) {
    const auto cut = candidates_.begin() + params_.top_k;
    std::nth_element(candidates_.begin(), cut, candidates_.end(), Candidate::better_logit);
    candidates_.erase(cut, candidates_.end());
  }
  // min-p needs the best candidate in front.
  if (!candidates_.empty())
    std::iter_swap(candidates_.begin(),
                   std::min_element(candidates_.begin(), candidates_.end(), Candidate::better_logit));
  if (params_.top_p < 1) cut_top_p();
}

void Sampler::cut_top_p() {
  if (candidates_.empty()) return;
  const float top = std::max_element(candidates_.begin(), candidates_.end(), [](const auto& a, const auto& b) {
                      return a.logit < b.logit;
                    })->logit;
  double total = 0;
  for (const Candidate& c : candidates_) total += std::exp(static_cast<double>(c.logit - top));
  // Sort in growing pieces: the set is almost always small beside the vocabulary.
  double sum = 0;
  std::size_t sorted = 0;
  for (std::size_t piece = 64; sorted < candidates_.size(); piece *= 4) {
    const std::size_t stop = std::min(candidates_.size(), sorted + piece);
    const auto first = candidates_.begin() + static_cast<std::ptrdiff_t>(sorted);
    std::partial_sort(first, candidates_.begin() + static_cast<std::ptrdiff_t>(stop), candidates_.end(),
                      Candidate::better_logit);
    for (; sorted < stop; ++sorted) {
      sum += std::exp(static_cast<double>(candidates_[sorted].logit - top));
      if (sum >= static_cast<double>(params_.top_p) * total && static_cast<int>(sorted) + 1 >= params_.min_keep) {
        candidates_.resize(sorted + 1);
        return;
      }
    }
  }
}

namespace {

// The winner of x / T + G and how far it is ahead.
struct Race {
  explicit Race(float t) : temperature(t) {}
  double enter(Token t, float logit, double noise) {
    const double s = static_cast<double>(logit) / temperature + noise;
    if (s > best || (s == best && t < token)) {
      second = best;
      best = s;
      token = t;
    } else {
      second = std::max(second, s);
    }
    return s;
  }
  Choice result() const { return {token, static_cast<float>((best - second) * temperature)}; }

  double temperature;
  double best = -std::numeric_limits<double>::infinity();
  double second = best;
  Token token = -1;
};

}  // namespace

// The race among candidates_; all scores are filled in.
Choice Sampler::draw(std::uint32_t position, float temperature) {
  Race race(temperature);
  for (Candidate& c : candidates_)
    c.score = race.enter(c.token, c.logit, gumbel_noise(params_.seed, params_.choice, position, c.token));
  return race.result();
}

// No cut: the probable tokens first; of the others only those whose noise can lift them above the runner-up.
// -log(-log U) <= -log(1 - U), so a token at log-probability x needs 1 - U < exp(x - runner-up): one comparison.
Choice Sampler::draw_all(std::span<const float> logits, std::uint32_t position) {
  constexpr std::size_t kFirst = 32;
  constexpr std::size_t kChunk = 256;
  constexpr float kSlack = 1.0001F;  // exp_shifted rounds
  std::array<Token, kFirst> token;
  std::array<float, kFirst> log_p;
  const auto n = static_cast<std::size_t>(top_k_log_softmax(logits, 1.0F, token, log_p));
  candidates_.clear();
  for (std::size_t i = 0; i < n; ++i) candidates_.push_back({token[i], logits[static_cast<std::size_t>(token[i])], 0});
  if (candidates_.empty()) return {};
  Race race(params_.temperature);
  for (const Candidate& c : candidates_)
    race.enter(c.token, c.logit, gumbel_noise(params_.seed, params_.choice, position, c.token));
  const float last = candidates_.back().logit;
  std::array<float, kChunk> needed;
  for (std::size_t chunk = 0; chunk < logits.size(); chunk += kChunk) {
    const auto row = logits.subspan(chunk, std::min(kChunk, logits.size() - chunk));
    exp_shifted(row, 1 / params_.temperature, static_cast<float>(race.second), std::span(needed).first(row.size()));
    for (std::size_t four = 0; four < row.size(); four += 4) {
      const std::size_t lanes = std::min<std::size_t>(4, row.size() - four);
      if (*std::max_element(needed.begin() + static_cast<std::ptrdiff_t>(four),
                            needed.begin() + static_cast<std::ptrdiff_t>(four + lanes)) < 0x1p-34F)
        continue;
      const auto bits = noise_bits(params_.seed, params_.choice, position, static_cast<Token>(chunk + four));
      for (std::size_t lane = 0; lane < lanes; ++lane) {
        const float rest = (static_cast<float>(0xffffffffU - bits[lane]) + 0.5F) * 0x1p-32F;  // 1 - U
        if (rest > needed[four + lane] * kSlack) continue;
        const auto t = static_cast<Token>(chunk + four + lane);
        const float x = row[four + lane];
        if (x > last || (x == last && std::find(token.begin(), token.begin() + static_cast<std::ptrdiff_t>(n), t) !=
                                          token.begin() + static_cast<std::ptrdiff_t>(n)))
          continue;
        race.enter(t, x, to_gumbel(bits[lane]));
      }
    }
  }
  return race.result();
}

// The first candidate in order of score that the constraint allows; if no survivor passes, the most probable token
// of the whole vocabulary that does.
Choice Sampler::draw_allowed(std::span<const float> logits, const Constraint& constraint) {
  const auto first_allowed = [&](auto better) -> Token {
    // A heap gives the first candidates in order without sorting; where those do not help, all others are looked at
    // once.
    constexpr int kFew = 32;
    const auto worse = [&](const auto& a, const auto& b) { return better(b, a); };
    std::make_heap(candidates_.begin(), candidates_.end(), worse);
    auto end = candidates_.end();
    for (int n = 0; n < kFew && end != candidates_.begin(); ++n) {
      std::pop_heap(candidates_.begin(), end, worse);
      --end;
      if (constraint.allows(end->token)) return end->token;
    }
    const Candidate* best = nullptr;
    for (auto c = candidates_.begin(); c != end; ++c) {
      if ((best == nullptr || better(*c, *best)) && constraint.allows(c->token)) best = &*c;
    }
    return best != nullptr ? best->token : -1;
  };
  Choice c;
  if (!candidates_.empty()) c.token = first_allowed(Candidate::better_score);
  if (c.token >= 0) return c;
  candidates_.clear();
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] > kLowest) candidates_.push_back({static_cast<Token>(i), logits[i], 0});
  }
  c.token = first_allowed(Candidate::better_logit);
  return c;
}

}  // namespace gsd
