#include "gsd/hypotheses.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>
#include <string>

#include "calibration.h"
#include "gsd/error.h"
#include "history.h"
#include "topk.h"

namespace gsd {
namespace {

constexpr std::size_t kSampledCandidates = 16;  // under noise a later candidate may come first
constexpr int kRecycledCapacity = 4096;
constexpr int kRecycledPerStep = 4;
constexpr float kLikely = 0.15F;       // candidates at least as probable as this are what an expansion is drafted for
constexpr float kLookupFloor = 0.02F;  // paths less probable than this are not worth a look into the history

int merge_length_of(const SpeculationParams& p) {
  return p.mode == Mode::kGraph || p.mode == Mode::kAuto ? p.merge_length : TokenGraph::kNoMerge;
}

}  // namespace

struct Hypotheses::Item {
  Token token;
  std::int32_t parent;      // index into order_, -1 for the root
  std::int32_t graph_node;  // -1: no node of the graph
  std::int32_t depth;
  float probability;  // of the whole path
  float base;         // of this candidate given its parent, without the merge discount
  Origin origin;
  Calibration::Cell cell;  // of the surest who names it
  Calibration::Cell merge_cell;
  std::int32_t named;      // in named_: what the drafters say of it, or -1
  std::int32_t agreement;  // tokens shared with a merged node's creation path; 0 = not below a merge
  std::int32_t hint;       // index of the next hint token, or -1
  std::array<Source::Match, 2 + kMaxShared> match;  // in sources_
};

struct Hypotheses::Popped {
  std::int32_t item;
  std::int32_t first_child = -1;  // index into order_
  std::int32_t begin = 0;         // its candidates in items_, [begin, end)
  std::int32_t end = 0;
  std::int32_t tree_index = -1;
};

struct Hypotheses::Ranked {
  std::int32_t edge;
  float score;
};

struct Hypotheses::Named {
  std::int32_t edge;
  double probability;        // by all of them
  double surest;             // by the surest one that admits it
  Calibration::Cell cell;    // of that one
  Calibration::Cell voices;  // of the factor between the two, where several have expanded the parent
  DrafterSet first;          // who thinks it the likeliest
  std::array<Calibration::Cell, kMaxDrafters> cells;  // of each that admits it
};

const Hypotheses::Item& Hypotheses::popped(int i) const {
  return items_[static_cast<std::size_t>(order_[static_cast<std::size_t>(i)].item)];
}

float Hypotheses::unrolled_probability(int i) const { return popped(i + 1).probability; }

Hypotheses::Hypotheses(const SpeculationParams& params, const Sampler& sampler, Calibration& calibration,
                       std::span<const bool> is_eog, int history_capacity,
                       std::span<const std::shared_ptr<const Source>> shared)
    : params_(params),
      sampler_(sampler),
      calibration_(calibration),
      is_eog_(is_eog),
      graph_(params.max_nodes, merge_length_of(params)),
      main_(std::make_unique<History>(std::max(history_capacity, History::kGram))),
      recycled_(std::make_unique<History>(kRecycledCapacity, Origin::kRecycled)),
      sources_{main_.get(), recycled_.get()} {
  validate(params);
  for (const auto& source : shared.first(std::min(shared.size(), kMaxShared))) sources_.push_back(source.get());
  frontier_.reserve(static_cast<std::size_t>(params.max_nodes));
  scratch_flags_.reserve(static_cast<std::size_t>(params.max_nodes));
  items_.reserve(2048);
  heap_.reserve(2048);
  order_.reserve(128);
  ranked_.reserve(kSampledCandidates);
  named_.reserve(1024);
  scratch_tokens_.resize(kSampledCandidates);
  scratch_log_q_.resize(kSampledCandidates);
  path_tokens_.reserve(2 * Source::kMaxMatch + 64);
  tree_.reserve(128);
}

Hypotheses::~Hypotheses() = default;

void Hypotheses::remember(Token token) { main_->push(token); }

void Hypotheses::forget() { main_->clear(); }

bool Hypotheses::take_surprise() { return calibration_.take_surprise(); }

float Hypotheses::expansion_gain(int depth, int drafter) const {
  return static_cast<float>(calibration_.expansion_gain(depth, drafter));
}

float Hypotheses::expansion_gain_of(std::int32_t node, int drafter) const {
  const GraphNode& n = graph_.node(node);
  return n.expanded == 0 ? expansion_gain(n.depth, drafter) : static_cast<float>(calibration_.further_gain(drafter));
}

void Hypotheses::set_params(const SpeculationParams& params) {
  validate(params);
  if (params.max_nodes != params_.max_nodes) graph_ = TokenGraph(params.max_nodes, merge_length_of(params));
  params_ = params;
}

void Hypotheses::begin(std::span<const Token> tokens, std::uint32_t position) {
  tokens_ = tokens;
  position_ = position;
  graph_.reset(tokens, merge_length_of(params_));
  level_.fill(0);
  items_.clear();
  order_.clear();
}

// Orders the drafter's candidates of `node` as the target would draw them at `depth` tokens below the root.
void Hypotheses::rank_edges(std::int32_t node, int depth, int drafter) {
  ranked_.clear();
  for (std::int32_t e = graph_.node(node).first_edge; e >= 0; e = graph_.edge(e).next) {
    const GraphEdge& edge = graph_.edge(e);
    if (!contains(edge.named_by, drafter)) continue;
    float score = 0;
    sampler_.perturb({&edge.token, 1}, {&edge.log_q[static_cast<std::size_t>(drafter)], 1},
                     position_ + static_cast<std::uint32_t>(depth), {&score, 1});
    ranked_.push_back({e, score});
  }
  const auto better = [](const Ranked& a, const Ranked& b) { return a.score > b.score; };
  // Greedy: the first drafter's stand in order unless it has revised them.
  if (!std::is_sorted(ranked_.begin(), ranked_.end(), better)) std::sort(ranked_.begin(), ranked_.end(), better);
}

float Hypotheses::gap(std::size_t rank) const {
  if (ranked_.size() < 2) return 99;
  return ranked_[0].score - ranked_[std::max<std::size_t>(rank, 1)].score;
}

bool Hypotheses::admitted(std::size_t rank) const {
  const auto k = params_.mode == Mode::kChain ? std::size_t{1} : static_cast<std::size_t>(params_.top_k);
  if (rank >= k) return false;
  return rank == 0 || std::exp(ranked_[rank].score - ranked_[0].score) >= params_.sibling_threshold;
}

// Appends the candidates of `node`, each once, to named_ and returns where they begin there.
std::size_t Hypotheses::name_candidates(std::int32_t node, int depth) {
  const std::size_t first = named_.size();
  const DrafterSet expanded = graph_.node(node).expanded;
  for (int d = 0; d < kMaxDrafters; ++d) {
    if (!contains(expanded, d)) continue;
    rank_edges(node, depth, d);
    for (std::size_t rank = 0; rank < ranked_.size() && admitted(rank); ++rank) {
      const GraphEdge& e = graph_.edge(ranked_[rank].edge);
      const auto cell =
          calibration_.draft_cell(static_cast<int>(rank), e.log_q[static_cast<std::size_t>(d)], gap(rank), d);
      const double p = calibration_.probability(cell);
      Named c{ranked_[rank].edge, p, p, cell, Calibration::kNone, rank == 0 ? only(d) : DrafterSet{0}, {}};
      c.cells.fill(Calibration::kNone);
      c.cells[static_cast<std::size_t>(d)] = cell;
      name_candidate(first, c);
    }
  }
  if (expanded != 0 && (expanded & (expanded - 1)) != 0) hear_all(first, expanded);
  return first;
}

// Adds what one drafter says of a candidate to what others said.
void Hypotheses::name_candidate(std::size_t first, const Named& c) {
  const auto old = std::find_if(named_.begin() + static_cast<std::ptrdiff_t>(first), named_.end(),
                                [&](const Named& o) { return o.edge == c.edge; });
  if (old == named_.end()) return named_.push_back(c);
  old->first |= c.first;
  for (std::size_t d = 0; d < kMaxDrafters; ++d) old->cells[d] = std::min(old->cells[d], c.cells[d]);
  if (c.surest <= old->surest) return;
  old->surest = old->probability = c.surest;
  old->cell = c.cell;
}

// Where several drafters have expanded a node, how far they agree says more than the surest of them alone.
void Hypotheses::hear_all(std::size_t first, DrafterSet expanded) {
  constexpr double kMost = 0.995;
  for (std::size_t i = first; i < named_.size(); ++i) {
    Named& c = named_[i];
    const auto voices = c.first == expanded                        ? Calibration::Voices::kAgree
                        : graph_.edge(c.edge).named_by == expanded ? Calibration::Voices::kNamed
                                                                   : Calibration::Voices::kAlone;
    c.voices = calibration_.voices_cell(voices, c.surest);
    c.probability = std::min(kMost, c.surest * calibration_.probability(c.voices));
  }
}

std::size_t Hypotheses::n_candidates() const {
  if (!sampler_.params().greedy()) return kSampledCandidates;
  return static_cast<std::size_t>(params_.mode == Mode::kChain ? 2 : std::max(2, params_.top_k));
}

std::size_t Hypotheses::likeliest(std::span<const float> logits, std::span<Token> tokens,
                                  std::span<float> log_q) const {
  return static_cast<std::size_t>(
      top_k_log_softmax(logits, 1.0F / sampler_.params().draft_temperature(), tokens, log_q));
}

void Hypotheses::expand(std::int32_t node, std::span<const float> logits, int drafter) {
  const std::size_t wanted = n_candidates();
  const std::size_t n =
      likeliest(logits, std::span(scratch_tokens_).first(wanted), std::span(scratch_log_q_).first(wanted));
  expand(node, std::span(scratch_tokens_).first(n), std::span(scratch_log_q_).first(n), drafter);
}

void Hypotheses::expand(std::int32_t node, std::span<const Token> tokens, std::span<const float> log_q, int drafter) {
  expand_free(node, tokens, log_q, drafter);
  int& level = level_[static_cast<std::size_t>(drafter)];
  level = std::max(level, graph_.node(node).depth + 1);
}

void Hypotheses::expand_free(std::int32_t node, std::span<const Token> tokens, std::span<const float> log_q,
                             int drafter) {
  const std::size_t n = std::min(tokens.size(), n_candidates());
  graph_.expand(node, tokens.first(n), log_q.first(n), drafter);
  grow(node);
}

void Hypotheses::revise(std::int32_t node, std::span<const Token> tokens, std::span<const float> log_q, int drafter) {
  graph_.revise(node, tokens, log_q, drafter);
  const std::int32_t first = graph_.size();
  scratch_p_.resize(static_cast<std::size_t>(first));
  for (std::int32_t id = 0; id < first; ++id) scratch_p_[static_cast<std::size_t>(id)] = graph_.node(id).probability;
  for (std::int32_t e = graph_.node(node).first_edge; e >= 0; e = graph_.edge(e).next) {
    const GraphEdge& edge = graph_.edge(e);
    if (edge.child < 0 || edge.merged || !contains(edge.named_by, drafter)) continue;
    GraphNode& child = graph_.node(edge.child);  // if it is still admitted, grow() knows better
    child.probability = std::min(
        child.probability, graph_.node(node).probability * std::exp(edge.log_q[static_cast<std::size_t>(drafter)]));
  }
  grow(node);
  // Paths through nodes that were there are as much more or less probable as these have become.
  for (std::int32_t id = 1; id < first; ++id) {
    GraphNode& n = graph_.node(id);
    if (n.parent == node || n.parent < 0) continue;
    const float before = scratch_p_[static_cast<std::size_t>(n.parent)];
    if (before > 0) n.probability *= graph_.node(n.parent).probability / before;
  }
  int& level = level_[static_cast<std::size_t>(drafter)];
  level = std::min(level, graph_.node(node).depth + 1);
}

// Gives nodes to the candidates of `node` that pass the thresholds.
void Hypotheses::grow(std::int32_t node) {
  named_.clear();
  name_candidates(node, graph_.node(node).depth);
  for (const Named& c : named_) {
    const GraphEdge& e = graph_.edge(c.edge);
    if (is_eog_[static_cast<std::size_t>(e.token)]) continue;  // a leaf: nothing follows it
    const auto path = static_cast<float>(c.probability * graph_.node(node).probability);
    if (e.child < 0 && (path < params_.path_threshold || graph_.add_child(node, c.edge) < 0)) continue;
    if (!e.merged) graph_.node(e.child).probability = path;
  }
}

bool Hypotheses::may_expand(std::int32_t id, int drafter) const {
  const GraphNode& n = graph_.node(id);
  if (contains(n.expanded, drafter) || n.depth >= params_.depth) return false;
  return contains(graph_.node(n.parent).expanded, drafter);
}

std::int32_t Hypotheses::next_to_expand(int drafter, int depth) const {
  std::int32_t best = -1;
  for (std::int32_t id = 1; id < graph_.size(); ++id) {
    const GraphNode& n = graph_.node(id);
    if (n.depth >= depth || (best >= 0 && n.probability <= graph_.node(best).probability)) continue;
    if (may_expand(id, drafter)) best = id;
  }
  return best;
}

std::span<const std::int32_t> Hypotheses::frontier(int drafter) {
  frontier_.clear();
  const int level = level_[static_cast<std::size_t>(drafter)];
  for (std::int32_t id = 1; id < graph_.size(); ++id) {
    // The paper drafts level by level; the planner may come back to a node of an earlier level.
    const bool due = params_.mode == Mode::kAuto || graph_.node(id).depth == level;
    if (due && may_expand(id, drafter)) frontier_.push_back(id);
  }
  std::sort(frontier_.begin(), frontier_.end(), [this](std::int32_t a, std::int32_t b) {
    const float pa = graph_.node(a).probability;
    const float pb = graph_.node(b).probability;
    return pa > pb || (pa == pb && a < b);
  });
  if (frontier_.size() > static_cast<std::size_t>(params_.frontier))
    frontier_.resize(static_cast<std::size_t>(params_.frontier));
  return frontier_;
}

int Hypotheses::unroll(int max_nodes, int max_depth, int max_leaves) {
  max_depth_ = max_depth;
  int leaves = 1;
  items_.clear();
  named_.clear();
  order_.clear();
  heap_.clear();
  items_.push_back(root_item());
  order_.push_back({.item = 0});
  enumerate(0);
  // Greater probability first; equal: the one that was offered first.
  const auto worse = [this](std::int32_t a, std::int32_t b) {
    const float pa = items_[static_cast<std::size_t>(a)].probability;
    const float pb = items_[static_cast<std::size_t>(b)].probability;
    return pa < pb || (pa == pb && a > b);
  };
  std::int32_t queued = 1;
  while (static_cast<int>(order_.size()) <= max_nodes) {
    for (; queued < static_cast<std::int32_t>(items_.size()); ++queued) {
      heap_.push_back(queued);
      std::push_heap(heap_.begin(), heap_.end(), worse);
    }
    if (heap_.empty()) break;
    std::pop_heap(heap_.begin(), heap_.end(), worse);
    const std::int32_t best = heap_.back();
    heap_.pop_back();
    const auto index = static_cast<std::int32_t>(order_.size());
    const auto parent = static_cast<std::size_t>(items_[static_cast<std::size_t>(best)].parent);
    const bool branches = order_[parent].first_child >= 0;
    if (branches && leaves == max_leaves) continue;
    leaves += branches ? 1 : 0;
    order_.push_back({.item = best});
    if (!branches) order_[parent].first_child = index;
    enumerate(index);
  }
  return static_cast<int>(order_.size()) - 1;
}

Hypotheses::Item Hypotheses::root_item() const {
  return Item{.token = tokens_.back(),
              .parent = -1,
              .graph_node = 0,
              .depth = 0,
              .probability = 1,
              .base = 1,
              .origin = Origin::kRoot,
              .cell = Calibration::kNone,
              .merge_cell = Calibration::kNone,
              .named = -1,
              .agreement = 0,
              .hint = hint_.empty() ? -1 : 0,
              .match = {}};
}

float Hypotheses::source_probability() {
  const auto probability = [this](Origin origin, int length) {
    return static_cast<float>(calibration_.probability(calibration_.source_cell(origin, length)));
  };
  float best = hint_.empty() ? 0 : probability(Origin::kHint, Source::kMaxMatch);
  items_.assign(1, root_item());
  order_.assign(1, {.item = 0});
  for (std::size_t i = first_source(); i < sources_.size(); ++i) {
    if (const Source::Match m = find(*sources_[i], 0))
      best = std::max(best, probability(sources_[i]->origin(), m.length));
  }
  items_.clear();
  order_.clear();
  return best;
}

// Appends the candidates that follow popped node `index` to items_.
void Hypotheses::enumerate(int index) {
  const auto first = items_.size();
  Item f = popped(index);  // a copy: items_ grows
  if (f.depth < max_depth_ && !(f.depth > 0 && is_eog_[static_cast<std::size_t>(f.token)])) {
    for (std::size_t i = first_source(); i < sources_.size() && f.probability >= kLookupFloor; ++i) {
      // A match that has run to the end of its chain is looked for again.
      if (!f.match[i] || sources_[i]->next(f.match[i]) < 0) f.match[i] = find(*sources_[i], index);
    }
    if (f.graph_node >= 0 && graph_.node(f.graph_node).expanded != 0) enumerate_draft(index, f);
    enumerate_sources(index, f, first);
  }
  Popped& p = order_[static_cast<std::size_t>(index)];
  p.begin = static_cast<std::int32_t>(first);
  p.end = static_cast<std::int32_t>(items_.size());
}

void Hypotheses::enumerate_draft(std::int32_t parent, const Item& f) {
  const auto merge = f.agreement > 0 ? calibration_.merge_cell(f.agreement) : Calibration::kNone;
  const double factor = merge == Calibration::kNone ? 1 : std::min(1.0, calibration_.probability(merge));
  for (std::size_t i = name_candidates(f.graph_node, f.depth); i < named_.size(); ++i) {
    const Named& c = named_[i];
    const GraphEdge& e = graph_.edge(c.edge);
    const auto path = static_cast<float>(f.probability * c.probability * factor);
    if (params_.mode != Mode::kAuto && path < params_.path_threshold) continue;
    // Below a merge edge the candidates were drafted after other tokens; only the merged n-gram agrees at first.
    const std::int32_t agreement = f.agreement > 0 ? f.agreement + 1 : e.merged ? graph_.merge_length() + 1 : 0;
    items_.push_back(Item{.token = e.token,
                          .parent = parent,
                          .graph_node = e.child,
                          .depth = f.depth + 1,
                          .probability = path,
                          .base = static_cast<float>(c.probability),
                          .origin = f.agreement > 0 ? Origin::kMerged : Origin::kDraft,
                          .cell = c.cell,
                          .merge_cell = merge,
                          .named = static_cast<std::int32_t>(i),
                          .agreement = agreement,
                          .hint = -1,
                          .match = {}});
  }
}

void Hypotheses::enumerate_sources(std::int32_t parent, const Item& f, std::size_t first) {
  for (std::size_t i = first_source(); i < sources_.size(); ++i) {
    const Token next = f.match[i] ? sources_[i]->next(f.match[i]) : -1;
    if (next < 0) continue;
    Item c = source_item(parent, f, sources_[i]->origin(), f.match[i].length, next);
    c.match[i] = sources_[i]->advance(f.match[i]);
    offer(first, c);
  }
  if (const Token next = hint_at(f.hint); next >= 0) {
    Item c = source_item(parent, f, Origin::kHint, Source::kMaxMatch, next);
    c.hint = f.hint + 1;
    offer(first, c);
  }
}

Hypotheses::Item Hypotheses::source_item(std::int32_t parent, const Item& f, Origin origin, int match_length,
                                         Token token) const {
  const auto cell = calibration_.source_cell(origin, match_length);
  const double p = calibration_.probability(cell);
  return Item{.token = token,
              .parent = parent,
              .graph_node = -1,
              .depth = f.depth + 1,
              .probability = static_cast<float>(f.probability * p),
              .base = static_cast<float>(p),
              .origin = origin,
              .cell = cell,
              .merge_cell = Calibration::kNone,
              .named = -1,
              .agreement = 0,
              .hint = -1,
              .match = {}};
}

// Two sources that name the same token make one candidate, as probable as the surer of the two.
void Hypotheses::offer(std::size_t first, Item c) {
  for (std::size_t i = first; i < items_.size(); ++i) {
    Item& old = items_[i];
    if (old.token != c.token) continue;
    for (std::size_t m = 0; m < c.match.size(); ++m) {
      if (c.match[m]) old.match[m] = c.match[m];
    }
    old.hint = std::max(old.hint, c.hint);
    if (c.probability > old.probability) {
      old.probability = c.probability;
      old.base = c.base;
      old.cell = c.cell;
      old.merge_cell = Calibration::kNone;
      old.origin = c.origin;
    }
    return;
  }
  if (params_.mode != Mode::kAuto && c.probability < params_.path_threshold) return;
  items_.push_back(c);
}

Source::Match Hypotheses::find(const Source& source, int index) {
  path_tokens_.clear();
  for (std::int32_t at = index; at > 0 && path_tokens_.size() < Source::kMaxMatch; at = popped(at).parent)
    path_tokens_.push_back(popped(at).token);
  const std::size_t rest = std::min<std::size_t>(Source::kMaxMatch - path_tokens_.size(), tokens_.size());
  for (std::size_t i = 0; i < rest; ++i) path_tokens_.push_back(tokens_[tokens_.size() - 1 - i]);
  std::reverse(path_tokens_.begin(), path_tokens_.end());
  return source.find(path_tokens_);
}

const TokenTree& Hypotheses::build(int n) {
  assert(n == 0 || (n > 0 && n < static_cast<int>(order_.size())));
  tree_.clear();
  for (Popped& p : order_) p.tree_index = -1;
  const auto put = [this](int index) {
    const Item& x = popped(index);
    const std::int32_t parent = x.parent < 0 ? -1 : order_[static_cast<std::size_t>(x.parent)].tree_index;
    const DrafterSet by =
        x.named < 0 ? DrafterSet{0} : graph_.edge(named_[static_cast<std::size_t>(x.named)].edge).named_by;
    order_[static_cast<std::size_t>(index)].tree_index =
        tree_.add(x.token, parent, x.probability, x.origin, x.graph_node, by);
  };
  if (order_.empty()) {  // nothing was unrolled: plain decoding
    tree_.add(tokens_.back(), -1, 1, Origin::kRoot, 0);
    return tree_;
  }
  put(0);
  // The most probable path stands first, so that its KV cells are in the order of plain decoding (exact mode).
  for (std::int32_t at = order_[0].first_child; at >= 0 && at <= n;
       at = order_[static_cast<std::size_t>(at)].first_child) {
    put(at);
    ++tree_.primary;
  }
  for (int i = 1; i <= n; ++i) {
    if (order_[static_cast<std::size_t>(i)].tree_index < 0) put(i);
  }
  return tree_;
}

void Hypotheses::learn(std::span<const std::int32_t> path, std::span<const Token> emitted) {
  std::size_t step = 0;
  for (const Popped& p : order_) {
    // order_ holds parents before children, so the accepted path comes by in its own order.
    const std::int32_t want = step == 0 ? 0 : path[step - 1];
    if (p.tree_index != want) continue;
    std::array<bool, kMaxDrafters> named{};
    for (std::int32_t i = p.begin; i < p.end; ++i) {
      const Item& c = items_[static_cast<std::size_t>(i)];
      learn_candidate(c, c.token == emitted[step], named);
    }
    learn_expansions(items_[static_cast<std::size_t>(p.item)], named);
    if (++step > path.size()) break;
  }
  if (params_.history) recycle(path);
  hint_.clear();
}

// `named`: which drafters name the target's token as a likely one, as far as known.
void Hypotheses::learn_candidate(const Item& c, bool hit, std::array<bool, kMaxDrafters>& named) {
  const bool inherited = c.merge_cell != Calibration::kNone;
  calibration_.observe(inherited ? c.merge_cell : c.cell, hit, inherited ? c.base : 1);
  if (c.named < 0) return;
  const Named& n = named_[static_cast<std::size_t>(c.named)];
  for (std::size_t d = 0; d < kMaxDrafters; ++d) {
    if (n.cells[d] == Calibration::kNone) continue;
    if (!inherited && n.cells[d] != c.cell) calibration_.observe(n.cells[d], hit);
    named[d] |= hit && calibration_.probability(n.cells[d]) >= kLikely;
  }
  if (!inherited && n.voices != Calibration::kNone) calibration_.observe(n.voices, hit, n.surest);
}

void Hypotheses::learn_expansions(const Item& x, const std::array<bool, kMaxDrafters>& named) {
  if (x.graph_node < 0 || x.agreement > 0) return;
  const DrafterSet expanded = graph_.node(x.graph_node).expanded;
  const auto n_named = std::count(named.begin(), named.end(), true);
  for (int d = 0; d < kMaxDrafters; ++d) {
    if (!contains(expanded, d)) continue;
    const bool mine = named[static_cast<std::size_t>(d)];
    calibration_.observe_expansion(x.depth, mine, d);
    if (expanded != only(d)) calibration_.observe_further(d, mine && n_named == 1);
  }
}

// Keeps the most probable drafted paths that were not accepted, each with the tokens before it.
void Hypotheses::recycle(std::span<const std::int32_t> path) {
  scratch_flags_.assign(static_cast<std::size_t>(graph_.size()), false);
  for (std::int32_t id = 1; id < graph_.size(); ++id)
    scratch_flags_[static_cast<std::size_t>(graph_.node(id).parent)] = true;  // has a child
  for (const std::int32_t t : path) {
    const std::int32_t g = tree_.graph_node[static_cast<std::size_t>(t)];
    if (g >= 0) scratch_flags_[static_cast<std::size_t>(g)] = true;  // accepted
  }
  int kept = 0;
  for (std::int32_t id = graph_.size() - 1; id > 0 && kept < kRecycledPerStep; --id) {
    if (scratch_flags_[static_cast<std::size_t>(id)] || graph_.node(id).depth < 2) continue;
    path_tokens_.clear();
    for (std::int32_t at = id; at > 0; at = graph_.node(at).parent) path_tokens_.push_back(graph_.node(at).token);
    const std::size_t before = std::min<std::size_t>(History::kGram, tokens_.size());
    for (std::size_t i = 0; i < before; ++i) path_tokens_.push_back(tokens_[tokens_.size() - 1 - i]);
    recycled_->end_chain();
    for (auto t = path_tokens_.rbegin(); t != path_tokens_.rend(); ++t) recycled_->push(*t);
    ++kept;
  }
  recycled_->end_chain();
}

}  // namespace gsd
