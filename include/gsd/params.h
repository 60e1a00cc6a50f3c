// The parameters of a session. Each has one name, one range and one line of help: the check, the command line, JSON
// requests, /props and configurations of `gsd bench` visit the same tables.
#pragma once

#include <array>
#include <concepts>
#include <cstdint>
#include <memory>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "gsd/types.h"

namespace gsd {

enum class Mode : std::uint8_t {
  kPlain,  // one token per forward pass
  kChain,  // one continuation (speculative decoding)
  kTree,   // several continuations, no merging
  kGraph,  // several continuations, recurring n-grams merged (the paper's method)
  kAuto,   // the planner decides in every step what pays
};

// Throws Error(kUsage) for an unknown name.
Mode parse_mode(std::string_view name);
const char* mode_name(Mode mode);

// Parameters of drafting, under the paper's names where it has one (arXiv 2407.16207, sections 3 and 4).
struct SpeculationParams {
  Mode mode = Mode::kAuto;
  int depth = 8;                 // draft levels per step, [1, 64]
  int top_k = 4;                 // candidates per node, [1, 16]; a chain takes 1
  float sibling_threshold = 0;   // a candidate needs this share of its best sibling's probability, [0, 1]
  float path_threshold = 0.05F;  // a node needs this path probability to be drafted or verified, [0, 1)
  int merge_length = 0;          // tokens before a candidate that must agree for a merge, [0, 16]; graph and auto only
  int frontier = 8;              // nodes that one draft level evaluates, [1, 64]
  int max_nodes = 64;            // nodes of the graph, [2, 1024]
  int max_width = 0;             // tokens that one verification pass scores, root included, [1, 64]; 0 = by the mode
  bool history = true;           // draw on the prompt, the generated text and formerly drafted tokens

  // max_width, or where it is 0 what suits the mode: the planner takes of it what pays.
  int width() const { return max_width != 0 ? max_width : mode == Mode::kAuto ? 32 : 16; }
  bool operator==(const SpeculationParams&) const = default;
};

// What changes the distribution before the draw, under llama-server's names (`samplers`).
enum class Stage : std::uint8_t {
  kPenalties,
  kDry,
  kTopNSigma,
  kTopK,
  kTypicalP,
  kTopP,
  kMinP,
  kXtc,
  kTemperature,
  kInfill
};
// The usual ones, in the usual order.
constexpr std::array<Stage, 9> kUsualStages{Stage::kPenalties, Stage::kDry,      Stage::kTopNSigma,
                                            Stage::kTopK,      Stage::kTypicalP, Stage::kTopP,
                                            Stage::kMinP,      Stage::kXtc,      Stage::kTemperature};

struct DryBreakers;
struct Vocabulary;

// Parameters of the draw. Order of effect: logit bias, the stages in their order, grammar.
struct SamplingParams {
  float temperature = 0;        // 0 = greedy; otherwise (0, 100]
  int top_k = 0;                // keep the k most probable; 0 = all
  float top_p = 1;              // keep the smallest set of probability >= top_p; 1 = all
  float min_p = 0;              // drop tokens below min_p times the best one's probability; 0 = none
  float repeat_penalty = 1;     // divides positive and multiplies negative logits of recent tokens; 1 = off
  float frequency_penalty = 0;  // subtracted per occurrence among the recent tokens
  float presence_penalty = 0;   // subtracted once per recent token
  int penalty_last_n = 64;      // how many tokens are "recent"; 0 = none, -1 = all
  std::uint64_t seed = 0;
  std::uint32_t choice = 0;  // number of the parallel choice, so that n choices of one seed differ
  std::vector<std::pair<Token, float>> logit_bias = {};

