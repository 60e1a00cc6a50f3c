// What a session or an engine did, as sums over its steps.
#pragma once

#include <array>
#include <concepts>
#include <cstdint>
#include <string_view>
#include <type_traits>

#include "gsd/types.h"

namespace gsd {

// Of one of several drafters.
struct DraftStats {
  std::string_view name;      // of the drafter; empty: there is none
  std::int64_t forwards = 0;  // as Stats::draft_forwards
  std::int64_t nodes = 0;     // as Stats::draft_nodes
  std::int64_t verified = 0;  // tree nodes that it named, alone or with others
  std::int64_t accepted = 0;  // of these
  double ms = 0;              // as Stats::draft_ms
};

// Times are wall-clock milliseconds.
struct Stats {
  std::int64_t steps = 0;
  std::int64_t emitted = 0;         // tokens generated
  std::int64_t drafted = 0;         // candidate nodes made by drafters
  std::int64_t merged = 0;          // merge edges: subtrees that were not drafted again
  std::int64_t verified = 0;        // tree nodes the target scored, roots not counted
  std::int64_t accepted = 0;        // tree nodes accepted
  std::int64_t draft_nodes = 0;     // tokens the drafters evaluated, pending ones included
  std::int64_t draft_forwards = 0;  // passes of drafters that this session took part in
  std::int64_t plain_steps = 0;     // steps that verified nothing
  double draft_ms = 0;              // in the drafters' forward passes
  double verify_ms = 0;             // in the target's forward passes
  double sequence_ms = 0;           // in keeping the backends' sequences in step
  double total_ms = 0;              // whole steps; the rest is the engine's own time
  double modelled_ms = 0;           // what the planner's cost models say of the draft's and the target's passes
  std::array<DraftStats, kMaxDrafters> drafter{};

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

template <typename Visit, typename... S>
requires(std::same_as<std::remove_const_t<S>, DraftStats>&&...) void visit_stats(Visit&& visit, S&... s) {
  visit("forwards", s.forwards...);
  visit("nodes", s.nodes...);
  visit("verified", s.verified...);
  visit("accepted", s.accepted...);
  visit("ms", s.ms...);
}

inline void Stats::add(const Stats& other) {
  const auto add = [](const char*, auto& sum, const auto& value) { sum += value; };
  visit_stats(add, *this, other);
  for (std::size_t d = 0; d < drafter.size() && !other.drafter[d].name.empty(); ++d) {
    drafter[d].name = other.drafter[d].name;
    visit_stats(add, drafter[d], other.drafter[d]);
  }
}

// Calls visit(name, drafter's sums) for each drafter that there is.
template <typename Visit>
void visit_drafters(Visit&& visit, const Stats& s) {
  for (const DraftStats& d : s.drafter)
    if (!d.name.empty()) visit(d.name, d);
}

}  // namespace gsd
