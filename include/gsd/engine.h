// The engine: models shared by any number of sessions, advanced together.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "gsd/acceptance.h"
#include "gsd/backend.h"
#include "gsd/clock.h"
#include "gsd/drafter.h"
#include "gsd/hypotheses.h"
#include "gsd/sampling.h"
#include "gsd/stats.h"

namespace gsd {

class Calibration;
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
  // Whose text it is: memory is reused by the same client only, since the time that a prefix takes tells whether it was
  // there.
  std::uint64_t client = 0;
  std::int32_t slot = -1;       // the one to take; -1 = any
  std::vector<float> adapters;  // see Backend::adapt; sessions with others share neither a step nor memory
  std::optional<Constraint> constraint;
  std::vector<std::shared_ptr<const Source>> sources;  // to draw on, beside those of the engine
  std::function<bool(Token)> on_token;           // each emitted token, in order; false ends the generation after it
  std::function<void(const StepView&)> on_step;  // after each step, for traces
  // The target's logits after each token of the prompt but the last one, in order, while it is taken in. No prefix is
  // reused then.
  std::function<void(std::size_t index, std::span<const float> logits)> on_prompt_row;
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
  const SessionOptions& options() const { return options_; }
  std::int32_t slot() const { return slot_; }  // sequence of the backends, [0, n_seq)

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
  std::size_t n_rows_ = 0;  // handed to on_prompt_row
  bool begun_ = false;      // some of its prompt was taken in
  FinishReason finish_ = FinishReason::kNone;
  Acceptance acceptance_;
  Stats stats_;
  Stats step_;                     // of the step in progress
  DrafterSet drafting_ = 0;        // who drafts for it
  float source_probability_ = -1;  // see Hypotheses; -1: not asked for yet
  int n_chosen_ = 0;
  int depth_limit_ = 0;
  std::int32_t first_row_ = 0;
  int pass_nodes_ = 0;  // tokens of this session in the drafter's pass in progress
};

struct EngineOptions {
  bool exact = false;        // emit only what was computed in the order of plain decoding (see docs/architecture.md)
  int prefill_chunk = 256;   // prompt tokens of one forward pass
  int max_total_width = 64;  // tokens that one verification scores over all sessions, the roots included
  // A closed session's slot keeps its memory for the next prompt that begins alike (not in exact mode). Passes over
  // other sequences in the same context get a little slower by it: attention walks over the kept cells.
  bool keep_prefixes = false;
  // Bytes of main memory for what such slots had to give up, see Engine::recall; 0 = none.
  std::size_t cache_bytes = 0;
  Clock clock = {};  // what passes and steps are timed by
};

// Holds the models and what is learned about them; steps sessions. One thread owns an engine and its sessions.
class Engine {
 public:
  // Without drafters only sources are drawn on. Where there are several, the planner chooses in every step whom to ask;
  // a mode set by hand asks all of them, and a chain the first. The target must outlive the engine and is used by it
  // alone. Throws Error(kPairMismatch) if a drafter has fewer sequences or a shorter context than the target,
  // Error(kUsage) for more than kMaxDrafters.
  Engine(Backend& target, std::vector<std::unique_ptr<Drafter>> drafters, EngineOptions options);
  // The same with one drafter; null for none.
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
  // Throws Error(kUsage) for parameters out of range, for more sources than Hypotheses::kMaxShared with those of the
  // engine, and if all slots, or the one asked for, are taken.
  std::unique_ptr<Session> open(SessionOptions options, std::span<const Token> prompt = {});

  // Replaces the session's text by `prompt`; the memory of the common prefix, also that of a session closed before
  // (EngineOptions::keep_prefixes), is kept (not in exact mode). The
  // generation starts anew, the constraint is reset. Throws Error(kUsage) for an empty prompt, Error(kContextFull) for
  // one that is too long.
  void set_prompt(Session& session, std::span<const Token> prompt);
  // Gives up the memory of the free slot unused for longest; false if none of them has any. For who shares positions
  // among sessions (ContextOptions::n_shared), as the next one.
  bool forget_oldest();
  // Gives up the session's memory. Its text stays: once prefilled again it goes on.
  void forget(Session& session);

  // Puts back from main memory what a slot had to give up of a text that begins like the session's, where that is worth
  // it: more than the slot has, and enough to pay for the copy. Without it, or where there is no room, prefill()
  // computes it again. For who calls it before prefill(), with EngineOptions::cache_bytes.
  void recall(Session& session);
  // Positions that recall() needs; 0 = nothing is worth it.
  std::size_t recallable(const Session& session) const;

  // What a free slot keeps, with its client and adapters.
  struct Kept {
    std::uint64_t client = 0;
    std::vector<float> adapters;
    std::vector<Token> text;
    SavedPrefix state;
  };
  // Throw Error(kUsage) for a slot that is taken (or none), save() also Error(kModelUnsupported) if its memory cannot
  // be copied, restore() Error(kOutOfMemory) if it cannot be put back: the slot is empty then. save(): nothing is kept,
  // so the text is empty. None of them in exact mode, which keeps nothing.
  Kept save_slot(std::int32_t slot);
  void restore_slot(std::int32_t slot, Kept kept);
  std::size_t erase_slot(std::int32_t slot);  // returns the tokens it kept
  bool is_taken(std::int32_t slot) const;

  // Tokens of the prompt that prefill() has still to take in.
  std::size_t prefill_left(const Session& session) const;
  // Takes in at most one chunk of the prompt, in each of the models, and returns what is left for the target. A
  // backend's error passes through; the session can then be prefilled again.
  std::size_t prefill(Session& session);

  // Advances every session of the list by at least one token, or finishes it.
  // A mode set by hand is obeyed where every session of the list asks for the same; in other company it sets the shape
  // and the limits, and the planner shares levels and width among all by gain, so that nobody's wish slows the others.
  // REQUIRES: none is finished, no session stands twice in the list. Throws Error(kUsage) if one is not prefilled or
  // has other adapters than the first. A backend's error, or what a callback throws, passes through: the sessions keep
  // their text and can be prefilled and stepped again.
  void step(std::span<Session* const> sessions);

  Backend& target();
  std::span<const std::unique_ptr<Drafter>> drafters() const;
  const EngineOptions& options() const;
  const Stats& stats() const;  // over all sessions and steps; shared passes are counted once
  void reset_stats();

  // What is inside: what it has learned and what passes cost (core/engine_state.h). For the programs of this project
  // that measure, simulate, and keep profiles.
  struct State;
  State& state() { return *state_; }

 private:
  friend class Session;
  std::unique_ptr<State> state_;
};

// Takes in what is left of the sessions' prompts and steps them together until each is finished: then true.
// `go_on` is asked before every pass, with the tokens that its session's prompt still lacks, 0 before steps; where it
// says no, false. May be empty. REQUIRES: each has a prompt. Throws what prefill() and step() throw.
using GoOn = std::function<bool(std::size_t left)>;
bool run_to_end(Engine& engine, std::span<Session* const> sessions, const GoOn& go_on = {});
bool run_to_end(Engine& engine, Session& session, const GoOn& go_on = {});

}  // namespace gsd
