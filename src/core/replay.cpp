#include "gsd/replay.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>

#include "feed.h"
#include "gsd/error.h"

namespace gsd {
namespace {

constexpr float kSure = 1000;  // logit of the target's recorded token; all others have 0

// Plays one side of a replay. What is committed is the text: only its length is kept.
class ReplayBackend final : public Backend {
 public:
  enum class Side { kTarget, kDraft };

  ReplayBackend(const Replay& replay, Side side) : replay_(replay), side_(side) {
    const auto n_ctx = static_cast<std::int32_t>(replay.text.size()) + 256;
    info_ = {.n_vocab = replay.n_vocab,
             .n_ctx = n_ctx,
             .n_seq = 1,
             .max_batch = std::max(n_ctx, 128),
             .max_outputs = 128,
             .max_leaves = 64};
  }

  const BackendInfo& info() const override { return info_; }
  bool is_eog(Token token) const override {
    return std::find(replay_.eog.begin(), replay_.eog.end(), token) != replay_.eog.end();
  }
  void forward(std::span<const NodeInput> nodes) override {
    rows_.clear();
    for (const NodeInput& in : nodes) {
      // What is committed is text, but what follows it need not be.
      const Place father = in.parent < 0 ? on_text(committed_ - 1) : nodes_[static_cast<std::size_t>(in.parent)];
      nodes_.push_back(below(father, in.token));
      if (!in.want_logits) continue;
      rows_.push_back(nodes_.back());
      unknown_ += side_ == Side::kDraft && nodes_.back().node < 0 ? 1 : 0;
    }
  }
  std::span<const float> logits(std::int32_t row) const override {
    const Place at = rows_[static_cast<std::size_t>(row)];
    logits_.assign(static_cast<std::size_t>(replay_.n_vocab), 0);
    if (side_ == Side::kTarget) {
      const auto next = static_cast<std::size_t>(at.position + 1);
      if (at.position >= 0 && next < replay_.text.size()) logits_[static_cast<std::size_t>(replay_.text[next])] = kSure;
    } else if (at.node >= 0) {
      answer(replay_.nodes[static_cast<std::size_t>(at.node)]);
    }
    return logits_;
  }
  void commit(std::int32_t, std::span<const std::int32_t> path) override {
    committed_ += static_cast<std::int32_t>(path.size());
    nodes_.clear();
  }
  std::int32_t truncate(std::int32_t, std::int32_t n_tokens) override {
    committed_ = std::min(committed_, n_tokens);
    nodes_.clear();
    return committed_;
  }
  std::int32_t n_committed(std::int32_t) const override { return committed_; }
  std::int32_t n_speculative(std::int32_t) const override { return static_cast<std::int32_t>(nodes_.size()); }

  std::int64_t unknown() const { return unknown_; }

 private:
  static constexpr std::int32_t kOffText = -2;
  struct Place {
    std::int32_t position;  // in the text (-1: before its first token), or kOffText
    std::int32_t node;      // of the replay, or -1 where nothing was recorded
  };

  Place on_text(std::int32_t position) const {
    return {position, position >= 0 && static_cast<std::size_t>(position) < replay_.root.size()
                          ? replay_.root[static_cast<std::size_t>(position)]
                          : -1};
  }
  Place below(Place father, Token token) const {
    const auto next = static_cast<std::size_t>(father.position + 1);
    if (father.position != kOffText && next < replay_.text.size() && replay_.text[next] == token)
      return on_text(father.position + 1);
    return {kOffText, father.node < 0 ? -1 : replay_.find(father.node, token)};
  }
  // The recorded candidates; what is left of the probability is shared evenly by all other tokens.
  void answer(const Replay::Node& n) const {
    const float temperature = replay_.sampling.greedy() ? 1 : replay_.sampling.temperature;
    double left = 1;
    for (const float q : n.log_q) left -= std::exp(q);
    const double others = std::max(1, replay_.n_vocab - static_cast<std::int32_t>(n.log_q.size()));
    const auto rest = static_cast<float>(std::log(std::max(left, 1e-9) / others));
    std::fill(logits_.begin(), logits_.end(), rest * temperature);
    for (std::size_t i = 0; i < n.log_q.size(); ++i)
      logits_[static_cast<std::size_t>(n.candidates[i])] = n.log_q[i] * temperature;
  }

