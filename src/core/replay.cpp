#include "replay.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>

#include "gsd/error.h"
#include "replay_backend.h"

namespace gsd {
namespace {

// Drafts the whole tree after `tokens`, of which `drafter` lacks the last one.
void draft_tree(Drafter& drafter, Hypotheses& tree, std::span<const Token> tokens, std::uint32_t position) {
  tree.begin(tokens, position);
  const Drafter::Root root{0, tokens, &tree};
  std::vector<Drafter::Node> level;
  for (bool more = drafter.roots({&root, 1}); more; more = drafter.level(level)) {
    level.clear();
    for (const std::int32_t id : tree.frontier()) {
      if (std::ssize(level) < drafter.info().max_nodes) level.push_back({0, id, &tree});
    }
  }
  drafter.truncate(0, static_cast<std::int32_t>(tokens.size()));  // what was speculated
}

// Copies what was drafted at `at` into the replay, but for what lies on the text: that comes with its own position.
void keep_tree(Replay& replay, const TokenGraph& graph, std::int32_t at) {
  std::vector<std::int32_t> node(static_cast<std::size_t>(graph.size()), -1);
  std::vector<bool> on_text(static_cast<std::size_t>(graph.size()), false);
  std::vector<Token> candidates;
  std::vector<float> log_q;
  for (std::int32_t id = 0; id < graph.size(); ++id) {
    const GraphNode& n = graph.node(id);
    const auto parent = static_cast<std::size_t>(std::max(0, n.parent));
    const auto next = static_cast<std::size_t>(at + n.depth);
    const auto i = static_cast<std::size_t>(id);
    on_text[i] = id == 0 || (on_text[parent] && next < replay.text.size() && replay.text[next] == n.token);
    if (n.expanded == 0 || (id > 0 && (on_text[i] || node[parent] < 0))) continue;
    candidates.clear();
    log_q.clear();
    for (std::int32_t e = n.first_edge; e >= 0; e = graph.edge(e).next) {
      candidates.push_back(graph.edge(e).token);
      log_q.push_back(graph.edge(e).log_q.front());
    }
    node[i] = replay.add(id == 0 ? -1 : node[parent], at, n.token, candidates, log_q);
  }
}

}  // namespace

std::int32_t Replay::find(std::int32_t node, Token token) const {
  std::int32_t child = nodes[static_cast<std::size_t>(node)].first_child;
  while (child >= 0 && nodes[static_cast<std::size_t>(child)].token != token)
    child = nodes[static_cast<std::size_t>(child)].next_sibling;
  return child;
}

std::int32_t Replay::add(std::int32_t parent, std::int32_t at, Token token, std::span<const Token> names,
                         std::span<const float> log_q) {
  const auto id = static_cast<std::int32_t>(nodes.size());
  Node n;
  n.token = token;
  n.parent = parent;
  n.candidates.assign(names.begin(), names.end());
  n.log_q.assign(log_q.begin(), log_q.end());
  if (parent < 0) {
    root.resize(text.size(), -1);
    root[static_cast<std::size_t>(at)] = id;
  } else {
    n.next_sibling = nodes[static_cast<std::size_t>(parent)].first_child;
    nodes[static_cast<std::size_t>(parent)].first_child = id;
  }
  nodes.push_back(std::move(n));
  return id;
}

void Replay::check() const {
  const auto require = [](bool ok, const char* what) {
    if (!ok) throw Error(ErrorCode::kUsage, std::string("A replay cannot be played: ") + what + ".");
  };
  require(n_vocab >= 1 && n_vocab <= (1 << 22), "its vocabulary has no size from 1 to 4194304");
  require(n_prompt >= 1 && n_prompt < text.size() && text.size() <= (1U << 20),
          "it has no prompt or no generated text");
  validate(sampling);
  const auto known = [this](Token t) { return t >= 0 && t < n_vocab; };
  require(std::all_of(text.begin(), text.end(), known) && std::all_of(eog.begin(), eog.end(), known),
          "it holds tokens that are not in its vocabulary");
  require(root.size() == text.size(), "it lacks the draft's answers");
  for (const Node& n : nodes) {
    require(n.candidates.size() == n.log_q.size() && !n.candidates.empty() && n.candidates.size() <= 64,
            "an answer has no candidates, too many, or not a probability for each");
    require(std::all_of(n.candidates.begin(), n.candidates.end(), known), "a candidate is not in its vocabulary");
    require(std::all_of(n.log_q.begin(), n.log_q.end(), [](float q) { return q <= 1e-3F; }),
            "a candidate has a probability above 1 or none");
    for (std::size_t i = 0; i < n.candidates.size(); ++i)
      require(std::find(n.candidates.begin(), n.candidates.begin() + static_cast<std::ptrdiff_t>(i), n.candidates[i]) ==
                  n.candidates.begin() + static_cast<std::ptrdiff_t>(i),
              "an answer names a candidate twice");
  }
}

Replay record_drafts(Drafter& drafter, std::span<const Token> text, std::size_t n_prompt,
                     const SamplingParams& sampling, const SpeculationParams& params, std::span<const bool> is_eog,
                     const std::function<bool(double)>& progress) {
  Replay replay;
  replay.n_vocab = static_cast<std::int32_t>(is_eog.size());
  replay.text.assign(text.begin(), text.end());
  replay.n_prompt = n_prompt;
  replay.sampling.temperature = sampling.temperature;
  replay.sampling.seed = sampling.seed;
  replay.sampling.choice = sampling.choice;
  replay.root.resize(text.size(), -1);
  SpeculationParams tree = params;
  tree.mode = Mode::kTree;
  tree.history = false;
  const Sampler sampler(replay.sampling);
  Calibration calibration(sampling.greedy());
  Hypotheses hypotheses(tree, sampler, calibration, is_eog, drafter.info().n_ctx);
  drafter.truncate(0, 0);
  while (drafter.n_known(0) + 1 < static_cast<std::int32_t>(n_prompt) &&
         drafter.catch_up(0, text, static_cast<std::int32_t>(n_prompt) - 1)) {
  }
  for (std::size_t at = n_prompt - 1; at + 1 < text.size(); ++at) {
    if (progress && !progress(static_cast<double>(at - n_prompt + 1) / static_cast<double>(text.size() - n_prompt)))
      break;
    draft_tree(drafter, hypotheses, text.first(at + 1), static_cast<std::uint32_t>(at + 1 - n_prompt));
    keep_tree(replay, hypotheses.graph(), static_cast<std::int32_t>(at));
  }
  drafter.truncate(0, 0);
  for (const Replay::Node& n : replay.nodes) {
    for (const Token t : n.candidates) {
      const bool known = std::find(replay.eog.begin(), replay.eog.end(), t) != replay.eog.end();
      if (is_eog[static_cast<std::size_t>(t)] && !known) replay.eog.push_back(t);
    }
  }
  return replay;
}

Simulated simulate(const Replay& replay, const SpeculationParams& params, const Profile& profile, Learned& learned) {
  replay.check();
  ReplayBackend target(replay, ReplayBackend::Side::kTarget);
  ReplayBackend draft(replay, ReplayBackend::Side::kDraft);
  Engine engine(target, &draft, {.exact = false, .prefill_chunk = target.info().max_batch, .max_total_width = 64});
  for (const auto& [cost, points] : {std::pair{&engine.state().planner_.target_cost(), &profile.target},
                                     {&engine.state().planner_.draft_cost(), &profile.draft}}) {
    cost->load(*points);
    cost->freeze(true);
  }
  engine.state().exchange(learned);
  SessionOptions options;
  options.speculation = params;
  options.sampling = replay.sampling;
  options.max_tokens = static_cast<std::int64_t>(replay.text.size() - replay.n_prompt);
  options.ignore_eog = true;  // the recorded text tells where it ends
  Simulated out;
  {
    const auto session = engine.open(std::move(options));
    engine.set_prompt(*session, std::span(replay.text).first(replay.n_prompt));
    run_to_end(engine, *session);
    out.stats = session->stats();
    if (!std::equal(session->tokens().begin(), session->tokens().end(), replay.text.begin(), replay.text.end()))
      throw Error(ErrorCode::kInternal, "A simulated run emitted another text than the recorded one.");
  }
  engine.state().exchange(learned);
  out.ms = out.stats.modelled_ms + profile.step_ms * static_cast<double>(out.stats.steps);
  out.unknown = draft.unknown();
  return out;
}

}  // namespace gsd
