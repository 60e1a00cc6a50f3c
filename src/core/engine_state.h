// What is inside an engine. Files that measure, simulate or keep profiles look at it; everyone else uses gsd/engine.h.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "calibration.h"
#include "cost_model.h"
#include "gsd/engine.h"
#include "planner.h"
#include "prefix_cache.h"

namespace gsd {

// What an engine has learned while running, apart from what passes cost.
struct Learned {
  std::map<int, Calibration> calibrations;  // by tenths of the temperature, -1 for greedy
  Planner::Recent recent;
};

struct Engine::State {
  State(Backend& target, std::vector<std::unique_ptr<Drafter>> drafters, EngineOptions options);

  // Puts `other` in the place of what was learned and that into `other`: for measuring several ways to decode with one
  // engine, each with a memory of its own. REQUIRES: no session is open.
  void exchange(Learned& other);

  // Engine's functions of the same names.
  std::unique_ptr<Session> open(Engine& engine, SessionOptions options, std::span<const Token> prompt);
  void set_prompt(Session& s, std::span<const Token> prompt);
  bool forget_oldest();
  void forget(Session& s);
  void recall(Session& s);
  std::size_t recallable(const Session& s) const;
  Kept save_slot(std::int32_t slot);
  void restore_slot(std::int32_t slot, Kept kept);
  std::size_t erase_slot(std::int32_t slot);
  std::size_t prefill_left(const Session& s) const;
  std::size_t prefill(Session& s);
  void step(std::span<Session* const> sessions);

  struct Slot {
    bool taken = false;
    std::int64_t closed = 0;   // number of the session's end that left `kept` behind; 0 = none
    std::vector<Token> kept;   // what the target's memory still holds of it
    std::size_t n_prompt = 0;  // of that the prompt
    std::uint64_t client = 0;  // see SessionOptions, as what follows
    std::vector<float> adapters;

    bool is_of(const SessionOptions& o) const { return client == o.client && adapters == o.adapters; }
  };
  std::int32_t choose_slot(const SessionOptions& options, std::span<const Token> prompt) const;
  Slot& free_slot(std::int32_t slot);
  void store(std::int32_t slot, std::uint64_t client, const std::vector<float>& adapters,
             std::span<const Token> text) noexcept;
  void give_up(std::int32_t slot, std::size_t n) noexcept;
  PrefixCache::Found find_cached(const Session& s) const;
  void adapt(const Session& s);
  void release(Session& s) noexcept;
  void clear(std::int32_t slot);
  static int temperature_key(const SamplingParams& sampling);
  Calibration& calibration(const SamplingParams& sampling);
  void drop_leftovers(Session& s);
  bool prepare(Session& s);
  bool to_be_planned() const;
  double now() const { return now_ms(options_.clock); }
  void draft_all();
  void draft_as_told();
  bool draft_next();
  void probe_drafters();
  void choose_probed_session(int drafter);
  Planner::Level price(int drafter);
  int gather_roots(int drafter);
  int gather_frontier(int drafter);
  Planner::Ahead ahead(int drafter, int depth) const;
  void account_draft(int drafter, double start, int width);
  Drafter& at(int drafter) const { return *drafters_[static_cast<std::size_t>(drafter)]; }
  int n_drafters() const { return static_cast<int>(drafters_.size()); }
  std::size_t n_lacking(int drafter, const Session& s) const;
  void catch_up(int drafter, Session& s, std::size_t end);
  bool lags(int drafter, const Session& s) const;
  void catch_up_lagging(int drafter);
  bool draft_roots(int drafter);
  bool draft_level(int drafter);
  double sequence_ms() const;
  void choose_widths();
  void gather_trees();
  void verify();
  void account_verification(double commit_ms);
  void take(Session& s);
  void account(double total_ms, double sequence_ms);

  Backend& target_;
  std::vector<std::unique_ptr<Drafter>> drafters_;
  std::vector<std::shared_ptr<const Source>> sources_;
  EngineOptions options_;
  CostModel target_cost_;
  std::vector<CostModel> draft_costs_;  // of each drafter, at least one
  Planner planner_;
  std::map<int, Calibration> calibrations_;                    // see Learned
  std::map<int, std::array<int, kMaxDrafters>> draft_probes_;  // that each of them had, of each drafter
  std::unique_ptr<bool[]> is_eog_;
  std::vector<Slot> slots_;
  std::int64_t n_closed_ = 0;
  PrefixCache cache_;
  std::vector<float> adapted_;  // see Backend::adapt
  Stats stats_;

  // Work buffers of a step.
  std::vector<Session*> active_;
  std::vector<NodeInput> batch_;
  std::vector<Drafter::Root> roots_;
  std::vector<Drafter::Node> level_;
  std::vector<Planner::Item> items_;
  std::vector<std::int32_t> path_;
  double step_verify_ms_ = 0;
  double step_modelled_ms_ = 0;
  std::array<DraftStats, kMaxDrafters> step_drafter_;  // passes and their times
  DrafterSet step_rooted_ = 0;                         // whose roots are expanded
  DrafterSet step_out_ = 0;                            // who has nothing more to say in this step
  DrafterSet step_wanted_ = 0;                         // whom the planner, not a probe, asked for it
  bool step_caught_up_ = false;                        // a session that lagged has had its chunk
  bool step_planned_ = false;                          // the planner decides, not parameters set by hand
  bool step_probes_plain_ = false;
};

}  // namespace gsd
