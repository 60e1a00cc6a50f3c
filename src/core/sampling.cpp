#include "gsd/sampling.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>

#include "gsd/error.h"
#include "gsd/topk.h"

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

// 32 random bits to Gumbel noise; the half keeps U away from 0 and 1.
double to_gumbel(std::uint32_t bits) { return -std::log(-std::log((bits + 0.5) * 0x1p-32)); }

void require(bool ok, const char* name, const char* range) {
  if (!ok) throw Error(ErrorCode::kUsage, std::string("The parameter ") + name + " must be " + range + ".");
}

}  // namespace

void validate(const SamplingParams& p) {
  require(p.temperature >= 0 && p.temperature <= 100, "temperature", "from 0 (greedy) to 100");
  require(p.top_k >= 0, "top-k", "0 (off) or more");
  require(p.top_p > 0 && p.top_p <= 1, "top-p", "above 0 and at most 1 (off)");
  require(p.min_p >= 0 && p.min_p < 1, "min-p", "from 0 (off) to below 1");
  require(p.repeat_penalty > 0 && p.repeat_penalty <= 100, "repeat-penalty", "above 0 and at most 100 (1 = off)");
  require(std::abs(p.frequency_penalty) <= 100, "frequency-penalty", "from -100 to 100");
  require(std::abs(p.presence_penalty) <= 100, "presence-penalty", "from -100 to 100");
  require(p.penalty_last_n >= -1, "penalty-last-n", "-1 (all), 0 (off) or more");
  for (const auto& [token, bias] : p.logit_bias) require(!std::isnan(bias), "logit-bias", "a number");
}

double gumbel_noise(std::uint64_t seed, std::uint32_t choice, std::uint32_t position, Token token) {
  const auto id = static_cast<std::uint32_t>(token);
  const auto block = philox({id / 4, position, choice, 0x67736421}, static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32));
  return to_gumbel(block[id % 4]);
}

double max_gumbel_noise() {
  static const double value = to_gumbel(0xffffffff);
  return value;
}

Sampler::Sampler(SamplingParams params) : params_(std::move(params)) { validate(params_); }

void Sampler::perturb(std::span<const Token> tokens, std::span<const float> log_q, std::uint32_t position, std::span<float> score) const {
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    score[i] = log_q[i];
    if (!params_.greedy()) score[i] += static_cast<float>(gumbel_noise(params_.seed, params_.choice, position, tokens[i]));
  }
}

