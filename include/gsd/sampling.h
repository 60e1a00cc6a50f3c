// How the target's next token is drawn: greedy, or with common random numbers that make the draw a pure function of
// (logits, seed, position), so that the text cannot depend on what was drafted.
//
// Source: the Gumbel-max trick. argmax_i [log p_i / T + G(t, i)], G = -log(-log U), has exactly the distribution
// softmax(log p / T); sharing G between draft and target makes them agree more often than independent draws.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "gsd/params.h"
#include "gsd/types.h"

namespace gsd {

// Gumbel noise of (seed, choice, index of the generated token, token id), from Philox4x32-10 (Salmon et al., SC 2011).
// Always finite. Thread safe.
double gumbel_noise(std::uint64_t seed, std::uint32_t choice, std::uint32_t position, Token token);

// What a grammar has to answer. All functions are called from the thread that steps the engine.
struct Constraint {
  std::function<bool(Token)> allows;   // may `Token` come next? Does not change the state
  std::function<void(Token)> advance;  // `Token` was emitted
  std::function<void()> reset = {};    // a new text begins; may be empty where there is no state
  // A sentence if it allows nothing because it gave up, empty if its rules say so; may be empty where it never gives
  // up.
  std::function<std::string()> failure = {};
};

struct Choice {
  Token token = -1;
  // Distance of the winner's (perturbed) score to the runner-up's, in logits; near 0 = a near-tie. 0 where the
  // constraint ruled the winner of the draw out.
  float margin = 0;
};

// Draws the target's tokens of one session, position after position. State: the work buffers only, so a Sampler may
// be used for several positions in any order as long as `recent` and the constraint's state fit the position.
// Not thread safe.
class Sampler {
 public:
  // Throws Error(kUsage) as validate() does.
  explicit Sampler(SamplingParams params);
  ~Sampler();

  // Draws the token of generated index `position` from `logits` [n_vocab]. `recent`: all tokens before it, oldest
  // first. `constraint` may be null. Returns token -1 if the constraint allows none at all, or every
  // logit is -inf or no number.
  Choice choose(std::span<const float> logits, std::uint32_t position, std::span<const Token> recent,
                const Constraint* constraint);

  // Scores the draft's candidates as the target's draw would: log q (at the session's temperature) + the noise of
  // `position`; greedy: log q. tokens, log_q, score: [k].
  void perturb(std::span<const Token> tokens, std::span<const float> log_q, std::uint32_t position,
               std::span<float> score) const;

  const SamplingParams& params() const { return params_; }

 private:
  struct Work;
  std::span<const float> adjust(std::span<const float> logits, std::span<const Token> recent);
  Choice draw(std::uint32_t position);
  Token next_allowed(std::uint32_t position, const Constraint& constraint);

  SamplingParams params_;
  std::vector<float> adjusted_;      // [n_vocab] logits after bias and penalties
  std::vector<std::int32_t> count_;  // [n_vocab] occurrences among the recent tokens, all zero between calls
  std::unique_ptr<Work> work_;
};

}  // namespace gsd
