#include "gsd/params.h"

#include <array>
#include <cmath>
#include <string>

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

void validate(const SpeculationParams& params) { check(params); }

void validate(const SamplingParams& params) {
  check(params);
  for (const auto& [token, bias] : params.logit_bias) {
    if (std::isnan(bias)) throw Error(ErrorCode::kUsage, "The parameter logit_bias must be a number.");
  }
}

}  // namespace gsd
