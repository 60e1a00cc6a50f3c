#include <algorithm>
#include <cassert>
#include <cmath>
#include <string>
#include <utility>

#include "engine_state.h"
#include "gsd/error.h"

namespace gsd {

namespace {

// A target that cannot branch verifies chains: the draft's further candidates would cost passes and be left out.
SpeculationParams for_target(SpeculationParams p, const BackendInfo& target) {
  if (target.max_leaves == 1) p.top_k = 1;
  return p;
}

std::vector<std::unique_ptr<Drafter>> list_of(std::unique_ptr<Drafter> drafter) {
  std::vector<std::unique_ptr<Drafter>> list;
  if (drafter) list.push_back(std::move(drafter));
  return list;
}

}  // namespace

Session::Session(Engine& engine, std::int32_t slot, SessionOptions options, Calibration& calibration)
    : engine_(engine),
      slot_(slot),
      options_(std::move(options)),
      sampler_(options_.sampling),
      hypotheses_(for_target(options_.speculation, engine.state_->target_.info()), sampler_, calibration,
                  {engine.state_->is_eog_.get(), static_cast<std::size_t>(engine.state_->target_.info().n_vocab)},
                  engine.state_->target_.info().n_ctx, options_.sources) {
  const auto n_ctx = static_cast<std::size_t>(engine.state_->target_.info().n_ctx);
  tokens_.reserve(n_ctx + 1);
  acceptance_.path.reserve(64);
  acceptance_.token.reserve(65);
  acceptance_.margin.reserve(65);
  acceptance_.tentative.reserve(65);
}

Session::~Session() { engine_.state_->release(*this); }

Engine::Engine(Backend& target, Backend* draft, EngineOptions options)
    : Engine(target, draft != nullptr ? make_model_drafter(*draft, target.info().n_vocab) : nullptr,
             std::move(options)) {}

Engine::State::State(Backend& target, std::vector<std::unique_ptr<Drafter>> drafters, EngineOptions options)
    : target_(target),
      drafters_(std::move(drafters)),
      options_(std::move(options)),
      target_cost_(std::max(1, options_.max_total_width)),
      draft_costs_(std::max<std::size_t>(1, drafters_.size()), CostModel(128)),
      planner_(target_cost_, draft_costs_, target.info().feeds_again),
      cache_(options_.keep_prefixes && !options_.exact ? options_.cache_bytes : 0) {
  const BackendInfo& t = target.info();
  if (options_.prefill_chunk < 1 || options_.max_total_width < 1) {
    throw Error(ErrorCode::kUsage, "The prefill chunk and the total width must be at least 1.");
  }
  options_.max_total_width = std::min({options_.max_total_width, t.max_batch, t.max_outputs});
  options_.prefill_chunk = std::min(options_.prefill_chunk, t.max_batch);
  if (drafters_.size() > kMaxDrafters)
    throw Error(ErrorCode::kUsage, "An engine takes at most " + std::to_string(kMaxDrafters) + " drafters.");
  for (const auto& drafter : drafters_) {
    const DrafterInfo& d = drafter->info();
    if (d.n_seq < t.n_seq || d.n_ctx < t.n_ctx) {
      throw Error(ErrorCode::kPairMismatch,
                  "The draft model's context (" + std::to_string(d.n_seq) + " sequences of " + std::to_string(d.n_ctx) +
                      " tokens) is smaller than the target's; create both with the same sizes.");
    }
  }
  is_eog_ = std::make_unique<bool[]>(static_cast<std::size_t>(t.n_vocab));
  for (Token i = 0; i < t.n_vocab; ++i) is_eog_[static_cast<std::size_t>(i)] = target.is_eog(i);
  slots_.resize(static_cast<std::size_t>(t.n_seq));
  batch_.reserve(static_cast<std::size_t>(t.max_batch));
  roots_.reserve(static_cast<std::size_t>(t.n_seq));
  level_.reserve(1024);
  active_.reserve(static_cast<std::size_t>(t.n_seq));
  items_.reserve(1024);
  path_.reserve(static_cast<std::size_t>(t.max_batch));
}

Engine::Engine(Backend& target, std::vector<std::unique_ptr<Drafter>> drafters, EngineOptions options)
    : state_(std::make_unique<State>(target, std::move(drafters), std::move(options))) {}

Engine::Engine(Backend& target, std::unique_ptr<Drafter> drafter, EngineOptions options)
    : Engine(target, list_of(std::move(drafter)), std::move(options)) {}

Engine::~Engine() = default;

std::unique_ptr<Session> Engine::open(SessionOptions options, std::span<const Token> prompt) {
  return state_->open(*this, std::move(options), prompt);
}
void Engine::set_prompt(Session& session, std::span<const Token> prompt) { state_->set_prompt(session, prompt); }
bool Engine::forget_oldest() { return state_->forget_oldest(); }
void Engine::forget(Session& session) { state_->forget(session); }
void Engine::recall(Session& session) { state_->recall(session); }
std::size_t Engine::recallable(const Session& session) const { return state_->recallable(session); }
Engine::Kept Engine::save_slot(std::int32_t slot) { return state_->save_slot(slot); }
void Engine::restore_slot(std::int32_t slot, Kept kept) { state_->restore_slot(slot, std::move(kept)); }
std::size_t Engine::erase_slot(std::int32_t slot) { return state_->erase_slot(slot); }
bool Engine::is_taken(std::int32_t slot) const { return state_->slots_.at(static_cast<std::size_t>(slot)).taken; }
std::size_t Engine::prefill_left(const Session& session) const { return state_->prefill_left(session); }
std::size_t Engine::prefill(Session& session) { return state_->prefill(session); }
void Engine::step(std::span<Session* const> sessions) { state_->step(sessions); }
Backend& Engine::target() { return state_->target_; }
std::span<const std::unique_ptr<Drafter>> Engine::drafters() const { return state_->drafters_; }
const EngineOptions& Engine::options() const { return state_->options_; }
const Stats& Engine::stats() const { return state_->stats_; }
void Engine::reset_stats() { state_->stats_ = {}; }

int Engine::State::temperature_key(const SamplingParams& sampling) {
  return sampling.greedy() ? -1 : static_cast<int>(std::lround(sampling.temperature * 10));
}

Calibration& Engine::State::calibration(const SamplingParams& sampling) {
  return calibrations_.try_emplace(temperature_key(sampling), sampling.greedy()).first->second;
}

void Engine::State::exchange(Learned& other) {
  assert(std::none_of(slots_.begin(), slots_.end(), [](const Slot& s) { return s.taken; }));
  std::swap(calibrations_, other.calibrations);
  const Planner::Recent recent = planner_.recent();
  planner_.set_recent(other.recent);
  other.recent = recent;
}

void Engine::add_source(std::shared_ptr<const Source> source) {
  if (state_->sources_.size() == Hypotheses::kMaxShared)
    throw Error(ErrorCode::kUsage, "An engine takes at most " + std::to_string(Hypotheses::kMaxShared) + " sources.");
  state_->sources_.push_back(std::move(source));
}

std::int32_t Engine::State::choose_slot(const SessionOptions& options, std::span<const Token> prompt) const {
  std::int32_t best = -1;
  std::int32_t best_common = 0;
  // What the cache has more of goes to the slot unused for longest.
  const std::int32_t cached = cache_.find(options.client, options.adapters, prompt, 0).n;
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    const Slot& slot = slots_[i];
    if (slot.taken) continue;
    std::int32_t common = slot.is_of(options) ? n_common(slot.kept, prompt) : 0;
    // A shared begin-of-text token is no reason to give up what another slot remembers.
    if (common * std::int64_t{10} < std::ssize(prompt) || common + PrefixCache::kLeast <= cached) common = 0;
    if (best < 0 || common > best_common ||
        (common == best_common && slot.closed < slots_[static_cast<std::size_t>(best)].closed)) {
      best = static_cast<std::int32_t>(i);
      best_common = common;
    }
  }
  return best;
}

