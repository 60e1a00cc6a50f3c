// gsd inspect: what a model pair is, whether it fits together, what its passes cost.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>

#include "../core/engine_state.h"
#include "commands.h"
#include "console.h"
#include "options.h"

namespace gsd::app {
namespace {

using nlohmann::json;

json model_json(const Model& m, bool narrow) {
  return {{"file", m.path()},
          {"description", m.description()},
          {"architecture", m.architecture()},
          {"format", m.format()},
          {"parameters", m.n_params()},
          {"bytes", m.n_bytes()},
          {"layers", m.n_layers()},
          {"width", m.n_embd()},
          {"vocabulary", m.n_vocab()},
          {"context_trained", m.n_ctx_train()},
          {"devices", m.devices()},
          {"chat_template", !m.chat_template().empty()},
          {"exact", width_obstacles(m, narrow).empty()}};
}

json cost_json(const CostModel& c) {
  json out = json::array();
  for (const auto& p : c.points()) out.push_back({{"width", p.width}, {"ms", p.ms}});
  return out;
}

void print_model(const char* role, const Model& m, bool narrow) {
  print(fmt::format(
      "{}: {}\n  {}, {:.1f}M parameters, {:.1f} MB, {} layers of width {}, vocabulary {}, trained for {} tokens\n",
      role, m.path(), m.description(), static_cast<double>(m.n_params()) / 1e6, static_cast<double>(m.n_bytes()) / 1e6,
      m.n_layers(), m.n_embd(), m.n_vocab(), m.n_ctx_train()));
  if (!m.devices().empty()) print(fmt::format("  layers on {}\n", fmt::join(m.devices(), ", ")));
  const std::string obstacles = width_obstacles(m, narrow);
  print(fmt::format("  chat template: {}; same bits at every width on a CPU (--exact): {}\n",
                    m.chat_template().empty() ? "none" : "yes",
                    obstacles.empty() ? "yes" : "not promised, because of " + obstacles));
}

void print_cost(const char* what, const CostModel& c) {
  print(fmt::format("{}\n  width      ms   relative\n", what));
  for (const auto& p : c.points())
    print(fmt::format("  {:>5} {:>7.2f} {:>10.2f}\n", p.width, p.ms, p.ms / std::max(1e-9, c.ms(1))));
}

// For gsd simulate.
void write_profile(const std::string& path, const Runtime& pair, Planner& planner) {
  const auto points = [](const CostModel& c) {
    json out = json::array();
    for (const auto& p : c.points()) out.push_back({p.width, p.ms});
    return out;
  };
  const json profile{
      {"name", fmt::format("{}, {} threads", cpu_name(), pair.n_threads())},
      {"source",
       fmt::format("measured by gsd inspect on this machine, target {} of {:.1f} MB, narrow-matmul backend {}",
                   pair.target().description(), static_cast<double>(pair.target().n_bytes()) / 1e6,
                   pair.narrow().empty() ? "off" : pair.narrow())},
      {"target_ms", points(planner.target_cost())},
      {"draft_ms", points(planner.draft_cost())}};
  std::ofstream out(path);
  if (!(out << profile.dump(1) << '\n' << std::flush))
    throw Error(ErrorCode::kIo, "The profile '" + path + "' cannot be written.");
}

int inspect(const ModelFlags& flags, const std::string& profile, bool as_json) {
  ModelFlags f = flags;
  Runtime pair = load_pair(f);
  Planner& planner = pair.engine().state().planner_;
  if (!profile.empty()) write_profile(profile, pair, planner);
  const bool narrow = !pair.narrow().empty();
  const std::vector<const Model*> drafts = pair.drafts();
  const std::vector<DraftType> types = pair.draft_types();
  if (as_json) {
    json out{{"target", model_json(pair.target(), narrow)},
             {"fits", true},
             {"narrow_backend", pair.narrow()},
             {"profile", pair.profile_source()},
             {"target_ms", cost_json(planner.target_cost())}};
    if (!drafts.empty()) out["draft"] = model_json(*drafts.front(), narrow);
    if (!types.empty()) {
      out["draft_type"] = draft_type_name(types.front());
      out["draft_ms"] = cost_json(planner.draft_cost());
    }
    for (std::size_t i = 1; i < types.size(); ++i)
      out["more_drafts"].push_back(
          {{"draft_type", draft_type_name(types[i])}, {"draft_ms", cost_json(planner.draft_costs()[i])}});
    print(out.dump(1, ' ', false, json::error_handler_t::replace) + "\n");
    return 0;
  }
  print_model("target", pair.target(), narrow);
  for (const Model* draft : drafts) print_model("draft", *draft, narrow);
  if (const std::string note = pair.vocabulary_note(); drafts.size() == 1)
    print(note.empty() ? "the two fit together: their tokens are the same\n" : note + "\n");
  if (drafts.size() != types.size() || types.size() > 1) print(fmt::format("draft: {}\n", pair.draft_description()));
  print(fmt::format("narrow-matmul backend: {}\n", narrow ? pair.narrow() : "off"));
  print(fmt::format("\ncost profile: {}\n", pair.profile_source()));
  print_cost("target, milliseconds of a pass by width", planner.target_cost());
  for (std::size_t i = 0; i < types.size(); ++i)
    print_cost(fmt::format("{}, milliseconds of a pass by width", i == 0 ? "draft" : draft_type_name(types[i])).c_str(),
               planner.draft_costs()[i]);
  return 0;
}

}  // namespace

void add_inspect(CLI::App& program, int& exit_code) {
  auto flags = std::make_shared<ModelFlags>();
  auto as_json = std::make_shared<bool>(false);
  auto profile = std::make_shared<std::string>();
  CLI::App* app =
      program.add_subcommand("inspect", "Show what a model pair is, whether it fits, and what its passes cost");
  app->footer("Examples:\n  gsd inspect -m target.gguf -d draft.gguf\n  gsd inspect -m target.gguf --json");
  app->add_flag("--json", *as_json, "Write one JSON object");
  app->add_option("--profile", *profile, "Write what passes cost to this file, for gsd simulate")->type_name("FILE");
  add_model_flags(*app, *flags);
  app->callback([=, &exit_code] { exit_code = inspect(*flags, *profile, *as_json); });
}

}  // namespace gsd::app