  float typical_p = 1;       // keep the tokens of most typical information of this probability; 1 = all
  float top_n_sigma = -1;    // drop logits this many standard deviations below the best one; 0 or less = none
  float dynatemp_range = 0;  // the temperature goes up and down by this with the entropy; 0 = it is fixed
  float dynatemp_exponent = 1;
  float xtc_probability = 0;    // how often all but the least of the tokens above xtc_threshold are dropped
  float xtc_threshold = 0.1F;   // above 0.5 nothing is
  int min_keep = 0;             // top-p, min-p, typical-p and XTC leave at least so many
  float dry_multiplier = 0;     // DRY: what goes on with a repetition loses this times ...; 0 = off
  float dry_base = 1.75F;       // ... this to the power of its length beyond ...; below 1 = off
  int dry_allowed_length = 2;   // ... this length
  int dry_penalty_last_n = 64;  // tokens among which repetitions are looked for; 0 = off, -1 = all
  std::vector<Stage> stages{kUsualStages.begin(), kUsualStages.end()};  // in order; set_stages() changes them
  std::shared_ptr<const DryBreakers> dry_breakers = {};                 // see dry.h; null: none
  std::shared_ptr<const Vocabulary> infill = {};  // llama-server's "infill" stage looks into it; null: off

  bool greedy() const { return temperature == 0 && dynatemp_range == 0; }
  // True if the draw looks at earlier tokens: here for how often they came, or for repetitions.
  bool penalised() const {
    return penalty_last_n != 0 && (repeat_penalty != 1 || frequency_penalty != 0 || presence_penalty != 0);
  }
  bool dry() const { return dry_multiplier != 0 && dry_base >= 1 && dry_penalty_last_n != 0; }
  // What a draft's guesses are heated with.
  float draft_temperature() const { return greedy() ? 1 : temperature > 0 ? temperature : dynatemp_range; }
};

// A row of the tables.
struct Param {
  const char* name;   // in JSON
  const char* flag;   // on the command line, without the dashes, and in bench configurations
  double low, high;   // of numbers; an end may not belong to the range
  const char* range;  // the same in words
  const char* help;
  bool low_open = false;
  bool high_open = false;

