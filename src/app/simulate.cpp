// gsd simulate: recorded runs played again with other ways of drafting and other costs of a pass.
#include <fmt/format.h>

#include <cmath>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "../bench/workload.h"
#include "../core/engine_state.h"
#include "../core/replay.h"
#include "commands.h"
#include "console.h"
#include "record_reader.h"

namespace gsd::app {
namespace {

using nlohmann::json;

struct SimulateFlags {
  std::vector<std::string> records;
  std::string profile;
  std::vector<std::string> modes{"plain", "chain", "tree", "graph", "auto"};
  std::vector<std::string> configs;
  std::vector<int> widths;
  bool as_json = false;
};

struct NamedProfile {
  std::string name;
  std::string source;
  Profile profile;
};

std::vector<CostModel::Point> points(const json& j) {
  std::vector<CostModel::Point> out;
  for (const json& p : j) out.push_back({p.at(0).get<int>(), p.at(1).get<double>()});
  if (out.empty()) throw Error(ErrorCode::kUsage, "A profile needs at least one width of target_ms and of draft_ms.");
  return out;
}

// {"name": …, "source": …, "target_ms": [[width, ms], …], "draft_ms": [[width, ms], …]} and, optionally,
// "step_ms": our own time of a step
NamedProfile read_profile(const std::string& path) {
  const json j = json::parse(read_file(path), nullptr, false);
  try {
    return {
        j.at("name"), j.at("source"), {points(j.at("target_ms")), points(j.at("draft_ms")), j.value("step_ms", 0.0)}};
  } catch (const json::exception&) {
    throw Error(ErrorCode::kUsage,
                fmt::format("'{}' is no cost profile: it needs name, source, target_ms and draft_ms; gsd inspect "
                            "--profile writes one.",
                            path));
  }
}

struct Outcome {
  std::string config;
  Stats stats;
  double ms = 0;
  std::int64_t unknown = 0;
  double tokens_per_second() const { return ms > 0 ? 1000 * static_cast<double>(stats.emitted) / ms : 0; }
};

std::vector<bench::Config> configurations(const SimulateFlags& flags) {
  std::vector<std::string> texts = flags.configs.empty() ? flags.modes : flags.configs;
  std::vector<bench::Config> out;
  for (const std::string& text : texts) {
    bench::parse_config(text, {});
    if (flags.widths.empty() || text.starts_with("plain")) {
      out.push_back(bench::parse_config(text, {}));
      continue;
    }
    for (const int width : flags.widths)
      out.push_back(bench::parse_config(fmt::format("{} width={}", text, width), {}));
  }
  return out;
}

// Every configuration over all records; several records are like one long run.
std::vector<Outcome> run_all(const SimulateFlags& flags, const Profile& profile) {
  const auto configs = configurations(flags);
  std::vector<Outcome> out(configs.size());
  std::vector<Learned> learned(configs.size());
  ProgressLine line("Simulating");
  std::size_t done = 0;
  for (const std::string& path : flags.records) {
    const Replay replay = read_replay(path);
    for (std::size_t c = 0; c < configs.size() && !interrupted(); ++c) {
      line.show(static_cast<float>(done++) / static_cast<float>(configs.size() * flags.records.size()));
      const Simulated s = simulate(replay, configs[c].params, profile, learned[c]);
      out[c].config = configs[c].name;
      out[c].stats.add(s.stats);
      out[c].ms += s.ms;
      out[c].unknown += s.unknown;
    }
  }
  return out;
}

std::string table(const std::vector<Outcome>& outcomes, const NamedProfile& p, std::size_t n_records) {
  std::string out =
      fmt::format("{} record{}, costs: {} ({})\n\n", n_records, n_records == 1 ? "" : "s", p.name, p.source);
  out +=
      "| configuration | tokens/s | speed-up | tokens per step | verified | draft passes | not recorded |\n"
      "|---|---|---|---|---|---|---|\n";
  double plain = 0;
  for (const Outcome& o : outcomes) {
    if (o.config == "plain") plain = o.tokens_per_second();
  }
  for (const Outcome& o : outcomes) {
    const auto steps = static_cast<double>(std::max<std::int64_t>(1, o.stats.steps));
    const auto asked = static_cast<double>(std::max<std::int64_t>(1, o.stats.draft_nodes));
    out +=
        fmt::format("| {} | {:.1f} | {} | {:.2f} | {:.1f} | {:.1f} | {:.1f} % |\n", o.config, o.tokens_per_second(),
                    plain > 0 ? fmt::format("{:.2f}x", o.tokens_per_second() / plain) : "", o.stats.tokens_per_step(),
                    static_cast<double>(o.stats.verified) / steps, static_cast<double>(o.stats.draft_forwards) / steps,
                    100 * static_cast<double>(o.unknown) / asked);
  }
  return out;
}

json to_json(const std::vector<Outcome>& outcomes) {
  json out = json::array();
  for (const Outcome& o : outcomes) {
    out.push_back({{"config", o.config},
                   {"tokens", o.stats.emitted},
                   {"ms", o.ms},
                   {"tokens_per_second", o.tokens_per_second()},
                   {"tokens_per_step", o.stats.tokens_per_step()},
                   {"steps", o.stats.steps},
                   {"verified", o.stats.verified},
                   {"draft_forwards", o.stats.draft_forwards},
                   {"draft_nodes", o.stats.draft_nodes},
                   {"not_recorded", o.unknown}});
  }
  return out;
}

int simulate_main(const SimulateFlags& flags) {
  const NamedProfile profile = read_profile(flags.profile);
  const auto outcomes = run_all(flags, profile.profile);
  if (interrupted()) return kExitInterrupted;
  const std::string text =
      flags.as_json ? to_json(outcomes).dump(1) + "\n" : table(outcomes, profile, flags.records.size());
  print(text);
  return 0;
}

}  // namespace

void add_simulate(CLI::App& program, int& exit_code) {
  auto flags = std::make_shared<SimulateFlags>();
  CLI::App* app = program.add_subcommand("simulate", "Play recorded runs again at other costs of a pass");
  app->footer(
      R"(A record holds the target's text and what the draft answers behind it, on the text and off it. The engine itself runs
over them, with the profile in the place of a clock: what drafting would gain on a machine that is not at hand.
"not recorded": questions to the draft that the record cannot answer; above a few per cent, do not trust the row.

Examples:
  gsd generate -m target.gguf -d draft.gguf -p "# tar" --record run.jsonl
  gsd inspect  -m target.gguf -d draft.gguf --profile here.json
  gsd simulate run.jsonl --profile here.json
  gsd simulate run1.jsonl run2.jsonl --profile profiles/gpu-70b-roofline.json --modes plain,chain,graph,auto --widths 8,16,32)");
  app->add_option("records", flags->records, "Records of gsd generate --record")->type_name("RECORD")->required();
  app->add_option("--profile", flags->profile, "Cost profile (JSON)")->type_name("FILE")->required();
  app->add_option("--modes", flags->modes, "Modes to compare")->delimiter(',')->capture_default_str();
  app->add_option("--config", flags->configs, "A mode with parameters, as for gsd bench; may be repeated");
  app->add_option("--widths", flags->widths, "Each at these widths, e.g. 4,8,16,32")->delimiter(',');
  app->add_flag("--json", flags->as_json, "Write JSON");
  app->callback([flags, &exit_code] { exit_code = simulate_main(*flags); });
}

}  // namespace gsd::app