  const Replay& replay_;
  Side side_;
  BackendInfo info_;
  std::int32_t committed_ = 0;
  std::vector<Place> nodes_;
  std::vector<Place> rows_;
  mutable std::vector<float> logits_;
  std::int64_t unknown_ = 0;
};

// Drafts the whole tree behind the tokens that `draft` holds and the last one of `tokens`, which it does not.
void draft_tree(Backend& draft, Hypotheses& tree, std::span<const Token> tokens, std::uint32_t position) {
  std::vector<NodeInput> batch{{0, known_token(draft, tokens.back()), -1, true, true}};
  draft.forward(batch);
  draft.commit(0, std::vector<std::int32_t>{0});
  tree.begin(tokens, position);
  tree.expand(0, draft.logits(0).first(std::min(draft.logits(0).size(), tree.vocabulary())));
  int leaves = 1;
  while (true) {
    const auto frontier = tree.frontier();
    std::vector<std::int32_t> level(frontier.begin(), frontier.end());
    level.resize(std::min({level.size(), static_cast<std::size_t>(draft.info().max_outputs),
                           static_cast<std::size_t>(draft.info().max_batch)}));
    batch.clear();
    std::erase_if(level, [&](std::int32_t id) {
      if (!take_leaf(draft, tree.graph(), id, leaves)) return true;
      GraphNode& n = tree.graph().node(id);
      n.draft_index = draft.n_speculative(0) + static_cast<std::int32_t>(batch.size());
      batch.push_back(
          {0, known_token(draft, n.token), n.parent == 0 ? -1 : tree.graph().node(n.parent).draft_index, true});
      return false;
    });
    if (batch.empty()) break;
    draft.forward(batch);
    for (std::size_t i = 0; i < level.size(); ++i) {
      const auto row = draft.logits(static_cast<std::int32_t>(i));
      tree.expand(level[i], row.first(std::min(row.size(), tree.vocabulary())));
    }
  }
  draft.commit(0, {});
}

// Copies what was drafted at `at` into the replay, but for what lies on the text: that comes with its own position.
void keep_tree(Replay& replay, const TokenGraph& graph, std::int32_t at) {
  std::vector<std::int32_t> node(static_cast<std::size_t>(graph.size()), -1);
  std::vector<bool> on_text(static_cast<std::size_t>(graph.size()), false);
  std::vector<Token> candidates;
  std::vector<float> log_q;
  for (std::int32_t id = 0; id < graph.size(); ++id) {
    const GraphNode& n = graph.node(id);
    const auto father = static_cast<std::size_t>(std::max(0, n.parent));
    const auto next = static_cast<std::size_t>(at + n.depth);
    const auto i = static_cast<std::size_t>(id);
    on_text[i] = id == 0 || (on_text[father] && next < replay.text.size() && replay.text[next] == n.token);
    if (!n.expanded || (id > 0 && (on_text[i] || node[father] < 0))) continue;
    candidates.clear();
    log_q.clear();
    for (std::int32_t e = n.first_edge; e >= 0; e = graph.edge(e).next) {
      candidates.push_back(graph.edge(e).token);
      log_q.push_back(graph.edge(e).log_q);
    }
    node[i] = replay.add(id == 0 ? -1 : node[father], at, n.token, candidates, log_q);
  }
}

}  // namespace

std::int32_t Replay::find(std::int32_t node, Token token) const {
  std::int32_t child = nodes[static_cast<std::size_t>(node)].first_child;
  while (child >= 0 && nodes[static_cast<std::size_t>(child)].token != token)
    child = nodes[static_cast<std::size_t>(child)].next_sibling;
  return child;
}

std::int32_t Replay::add(std::int32_t father, std::int32_t at, Token token, std::span<const Token> names,
                         std::span<const float> log_q) {
  const auto id = static_cast<std::int32_t>(nodes.size());
  Node n;
  n.token = token;
  n.father = father;
  n.candidates.assign(names.begin(), names.end());
  n.log_q.assign(log_q.begin(), log_q.end());
  if (father < 0) {
    root.resize(text.size(), -1);
    root[static_cast<std::size_t>(at)] = id;
  } else {
    n.next_sibling = nodes[static_cast<std::size_t>(father)].first_child;
    nodes[static_cast<std::size_t>(father)].first_child = id;
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

Replay record_drafts(Backend& draft, std::span<const Token> text, std::size_t n_prompt, const SamplingParams& sampling,
                     const SpeculationParams& params, std::span<const bool> is_eog,
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
  Hypotheses hypotheses(tree, sampler, calibration, is_eog, draft.info().n_ctx);
  std::vector<NodeInput> batch;
  std::vector<std::int32_t> path;
  draft.truncate(0, 0);
  const auto chunk = static_cast<std::size_t>(draft.info().max_batch);
  for (std::size_t i = 0; i + 1 < n_prompt; i += chunk)
    feed(draft, 0, text, i, std::min(n_prompt - 1, i + chunk), batch, path);
  for (std::size_t at = n_prompt - 1; at + 1 < text.size(); ++at) {
    if (progress && !progress(static_cast<double>(at - n_prompt + 1) / static_cast<double>(text.size() - n_prompt)))
      break;
    draft_tree(draft, hypotheses, text.first(at + 1), static_cast<std::uint32_t>(at + 1 - n_prompt));
    keep_tree(replay, hypotheses.graph(), static_cast<std::int32_t>(at));
  }
  draft.truncate(0, 0);
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
  for (const auto& [cost, points] : {std::pair{&engine.planner().target_cost(), &profile.target},
                                     {&engine.planner().draft_cost(), &profile.draft}}) {
    cost->load(*points);
    cost->freeze(true);
  }
  engine.exchange(learned);
  SessionOptions options;
  options.speculation = params;
  options.sampling = replay.sampling;
  options.max_tokens = static_cast<std::int64_t>(replay.text.size() - replay.n_prompt);
  options.ignore_eog = true;  // the recorded text tells where it ends
  Simulated out;
  {
    const auto session = engine.open(std::move(options));
    engine.set_prompt(*session, std::span(replay.text).first(replay.n_prompt));
    while (engine.prefill(*session) > 0) {
    }
    Session* list[] = {session.get()};
    while (!session->finished()) engine.step(list);
    out.stats = session->stats();
    if (!std::equal(session->tokens().begin(), session->tokens().end(), replay.text.begin(), replay.text.end()))
      throw Error(ErrorCode::kInternal, "A simulated run emitted another text than the recorded one.");
  }
  engine.exchange(learned);
  out.ms = out.stats.modelled_ms + profile.step_ms * static_cast<double>(out.stats.steps);
  out.unknown = draft.unknown();
  return out;
}

}  // namespace gsd
