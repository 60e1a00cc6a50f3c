// The settings to measure, and what they are chosen on.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "gsd/hypotheses.h"
#include "prompt_file.h"

namespace gsd::bench {

// Which prompts settings are chosen on, the others being measured: every second one of a kind, at most `per_kind` of a
// kind (0 = all of these). Throws Error(kUsage) naming a kind with fewer than two prompts.
std::vector<bool> tuning_prompts(std::span<const Prompt> prompts, int per_kind);

// A way to decode. `name` identifies it in records: the mode, then what differs from the defaults.
struct Config {
  std::string name;
  SpeculationParams params;
  double acceptance = -1;  // of a scripted draft (scripted_draft.h); below 0: the draft speaks for itself
};

// "MODE [KEY=VALUE]…", the keys being depth, draft-top-k, sibling-threshold, path-threshold, merge-length, frontier,
// max-nodes, width and history (0 or 1), over `defaults`. Without a width, auto may use 32 tokens, the others 16.
// Throws Error(kUsage).
Config parse_config(std::string_view text, const SpeculationParams& defaults);

// The paper's ablations around the defaults: chain, tree and graph, by merge length, sibling threshold, path threshold
// and width, one changed at a time, and all merge lengths at each width.
std::vector<std::string> ablation_configs();

// Chains of fixed depth without history: what any other way to spend the same time is compared with.
std::vector<std::string> chain_configs();

}  // namespace gsd::bench