std::unique_ptr<Session> Engine::State::open(Engine& engine, SessionOptions options, std::span<const Token> prompt) {
  validate(options.speculation);
  validate(options.sampling);
  if (options.on_prompt_row) options.reuse_prefix = false;
  if (options.slot >= 0) free_slot(options.slot);
  const std::int32_t slot = options.slot >= 0 ? options.slot : choose_slot(options, prompt);
  if (slot < 0) {
    throw Error(ErrorCode::kUsage, "All " + std::to_string(slots_.size()) +
                                       " sequences are in use; close a session or create the engine with more.");
  }
  options.sources.insert(options.sources.begin(), sources_.begin(), sources_.end());
  if (options.sources.size() > Hypotheses::kMaxShared)
    throw Error(ErrorCode::kUsage, "A session takes at most " + std::to_string(Hypotheses::kMaxShared) +
                                       " sources, those of its engine included.");
  Calibration& c = calibration(options.sampling);
  draft_probes_.try_emplace(temperature_key(options.sampling));  // here, since a step allocates nothing
  std::unique_ptr<Session> session(new Session(engine, slot, std::move(options), c));
  slots_[static_cast<std::size_t>(slot)].taken = true;
  return session;
}

// Called by a destructor: whatever fails here costs what the slot remembers and nothing else.
void Engine::State::release(Session& s) noexcept {
  Slot& slot = slots_[static_cast<std::size_t>(s.slot_)];
  if (!slot.taken) return;  // the constructor failed
  slot.taken = false;
  if (options_.keep_prefixes && s.tokens_.empty()) return;  // no prompt was set: the slot is as it was
  try {
    if (options_.keep_prefixes && !options_.exact && s.options_.reuse_prefix) {
      drop_leftovers(s);
      slot.kept.assign(s.tokens_.begin(), s.tokens_.begin() + target_.n_committed(s.slot_));
      slot.n_prompt = s.n_prompt_;
      slot.client = s.options_.client;
      slot.adapters = std::move(s.options_.adapters);
      slot.closed = ++n_closed_;
      return;
    }
    clear(s.slot_);
  } catch (...) {
    slot.kept.clear();  // set_prompt() then keeps nothing
  }
  slot.closed = 0;  // nothing is lost by taking it
}

