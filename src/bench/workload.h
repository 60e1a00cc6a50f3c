// Prompts to measure on, and the settings to measure.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "gsd/hypotheses.h"

namespace gsd::bench {

struct Prompt {
  std::string kind;  // what results are grouped by
  std::string text;
};

// Reads JSON lines, each of one of these forms:
//   {"prompt": "…", "kind": "…"}        our own; the kind may be left out
//   {"category": "…", "turns": ["…"]}   Spec-Bench (Xia et al., 2024): its first turn
//   {"question": "…"}                   GSM8K: as "Question: …\nAnswer:", kind "gsm8k"
// and keeps at most `per_kind` prompts of a kind (0 = all). `name` names the source in errors.
// Throws Error(kIo) naming the line that is of no such form, and if there is no prompt at all.
std::vector<Prompt> parse_prompts(std::string_view lines, int per_kind, const std::string& name);

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
