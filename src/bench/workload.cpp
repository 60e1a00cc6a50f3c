#include "workload.h"

#include <fmt/format.h>

#include <charconv>
#include <map>
#include <sstream>

#include "gsd/error.h"

namespace gsd::bench {
namespace {

template <typename T>
T number(std::string_view key, std::string_view value) {
  T out{};
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), out);
  if (error != std::errc() || end != value.data() + value.size())
    throw Error(ErrorCode::kUsage, fmt::format("'{}' is no number for {}.", value, key));
  return out;
}

void set(SpeculationParams& p, std::string_view key, std::string_view value) {
  bool known = false;
  visit_params(p, [&](const Param& param, auto& field) {
    using T = std::remove_reference_t<decltype(field)>;
    if (key != param.flag || std::is_same_v<T, Mode>) return;
    known = true;
    if constexpr (std::is_same_v<T, bool>) field = number<int>(key, value) != 0;
    if constexpr (std::is_same_v<T, int> || std::is_same_v<T, float>) field = number<T>(key, value);
  });
  if (!known)
    throw Error(ErrorCode::kUsage,
                fmt::format("A configuration has no parameter '{}'; gsd bench --help names them.", key));
}

}  // namespace

Config parse_config(std::string_view text, const SpeculationParams& defaults) {
  std::istringstream words{std::string(text)};
  std::string word;
  if (!(words >> word)) throw Error(ErrorCode::kUsage, "A configuration begins with a mode, for example \"auto\".");
  Config c{word, defaults};
  c.params.mode = parse_mode(word);
  while (words >> word) {
    const std::size_t sign = word.find('=');
    if (sign == std::string::npos)
      throw Error(ErrorCode::kUsage, fmt::format("'{}' in a configuration is not of the form KEY=VALUE.", word));
    set(c.params, std::string_view(word).substr(0, sign), std::string_view(word).substr(sign + 1));
    c.name += " " + word;
  }
  validate(c.params);
  return c;
}

std::vector<bool> tuning_prompts(std::span<const Prompt> prompts, int per_kind) {
  std::map<std::string_view, int> seen;
  std::vector<bool> out;
  for (const Prompt& p : prompts) {
    const int i = seen[p.kind]++;
    out.push_back(i % 2 == 0 && (per_kind == 0 || i / 2 < per_kind));
  }
  for (const auto& [kind, n] : seen) {
    if (n < 2)
      throw Error(
          ErrorCode::kUsage,
          fmt::format("The kind '{}' has one prompt; --peers needs two, to choose settings and to measure.", kind));
  }
  return out;
}

std::vector<std::string> ablation_configs() {
  std::vector<std::string> out{"plain", "auto"};
  for (const int width : {4, 8, 16, 32}) {
    out.push_back(fmt::format("chain width={} depth={}", width, std::min(width - 1, 16)));
    out.push_back(fmt::format("tree width={}", width));
    for (const int m : {0, 1, 2}) out.push_back(fmt::format("graph merge-length={} width={}", m, width));
  }
  for (const char* s : {"0.1", "0.3", "0.6"}) {
    for (const char* mode : {"tree", "graph"}) out.push_back(fmt::format("{} sibling-threshold={}", mode, s));
  }
  for (const char* p : {"0.01", "0.1", "0.2", "0.4"}) {
    for (const char* mode : {"chain", "tree", "graph"}) out.push_back(fmt::format("{} path-threshold={}", mode, p));
  }
  return out;
}

std::vector<std::string> chain_configs() {
  std::vector<std::string> out;
  for (const int depth : {1, 2, 3, 4, 6, 8, 12, 16})
    out.push_back(fmt::format("chain depth={} path-threshold=0 history=0 width={}", depth, depth + 1));
  return out;
}

}  // namespace gsd::bench