void Engine::State::set_prompt(Session& s, std::span<const Token> prompt) {
  const BackendInfo& info = target_.info();
  if (prompt.empty()) throw Error(ErrorCode::kUsage, "The prompt is empty; give at least one token.");
  if (static_cast<std::int64_t>(prompt.size()) > info.n_ctx) {
    throw Error(ErrorCode::kContextFull, "The prompt has " + std::to_string(prompt.size()) +
                                             " tokens and the context holds " + std::to_string(info.n_ctx) +
                                             "; shorten the prompt or raise the context size.");
  }
  for (const Token t : prompt) {
    if (t < 0 || t >= info.n_vocab)
      throw Error(ErrorCode::kUsage,
                  "The prompt holds token " + std::to_string(t) + ", which is not in the vocabulary.");
  }
  Slot& slot = slots_[static_cast<std::size_t>(s.slot_)];
  const std::vector<Token>& before = s.tokens_.empty() ? slot.kept : s.tokens_;
  // The last prompt token is scored again: its logits were not kept. Exact mode computes everything in one order.
  const std::int32_t common =
      options_.exact || !s.options_.reuse_prefix || (s.tokens_.empty() && !slot.is_of(s.options_))
          ? 0
          : n_common(before, prompt.first(prompt.size() - 1));
  give_up(s.slot_, static_cast<std::size_t>(common));
  s.n_reused_ = static_cast<std::size_t>(target_.truncate(s.slot_, std::min(common, target_.n_committed(s.slot_))));
  for (const auto& d : drafters_) d->truncate(s.slot_, common);
  slot.kept.clear();
  s.begun_ = false;
  s.n_rows_ = 0;
  s.tokens_.assign(prompt.begin(), prompt.end());
  s.n_prompt_ = prompt.size();
  s.finish_ = FinishReason::kNone;
  if (s.options_.constraint && s.options_.constraint->reset) s.options_.constraint->reset();
  s.hypotheses_.forget();
  for (const Token t : prompt) s.hypotheses_.remember(t);
}