Choice Sampler::choose(std::span<const float> raw, std::uint32_t position, std::span<const Token> recent, const Constraint* constraint) {
  const std::span<const float> logits = adjust(raw, recent);
  if (params_.greedy()) {
    Choice c;
    float second = kLowest;
    c.token = arg_max(logits, &second);
    c.margin = logits[static_cast<std::size_t>(c.token)] - second;
    if (!constraint || constraint->allows(c.token)) return c;
    candidates_.clear();
    return draw_allowed(logits, *constraint);
  }
  if (!constraint && params_.top_k == 0 && params_.top_p >= 1 && params_.min_p == 0) return draw_all(logits, position);
  survivors(logits);
  const Choice c = draw(position);
  if (!constraint || (c.token >= 0 && constraint->allows(c.token))) return c;
  return draw_allowed(logits, *constraint);
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
  const auto window = params_.penalty_last_n < 0 ? recent.size() : std::min(recent.size(), static_cast<std::size_t>(params_.penalty_last_n));
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

// Leaves in candidates_ what top-k, top-p and min-p let through, sorted by logit, equal logits by id.
void Sampler::survivors(std::span<const float> logits) {
  candidates_.clear();
  float floor = kLowest;
  if (params_.min_p > 0) {
    const Token best = arg_max(logits, nullptr);
    floor = logits[static_cast<std::size_t>(best)] + std::log(params_.min_p);
  }
  for (std::size_t i = 0; i < logits.size(); ++i) {
    // With top-p every token counts towards the total, so min-p cuts later.
    if (logits[i] > kLowest && (params_.top_p < 1 || logits[i] >= floor)) candidates_.push_back({static_cast<Token>(i), logits[i], 0});
  }
  const auto by_logit = [](const Candidate& a, const Candidate& b) { return a.logit > b.logit || (a.logit == b.logit && a.token < b.token); };
  if (params_.top_k > 0 && static_cast<std::size_t>(params_.top_k) < candidates_.size()) {
    const auto cut = candidates_.begin() + params_.top_k;
    std::nth_element(candidates_.begin(), cut, candidates_.end(), by_logit);
    candidates_.erase(cut, candidates_.end());
  }
  if (params_.top_p < 1) cut_top_p();
  if (params_.min_p > 0) std::erase_if(candidates_, [&](const Candidate& c) { return c.logit < floor; });
}

void Sampler::cut_top_p() {
  const auto by_logit = [](const Candidate& a, const Candidate& b) { return a.logit > b.logit || (a.logit == b.logit && a.token < b.token); };
  if (candidates_.empty()) return;
  const float top = std::max_element(candidates_.begin(), candidates_.end(), [](const auto& a, const auto& b) { return a.logit < b.logit; })->logit;
  double total = 0;
  for (const Candidate& c : candidates_) total += std::exp(static_cast<double>(c.logit - top));
  // Sort in growing pieces: the set is almost always small beside the vocabulary.
  double sum = 0;
  std::size_t sorted = 0;
  for (std::size_t piece = 64; sorted < candidates_.size(); piece *= 4) {
    const std::size_t stop = std::min(candidates_.size(), sorted + piece);
    const auto first = candidates_.begin() + static_cast<std::ptrdiff_t>(sorted);
    std::partial_sort(first, candidates_.begin() + static_cast<std::ptrdiff_t>(stop), candidates_.end(), by_logit);
    for (; sorted < stop; ++sorted) {
      sum += std::exp(static_cast<double>(candidates_[sorted].logit - top));
      if (sum >= static_cast<double>(params_.top_p) * total) {
        candidates_.resize(sorted + 1);
        return;
      }
    }
  }
}

// The winner of log p / T + G among candidates_; all scores are filled in.
Choice Sampler::draw(std::uint32_t position) {
  Choice c;
  double best = -std::numeric_limits<double>::infinity();
  double second = best;
  for (Candidate& x : candidates_) {
    x.score = static_cast<double>(x.logit) / params_.temperature + gumbel_noise(params_.seed, params_.choice, position, x.token);
    if (x.score > best || (x.score == best && x.token < c.token)) {
      second = best;
      best = x.score;
      c.token = x.token;
    } else {
      second = std::max(second, x.score);
    }
  }
  c.margin = static_cast<float>((best - second) * params_.temperature);
  return c;
}

// No cut: the noise is drawn only for tokens that could still win, the probable ones first.
Choice Sampler::draw_all(std::span<const float> logits, std::uint32_t position) {
  constexpr int kFirst = 32;
  Token token[kFirst];
  float log_p[kFirst];
  const int n = top_k_log_softmax(logits, 1.0F, token, log_p);
  candidates_.clear();
  for (int i = 0; i < n; ++i) candidates_.push_back({token[i], logits[static_cast<std::size_t>(token[i])], 0});
  if (candidates_.empty()) return {};
  Choice c = draw(position);
  const float last = candidates_.back().logit;
  // A token below the 32nd needs noise of at least best - logit / T to win; keep a logit of room for the margin.
  const auto score = [&](Token t) {
    return static_cast<double>(logits[static_cast<std::size_t>(t)]) / params_.temperature + gumbel_noise(params_.seed, params_.choice, position, t);
  };
  double best = score(c.token);
  double second = best - static_cast<double>(c.margin) / params_.temperature;
  const double bound = (second - max_gumbel_noise()) * params_.temperature;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const auto t = static_cast<Token>(i);
    if (!(logits[i] > bound) || logits[i] > last) continue;
    if (logits[i] == last && std::find(token, token + n, t) != token + n) continue;
    const double s = score(t);
    if (s > best || (s == best && t < c.token)) {
      second = best;
      best = s;
      c.token = t;
    } else {
      second = std::max(second, s);
    }
  }
  c.margin = static_cast<float>((best - second) * params_.temperature);
  return c;
}

// The first candidate in order of score that the constraint allows; if no survivor passes, the most probable token
// of the whole vocabulary that does.
Choice Sampler::draw_allowed(std::span<const float> logits, const Constraint& constraint) {
  const auto first_allowed = [&](auto better) -> Token {
    // A heap gives the candidates in order without sorting all of them.
    std::make_heap(candidates_.begin(), candidates_.end(), [&](const auto& a, const auto& b) { return better(b, a); });
    for (auto end = candidates_.end(); end != candidates_.begin();) {
      std::pop_heap(candidates_.begin(), end, [&](const auto& a, const auto& b) { return better(b, a); });
      --end;
      if (constraint.allows(end->token)) return end->token;
    }
    return -1;
  };
  const auto by_score = [](const Candidate& a, const Candidate& b) { return a.score > b.score || (a.score == b.score && a.token < b.token); };
  const auto by_logit = [](const Candidate& a, const Candidate& b) { return a.logit > b.logit || (a.logit == b.logit && a.token < b.token); };
  Choice c;
  if (!candidates_.empty()) c.token = first_allowed(by_score);
  if (c.token >= 0) return c;
  candidates_.clear();
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] > kLowest) candidates_.push_back({static_cast<Token>(i), logits[i], 0});
  }
  c.token = first_allowed(by_logit);
  return c;
}

}  // namespace gsd
