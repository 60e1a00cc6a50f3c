// The draft phase of a step: level by level, one pass of the drafter for all sessions.
#include <algorithm>

#include "engine_state.h"

namespace gsd {

void Engine::State::draft_all() {
  for (Session* s : active_) s->wants_draft_ = s->depth_limit_ > 0;
  choose_drafting_sessions();
  if (!draft_roots()) return;
  while (draft_level()) {
  }
}

// What is set by hand drafts; where the planner decides, the first level must pay, or a probe must be due.
void Engine::State::choose_drafting_sessions() {
  step_wanted_ = !step_planned_;
  if (!step_planned_) return;
  items_.clear();
  int backlog = 0;
  for (std::size_t i = 0; i < active_.size(); ++i) {
    Session& s = *active_[i];
    if (!s.wants_draft_) continue;
    // What the history names anyway is no gain of the draft.
    items_.push_back(
        {static_cast<std::int32_t>(i), 0, s.hypotheses_.expansion_gain(0) * (1 - s.hypotheses_.source_probability())});
    // A session that lags catches up beside steps, and only where the draft is wanted.
    if (!lags(s)) backlog += static_cast<int>(n_lacking(s)) - 1;
  }
  if (items_.empty()) return;
  std::sort(items_.begin(), items_.end(), Planner::Item::better);
  const int roots = static_cast<int>(active_.size());
  std::size_t count = step_probes_plain_ ? 0 : planner_.choose_level(items_, roots, roots, backlog, ahead(1));
  step_wanted_ = count > 0;
  if (count == 0 && !step_probes_plain_ && planner_.probe(Planner::Probe::kDraft, roots)) {
    choose_probed_session();
    count = 1;
  }
  for (std::size_t n = count; n < items_.size(); ++n)
    active_[static_cast<std::size_t>(items_[n].session)]->wants_draft_ = false;
}

// Puts the session first that a probe of the draft takes: one tells what there is to learn, and the others' text need
// not go through the draft for it. Each calibration has its turn; of its sessions the one that lacks least.
void Engine::State::choose_probed_session() {
  const auto session = [this](const Planner::Item& item) -> Session& {
    return *active_[static_cast<std::size_t>(item.session)];
  };
  const auto turn = [&](const Planner::Item& item) {
    const Session& s = session(item);
    return std::pair(draft_probes_[temperature_key(s.options_.sampling)], n_lacking(s));
  };
  const auto first =
      std::min_element(items_.begin(), items_.end(), [&](const auto& a, const auto& b) { return turn(a) < turn(b); });
  std::iter_swap(items_.begin(), first);
  const Session& chosen = session(items_.front());
  if (!lags(chosen)) ++draft_probes_[temperature_key(chosen.options_.sampling)];
}

// What levels below `depth` promise, by the best of the drafting sessions.
Planner::Ahead Engine::State::ahead(int depth) const {
  Planner::Ahead out{0, 0};
  for (const Session* s : active_) {
    if (!s->wants_draft_) continue;
    out.gain = std::max(out.gain, s->hypotheses_.expansion_gain(depth));
    out.levels = std::max(out.levels, std::min(s->hypotheses_.params().depth, s->depth_limit_) - depth);
  }
  return out;
}

// Books a pass of the drafter over `width` tokens that began at `start`.
void Engine::State::account_draft(double start, int width) {
  const double ms = now() - start;
  ++step_draft_forwards_;
  step_draft_ms_ += ms;
  draft_cost_.observe(width, ms);
  step_modelled_ms_ += draft_cost_.ms(width);
}

std::size_t Engine::State::n_lacking(const Session& s) const {
  return s.tokens_.size() - static_cast<std::size_t>(drafter_->n_known(s.slot_));
}

// Lets the drafter take one chunk of what it lacks of the text up to `end`.
void Engine::State::catch_up(Session& s, std::size_t end) {
  const auto known = static_cast<std::size_t>(drafter_->n_known(s.slot_));
  if (known >= end) return;
  const auto chunk = static_cast<std::size_t>(std::min(options_.prefill_chunk, drafter_->info().max_batch));
  const std::size_t stop = std::min(end, known + chunk);
  if (drafter_->catch_up(s.slot_, s.tokens_, static_cast<std::int32_t>(stop)))
    s.step_.draft_nodes += static_cast<std::int64_t>(stop - known);
}

// True if what the drafter has not seen of the text is too much for one pass beside the other sessions.
bool Engine::State::lags(const Session& s) const {
  const auto most = static_cast<std::size_t>(drafter_->info().max_batch);
  return n_lacking(s) > std::max<std::size_t>(1, most / active_.size());
}

// Shows the drafter what it has not seen of each session (at least the root) and expands the roots. A session that lags
// goes without; in each step one of them catches up by one chunk, so that nobody waits for more than that.
bool Engine::State::draft_roots() {
  roots_.clear();
  int width = 0;
  bool caught_up = false;
  for (Session* s : active_) {
    if (!s->wants_draft_) continue;
    if (lags(*s)) {
      const double start = now();
      if (!caught_up) {
        const std::size_t before = n_lacking(*s);
        catch_up(*s, s->tokens_.size() - 1);
        step_modelled_ms_ += draft_cost_.ms(static_cast<int>(before - n_lacking(*s)));
      }
      caught_up = true;
      step_draft_ms_ += now() - start;
    } else if (roots_.size() < static_cast<std::size_t>(drafter_->info().max_nodes)) {
      roots_.push_back({s->slot_, s->tokens_, &s->hypotheses_});
      s->level_nodes_ = static_cast<int>(n_lacking(*s));
      width += s->level_nodes_;
      continue;
    }
    s->wants_draft_ = false;
  }
  if (roots_.empty()) return false;
  const double start = now();
  if (!drafter_->roots(roots_)) return false;
  account_draft(start, width);
  for (Session* s : active_) {
    if (!s->wants_draft_) continue;
    s->step_.draft_nodes += s->level_nodes_;
    ++s->step_.draft_forwards;
  }
  return true;
}

// Evaluates the next frontier of all drafting sessions; false when there is nothing left that pays.
bool Engine::State::draft_level() {
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
  const auto most = static_cast<std::size_t>(drafter_->info().max_nodes);
  if (items_.size() > most) items_.resize(most);
  if (step_planned_)
    items_.resize(planner_.choose_level(items_, static_cast<int>(active_.size()), width, 0, ahead(deepest + 1)));
  level_.clear();
  for (const Planner::Item& item : items_) {
    Session& s = *active_[static_cast<std::size_t>(item.session)];
    level_.push_back({s.slot_, item.id, &s.hypotheses_});
  }
  if (level_.empty()) return false;
  const double start = now();
  if (!drafter_->level(level_)) return false;
  account_draft(start, static_cast<int>(level_.size()));
  for (Session* s : active_) {
    const auto mine = std::count_if(level_.begin(), level_.end(), [s](const auto& n) { return n.slot == s->slot_; });
    s->step_.draft_nodes += mine;
    s->step_.draft_forwards += mine > 0 ? 1 : 0;
  }
  return true;
}

}  // namespace gsd