  // False for what is no number, too.
  bool holds(double value) const {
    return (low_open ? value > low : value >= low) && (high_open ? value < high : value <= high);
  }
};

constexpr double kMostInt = 0x7fffffff;

// Calls visit(const Param&, field) for each parameter; the fields are Mode, int, float or bool.
template <typename P, typename Visit>
requires std::same_as<std::remove_const_t<P>, SpeculationParams>
void visit_params(P& p, Visit&& visit) {
  visit(Param{"mode", "mode", 0, 4, "plain, chain, tree, graph or auto",
              "plain, chain, tree, graph, or auto: the planner decides in every step"},
        p.mode);
  visit(Param{"max_width", "width", 0, 64, "from 1 to 64, or auto",
              "Tokens that one verification scores, or auto for what suits the mode"},
        p.max_width);
  visit(Param{"depth", "depth", 1, 64, "from 1 to 64", "Draft levels per step"}, p.depth);
  visit(Param{"top_k", "draft-top-k", 1, 16, "from 1 to 16", "Candidates per node"}, p.top_k);
  visit(Param{"sibling_threshold", "sibling-threshold", 0, 1, "from 0 to 1",
              "A candidate needs this share of its best sibling's probability"},
        p.sibling_threshold);
  visit(Param{"path_threshold", "path-threshold", 0, 1, "from 0 to below 1", "A node needs this path probability",
              false, true},
        p.path_threshold);
  visit(Param{"merge_length", "merge-length", 0, 16, "from 0 to 16",
              "Tokens before a candidate that must agree for a merge (graph and auto)"},
        p.merge_length);
  visit(Param{"frontier", "frontier", 1, 64, "from 1 to 64", "Nodes that one draft level evaluates"}, p.frontier);
  visit(Param{"max_nodes", "max-nodes", 2, 1024, "from 2 to 1024", "Nodes of the graph"}, p.max_nodes);
  visit(Param{"history", "history", 0, 1, "true or false",
              "Draw on the prompt, the generated text and formerly drafted tokens"},
        p.history);
}

// Seed, choice and logit_bias are no plain numbers and not among them.
template <typename P, typename Visit>
requires std::same_as<std::remove_const_t<P>, SamplingParams>
void visit_params(P& p, Visit&& visit) {
  visit(Param{"temperature", "temperature", 0, 100, "from 0 (greedy) to 100", "Temperature; 0 = greedy"},
        p.temperature);
  visit(Param{"top_k", "top-k", 0, kMostInt, "0 (off) or more", "Keep the k most probable tokens; 0 = all"}, p.top_k);
  visit(Param{"top_p", "top-p", 0, 1, "above 0 and at most 1 (off)",
              "Keep the smallest set of this probability; 1 = all", true},
        p.top_p);
  visit(Param{"min_p", "min-p", 0, 1, "from 0 (off) to below 1",
              "Drop tokens below this share of the best one's probability", false, true},
        p.min_p);
  visit(Param{"repeat_penalty", "repeat-penalty", 0, 100, "above 0 and at most 100 (1 = off)",
              "Penalty for recent tokens; 1 = off", true},
        p.repeat_penalty);
  visit(
      Param{"presence_penalty", "presence-penalty", -100, 100, "from -100 to 100", "Subtracted once per recent token"},
      p.presence_penalty);
  visit(Param{"frequency_penalty", "frequency-penalty", -100, 100, "from -100 to 100",
              "Subtracted per occurrence of a recent token"},
        p.frequency_penalty);
  visit(Param{"repeat_last_n", "repeat-last-n", -1, kMostInt, "-1 (all), 0 (off) or more",
              "Tokens that count as recent; -1 = all"},
        p.penalty_last_n);
  visit(Param{"typical_p", "typical-p", 0, 1, "from 0 to 1 (off)",
              "Keep the tokens of most typical information of this probability; 1 = all"},
        p.typical_p);
  visit(Param{"top_n_sigma", "top-n-sigma", -1, 100, "from -1 to 100 (0 and less: off)",
              "Drop logits this many standard deviations below the best one; -1 = none"},
        p.top_n_sigma);
  visit(Param{"dynatemp_range", "dynatemp-range", 0, 100, "from 0 (off) to 100",
              "The temperature goes up and down by this with the entropy"},
        p.dynatemp_range);
  visit(Param{"dynatemp_exponent", "dynatemp-exponent", 0, 100, "from 0 to 100", "How steeply it does"},
        p.dynatemp_exponent);
  visit(Param{"xtc_probability", "xtc-probability", 0, 1, "from 0 (off) to 1",
              "How often all but the least of the tokens above the threshold are dropped"},
        p.xtc_probability);
  visit(Param{"xtc_threshold", "xtc-threshold", 0, 1, "from 0 to 1 (above 0.5: off)", "The threshold of that"},
        p.xtc_threshold);
  visit(Param{"min_keep", "min-keep", 0, kMostInt, "0 or more",
              "Tokens that top-p, min-p, typical-p and XTC leave at least"},
        p.min_keep);
  visit(Param{"dry_multiplier", "dry-multiplier", 0, 100, "from 0 (off) to 100",
              "DRY: penalty for going on with a repetition; 0 = off"},
        p.dry_multiplier);
  visit(Param{"dry_base", "dry-base", 0, 100, "from 0 to 100 (below 1: off)",
              "Factor of that penalty for each further token"},
        p.dry_base);
  visit(Param{"dry_allowed_length", "dry-allowed-length", 0, kMostInt, "0 or more",
              "Length of repetitions that cost nothing yet"},
        p.dry_allowed_length);
  visit(Param{"dry_penalty_last_n", "dry-penalty-last-n", -1, kMostInt, "-1 (all), 0 (off) or more",
              "Tokens among which DRY looks for repetitions; -1 = all"},
        p.dry_penalty_last_n);
}

// llama-server's names of the stages, and what else it takes for them. Throws Error(kUsage) for an unknown one.
Stage parse_stage(std::string_view name);
const char* stage_name(Stage stage);
// Makes these stages, in this order, the only ones: what the others' parameters ask for is set to what asks for
// nothing. Throws Error(kUsage) for one that stands twice.
void set_stages(SamplingParams& params, std::vector<Stage> stages);

// Throw Error(kUsage) naming the parameter that is out of range and the range.
void validate(const SpeculationParams& params);
void validate(const SamplingParams& params);

}  // namespace gsd
