#include "gsd/params.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <utility>

#include "gsd/error.h"

namespace gsd {
namespace {

constexpr std::array<const char*, 5> kModeNames{"plain", "chain", "tree", "graph", "auto"};

template <typename P>
void check(const P& params) {
  visit_params(params, [](const Param& param, const auto& value) {
    if (param.holds(static_cast<double>(value))) return;
    std::string flag(param.flag);
    for (char& c : flag) c = c == '-' ? '_' : c;
    throw Error(ErrorCode::kUsage, std::string("The parameter ") + param.name +
                                       (flag == param.name ? "" : std::string(" (--") + param.flag + ")") +
                                       " must be " + param.range + ".");
  });
}

}  // namespace

Mode parse_mode(std::string_view name) {
  for (std::size_t i = 0; i < kModeNames.size(); ++i) {
    if (name == kModeNames[i]) return static_cast<Mode>(i);
  }
  throw Error(ErrorCode::kUsage,
              "The mode must be plain, chain, tree, graph or auto, not '" + std::string(name) + "'.");
}

const char* mode_name(Mode mode) { return kModeNames[static_cast<std::size_t>(mode)]; }

namespace {

// As llama-server reports them; "typical_p" and "temp" are taken, too, and a letter each (--sampler-seq).
struct StageName {
  const char* name;
  const char* other;
  char letter;
};
constexpr std::array<StageName, 10> kStageNames{{{"penalties", "", 'e'},
                                                 {"dry", "", 'd'},
                                                 {"top_n_sigma", "top-n-sigma", 's'},
                                                 {"top_k", "top-k", 'k'},
                                                 {"typ_p", "typical_p", 'y'},
                                                 {"top_p", "top-p", 'p'},
                                                 {"min_p", "min-p", 'm'},
                                                 {"xtc", "", 'x'},
                                                 {"temperature", "temp", 't'},
                                                 {"infill", "", 'i'}}};

void turn_off(SamplingParams& p, Stage stage) {
  const SamplingParams off;
  switch (stage) {
    case Stage::kPenalties:
      p.penalty_last_n = 0;
      return;
    case Stage::kDry:
      p.dry_multiplier = off.dry_multiplier;
      return;
    case Stage::kTopNSigma:
      p.top_n_sigma = off.top_n_sigma;
      return;
    case Stage::kTopK:
      p.top_k = off.top_k;
      return;
    case Stage::kTypicalP:
      p.typical_p = off.typical_p;
      return;
    case Stage::kTopP:
      p.top_p = off.top_p;
      return;
    case Stage::kMinP:
      p.min_p = off.min_p;
      return;
    case Stage::kXtc:
      p.xtc_probability = off.xtc_probability;
      return;
    case Stage::kTemperature:
      p.temperature = 1;
      p.dynatemp_range = 0;
      return;
    case Stage::kInfill:
      p.infill = nullptr;
  }
}

}  // namespace

Stage parse_stage(std::string_view name) {
  for (std::size_t i = 0; i < kStageNames.size(); ++i) {
    const StageName& n = kStageNames[i];
    if (!name.empty() && (name == n.name || name == n.other || (name.size() == 1 && name[0] == n.letter)))
      return static_cast<Stage>(i);
  }
  throw Error(ErrorCode::kUsage, "There is no sampler '" + std::string(name) + "' here.");
}

const char* stage_name(Stage stage) { return kStageNames[static_cast<std::size_t>(stage)].name; }

void set_stages(SamplingParams& params, std::vector<Stage> stages) {
  for (std::size_t i = 0; i < kStageNames.size(); ++i) {
    const auto s = static_cast<Stage>(i);
    const auto count = std::count(stages.begin(), stages.end(), s);
    if (count == 0) turn_off(params, s);
    if (count > 1)
      throw Error(ErrorCode::kUsage, std::string("The sampler '") + stage_name(s) + "' stands twice in the list.");
  }
  params.stages = std::move(stages);
}

void validate(const SpeculationParams& params) { check(params); }

void validate(const SamplingParams& params) {
  check(params);
  for (const auto& [token, bias] : params.logit_bias) {
    if (std::isnan(bias)) throw Error(ErrorCode::kUsage, "The parameter logit_bias must be a number.");
  }
}

}  // namespace gsd