void Engine::State::clear(std::int32_t slot) {
  target_.truncate(slot, 0);
  for (const auto& d : drafters_) d->truncate(slot, 0);
}

bool Engine::State::forget_oldest() {
  std::int32_t oldest = -1;
  for (std::int32_t i = 0; i < static_cast<std::int32_t>(slots_.size()); ++i) {
    const Slot& slot = slots_[static_cast<std::size_t>(i)];
    if (slot.taken || target_.n_committed(i) == 0) continue;
    if (oldest < 0 || slot.closed < slots_[static_cast<std::size_t>(oldest)].closed) oldest = i;
  }
  if (oldest < 0) return false;
  give_up(oldest, 0);
  slots_[static_cast<std::size_t>(oldest)].kept.clear();
  slots_[static_cast<std::size_t>(oldest)].closed = 0;
  clear(oldest);
  return true;
}

void Engine::State::forget(Session& s) {
  drop_leftovers(s);
  if (s.options_.reuse_prefix)
    store(s.slot_, s.options_.client, s.options_.adapters,
          std::span(s.tokens_).first(static_cast<std::size_t>(target_.n_committed(s.slot_))));
  clear(s.slot_);
}

// Puts what the slot's memory holds of `text` into the cache, where it can be had; nothing is lost but that if not.
void Engine::State::store(std::int32_t slot, std::uint64_t client, const std::vector<float>& adapters,
                          std::span<const Token> text) noexcept try {
  if (!cache_.on() || std::ssize(text) < PrefixCache::kLeast || cache_.holds(client, adapters, text)) return;
  std::optional<SavedPrefix> state = target_.save(slot, cache_.most_bytes());
  if (!state || state->n < PrefixCache::kLeast) return;
  const auto end = text.begin() + state->n;
  cache_.add({client, adapters, {text.begin(), end}, std::move(*state)});
} catch (...) {  // no memory for it
}

// A free slot is about to lose what it keeps after its first `n` tokens. An answer that the next prompt does not repeat
// will not come again, but a prompt may.
void Engine::State::give_up(std::int32_t i, std::size_t n) noexcept {
  const Slot& slot = slots_[static_cast<std::size_t>(i)];
  if (n + PrefixCache::kLeast > std::min(slot.n_prompt, slot.kept.size())) return;
  store(i, slot.client, slot.adapters, slot.kept);
}

PrefixCache::Found Engine::State::find_cached(const Session& s) const {
  if (!s.options_.reuse_prefix || s.tokens_.empty()) return {};
  return cache_.find(s.options_.client, s.options_.adapters, std::span(s.tokens_).first(s.tokens_.size() - 1),
                     target_.n_committed(s.slot_));
}

std::size_t Engine::State::recallable(const Session& s) const {
  const PrefixCache::Found found = find_cached(s);
  return found.kept != nullptr ? found.kept->text.size() : 0;
}

void Engine::State::recall(Session& s) {
  const PrefixCache::Found found = find_cached(s);
  if (found.kept == nullptr) return;
  drop_leftovers(s);
  adapt(s);
  const auto text = std::span(found.kept->text).first(static_cast<std::size_t>(found.n));
  if (target_.restore(s.slot_, found.kept->state, text) == found.n) {
    cache_.use(found);
  } else {
    cache_.drop(found);  // so that it is not tried with every chunk
  }
  if (!s.begun_) s.n_reused_ = static_cast<std::size_t>(target_.n_committed(s.slot_));
}

Engine::State::Slot& Engine::State::free_slot(std::int32_t slot) {
  if (slot < 0 || slot >= std::ssize(slots_)) throw Error(ErrorCode::kUsage, "There is no such slot.");
  Slot& out = slots_[static_cast<std::size_t>(slot)];
  if (out.taken) throw Error(ErrorCode::kUsage, "The slot is in use.");
  return out;
}

