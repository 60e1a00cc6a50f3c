// A generation played again without its models: any way of drafting, at any cost per pass.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "engine_state.h"
#include "gsd/backend.h"
#include "gsd/engine.h"
#include "gsd/sampling.h"

namespace gsd {

// The target's text and the draft's answers after it, on the text and off it. A draft's answer depends on the tokens
// before it only, so it is kept where it leaves the text: once for all steps in which it could be asked for.
struct Replay {
  struct Node {                     // the draft's answer after the text up to some position and then further tokens
    Token token = -1;               // last of them; of a root: the text's own token
    std::int32_t parent = -1;       // -1: a root
    std::int32_t first_child = -1;  // nodes that go on from here off the text, or -1
    std::int32_t next_sibling = -1;
    std::vector<Token> candidates;  // [k] most probable first
    std::vector<float> log_q;       // [k] at the temperature of `sampling` (greedy: 1)
  };

  std::int32_t n_vocab = 0;
  std::vector<Token> text;  // prompt and generated
  std::size_t n_prompt = 0;
  SamplingParams sampling;  // seed and temperature key the noise
  std::vector<Token> eog;   // end-of-generation tokens among the candidates
  std::vector<Node> nodes;
  std::vector<std::int32_t> root;  // [text.size()] node of each position of the text, -1 before the prompt's end

  // Child of `node` with that token, or -1.
  std::int32_t find(std::int32_t node, Token token) const;
  // Adds a node below `parent` and returns it; parent -1: the answer at position `at` of the text.
  std::int32_t add(std::int32_t parent, std::int32_t at, Token token, std::span<const Token> candidates,
                   std::span<const float> log_q);
  // Throws Error(kUsage) with what is wrong if it cannot be played: for records from outside.
  void check() const;
};

// Asks `drafter` for everything that drafting with `params` could want to know after each position of a generation
// (`text`: prompt and generated, `n_prompt` >= 1 of the prompt), and further: trees of params.depth levels and
// params.frontier nodes a level at every token. Uses slot 0 of `drafter`, which is left empty.
// `is_eog`: [n_vocab of the target]. `progress` may be empty; share done [0, 1], false stops early.
// Throws what the drafter throws.
Replay record_drafts(Drafter& drafter, std::span<const Token> text, std::size_t n_prompt,
                     const SamplingParams& sampling, const SpeculationParams& params, std::span<const bool> is_eog,
                     const std::function<bool(double)>& progress);

// What passes cost somewhere: milliseconds by width, and our own time of a step.
struct Profile {
  std::vector<CostModel::Point> target;
  std::vector<CostModel::Point> draft;
  double step_ms = 0;
};

struct Simulated {
  Stats stats;               // of the steps; its measured times are those of the simulation itself
  double ms = 0;             // simulated: passes by the profile, and step_ms a step
  std::int64_t unknown = 0;  // answers of the draft that were not recorded: treated as "anything may follow"
};

// Runs the engine itself over `replay`, with the profile in the place of a clock. `learned` is taken up and left behind
// as Engine::exchange does. Throws Error(kUsage) for parameters or a profile out of range.
Simulated simulate(const Replay& replay, const SpeculationParams& params, const Profile& profile, Learned& learned);

}  // namespace gsd
