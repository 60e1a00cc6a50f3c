#include "workload.h"

#include <fmt/format.h>

#include <charconv>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "gsd/error.h"

namespace gsd::bench {
namespace {

using nlohmann::json;

bool holds_text(const json& j, const char* key) { return j.contains(key) && j[key].is_string(); }

// An empty text if the line is of no known form.
Prompt parse_prompt(const json& j) {
  if (!j.is_object()) return {};
  if (holds_text(j, "prompt")) return {holds_text(j, "kind") ? j["kind"].get<std::string>() : "all", j["prompt"]};
  if (holds_text(j, "category") && j.contains("turns") && j["turns"].is_array() && !j["turns"].empty() &&
      j["turns"][0].is_string())
    return {j["category"], j["turns"][0]};
  if (holds_text(j, "question")) return {"gsm8k", "Question: " + j["question"].get<std::string>() + "\nAnswer:"};
  return {};
}

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

std::vector<Prompt> parse_prompts(std::string_view lines, int per_kind, const std::string& name) {
  std::vector<Prompt> out;
  std::map<std::string, int> seen;
  int n = 0;
  for (std::size_t at = 0; at < lines.size(); ++n) {
    const std::size_t end = std::min(lines.find('\n', at), lines.size());
    const std::string_view line = lines.substr(at, end - at);
    at = end + 1;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    Prompt p = parse_prompt(json::parse(line, nullptr, false));
    if (p.text.empty()) {
      throw Error(ErrorCode::kIo,
                  fmt::format("Line {} of '{}' is no JSON object with a \"prompt\", a \"question\", or a "
                              "\"category\" and \"turns\".",
                              n + 1, name));
    }
    if (per_kind > 0 && ++seen[p.kind] > per_kind) continue;
    out.push_back(std::move(p));
  }
  if (out.empty()) throw Error(ErrorCode::kIo, fmt::format("'{}' holds no prompts.", name));
  return out;
}

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
