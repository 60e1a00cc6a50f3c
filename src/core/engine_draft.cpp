// The draft phase of a step: passes of the drafters, each for all sessions, as long as one pays.
#include <algorithm>

#include "engine_state.h"

namespace gsd {

void Engine::State::draft_all() {
  if (drafters_.empty()) return;
  if (!step_planned_) {
    draft_as_told();
  } else if (!step_probes_plain_) {
    while (draft_next()) {
    }
    probe_drafters();
  }
}

// What is set by hand drafts, level by level; a chain has room for what one drafter says.
void Engine::State::draft_as_told() {
  const bool chain = active_.front()->hypotheses_.params().mode == Mode::kChain;
  for (int d = 0; d < (chain ? 1 : n_drafters()); ++d) {
    step_wanted_ |= only(d);
    gather_roots(d);
    for (bool more = draft_roots(d); more; more = draft_level(d)) gather_frontier(d);
  }
}

// Makes the pass that promises most beyond its cost; false if none does. A drafter may go on with what another named.
bool Engine::State::draft_next() {
  int best = -1;
  Planner::Level choice;
  for (int d = 0; d < n_drafters(); ++d) {
    if (contains(step_out_, d)) continue;
    const Planner::Level level = price(d);
    if (level.value <= choice.value) continue;
    best = d;
    choice = level;
  }
  if (best < 0) return false;
  if (n_drafters() > 1) price(best);
  items_.resize(choice.count);
  const bool rooted = contains(step_rooted_, best);
  if (!rooted) step_wanted_ |= only(best);
  if (!(rooted ? draft_level(best) : draft_roots(best))) step_out_ |= only(best);
  return true;
}

// Asks drafters that the planner leaves alone now and then what they would have said.
void Engine::State::probe_drafters() {
  for (int d = 0; d < n_drafters(); ++d) {
    if (contains(step_rooted_, d) || contains(step_out_, d)) continue;
    gather_roots(d);
    if (items_.empty() || !planner_.probe(Planner::Probe::kDraft, static_cast<int>(active_.size()), d)) continue;
    choose_probed_session(d);
    items_.resize(1);
    if (!draft_roots(d)) continue;
    while (draft_next()) {
    }
  }
}

// Puts the session first that a probe of the drafter takes: one tells what there is to learn, and the others' text need
// not go through the drafter for it. Each calibration has its turn; of its sessions the one that lacks least.
void Engine::State::choose_probed_session(int drafter) {
  const auto session = [this](const Planner::Item& item) -> Session& {
    return *active_[static_cast<std::size_t>(item.session)];
  };
  const auto probes = [&](const Session& s) -> int& {
    return draft_probes_.at(temperature_key(s.options_.sampling))[static_cast<std::size_t>(drafter)];
  };
  const auto turn = [&](const Planner::Item& item) {
    const Session& s = session(item);
    return std::pair(probes(s), n_lacking(drafter, s));
  };
  const auto first =
      std::min_element(items_.begin(), items_.end(), [&](const auto& a, const auto& b) { return turn(a) < turn(b); });
  std::iter_swap(items_.begin(), first);
  const Session& chosen = session(items_.front());
  if (!lags(drafter, chosen)) ++probes(chosen);
}

// What the drafter's next pass is worth, its roots or a level; its units are in items_.
Planner::Level Engine::State::price(int drafter) {
  int extra = 0;
  int depth = 0;
  if (contains(step_rooted_, drafter)) {
    depth = gather_frontier(drafter);
  } else {
    extra = gather_roots(drafter);
  }
  if (items_.empty()) return {};
  int width = static_cast<int>(active_.size());
  for (const Session* s : active_) width += s->hypotheses_.graph().size() - 1;
  return planner_.choose_level(items_, static_cast<int>(active_.size()), width, extra, ahead(drafter, depth + 1),
                               drafter);
}

// The sessions that the drafter could begin to draft for; returns the tokens of that pass beside one of each.
int Engine::State::gather_roots(int drafter) {
  items_.clear();
  int extra = 0;
  for (std::size_t i = 0; i < active_.size(); ++i) {
    Session& s = *active_[i];
    if (s.depth_limit_ == 0) continue;
    if (s.source_probability_ < 0) s.source_probability_ = step_planned_ ? s.hypotheses_.source_probability() : 0;
    // What the history names anyway is no gain of the draft.
    const float gain = s.hypotheses_.expansion_gain_of(0, drafter) * (1 - s.source_probability_);
    items_.push_back({static_cast<std::int32_t>(i), 0, gain});
    // A session that lags catches up beside steps, and only where the draft is wanted.
    if (!lags(drafter, s)) extra += static_cast<int>(n_lacking(drafter, s)) - 1 + at(drafter).info().beside;
  }
  std::sort(items_.begin(), items_.end(), Planner::Item::better);
  return extra;
}

// The nodes that the drafter's next level could evaluate; returns the depth of the deepest.
int Engine::State::gather_frontier(int drafter) {
  items_.clear();
  int deepest = 0;
  if (at(drafter).info().levels > 1) return 0;
  for (std::size_t i = 0; i < active_.size(); ++i) {
    Session& s = *active_[i];
    if (!contains(s.drafting_, drafter)) continue;
    for (const std::int32_t id : s.hypotheses_.frontier(drafter)) {
      const GraphNode& n = s.hypotheses_.graph().node(id);
      if (n.depth >= s.depth_limit_) continue;
      deepest = std::max(deepest, n.depth);
      items_.push_back(
          {static_cast<std::int32_t>(i), id, n.probability * s.hypotheses_.expansion_gain_of(id, drafter)});
    }
  }
  std::sort(items_.begin(), items_.end(), Planner::Item::better);
  const auto most = static_cast<std::size_t>(at(drafter).info().max_nodes);
  if (items_.size() > most) items_.resize(most);
  return deepest;
}

// What levels below `depth` promise, by the best of the sessions that the drafter drafts or could draft for.
Planner::Ahead Engine::State::ahead(int drafter, int depth) const {
  const int levels = at(drafter).info().levels;
  Planner::Ahead out{0, 0, levels - depth};
  for (const Session* s : active_) {
    if (s->depth_limit_ == 0 || (contains(step_rooted_, drafter) && !contains(s->drafting_, drafter))) continue;
    out.gain = std::max(out.gain, s->hypotheses_.expansion_gain(depth, drafter));
    out.levels = std::max(out.levels, std::min(s->hypotheses_.params().depth, s->depth_limit_) - depth);
  }
  if (levels > 1) out.levels = std::min(out.levels, out.free);
  return out;
}

// Books a pass of the drafter over `width` tokens that began at `start`.
void Engine::State::account_draft(int drafter, double start, int width) {
  const auto d = static_cast<std::size_t>(drafter);
  const double ms = now() - start;
  ++step_drafter_[d].forwards;
  step_drafter_[d].ms += ms;
  draft_costs_[d].observe(width, ms);
  step_modelled_ms_ += draft_costs_[d].ms(width);
}

std::size_t Engine::State::n_lacking(int drafter, const Session& s) const {
  return s.tokens_.size() - static_cast<std::size_t>(at(drafter).n_known(s.slot_));
}

// Lets the drafter take one chunk of what it lacks of the text up to `end`.
void Engine::State::catch_up(int drafter, Session& s, std::size_t end) {
  const auto known = static_cast<std::size_t>(at(drafter).n_known(s.slot_));
  if (known >= end) return;
  const auto chunk = static_cast<std::size_t>(std::min(options_.prefill_chunk, at(drafter).info().max_batch));
  const std::size_t stop = std::min(end, known + chunk);
  if (at(drafter).catch_up(s.slot_, s.tokens_, static_cast<std::int32_t>(stop)))
    s.step_.drafter[static_cast<std::size_t>(drafter)].nodes += static_cast<std::int64_t>(stop - known);
}

// True if what the drafter has not seen of the text is too much for one pass beside the other sessions.
bool Engine::State::lags(int drafter, const Session& s) const {
  const auto most = static_cast<std::size_t>(at(drafter).info().max_batch);
  return n_lacking(drafter, s) > std::max<std::size_t>(1, most / active_.size());
}

// Takes the sessions that lag out of items_: they go without a draft. In each step one session catches up by one chunk
// with one drafter, so that nobody waits for more than that.
void Engine::State::catch_up_lagging(int drafter) {
  const auto d = static_cast<std::size_t>(drafter);
  std::erase_if(items_, [&](const Planner::Item& item) {
    Session& s = *active_[static_cast<std::size_t>(item.session)];
    if (!lags(drafter, s)) return false;
    if (!step_caught_up_) {
      const double start = now();
      const std::size_t before = n_lacking(drafter, s);
      catch_up(drafter, s, s.tokens_.size() - 1);
      step_modelled_ms_ += draft_costs_[d].ms(static_cast<int>(before - n_lacking(drafter, s)));
      step_drafter_[d].ms += now() - start;
    }
    step_caught_up_ = true;
    return true;
  });
}

// Shows the drafter what it has not seen of the sessions of items_ (at least the root) and expands their roots. False
// if there is no room, or there are none.
bool Engine::State::draft_roots(int drafter) {
  roots_.clear();
  int width = 0;
  catch_up_lagging(drafter);
  const DrafterInfo& info = at(drafter).info();
  if (items_.size() > static_cast<std::size_t>(info.max_nodes)) items_.resize(static_cast<std::size_t>(info.max_nodes));
  for (const Planner::Item& item : items_) {
    Session& s = *active_[static_cast<std::size_t>(item.session)];
    roots_.push_back({s.slot_, s.tokens_, &s.hypotheses_, drafter});
    s.pass_nodes_ = static_cast<int>(n_lacking(drafter, s)) + info.beside;
    width += s.pass_nodes_;
  }
  if (roots_.empty()) return false;
  const double start = now();
  if (!at(drafter).roots(roots_)) return false;
  account_draft(drafter, start, width);
  step_rooted_ |= only(drafter);
  for (const Planner::Item& item : items_) {
    Session& s = *active_[static_cast<std::size_t>(item.session)];
    s.drafting_ |= only(drafter);
    DraftStats& stats = s.step_.drafter[static_cast<std::size_t>(drafter)];
    stats.nodes += s.pass_nodes_;
    ++stats.forwards;
  }
  return true;
}

// Evaluates the nodes of items_; false if there are none, or no room for them.
bool Engine::State::draft_level(int drafter) {
  level_.clear();
  for (const Planner::Item& item : items_) {
    Session& s = *active_[static_cast<std::size_t>(item.session)];
    level_.push_back({s.slot_, item.id, &s.hypotheses_, drafter});
  }
  if (level_.empty()) return false;
  const double start = now();
  if (!at(drafter).level(level_)) return false;
  account_draft(drafter, start, static_cast<int>(level_.size()));
  for (Session* s : active_) {
    const auto mine = std::count_if(level_.begin(), level_.end(), [s](const auto& n) { return n.slot == s->slot_; });
    DraftStats& stats = s->step_.drafter[static_cast<std::size_t>(drafter)];
    stats.nodes += mine;
    stats.forwards += mine > 0 ? 1 : 0;
  }
  return true;
}

}  // namespace gsd