Engine::Kept Engine::State::save_slot(std::int32_t i) {
  const Slot& slot = free_slot(i);
  if (slot.kept.empty()) return {};
  std::optional<SavedPrefix> state = target_.save(i, SIZE_MAX);
  if (!state) throw Error(ErrorCode::kModelUnsupported, "The memory of this model's slots cannot be copied.");
  const auto end = slot.kept.begin() + state->n;
  return {slot.client, slot.adapters, {slot.kept.begin(), end}, std::move(*state)};
}

void Engine::State::restore_slot(std::int32_t i, Kept kept) {
  Slot& slot = free_slot(i);
  give_up(i, 0);
  erase_slot(i);
  if (target_.restore(i, kept.state, kept.text) != kept.state.n)
    throw Error(ErrorCode::kOutOfMemory, "The saved text cannot be put back; there may be no room for it.");
  slot.n_prompt = kept.text.size();
  slot.kept = std::move(kept.text);
  slot.client = kept.client;
  slot.adapters = std::move(kept.adapters);
  slot.closed = ++n_closed_;
}

std::size_t Engine::State::erase_slot(std::int32_t i) {
  Slot& slot = free_slot(i);
  const std::size_t n = std::exchange(slot.kept, {}).size();
  slot.closed = 0;
  clear(i);
  return n;
}

// Sees to it that the session's adapters act.
void Engine::State::adapt(const Session& s) {
  if (s.options_.adapters == adapted_) return;
  target_.adapt(s.options_.adapters);
  adapted_ = s.options_.adapters;
}

std::size_t Engine::State::prefill_left(const Session& s) const {
  if (s.tokens_.empty()) return 0;
  return s.tokens_.size() - 1 - std::min(s.tokens_.size() - 1, static_cast<std::size_t>(target_.n_committed(s.slot_)));
}

std::size_t Engine::State::prefill(Session& s) {
  const std::size_t left = prefill_left(s);
  if (left == 0) return 0;
  drop_leftovers(s);
  const std::size_t from = s.tokens_.size() - 1 - left;
  const bool rows = s.options_.on_prompt_row && s.n_rows_ + 1 < s.n_prompt_;
  const int most = rows ? std::min(options_.prefill_chunk, target_.info().max_outputs) : options_.prefill_chunk;
  const std::size_t to = from + std::min(left, static_cast<std::size_t>(most));
  batch_.clear();
  path_.clear();
  for (std::size_t i = from; i < to; ++i) {
    const auto index = static_cast<std::int32_t>(i - from);
    batch_.push_back({s.slot_, s.tokens_[i], index - 1, rows, true});
    path_.push_back(index);
  }
  s.begun_ = true;
  adapt(s);
  target_.forward(batch_);
  // Those of a text that is taken in again were handed out before.
  for (; rows && s.n_rows_ < to && s.n_rows_ + 1 < s.n_prompt_; ++s.n_rows_)
    s.options_.on_prompt_row(s.n_rows_, target_.logits(static_cast<std::int32_t>(s.n_rows_ - from)));
  target_.commit(s.slot_, path_);
  // The drafters take as much, so that nobody waits for more; what they lack then they take in between the steps.
  for (int d = 0; d < n_drafters() && s.options_.speculation.mode != Mode::kPlain; ++d) catch_up(d, s, to);
  return prefill_left(s);
}

// A step that failed half-way may have left speculative nodes, and the root in the draft's memory, where it is fed
// anew.
void Engine::State::drop_leftovers(Session& s) {
  if (target_.n_speculative(s.slot_) > 0) target_.commit(s.slot_, {});
  for (const auto& d : drafters_) d->truncate(s.slot_, static_cast<std::int32_t>(s.tokens_.size()) - 1);
}

