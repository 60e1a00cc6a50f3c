// The draft phase of a step: level by level, one draft forward for all sessions.
#include <algorithm>

#include "feed.h"
#include "gsd/engine.h"
#include "gsd/error.h"

namespace gsd {

void Engine::draft_all() {
  for (Session* s : active_) s->wants_draft_ = s->depth_limit_ > 0;
  choose_drafting_sessions();
  if (!draft_roots()) return;
  while (draft_level()) {
  }
}

// What is set by hand drafts; where the planner decides, the first level must pay, or a probe must be due.
void Engine::choose_drafting_sessions() {
  step_wanted_ = !step_planned_;
  if (!step_planned_) return;
  items_.clear();
  int backlog = 0;
  for (std::size_t i = 0; i < active_.size(); ++i) {
    Session& s = *active_[i];
    if (!s.wants_draft_ || lags(s)) continue;
    // What the history names anyway is no gain of the draft.
    items_.push_back(
        {static_cast<std::int32_t>(i), 0, s.hypotheses_.expansion_gain(0) * (1 - s.hypotheses_.history_probability())});
    backlog += static_cast<int>(s.tokens_.size() - s.n_drafted_) - 1;
  }
  if (items_.empty()) return;
  std::sort(items_.begin(), items_.end(), Planner::Item::better);
  const int roots = static_cast<int>(active_.size());
  std::size_t count = step_probes_plain_ ? 0 : planner_.choose_level(items_, roots, roots, backlog, ahead(1));
  step_wanted_ = count > 0;
  if (count == 0 && !step_probes_plain_ && planner_.probe(Planner::Probe::kDraft, roots)) count = items_.size();
  for (std::size_t n = count; n < items_.size(); ++n)
    active_[static_cast<std::size_t>(items_[n].session)]->wants_draft_ = false;
}

// What levels below `depth` promise, by the best of the drafting sessions.
Planner::Ahead Engine::ahead(int depth) const {
  Planner::Ahead out{0, 0};
  for (const Session* s : active_) {
    if (!s->wants_draft_) continue;
    out.gain = std::max(out.gain, s->hypotheses_.expansion_gain(depth));
    out.levels = std::max(out.levels, std::min(s->hypotheses_.params().depth, s->depth_limit_) - depth);
  }
  return out;
}

// One pass of the draft over batch_. False if its memory has no room: the step then goes on with what there is.
bool Engine::forward_draft() {
  const double start = now();
  try {
    draft_->forward(batch_);
  } catch (const Error& e) {
    if (e.code() != ErrorCode::kNoKvSlot) throw;
    return false;
  }
  const double ms = now() - start;
  const int width = static_cast<int>(batch_.size());
  ++step_draft_forwards_;
  step_draft_ms_ += ms;
  draft_cost_.observe(width, ms);
  step_modelled_ms_ += draft_cost_.ms(width);
  return true;
}

// Takes one chunk of what the draft's memory lacks of the text up to `end`; false if its memory has no room.
bool Engine::catch_up(Session& s, std::size_t end) {
  if (s.n_drafted_ >= end) return true;
  const std::size_t stop = std::min(end, s.n_drafted_ + static_cast<std::size_t>(draft_chunk()));
  try {
    feed(*draft_, s.slot_, s.tokens_, s.n_drafted_, stop, feed_batch_, path_);
  } catch (const Error& e) {
    if (e.code() != ErrorCode::kNoKvSlot) throw;
    return false;
  }
  s.step_.draft_nodes += static_cast<std::int64_t>(stop - s.n_drafted_);
  s.n_drafted_ = stop;
  return true;
}

// True if what the draft has not seen of the text is too much for one pass beside the other sessions.
bool Engine::lags(const Session& s) const {
  const auto most = static_cast<std::size_t>(draft_->info().max_batch);
  return s.tokens_.size() - s.n_drafted_ > std::max<std::size_t>(1, most / active_.size());
}

// Feeds what the draft has not seen of each session (at least the root) and expands the roots. A session that lags goes
// without the draft; in each step one of them catches up by one chunk, so that nobody waits for more than that.
bool Engine::draft_roots() {
  const auto at_once = static_cast<std::size_t>(std::min(draft_->info().max_batch, draft_->info().max_outputs));
  batch_.clear();
  std::size_t drafting = 0;
  bool caught_up = false;
  for (Session* s : active_) {
    if (!s->wants_draft_) continue;
    if (lags(*s)) {
      const double start = now();
      if (!caught_up) catch_up(*s, s->tokens_.size() - 1);
      caught_up = true;
      step_draft_ms_ += now() - start;
    } else if (drafting < at_once) {
      ++drafting;
      std::int32_t parent = -1;
      for (std::size_t i = s->n_drafted_; i < s->tokens_.size(); ++i) {
        batch_.push_back({s->slot_, known_token(*draft_, s->tokens_[i]), parent, i + 1 == s->tokens_.size(), true});
        ++parent;
      }
      continue;
    }
    s->wants_draft_ = false;
  }
  if (batch_.empty() || !forward_draft()) return false;
  std::int32_t row = 0;
  for (Session* s : active_) {
    if (!s->wants_draft_) continue;
    path_.clear();
    for (std::int32_t i = 0; i < static_cast<std::int32_t>(s->tokens_.size() - s->n_drafted_); ++i) path_.push_back(i);
    s->hypotheses_.expand(0, draft_logits(row++));
    draft_->commit(s->slot_, path_);
    s->step_.draft_nodes += static_cast<std::int64_t>(path_.size());
    ++s->step_.draft_forwards;
    s->n_drafted_ = s->tokens_.size();
    s->draft_leaves_ = 1;
  }
  return true;
}

// The part of a row that the target knows too: vocabularies may differ in unused ids at the end.
std::span<const float> Engine::draft_logits(std::int32_t row) const {
  const auto all = draft_->logits(row);
  return all.first(std::min(all.size(), static_cast<std::size_t>(target_.info().n_vocab)));
}

// Evaluates the next frontier of all drafting sessions; false when there is nothing left that pays.
bool Engine::draft_level() {
  items_.clear();
  int width = static_cast<int>(active_.size());
  int deepest = 0;
  for (std::size_t i = 0; i < active_.size(); ++i) {
    Session& s = *active_[i];
    if (!s.wants_draft_) continue;
    width += s.hypotheses_.graph().size() - 1;
    for (const std::int32_t id : s.hypotheses_.frontier()) {
      const GraphNode& n = s.hypotheses_.graph().node(id);
      if (n.depth >= s.depth_limit_) continue;
      deepest = std::max(deepest, n.depth);
      items_.push_back({static_cast<std::int32_t>(i), id, n.probability * s.hypotheses_.expansion_gain(n.depth)});
    }
  }
  std::sort(items_.begin(), items_.end(), Planner::Item::better);
  const auto most = static_cast<std::size_t>(std::min(draft_->info().max_batch, draft_->info().max_outputs));
  if (items_.size() > most) items_.resize(most);
  if (step_planned_)
    items_.resize(planner_.choose_level(items_, static_cast<int>(active_.size()), width, 0, ahead(deepest + 1)));
  // One level's nodes of a session must be numbered in batch order, and siblings' leaves are counted as they come.
  batch_.clear();
  std::erase_if(items_, [this](const Planner::Item& item) {
    Session& s = *active_[static_cast<std::size_t>(item.session)];
    if (!take_leaf(*draft_, s.hypotheses_.graph(), item.id, s.draft_leaves_)) return true;
    GraphNode& n = s.hypotheses_.graph().node(item.id);
    const std::int32_t parent = n.parent == 0 ? -1 : s.hypotheses_.graph().node(n.parent).draft_index;
    n.draft_index = draft_->n_speculative(s.slot_) + static_cast<std::int32_t>(s.level_nodes_++);
    batch_.push_back({s.slot_, n.token, parent, true});
    return false;
  });
  for (Session* s : active_) s->level_nodes_ = 0;
  if (batch_.empty()) return false;
  if (!forward_draft()) {
    for (const Planner::Item& item : items_)
      active_[static_cast<std::size_t>(item.session)]->hypotheses_.graph().node(item.id).draft_index = -1;
    return false;
  }
  for (std::size_t n = 0; n < items_.size(); ++n) {
    Session& s = *active_[static_cast<std::size_t>(items_[n].session)];
    s.hypotheses_.expand(items_[n].id, draft_logits(static_cast<std::int32_t>(n)));
    ++s.step_.draft_nodes;
    ++s.level_nodes_;
  }
  for (Session* s : active_) {
    s->step_.draft_forwards += s->level_nodes_ > 0 ? 1 : 0;
    s->level_nodes_ = 0;
  }
  return true;
}

// Keeps in the draft's memory what was accepted and evaluated there behind the same tokens. A node reached through a
// merge was evaluated behind other tokens: it is fed again with the next step's root.
void Engine::commit_draft(Session& s) {
  if (!s.wants_draft_) return;
  const TokenTree& tree = s.hypotheses_.tree();
  s.draft_path_.clear();
  std::int32_t parent = 0;
  for (const std::int32_t t : s.acceptance_.path) {
    const std::int32_t g = tree.graph_node[static_cast<std::size_t>(t)];
    if (g < 0 || s.hypotheses_.graph().node(g).parent != parent || s.hypotheses_.graph().node(g).draft_index < 0) break;
    s.draft_path_.push_back(s.hypotheses_.graph().node(g).draft_index);
    parent = g;
  }
  draft_->commit(s.slot_, s.draft_path_);
  s.n_drafted_ += s.draft_path_.size();
}

}  // namespace gsd
