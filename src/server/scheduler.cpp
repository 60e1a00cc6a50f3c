#include "scheduler.h"

#include <algorithm>
#include <cmath>
#include <new>
#include <string>
#include <utility>

namespace gsd::server {
namespace {

// Made while there is memory; copies of an Error share its text.
const Error no_memory(ErrorCode::kOutOfMemory, "There is not enough memory for this request; try a smaller one.");

// The exception being handled.
Error current_error() noexcept {
  try {
    throw;
  } catch (const Error& e) {
    return e;
  } catch (const std::bad_alloc&) {
    return no_memory;
  } catch (const std::exception& e) {
    try {
      return {ErrorCode::kInternal, e.what()};
    } catch (...) {
      return no_memory;
    }
  } catch (...) {
    return no_memory;
  }
}

}  // namespace

Scheduler::Scheduler(Engine& engine, Metrics& metrics, SchedulerOptions options)
    : engine_(engine),
      metrics_(metrics),
      options_(options),
      view_(static_cast<std::size_t>(engine.target().info().n_seq)),
      n_slots_(view_.size()) {
  running_.reserve(n_slots_);
  ready_.reserve(n_slots_);
  publish();
}

bool Scheduler::submit(std::vector<Job> jobs) {
  {
    const std::lock_guard lock(mutex_);
    // Free slots count as room: a queue of length 0 still lets idle slots work.
    const auto busy = static_cast<std::size_t>(
        std::count_if(view_.begin(), view_.end(), [](const SlotView& s) { return s.processing; }));
    if (draining_ || queue_.size() + jobs.size() > capacity() - std::min(n_slots_, busy)) {
      metrics_.refused();
      return false;
    }
    const auto before = static_cast<std::ptrdiff_t>(queue_.size());
    try {
      for (Job& job : jobs) queue_.push_back({std::move(job), {}});
    } catch (...) {
      queue_.erase(queue_.begin() + before, queue_.end());
      throw;
    }
  }
  wake_.notify_one();
  return true;
}

void Scheduler::drain() {
  {
    const std::lock_guard lock(mutex_);
    draining_ = true;
  }
  wake_.notify_one();
}

void Scheduler::stop() {
  stopping_ = true;
  drain();
}

bool Scheduler::draining() const {
  const std::lock_guard lock(mutex_);
  return draining_;
}

std::vector<SlotView> Scheduler::slots() const {
  const std::lock_guard lock(mutex_);
  return view_;
}

std::size_t Scheduler::n_waiting() const {
  const std::lock_guard lock(mutex_);
  return queue_.size();
}

std::size_t Scheduler::n_processing() const {
  const std::lock_guard lock(mutex_);
  return static_cast<std::size_t>(
      std::count_if(view_.begin(), view_.end(), [](const SlotView& s) { return s.processing; }));
}

int Scheduler::retry_after() const {
  const double rounds = static_cast<double>(n_waiting() + 1) / static_cast<double>(n_slots_);
  return static_cast<int>(std::clamp(std::ceil(job_ms_ / 1000 * rounds), 1.0, 60.0));
}

void Scheduler::run() {
  try {
    while (wait_for_work()) work();
  } catch (...) {
    end_all(current_error());
    throw;
  }
}

bool Scheduler::turn() {
  if (running_.empty() && !has_waiting()) return false;
  try {
    work();
  } catch (...) {
    end_all(current_error());
    throw;
  }
  return true;
}

void Scheduler::work() {
  run_errands();
  admit();
  drop_cancelled();
  let_in();
  prefill_one();
  step();
  retire();
  publish();
}

// Answers everybody who waits; nobody else would.
void Scheduler::end_all(const Error& error) {
  drain();
  refuse_errands();
  for (Running r; take_queued(r, [](const Job&) { return true; }); r = {}) finish(r, error);
  for (const auto& r : running_) finish(*r, error);
  running_.clear();
  publish();
}

// Moves the first job in the queue that `wanted` is true of to `r`; false if there is none.
template <typename Wanted>
bool Scheduler::take_queued(Running& r, Wanted wanted) {
  const std::lock_guard lock(mutex_);
  const auto at = std::find_if(queue_.begin(), queue_.end(), [&](const Queued& q) { return wanted(q.job); });
  if (at == queue_.end()) return false;
  r.job = std::move(at->job);
  r.since = at->since;
  r.queue_ms = r.since.ms();
  queue_.erase(at);
  return true;
}

// False when nothing is left to do and nothing more will come.
bool Scheduler::wait_for_work() {
  std::unique_lock lock(mutex_);
  const auto is_work = [this] { return !running_.empty() || !queue_.empty() || !errands_.empty(); };
  wake_.wait(lock, [&] { return is_work() || draining_; });
  return is_work();
}

bool Scheduler::has_waiting() const {
  const std::lock_guard lock(mutex_);
  return !queue_.empty() || !errands_.empty();
}

void Scheduler::between_steps(std::function<bool(Engine&)> work) {
  std::future<void> done;
  {
    const std::lock_guard lock(mutex_);
    if (draining_) throw Error(ErrorCode::kUsage, "The server is shutting down.");
    errands_.push_back({std::move(work), {}});
    done = errands_.back().done.get_future();
  }
  wake_.notify_one();
  done.get();
}

void Scheduler::run_errands() {
  std::unique_lock lock(mutex_);
  for (auto at = errands_.begin(); at != errands_.end();) {
    Errand& errand = *at;
    lock.unlock();  // others only add to the end
    bool done = true;
    try {
      done = errand.work(engine_);
      if (done) errand.done.set_value();
    } catch (...) {
      errand.done.set_exception(std::current_exception());
    }
    lock.lock();
    at = done ? errands_.erase(at) : std::next(at);
  }
}

void Scheduler::refuse_errands() {
  const std::lock_guard lock(mutex_);
  for (Errand& e : errands_)
    e.done.set_exception(std::make_exception_ptr(Error(ErrorCode::kUsage, "The server is shutting down.")));
  errands_.clear();
}

bool Scheduler::can_start(const Job& job) const { return job.options.slot < 0 || !engine_.is_taken(job.options.slot); }

void Scheduler::admit() {
  while (running_.size() < n_slots_) {
    if (!next_) next_ = std::make_unique<Running>();  // before a job is taken: what fails here loses none
    if (!take_queued(*next_, [this](const Job& job) { return can_start(job); })) return;
    start(std::move(next_));
    publish();
  }
}

void Scheduler::start(std::unique_ptr<Running> r) {
  r->admitted = {};
  r->mode = r->job.options.speculation.mode;
  try {
    instrument(*r);
    const std::span<const Token> alike = r->job.options.reuse_prefix ? r->job.prompt : std::span<const Token>{};
    r->session = engine_.open(std::move(r->job.options), alike);
    engine_.set_prompt(*r->session, r->job.prompt);
    running_.push_back(std::move(r));
  } catch (...) {
    finish(*r, current_error());
  }
}

// Puts our own accounting around the job's callbacks. What they throw ends their own job, not those in the same step.
void Scheduler::instrument(Running& r) {
  SessionOptions& o = r.job.options;
  o.on_token = [this, &r, outer = std::move(o.on_token)](Token t) {
    try {
      const bool go_on = !outer || outer(t);
      return go_on && !*r.job.cancelled && !stopping_;
    } catch (...) {
      r.failed = current_error();
      return false;
    }
  };
  o.on_step = [this, &r, outer = std::move(o.on_step)](const StepView& v) {
    try {
      if (outer && !r.failed) outer(v);
    } catch (...) {
      r.failed = current_error();
    }
    if (!r.stepped) metrics_.first_token(r.since.ms());
    metrics_.session_step(v.stats, r.stepped ? r.last_step.ms() : 0);
    r.stepped = true;
    r.last_step = {};
  };
}

// Jobs given up while they waited or were being prefilled; the others hear of it from on_token.
void Scheduler::drop_cancelled() {
  const auto is_dropped = [this](const Job& job) { return stopping_ || *job.cancelled; };
  for (Running r; take_queued(r, is_dropped); r = {}) finish(r, std::nullopt);
  std::erase_if(running_, [&](const auto& r) {
    if (!is_dropped(r->job)) return false;
    finish(*r, std::nullopt);
    return true;
  });
}

// In order of arrival: nobody gets in before one who waits. So those inside are the first of the list.
void Scheduler::let_in() {
  if (std::exchange(ended_, false)) {
    for (const auto& r : running_) r->put_out = false;
  }
  // Beside others a text must have room to grow.
  const std::size_t room = options_.n_shared / 16 + 1;
  std::size_t n = 0;
  for (const auto& r : running_) {
    const std::size_t size = r->session->tokens().size();
    if (!r->inside) {
      if (options_.n_shared > 0 && n > 0 && (r->put_out || n + size + room > options_.n_shared)) return;
      r->inside = true;
      if (!std::exchange(r->entered, true)) {
        r->queue_ms = r->since.ms();
        r->admitted = {};
        metrics_.queued(r->queue_ms);
      }
    }
    n += size;
  }
}

std::size_t Scheduler::n_held() const {
  std::size_t n = 0;
  for (std::int32_t i = 0; i < static_cast<std::int32_t>(n_slots_); ++i)
    n += static_cast<std::size_t>(engine_.target().n_committed(i));
  return n;
}

// Room for `n` more tokens, as far as it can be had: first what ended requests left behind goes, then the memory of who
// came last, but never that of the first.
void Scheduler::make_room(std::size_t n) {
  if (options_.n_shared == 0) return;
  while (n_held() + n > options_.n_shared) {
    if (engine_.forget_oldest()) continue;
    const auto last = std::find_if(running_.rbegin(), running_.rend(), [this](const auto& r) {
      return engine_.target().n_committed(r->session->slot()) > 0;
    });
    if (last == running_.rend() || *last == running_.front()) return;
    Running& r = **last;
    r.put_out |= std::exchange(r.inside, false);
    engine_.forget(*r.session);
  }
}

bool Scheduler::prefilled(const Running& r) const { return r.prompt_ms > 0 && engine_.prefill_left(*r.session) == 0; }

// Nobody gives way to a copy but what ended requests left behind.
void Scheduler::recall(Running& r) {
  const std::size_t n = engine_.recallable(*r.session);
  if (n == 0) return;
  while (options_.n_shared > 0 && n_held() + n > options_.n_shared) {
    if (!engine_.forget_oldest()) return;
  }
  engine_.recall(*r.session);
}

// One chunk of the next prompt in turn, so that those who decode never wait for more.
void Scheduler::prefill_one() {
  for (std::size_t i = 0; i < running_.size(); ++i) {
    const std::size_t at = (turn_ + i) % running_.size();
    Running& r = *running_[at];
    if (!r.inside || prefilled(r)) continue;
    turn_ = at + 1;
    try {
      const Stopwatch clock;
      recall(r);
      if (!std::exchange(r.reported, true)) report_prompt(r);
      const std::size_t before = engine_.prefill_left(*r.session);
      make_room(std::min(before, static_cast<std::size_t>(engine_.options().prefill_chunk)));
      if (!r.inside) return;
      const std::size_t left = engine_.prefill(*r.session);
      metrics_.prompt(before - left, clock.ms());
      if (r.prompt_ms > 0) return;  // it was put out, and its text is taken in again
      if (left == 0) r.prompt_ms = std::max(1e-3, r.admitted.ms());
      report_prompt(r);
    } catch (...) {
      finish(r, current_error());
      running_.erase(running_.begin() + static_cast<std::ptrdiff_t>(at));
    }
    return;
  }
}

// The last token of a prompt is scored with the first step.
void Scheduler::report_prompt(const Running& r) const {
  if (!r.job.on_prompt) return;
  const std::size_t total = r.job.prompt.size();
  const std::size_t left = engine_.prefill_left(*r.session);
  r.job.on_prompt({total, r.session->n_reused(), r.prompt_ms > 0 ? total : total - 1 - left, r.admitted.ms()});
}

void Scheduler::step() {
  make_room(running_.size());
  ready_.clear();
  for (const auto& r : running_) {
    if (r->inside && prefilled(*r)) ready_.push_back(r->session.get());
  }
  // Sessions with other adapters have steps of their own.
  const auto adapters = [](const Session* s) -> const auto& { return s->options().adapters; };
  const auto before = [&](const Session* a, const Session* b) { return adapters(a) < adapters(b); };
  if (!std::is_sorted(ready_.begin(), ready_.end(), before)) std::sort(ready_.begin(), ready_.end(), before);
  for (std::size_t i = 0; i < ready_.size();) {
    std::size_t n = 1;
    while (n < static_cast<std::size_t>(engine_.options().max_total_width) && i + n < ready_.size() &&
           adapters(ready_[i + n]) == adapters(ready_[i]))
      ++n;
    step_group(std::span(ready_).subspan(i, n));
    i += n;
  }
}

void Scheduler::step_group(std::span<Session* const> group) {
  const Stopwatch clock;
  try {
    engine_.step(group);
    metrics_.engine_step(group.size(), clock.ms());
  } catch (...) {
    const Error error = current_error();
    std::erase_if(running_, [&](const auto& r) {
      if (std::find(group.begin(), group.end(), r->session.get()) == group.end()) return false;
      finish(*r, error);
      return true;
    });
  }
}

void Scheduler::retire() {
  std::erase_if(running_, [this](const auto& r) {
    if (!r->failed && !r->session->finished()) return false;
    finish(*r, r->failed);
    return true;
  });
}

void Scheduler::finish(Running& r, std::optional<Error> error) noexcept {
  Outcome out;
  const bool cancelled = *r.job.cancelled || stopping_;
  if (r.session) {
    out.finish = cancelled ? FinishReason::kNone : r.session->finish();
    out.stats = r.session->stats();
    out.n_reused = r.session->n_reused();
    out.slot = r.session->slot();
    out.prompt_ms = r.prompt_ms > 0 ? r.prompt_ms : r.admitted.ms();
    out.predicted_ms = r.admitted.ms() - out.prompt_ms;
    job_ms_ = 0.8 * job_ms_ + 0.2 * r.admitted.ms();
  }
  out.n_prompt = r.job.prompt.size();
  out.queue_ms = r.queue_ms;
  r.session.reset();  // the slot is free before anybody hears of the end
  ended_ = true;
  if (cancelled) metrics_.cancelled();
  metrics_.finished(error.has_value());
  out.error = std::move(error);
  r.job.on_finish(out);
}

void Scheduler::publish() {
  const std::lock_guard lock(mutex_);
  for (std::size_t i = 0; i < view_.size(); ++i) view_[i] = {.slot = static_cast<std::int32_t>(i)};
  for (const auto& r : running_) {
    const Session& s = *r->session;
    view_[static_cast<std::size_t>(s.slot())] = {.slot = s.slot(),
                                                 .processing = true,
                                                 .id = r->job.id,
                                                 .mode = r->mode,
                                                 .n_prompt = s.n_prompt(),
                                                 .n_prompt_left = engine_.prefill_left(s),
                                                 .n_decoded = s.generated().size(),
                                                 .tokens_per_step = s.stats().tokens_per_step(),
                                                 .drafter = s.stats().drafter};
  }
}

}  // namespace gsd::server