// Readies a session for the step; false if it finished instead.
bool Engine::State::prepare(Session& s) {
  if (s.tokens_.empty() || prefill_left(s) > 0)
    throw Error(ErrorCode::kUsage, "A session must have a prompt and be prefilled before it is stepped.");
  s.step_ = {};
  s.acceptance_.clear();
  s.drafting_ = 0;
  s.source_probability_ = -1;
  s.n_chosen_ = 0;
  drop_leftovers(s);
  const std::int64_t generated = static_cast<std::int64_t>(s.generated().size());
  const std::int64_t left = s.options_.max_tokens < 0 ? target_.info().n_ctx : s.options_.max_tokens - generated;
  const std::int64_t room = target_.info().n_ctx - target_.n_committed(s.slot_) - 1;  // positions below the root
  if (room < 0) s.finish_ = FinishReason::kContextFull;
  if (left <= 0) s.finish_ = FinishReason::kLength;
  if (s.finished()) return false;
  const bool plain = s.options_.speculation.mode == Mode::kPlain;
  const std::int64_t deepest = target_.info().max_leaves > 1 ? 64 : std::min(64, target_.info().max_rollback);
  s.depth_limit_ = plain ? 0 : static_cast<int>(std::min({left - 1, room, deepest}));
  s.hypotheses_.begin(s.tokens_, static_cast<std::uint32_t>(generated));
  return true;
}

void Engine::State::step(std::span<Session* const> sessions) {
  for (std::size_t i = 0; i < sessions.size(); ++i)
    assert(!sessions[i]->finished() && std::find(sessions.begin(), sessions.begin() + static_cast<std::ptrdiff_t>(i),
                                                 sessions[i]) == sessions.begin() + static_cast<std::ptrdiff_t>(i));
  const double start = now();
  step_verify_ms_ = step_modelled_ms_ = 0;
  step_rooted_ = step_out_ = step_wanted_ = 0;
  step_caught_up_ = false;
  for (int d = 0; d < n_drafters(); ++d) step_drafter_[static_cast<std::size_t>(d)] = {.name = at(d).info().name};
  const double sequence_before = sequence_ms();
  active_.clear();
  for (Session* s : sessions) {
    if (prepare(*s)) active_.push_back(s);
  }
  if (active_.empty()) return;
  if (std::any_of(active_.begin(), active_.end(),
                  [&](const Session* s) { return s->options_.adapters != active_.front()->options_.adapters; }))
    throw Error(ErrorCode::kUsage, "Sessions with other adapters cannot share a step; step them one after the other.");
  if (static_cast<int>(active_.size()) > options_.max_total_width) {
    throw Error(ErrorCode::kUsage,
                "A step takes at most " + std::to_string(options_.max_total_width) + " sessions; step them in groups.");
  }
  const int roots = static_cast<int>(active_.size());
  step_planned_ = to_be_planned();
  adapt(*active_.front());
  step_probes_plain_ = step_planned_ && planner_.probe(Planner::Probe::kPlain, roots);
  draft_all();
  choose_widths();
  verify();
  const double sequence_verified = target_.sequence_ms();
  int emitted = 0;
  for (Session* s : active_) {
    take(*s);
    emitted += static_cast<int>(s->acceptance_.token.size());
  }
  account_verification(target_.sequence_ms() - sequence_verified);
  planner_.end_step(emitted, step_modelled_ms_, roots, static_cast<int>(batch_.size()), step_rooted_, step_wanted_);
  for (Session* s : active_) {
    if (s->hypotheses_.take_surprise()) planner_.surprise();
  }
  account(now() - start, sequence_ms() - sequence_before);
}

double Engine::State::sequence_ms() const {
  double ms = target_.sequence_ms();
  for (const auto& d : drafters_) ms += d->sequence_ms();
  return ms;
}

// Wishes set by hand are obeyed while they agree: then everyone waits for his own only.
bool Engine::State::to_be_planned() const {
  const SpeculationParams& first = active_.front()->hypotheses_.params();
  return first.mode == Mode::kAuto || std::any_of(active_.begin(), active_.end(),
                                                  [&](const Session* s) { return s->hypotheses_.params() != first; });
}

