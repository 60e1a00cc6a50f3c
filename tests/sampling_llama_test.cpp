// What our stages leave of a distribution, against libllama's own samplers.
#include <gtest/gtest.h>
#include <llama.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "../src/llama/handles.h"
#include "gsd/llama.h"
#include "random.h"

namespace gsd {
namespace {

const Model& model() {
  static const Model m(ModelOptions{.path = GSD_MODELS_DIR "/toy-target.gguf", .mmap = {}, .progress = {}});
  return m;
}

const std::vector<std::string> kBreakers{"\n", ":", "\"", "*", "the end"};

llama_sampler* make(Stage stage, const SamplingParams& p) {
  const llama_vocab* vocab = model().impl().vocab;
  const auto keep = static_cast<std::size_t>(p.min_keep);
  switch (stage) {
    case Stage::kPenalties:
      return llama_sampler_init_penalties(llama_vocab_n_tokens(vocab), p.penalty_last_n, p.repeat_penalty,
                                          p.frequency_penalty, p.presence_penalty);
    case Stage::kDry: {
      std::vector<const char*> texts;
      for (const std::string& b : kBreakers) texts.push_back(b.c_str());
      return llama_sampler_init_dry(vocab, p.dry_multiplier, p.dry_base, p.dry_allowed_length, p.dry_penalty_last_n,
                                    texts.data(), texts.size());
    }
    case Stage::kTopNSigma:
      return llama_sampler_init_top_n_sigma(p.top_n_sigma);
    case Stage::kTopK:
      return llama_sampler_init_top_k(p.top_k);
    case Stage::kTypicalP:
      return llama_sampler_init_typical(p.typical_p, keep);
    case Stage::kTopP:
      return llama_sampler_init_top_p(p.top_p, keep);
    case Stage::kMinP:
      return llama_sampler_init_min_p(p.min_p, keep);
    case Stage::kXtc:
      return llama_sampler_init_xtc(p.xtc_probability, p.xtc_threshold, keep, 1);
    case Stage::kTemperature:
      return llama_sampler_init_temp_ext(p.temperature, p.dynatemp_range, p.dynatemp_exponent);
    case Stage::kInfill:
      return p.infill ? llama_sampler_init_infill(vocab) : nullptr;
  }
  return nullptr;
}

std::map<Token, double> theirs(const SamplingParams& p, const std::vector<float>& row, const std::vector<Token>& text) {
  const std::unique_ptr<llama_sampler, decltype(&llama_sampler_free)> chain(
      llama_sampler_chain_init(llama_sampler_chain_default_params()), llama_sampler_free);
  for (const Stage s : p.stages) {
    if (llama_sampler* stage = make(s, p)) llama_sampler_chain_add(chain.get(), stage);
  }
  for (const Token t : text) llama_sampler_accept(chain.get(), t);
  std::vector<llama_token_data> data;
  for (std::size_t i = 0; i < row.size(); ++i) data.push_back({static_cast<Token>(i), row[i], 0});
  llama_token_data_array all{data.data(), data.size(), -1, false};
  llama_sampler_apply(chain.get(), &all);
  float top = -INFINITY;
  for (std::size_t i = 0; i < all.size; ++i) top = std::max(top, all.data[i].logit);
  std::map<Token, double> out;
  double sum = 0;
  for (std::size_t i = 0; i < all.size; ++i) {
    if (all.data[i].logit == -INFINITY) continue;
    sum += out[all.data[i].id] = std::exp(static_cast<double>(all.data[i].logit - top));
  }
  for (auto& [token, x] : out) x /= sum;
  return out;
}

std::map<Token, double> ours(const SamplingParams& p, const std::vector<float>& row, const std::vector<Token>& text) {
  Sampler sampler(p);
  std::vector<TokenProbability> list;
  sampler.distribution(row, 3, text, list);
  EXPECT_TRUE(std::is_sorted(list.begin(), list.end(), [](const auto& a, const auto& b) { return a.p > b.p; }));
  std::map<Token, double> out;
  for (const auto& [token, x] : list) out[token] = static_cast<double>(x);
  // What is drawn is of them.
  EXPECT_TRUE(out.contains(sampler.choose(row, 3, text, nullptr).token));
  return out;
}

float between(std::mt19937_64& rng, float low, float high) {
  return low + (high - low) * static_cast<float>(rng() % 10001) / 10000;
}

// Each stage that may be among them acts in about half the rounds.
SamplingParams random_params(std::mt19937_64& rng) {
  const auto half = [&] { return rng() % 2 == 0; };
  SamplingParams p;
  p.temperature = rng() % 8 == 0 ? 0 : between(rng, 0.2F, 2);
  if (half()) p.top_k = 1 + static_cast<int>(rng() % 100);
  if (half()) p.top_p = between(rng, 0.3F, 0.99F);
  if (half()) p.min_p = between(rng, 0.001F, 0.3F);
  if (half()) p.xtc_probability = 1, p.xtc_threshold = between(rng, 0.02F, 0.6F);
  if (half()) p.repeat_penalty = 1.3F, p.frequency_penalty = 0.2F, p.penalty_last_n = 1 + static_cast<int>(rng() % 60);
  if (half()) p.dry_multiplier = 0.8F, p.dry_allowed_length = static_cast<int>(rng() % 4), p.dry_penalty_last_n = 50;
  if (half()) p.min_keep = static_cast<int>(rng() % 6);
  // libllama keeps what top-n-sigma drops with probability 0, which typical-p has no logarithm of and a changing
  // temperature counts; and so with what temperature 0 drops.
  if (half()) {
    p.top_n_sigma = between(rng, 0.5F, 4);
  } else {
    if (p.temperature > 0 && half()) p.typical_p = between(rng, 0.2F, 0.95F);
    if (half()) p.dynatemp_range = between(rng, 0.1F, 1), p.dynatemp_exponent = between(rng, 0.3F, 2);
  }
  if (half()) std::shuffle(p.stages.begin(), p.stages.end(), rng);
  return p;
}

// A text with repetitions and breakers in it.
std::vector<Token> random_text(std::mt19937_64& rng) {
  std::vector<Token> out;
  const std::vector<Token> end = model().tokenize("the end", AddBegin::kNo, ParseControl::kNo);
  while (out.size() < 80) {
    if (out.size() > 10 && rng() % 3 == 0) {
      const std::size_t from = rng() % (out.size() - 8);
      for (std::size_t i = 0; i < 2 + rng() % 7; ++i) out.push_back(out[from + i]);
    } else if (rng() % 12 == 0) {
      out.insert(out.end(), end.begin(), end.end());
    } else {
      out.push_back(static_cast<Token>(rng() % 1000));
    }
  }
  return out;
}

TEST(SamplingLlama, AnyStagesInAnyOrderLeaveTheSame) {
  const auto breakers = make_dry_breakers(vocabulary(model()), kBreakers);
  int several = 0;
  int penalised = 0;
  for (int round = 0; round < 400; ++round) {
    GSD_SEEDED(rng, round);
    SamplingParams p = random_params(rng);
    p.dry_breakers = breakers;
    std::vector<float> row(static_cast<std::size_t>(model().n_vocab()));
    std::normal_distribution<float> normal(0, between(rng, 0.5F, 4));
    for (float& x : row) x = normal(rng);
    const std::vector<Token> text = random_text(rng);
    const auto expected = theirs(p, row, text);
    const auto found = ours(p, row, text);
    // libllama adds up in single precision, which over hundreds of tokens may take one more or less.
    const std::size_t slack = expected.size() / 100;
    std::size_t differing = 0;
    for (const auto& [token, x] : found) differing += expected.contains(token) ? 0 : 1;
    for (const auto& [token, x] : expected) {
      if (!found.contains(token)) {
        ++differing;
        continue;
      }
      ASSERT_NEAR(found.at(token), x, 1e-3 * x + 1e-6) << round;
    }
    ASSERT_LE(differing, slack) << round;
    several += expected.size() > 1 ? 1 : 0;
    SamplingParams without = p;
    without.dry_multiplier = 0;
    penalised += p.dry_multiplier > 0 && ours(without, row, text) != found ? 1 : 0;
  }
  EXPECT_GT(several, 200);
  EXPECT_GT(penalised, 20) << "DRY was hardly tried";
}

TEST(SamplingLlama, RepetitionsArePenalisedAlikeWhateverTheTextAndTheBreakers) {
  const auto breakers = make_dry_breakers(vocabulary(model()), kBreakers);
  int acted = 0;
  for (int round = 0; round < 300; ++round) {
    GSD_SEEDED(rng, round);
    SamplingParams p;
    p.temperature = 1;
    p.dry_multiplier = between(rng, 0.1F, 2);
    p.dry_base = between(rng, 1, 3);
    p.dry_allowed_length = static_cast<int>(rng() % 5);
    p.dry_penalty_last_n = 5 + static_cast<int>(rng() % 100);
    p.dry_breakers = breakers;
    const std::vector<float> row(static_cast<std::size_t>(model().n_vocab()), 0);
    // Few letters, so that repetitions overlap and nest.
    std::vector<Token> text = random_text(rng);
    if (round % 2 == 0) std::generate(text.begin(), text.end(), [&] { return static_cast<Token>(65 + rng() % 3); });
    const auto expected = theirs(p, row, text);
    for (const auto& [token, x] : ours(p, row, text)) ASSERT_NEAR(x, expected.at(token), 1e-3 * x + 1e-12) << round;
    const auto [low, high] = std::minmax_element(expected.begin(), expected.end(),
                                                 [](const auto& a, const auto& b) { return a.second < b.second; });
    acted += low->second < high->second ? 1 : 0;
  }
  EXPECT_GT(acted, 100);
}

TEST(SamplingLlama, TheInfillStageLeavesTheSame) {
  const auto v = std::make_shared<const Vocabulary>(vocabulary(model()));
  int ends = 0;
  int merged = 0;
  for (int round = 0; round < 300; ++round) {
    GSD_SEEDED(rng, round);
    SamplingParams p;
    p.temperature = 1;
    p.top_k = 2 + static_cast<int>(rng() % 40);
    p.stages.push_back(Stage::kInfill);
    p.infill = v;
    std::vector<float> row(static_cast<std::size_t>(model().n_vocab()));
    std::normal_distribution<float> normal(0, between(rng, 0.5F, 4));
    for (float& x : row) x = normal(rng);
    // Pieces that begin alike are probable.
    const auto words = model().tokenize(" the then there them", AddBegin::kNo, ParseControl::kNo);
    for (const Token t : words) row[static_cast<std::size_t>(t)] += 10;
    if (round % 3 == 0) row[0] = 12;
    const auto expected = theirs(p, row, {});
    const auto found = ours(p, row, {});
    ASSERT_EQ(found.size(), expected.size()) << round;
    for (const auto& [token, x] : expected) ASSERT_NEAR(found.at(token), x, 1e-4) << round;
    ends += expected.size() == 1 && model().is_eog(expected.begin()->first) ? 1 : 0;
    merged += expected.size() > 1 ? 1 : 0;
  }
  EXPECT_GT(ends, 20);
  EXPECT_GT(merged, 20);
}

}  // namespace
}  // namespace gsd
