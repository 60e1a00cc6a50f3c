#include "record.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "../core/replay.h"
#include "../record/step_json.h"
#include "console.h"

namespace gsd::app {

using nlohmann::json;

Recorder::Recorder(const std::string& path, const Runtime& pair, const std::string& prompt)
    : out_(path, "record"), pair_(pair) {
  const json header{{"gsd_record", 1},
                    {"target", pair.target().description()},
                    {"draft", pair.draft_description()},
                    {"prompt", prompt}};
  write(header);
}

void Recorder::write(const json& line) { out_.write(line.dump(-1, ' ', false, json::error_handler_t::replace) + '\n'); }

void Recorder::step(const StepView& v) {
  write(step_json(v.hypotheses.graph(), v.hypotheses.tree(), v.acceptance, v.stats,
                  [this](Token t) { return pair_.target().piece(t, ShowControl::kYes); }));
}

void Recorder::drafts(Runtime& pair, std::span<const Token> prompt, std::span<const Token> generated,
                      const SessionOptions& options) {
  const auto drafters = pair.engine().drafters();
  if (drafters.empty() || generated.empty()) return;
  if (drafters.size() > 1 || pair.draft_types().front() != DraftType::kModel) {
    std::fprintf(
        stderr,
        "gsd: note: what a head would answer depends on the target's states, which a record does not hold, and "
        "of several drafters it holds none: it is for gsd trace, not for gsd simulate.\n");
    return;
  }
  std::vector<Token> text(prompt.begin(), prompt.end());
  text.insert(text.end(), generated.begin(), generated.end());
  SpeculationParams wide = options.speculation;  // wider and deeper than any step is likely to look
  wide.depth = std::max(wide.depth, 12);
  wide.max_nodes = std::max(wide.max_nodes, 128);
  wide.path_threshold = std::min(wide.path_threshold, 0.02F);
  const auto n_vocab = static_cast<std::size_t>(pair.target().n_vocab());
  const auto is_eog = std::make_unique<bool[]>(n_vocab);
  for (std::size_t t = 0; t < n_vocab; ++t) is_eog[t] = pair.target().is_eog(static_cast<Token>(t));
  ProgressLine line("Recording the draft's answers");
  Replay r;
  try {
    r = record_drafts(*drafters.front(), text, prompt.size(), options.sampling, wide, {is_eog.get(), n_vocab},
                      [&](double share) {
                        line.show(static_cast<float>(share));
                        return !interrupted();
                      });
  } catch (const Error&) {
    if (!interrupted()) throw;  // a pass that Ctrl-C ended
  }
  if (interrupted()) return;
  const json head{{"vocabulary", r.n_vocab},     {"text", r.text},
                  {"prompt_tokens", r.n_prompt}, {"temperature", r.sampling.temperature},
                  {"seed", r.sampling.seed},     {"end_of_text", r.eog}};
  write(json{{"replay", head}});
  // Nodes of a position follow each other.
  for (std::size_t i = 0, at = prompt.size() - 1; i < r.nodes.size(); ++at) {
    json nodes = json::array();
    const std::size_t first = i;
    do {
      const Replay::Node& n = r.nodes[i];
      json log_q = json::array();
      for (const float q : n.log_q) log_q.push_back(std::round(q * 1e4) / 1e4);
      nodes.push_back({n.parent < 0 ? -1 : n.parent - static_cast<std::int32_t>(first), n.token, n.candidates, log_q});
    } while (++i < r.nodes.size() && r.nodes[i].parent >= 0);
    write(json{{"drafted", {{"at", at}, {"nodes", nodes}}}});
  }
}

}  // namespace gsd::app
