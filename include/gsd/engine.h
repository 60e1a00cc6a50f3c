// The engine: models shared by any number of sessions, advanced together.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "gsd/acceptance.h"
#include "gsd/backend.h"
#include "gsd/calibration.h"
#include "gsd/drafter.h"
#include "gsd/hypotheses.h"
#include "gsd/planner.h"
#include "gsd/sampling.h"
#include "gsd/stats.h"

namespace gsd {

class Engine;
class Session;

// One step of one session as Session::on_step sees it. The references are valid during the call.
struct StepView {
  const Session& session;
  const Hypotheses& hypotheses;
  const Acceptance& acceptance;
  const Stats& stats;  // of this step
  const Backend& target;
  std::int32_t first_row;  // row of the tree's root in `target`'s last pass

  // The target's logits [n_vocab] that emitted token `i` was drawn from, [0, acceptance.token.size()).
  std::span<const float> logits(std::size_t i) const {
    return target.logits(first_row + (i == 0 ? 0 : acceptance.path[i - 1]));
  }
};

struct SessionOptions {
  SpeculationParams speculation;
  SamplingParams sampling;
  std::int64_t max_tokens = -1;  // tokens to generate; -1 = until the context is full
  bool ignore_eog = false;       // go on after an end-of-generation token
  bool reuse_prefix = true;  // use the memory of a common prefix, and leave one behind (EngineOptions::keep_prefixes)
  std::optional<Constraint> constraint;
  std::function<bool(Token)> on_token;           // each emitted token, in order; false ends the generation after it
  std::function<void(const StepView&)> on_step;  // after each step, for traces
};

// One sequence being generated. Made by Engine::open, which must outlive it; gives its slot back when destroyed.
// Used by the thread that steps the engine.
class Session {
 public:
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  std::span<const Token> tokens() const { return tokens_; }  // prompt and generated
  std::size_t n_prompt() const { return n_prompt_; }
  std::span<const Token> generated() const { return std::span(tokens_).subspan(n_prompt_); }
  FinishReason finish() const { return finish_; }
  bool finished() const { return finish_ != FinishReason::kNone; }
  const Stats& stats() const { return stats_; }
  // What the last step emitted, with the margins of the draws.
  const Acceptance& last() const { return acceptance_; }
  std::size_t n_reused() const { return n_reused_; }  // prompt tokens whose memory was kept by set_prompt
  std::int32_t slot() const { return slot_; }         // sequence of the backends, [0, n_seq)

 private:
  friend class Engine;
  Session(Engine& engine, std::int32_t slot, SessionOptions options, Calibration& calibration);

  Engine& engine_;
  std::int32_t slot_;
  SessionOptions options_;
  Sampler sampler_;
  Hypotheses hypotheses_;
  std::vector<Token> tokens_;
  std::size_t n_prompt_ = 0;
  std::size_t n_reused_ = 0;
  FinishReason finish_ = FinishReason::kNone;
  Acceptance acceptance_;
  Stats stats_;
  Stats step_;  // of the step in progress
  bool wants_draft_ = false;
  int n_chosen_ = 0;
  int depth_limit_ = 0;
  std::int32_t first_row_ = 0;
  int level_nodes_ = 0;  // tokens of this session in the pass in progress
};

struct EngineOptions {
  bool exact = false;        // emit only what was computed in the order of plain decoding (see docs/architecture.md)
  int prefill_chunk = 256;   // prompt tokens of one forward pass
  int max_total_width = 64;  // tokens that one verification scores over all sessions, the roots included
  // A closed session's slot keeps its memory for the next prompt that begins alike (not in exact mode). Passes over
  // other sequences in the same context get a little slower by it: attention walks over the kept cells.
  bool keep_prefixes = false;
  Clock clock = {};  // what passes and steps are timed by
};

// What an engine has learned while running, apart from what passes cost.
struct Learned {
  std::map<int, Calibration> calibrations;  // by tenths of the temperature, -1 for greedy
  Planner::Recent recent;
};

// Holds the models and what is learned about them; steps sessions. One thread owns an engine and its sessions.
class Engine {
 public:
  // Without a drafter only sources are drawn on. The target must outlive the engine and is used by it alone.
  // Throws Error(kPairMismatch) if the drafter has fewer sequences or a shorter context than the target.
  explicit Engine(Backend& target, std::unique_ptr<Drafter> drafter = {}, EngineOptions options = {});
  // The same with the drafter of a language model, which must outlive the engine too and is used by it alone; null for
  // none.
  Engine(Backend& target, Backend* draft, EngineOptions options = {});
  ~Engine();