// Books the step to its sessions (each took part in the whole of it) and once to the engine.
void Engine::State::account(double total_ms, double sequence_ms) {
  Stats sum;
  double draft_ms = 0;
  for (const DraftStats& d : step_drafter_) draft_ms += d.ms;
  for (Session* s : active_) {
    Stats& step = s->step_;
    for (int d = 0; d < n_drafters(); ++d) {
      DraftStats& mine = step.drafter[static_cast<std::size_t>(d)];
      mine.name = at(d).info().name;
      mine.ms = step_drafter_[static_cast<std::size_t>(d)].ms;
      step.draft_nodes += mine.nodes;
      step.draft_forwards += mine.forwards;
    }
    step.steps = 1;
    step.draft_ms = draft_ms;
    step.verify_ms = step_verify_ms_;
    step.sequence_ms = sequence_ms;
    step.total_ms = total_ms;
    step.modelled_ms = step_modelled_ms_;
    s->stats_.add(step);
    sum.add(step);
    if (s->options_.on_step)
      s->options_.on_step(StepView{*s, s->hypotheses_, s->acceptance_, step, target_, s->first_row_});
  }
  sum.draft_forwards = 0;
  for (std::size_t d = 0; d < sum.drafter.size(); ++d) {
    sum.draft_forwards += sum.drafter[d].forwards = step_drafter_[d].forwards;
    sum.drafter[d].ms = step_drafter_[d].ms;
  }
  sum.draft_ms = draft_ms;
  sum.verify_ms = step_verify_ms_;
  sum.sequence_ms = sequence_ms;
  sum.total_ms = total_ms;
  sum.modelled_ms = step_modelled_ms_;
  stats_.add(sum);
}

// Unrolls every session's hypotheses and shares the width among them.
void Engine::State::choose_widths() {
  const int roots = static_cast<int>(active_.size());
  const int budget = options_.max_total_width - roots;
  items_.clear();
  for (std::size_t i = 0; i < active_.size(); ++i) {
    Session& s = *active_[i];
    if (s.depth_limit_ == 0) continue;
    const SpeculationParams& p = s.hypotheses_.params();
    // Set by hand, a width is a wish for a session alone; together they share the budget evenly.
    const int most = std::min({p.width() - 1, target_.info().max_rollback, step_planned_ ? budget : budget / roots});
    const int leaves = p.mode == Mode::kChain ? 1 : target_.info().max_leaves;
    const int n_unrolled = s.hypotheses_.unroll(most, s.depth_limit_, leaves);
    if (!step_planned_) s.n_chosen_ = n_unrolled;
    for (int n = 0; step_planned_ && n < n_unrolled; ++n) {
      items_.push_back({static_cast<std::int32_t>(i), n, s.hypotheses_.unrolled_probability(n)});
    }
  }
  if (items_.empty() || step_probes_plain_) return;
  std::sort(items_.begin(), items_.end(), Planner::Item::better);
  if (items_.size() > static_cast<std::size_t>(budget)) items_.resize(static_cast<std::size_t>(budget));
  std::size_t count = planner_.choose_width(items_, roots, roots);
  if (count == 0 && planner_.probe(Planner::Probe::kWide, roots)) count = std::min(items_.size(), Planner::kWideProbe);
  for (std::size_t n = 0; n < count; ++n) ++active_[static_cast<std::size_t>(items_[n].session)]->n_chosen_;
}

// Puts every session's tree into one batch; row i of a tree is first_row_ + i.
void Engine::State::gather_trees() {
  batch_.clear();
  for (Session* s : active_) {
    const TokenTree& tree = s->hypotheses_.build(s->n_chosen_);
    s->first_row_ = static_cast<std::int32_t>(batch_.size());
    for (std::int32_t i = 0; i < tree.size(); ++i) {
      batch_.push_back(
          {s->slot_, tree.token[static_cast<std::size_t>(i)], tree.parent[static_cast<std::size_t>(i)], true, i == 0});
    }
  }
}

