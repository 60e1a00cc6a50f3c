// What a session or an engine did, as sums over its steps.
#pragma once

#include <concepts>
#include <cstdint>
#include <type_traits>

namespace gsd {

// Times are wall-clock milliseconds.
struct Stats {
  std::int64_t steps = 0;
  std::int64_t emitted = 0;         // tokens generated
  std::int64_t drafted = 0;         // candidate nodes made by the draft model
  std::int64_t merged = 0;          // merge edges: subtrees that were not drafted again
  std::int64_t verified = 0;        // tree nodes the target scored, roots not counted
  std::int64_t accepted = 0;        // tree nodes accepted
  std::int64_t draft_nodes = 0;     // tokens the draft model evaluated, pending ones included
  std::int64_t draft_forwards = 0;  // passes of the draft model that this session took part in
  std::int64_t plain_steps = 0;     // steps that verified nothing
  double draft_ms = 0;              // in the draft's forward passes
  double verify_ms = 0;             // in the target's forward passes
  double sequence_ms = 0;           // in keeping the backends' sequences in step
  double total_ms = 0;              // whole steps; the rest is the engine's own time
  double modelled_ms = 0;           // what the planner's cost models say of the draft's and the target's passes

  void add(const Stats& other);
  double tokens_per_step() const { return steps > 0 ? static_cast<double>(emitted) / static_cast<double>(steps) : 0; }
};

// Calls visit(name, field...) for each sum, with the field of each argument: who adds, reads or writes all of them
// visits this. The names are those in JSON.
template <typename Visit, typename... S>
requires(std::same_as<std::remove_const_t<S>, Stats>&&...) void visit_stats(Visit&& visit, S&... s) {
  visit("steps", s.steps...);
  visit("emitted", s.emitted...);
  visit("drafted", s.drafted...);
  visit("merged", s.merged...);
  visit("verified", s.verified...);
  visit("accepted", s.accepted...);
  visit("draft_nodes", s.draft_nodes...);
  visit("draft_forwards", s.draft_forwards...);
  visit("plain_steps", s.plain_steps...);
  visit("draft_ms", s.draft_ms...);
  visit("verify_ms", s.verify_ms...);
  visit("sequence_ms", s.sequence_ms...);
  visit("total_ms", s.total_ms...);
  visit("modelled_ms", s.modelled_ms...);
}

inline void Stats::add(const Stats& other) {
  visit_stats([](const char*, auto& sum, const auto& value) { sum += value; }, *this, other);
}

}  // namespace gsd