  // A store that every session opened from now on draws on, beside its own history. Throws Error(kUsage) for more than
  // Hypotheses::kMaxShared.
  void add_source(std::shared_ptr<const Source> source);

  // Takes a free slot: of those whose memory is kept the one that begins like `prompt` (which set_prompt is still to be
  // given) in at least a tenth of it, otherwise the one unused for longest.
  // Throws Error(kUsage) for parameters out of range, and if all slots are taken.
  std::unique_ptr<Session> open(SessionOptions options, std::span<const Token> prompt = {});

  // Replaces the session's text by `prompt`; the memory of the common prefix, also that of a session closed before
  // (EngineOptions::keep_prefixes), is kept (not in exact mode). The
  // generation starts anew, the constraint is reset. Throws Error(kUsage) for an empty prompt, Error(kContextFull) for
  // one that is too long.
  void set_prompt(Session& session, std::span<const Token> prompt);
  // Tokens of the prompt that prefill() has still to take in.
  std::size_t prefill_left(const Session& session) const;
  // Takes in at most one chunk of the prompt, in each of the models, and returns what is left for the target. A
  // backend's error passes through; the session can then be prefilled again.
  std::size_t prefill(Session& session);

  // Advances every session of the list by at least one token, or finishes it.
  // A mode set by hand is obeyed where every session of the list asks for the same; in other company it sets the shape
  // and the limits, and the planner shares levels and width among all by gain, so that nobody's wish slows the others.
  // REQUIRES: none is finished, no session stands twice in the list. Throws Error(kUsage) if one is not prefilled.
  // A backend's error, or what a callback throws, passes through: the sessions keep their text and can be prefilled
  // and stepped again.
  void step(std::span<Session* const> sessions);

  // Puts `other` in the place of what was learned and that into `other`: for measuring several ways to decode with one
  // engine, each with a memory of its own. REQUIRES: no session is open.
  void exchange(Learned& other);

  Planner& planner() { return planner_; }
  const std::map<int, Calibration>& calibrations() const { return calibrations_; }  // see Learned
  Backend& target() { return target_; }
  Drafter* drafter() { return drafter_.get(); }  // null without one
  const EngineOptions& options() const { return options_; }
  const Stats& stats() const { return stats_; }  // over all sessions and steps; shared passes are counted once
  void reset_stats() { stats_ = {}; }

 private:
  friend class Session;
  struct Slot {
    bool taken = false;
    std::int64_t closed = 0;  // number of the session's end that left `kept` behind; 0 = none
    std::vector<Token> kept;  // what the target's memory still holds of it
  };
  std::int32_t choose_slot(std::span<const Token> prompt) const;
  void release(Session& s) noexcept;
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
  std::map<const Calibration*, int> draft_probes_;
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

// Takes in what is left of the sessions' prompts and steps them together until each is finished: then true.
// `go_on` is asked before every pass, with the tokens that its session's prompt still lacks, 0 before steps; where it
// says no, false. May be empty. REQUIRES: each has a prompt. Throws what prefill() and step() throw.
using GoOn = std::function<bool(std::size_t left)>;
bool run_to_end(Engine& engine, std::span<Session* const> sessions, const GoOn& go_on = {});
bool run_to_end(Engine& engine, Session& session, const GoOn& go_on = {});

}  // namespace gsd