void Engine::State::verify() {
  gather_trees();
  const double start = now();
  try {
    target_.forward(batch_);
  } catch (const Error& e) {
    if (e.code() != ErrorCode::kNoKvSlot || batch_.size() == active_.size()) throw;
    for (Session* s : active_) s->n_chosen_ = 0;  // no room for the trees: the roots alone
    gather_trees();
    target_.forward(batch_);
  }
  step_verify_ms_ = now() - start;
}

// Books the pass of verify(), and the time in which the target's memory was brought in step after it.
void Engine::State::account_verification(double commit_ms) {
  const int width = static_cast<int>(batch_.size()) + target_.n_extra();
  target_cost_.observe(width, step_verify_ms_ + commit_ms);
  step_modelled_ms_ += target_cost_.ms(width);
}

void Engine::State::take(Session& s) {
  const std::int64_t left =
      s.options_.max_tokens < 0 ? INT64_MAX : s.options_.max_tokens - static_cast<std::int64_t>(s.generated().size());
  const TokenTree& tree = s.hypotheses_.tree();
  const AcceptInput in{.tree = tree,
                       .backend = target_,
                       .first_row = s.first_row_,
                       .on_token = s.options_.on_token,
                       .constraint = s.options_.constraint ? &*s.options_.constraint : nullptr,
                       .position = static_cast<std::uint32_t>(s.generated().size()),
                       .max_tokens = left,
                       .primary_only = options_.exact,
                       .ignore_eog = s.options_.ignore_eog};
  accept(in, s.sampler_, s.tokens_, s.acceptance_);
  s.finish_ = s.acceptance_.finish;
  path_.clear();
  path_.push_back(0);
  path_.insert(path_.end(), s.acceptance_.path.begin(), s.acceptance_.path.end());
  target_.commit(s.slot_, path_);
  for (int d = 0; d < n_drafters(); ++d)
    if (contains(s.drafting_, d)) at(d).commit(s.slot_, s.hypotheses_, s.acceptance_.path);
  for (const Token t : s.acceptance_.token) s.hypotheses_.remember(t);
  if (s.acceptance_.token.size() > s.acceptance_.path.size())
    s.hypotheses_.learn(s.acceptance_.path, s.acceptance_.token);
  if (!s.acceptance_.tentative.empty()) s.hypotheses_.hint(s.acceptance_.tentative);
  s.step_.emitted = static_cast<std::int64_t>(s.acceptance_.token.size());
  s.step_.accepted = static_cast<std::int64_t>(s.acceptance_.path.size());
  s.step_.verified = tree.size() - 1;
  s.step_.drafted = s.hypotheses_.graph().size() - 1;
  s.step_.merged = s.hypotheses_.graph().n_merges();
  s.step_.plain_steps = tree.size() == 1 ? 1 : 0;
  const auto count = [&](std::int32_t node, std::int64_t DraftStats::*sum) {
    for (int d = 0; d < n_drafters(); ++d)
      s.step_.drafter[static_cast<std::size_t>(d)].*sum += contains(tree.drafters[static_cast<std::size_t>(node)], d);
  };
  for (std::int32_t node = 1; node < tree.size(); ++node) count(node, &DraftStats::verified);
  for (const std::int32_t node : s.acceptance_.path) count(node, &DraftStats::accepted);
}

bool run_to_end(Engine& engine, std::span<Session* const> sessions, const GoOn& go_on) {
  for (Session* s : sessions) {
    while (const std::size_t left = engine.prefill_left(*s)) {
      if (go_on && !go_on(left)) return false;
      engine.prefill(*s);
    }
  }
  for (std::vector<Session*> active(sessions.begin(), sessions.end());;) {
    std::erase_if(active, [](const Session* s) { return s->finished(); });
    if (active.empty()) return true;
    if (go_on && !go_on(0)) return false;
    engine.step(active);
  }
}

bool run_to_end(Engine& engine, Session& session, const GoOn& go_on) {
  Session* const list[] = {&session};
  return run_to_end(engine, list, go_on);
}

}  // namespace gsd
