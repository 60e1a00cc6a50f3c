// The stages of llama-server's samplers in any order, over an explicit list of candidates. What each does is
// llama.cpp's; where it has a source: typical-p: Meister et al., arXiv 2202.00666; top-n-sigma: Tang et al., arXiv
// 2411.07641; dynamic temperature: Zhang et al., arXiv 2309.02772; XTC: p-e-w, text-generation-webui, pull request
// 6335.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "gsd/sampling.h"

namespace gsd {

void Sampler::run_stages(std::span<const float> logits, std::uint32_t position, std::span<const Token> recent) {
  const std::span<const float> row = biased(logits);
  count_.resize(row.size());
  candidates_.clear();
  for (std::size_t i = 0; i < row.size(); ++i) {
    if (row[i] > -std::numeric_limits<float>::infinity()) candidates_.push_back({static_cast<Token>(i), row[i]});
  }
  margin_ = 0;
  for (const Stage s : stages_) {
    if (!candidates_.empty()) run_stage(s, position, recent);
  }
}

void Sampler::run_stage(Stage stage, std::uint32_t position, std::span<const Token> recent) {
  switch (stage) {
    case Stage::kPenalties:
      return penalise(recent);
    case Stage::kDry:
      return penalise_repeating(recent);
    case Stage::kTopNSigma:
      return cut_sigma();
    case Stage::kTopK:
      return cut_top_k();
    case Stage::kTypicalP:
      return cut_typical();
    case Stage::kTopP:
      return cut_top_p();
    case Stage::kMinP:
      return cut_min_p();
    case Stage::kXtc:
      return cut_xtc(position);
    case Stage::kTemperature:
      return heat();
    case Stage::kInfill:
      return fill_in();
  }
}

void Sampler::sort_candidates() {
  if (!std::is_sorted(candidates_.begin(), candidates_.end(), Candidate::better_logit))
    std::sort(candidates_.begin(), candidates_.end(), Candidate::better_logit);
}

void Sampler::find_probabilities() {
  float top = -std::numeric_limits<float>::infinity();
  for (const Candidate& c : candidates_) top = std::max(top, c.logit);
  p_.clear();
  double sum = 0;
  for (const Candidate& c : candidates_) sum += p_.emplace_back(std::exp(static_cast<double>(c.logit - top)));
  for (double& p : p_) p /= sum;
}

void Sampler::keep_best() {
  std::iter_swap(candidates_.begin(),
                 std::min_element(candidates_.begin(), candidates_.end(), Candidate::better_logit));
  float second = -std::numeric_limits<float>::infinity();
  for (std::size_t i = 1; i < candidates_.size(); ++i) second = std::max(second, candidates_[i].logit);
  margin_ = candidates_[0].logit - second;
  candidates_.resize(1);
}

void Sampler::penalise(std::span<const Token> recent) {
  const auto last = count_recent(recent);
  for (Candidate& c : candidates_) {
    const std::int32_t count = count_[static_cast<std::size_t>(c.token)];
    if (count > 0) c.logit = penalised(c.logit, count);
  }
  for (const Token t : last) {
    if (t >= 0 && static_cast<std::size_t>(t) < count_.size()) count_[static_cast<std::size_t>(t)] = 0;
  }
}

void Sampler::penalise_repeating(std::span<const Token> recent) {
  dry_.penalties(params_, recent, repeating_);
  for (Candidate& c : candidates_) {
    const auto at = std::lower_bound(repeating_.begin(), repeating_.end(), c.token,
                                     [](const auto& entry, Token t) { return entry.first < t; });
    if (at != repeating_.end() && at->first == c.token) c.logit -= at->second;
  }
}

void Sampler::cut_sigma() {
  if (candidates_.size() < 2) return;
  double sum = 0;
  double squares = 0;
  float top = candidates_[0].logit;
  for (const Candidate& c : candidates_) {
    sum += static_cast<double>(c.logit);
    top = std::max(top, c.logit);
  }
  const double mean = sum / static_cast<double>(candidates_.size());
  for (const Candidate& c : candidates_) squares += std::pow(static_cast<double>(c.logit) - mean, 2);
  const double floor = static_cast<double>(top) - static_cast<double>(params_.top_n_sigma) *
                                                      std::sqrt(squares / static_cast<double>(candidates_.size()));
  std::erase_if(candidates_, [&](const Candidate& c) { return static_cast<double>(c.logit) < floor; });
}

void Sampler::cut_top_k() {
  if (static_cast<std::size_t>(params_.top_k) >= candidates_.size()) return;
  const auto cut = candidates_.begin() + params_.top_k;
  std::nth_element(candidates_.begin(), cut, candidates_.end(), Candidate::better_logit);
  candidates_.erase(cut, candidates_.end());
}

// Those whose information is nearest to the entropy, until they have the probability.
void Sampler::cut_typical() {
  find_probabilities();
  double entropy = 0;
  for (const double p : p_) entropy -= p > 0 ? p * std::log(p) : 0;
  const auto distance = [&](std::size_t i) { return std::abs(std::log(p_[i]) + entropy); };
  order_.resize(candidates_.size());
  std::iota(order_.begin(), order_.end(), std::size_t{0});
  std::sort(order_.begin(), order_.end(), [&](std::size_t a, std::size_t b) {
    return distance(a) < distance(b) || (distance(a) == distance(b) && candidates_[a].token < candidates_[b].token);
  });
  double sum = 0;
  std::size_t n = 0;
  while (n < order_.size()) {
    sum += p_[order_[n++]];
    if (sum > static_cast<double>(params_.typical_p) && static_cast<int>(n) >= params_.min_keep) break;
  }
  std::sort(order_.begin(), order_.begin() + static_cast<std::ptrdiff_t>(n));
  for (std::size_t i = 0; i < n; ++i) candidates_[i] = candidates_[order_[i]];
  candidates_.resize(n);
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

void Sampler::cut_min_p() {
  float top = -std::numeric_limits<float>::infinity();
  for (const Candidate& c : candidates_) top = std::max(top, c.logit);
  const float floor = top + std::log(params_.min_p);
  const auto least = static_cast<std::size_t>(std::max(1, params_.min_keep));
  const auto kept =
      std::count_if(candidates_.begin(), candidates_.end(), [&](const Candidate& c) { return c.logit >= floor; });
  if (static_cast<std::size_t>(kept) >= least) {
    std::erase_if(candidates_, [&](const Candidate& c) { return c.logit < floor; });
    return;
  }
  sort_candidates();
  candidates_.resize(std::min(least, candidates_.size()));
}

void Sampler::cut_xtc(std::uint32_t position) {
  if (candidates_.size() < 2 ||
      position_noise(params_.seed, params_.choice, position) > static_cast<double>(params_.xtc_probability))
    return;
  sort_candidates();
  find_probabilities();
  std::size_t above = 0;
  while (above < p_.size() && p_[above] >= static_cast<double>(params_.xtc_threshold)) ++above;
  if (above < 2 || static_cast<int>(candidates_.size() - (above - 1)) < params_.min_keep) return;
  candidates_.erase(candidates_.begin(), candidates_.begin() + static_cast<std::ptrdiff_t>(above) - 1);
}

void Sampler::heat() {
  if (candidates_.empty()) return;
  double t = static_cast<double>(params_.temperature);
  if (params_.dynatemp_range > 0) {
    if (candidates_.size() < 2) return;
    find_probabilities();
    double entropy = 0;
    for (const double p : p_) entropy -= p > 0 ? p * std::log(p) : 0;
    const double low = std::max(0.0, t - static_cast<double>(params_.dynatemp_range));
    const double high = t + static_cast<double>(params_.dynatemp_range);
    t = low + (high - low) * std::pow(entropy / std::log(static_cast<double>(candidates_.size())),
                                      static_cast<double>(params_.dynatemp_exponent));
  }
  if (t <= 0) return keep_best();
  for (Candidate& c : candidates_) c.logit = static_cast<float>(static_cast<double>(c.logit) / t);
}

// The end of the text where it is probable enough, otherwise the few probable tokens, those that begin alike together.
void Sampler::fill_in() {
  constexpr double kProbable = 0.2;
  const Vocabulary& v = *params_.infill;
  sort_candidates();
  find_probabilities();
  double ends = 0;
  for (std::size_t i = 0; i < candidates_.size(); ++i) ends += v.is_eog(candidates_[i].token) ? p_[i] : 0;
  if (3 * ends * static_cast<double>(candidates_.size()) > 1 - ends) {
    std::erase_if(candidates_, [&](const Candidate& c) { return !v.is_eog(c.token); });
    return;
  }
  merge_beginnings();
  const auto drop_below = [&](double floor) {
    std::size_t n = 0;
    std::size_t n_text = 0;
    double sum = 0;
    for (std::size_t i = 0; i < candidates_.size(); ++i) {
      const bool end = v.is_eog(candidates_[i].token);
      if (p_[i] < floor && !end) continue;
      n_text += end ? 0 : 1;
      sum += p_[n] = p_[i];
      candidates_[n++] = candidates_[i];
    }
    candidates_.resize(n);
    for (double& p : p_) p /= sum;
    return n_text;
  };
  const Candidate best = candidates_.front();
  const std::size_t n_text = drop_below(kProbable);
  if (n_text > 0) {
    drop_below(1 / static_cast<double>(n_text + 1));
  } else {
    const Token end = v.end_of_turn >= 0 ? v.end_of_turn : v.end;
    candidates_.assign(1, end >= 0 ? Candidate{end, 1} : best);
  }
}

// A token whose text is the beginning of another's and that one become one, the more probable of the two.
void Sampler::merge_beginnings() {
  const Vocabulary& v = *params_.infill;
  std::vector<std::string> pieces;
  for (const Candidate& c : candidates_) pieces.push_back(v.piece(c.token, ShowControl::kNo));
  std::vector<bool> gone(candidates_.size());
  for (std::size_t i = 0; i < candidates_.size(); ++i) {
    for (std::size_t j = 0; j < candidates_.size() && !gone[i]; ++j) {
      if (i == j || gone[j] || pieces[i].empty() || !pieces[j].starts_with(pieces[i])) continue;
      const auto [to, from] = p_[j] > p_[i] ? std::pair{j, i} : std::pair{i, j};
      p_[to] += p_[from];
      p_[from] = 0;
      gone[from] = true;
    }
  }
  std::size_t n = 0;
  for (std::size_t i = 0; i < candidates_.size(); ++i) {
    if (gone[i]) continue;
    p_[n] = p_[i];
    candidates_[n++] = candidates_[i];
  }
  candidates_.resize(n);
}

}  // namespace gsd
