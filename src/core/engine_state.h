// What is inside an engine. Files that measure, simulate or keep profiles look at it; everyone else uses gsd/engine.h.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "calibration.h"
#include "cost_model.h"
#include "gsd/engine.h"
#include "planner.h"

namespace gsd {

// What an engine has learned while running, apart from what passes cost.
struct Learned {
  std::map<int, Calibration> calibrations;  // by tenths of the temperature, -1 for greedy
  Planner::Recent recent;
};

struct Engine::State {
  State(Backend& target, std::unique_ptr<Drafter> drafter, EngineOptions options);

  // Puts `other` in the place of what was learned and that into `other`: for measuring several ways to decode with one
  // engine, each with a memory of its own. REQUIRES: no session is open.
  void exchange(Learned& other);

  // Engine's functions of the same names.
  std::unique_ptr<Session> open(Engine& engine, SessionOptions options, std::span<const Token> prompt);
  void set_prompt(Session& s, std::span<const Token> prompt);
  bool forget_oldest();
  void forget(Session& s);
  std::size_t prefill_left(const Session& s) const;
  std::size_t prefill(Session& s);
  void step(std::span<Session* const> sessions);

  struct Slot {
    bool taken = false;
    std::int64_t closed = 0;  // number of the session's end that left `kept` behind; 0 = none
    std::vector<Token> kept;  // what the target's memory still holds of it
  };
  std::int32_t choose_slot(std::span<const Token> prompt) const;
  void release(Session& s) noexcept;
  void clear(std::int32_t slot);
  static int temperature_key(const SamplingParams& sampling);
  Calibration& calibration(const SamplingParams& sampling);
  void drop_leftovers(Session& s);
  bool prepare(Session& s);
  bool to_be_planned() const;
  double now() const { return now_ms(options_.clock); }
  void draft_all();
  void choose_drafting_sessions();
  void choose_probed_session();
  Planner::Ahead ahead(int depth) const;
  void account_draft(double start, int width);
  std::size_t n_lacking(const Session& s) const;
  void catch_up(Session& s, std::size_t end);
  bool lags(const Session& s) const;
  bool draft_roots();
  bool draft_level();
  void choose_widths();
  void gather_trees();
  void verify();
  void account_verification(double commit_ms);
  void take(Session& s);
  void account(double total_ms, double sequence_ms);

  Backend& target_;
  std::unique_ptr<Drafter> drafter_;
  std::vector<std::shared_ptr<const Source>> sources_;
  EngineOptions options_;
  CostModel target_cost_;
  CostModel draft_cost_;
  Planner planner_;
  std::map<int, Calibration> calibrations_;  // see Learned
  std::map<int, int> draft_probes_;          // that each of them had
  std::unique_ptr<bool[]> is_eog_;
  std::vector<Slot> slots_;
  std::int64_t n_closed_ = 0;
  Stats stats_;

  // Work buffers of a step.
  std::vector<Session*> active_;
  std::vector<NodeInput> batch_;
  std::vector<Drafter::Root> roots_;
  std::vector<Drafter::Node> level_;
  std::vector<Planner::Item> items_;
  std::vector<std::int32_t> path_;
  double step_draft_ms_ = 0;
  double step_verify_ms_ = 0;
  double step_modelled_ms_ = 0;
  int step_draft_forwards_ = 0;
  bool step_wanted_ = false;
  bool step_planned_ = false;  // the planner decides, not parameters set by hand
  bool step_probes_plain_ = false;
};

}  // namespace gsd
