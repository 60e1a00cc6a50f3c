#include "scheduler.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

namespace gsd::server {
namespace {

Error as_error(const std::exception& e) {
  const auto* ours = dynamic_cast<const Error*>(&e);
  return ours != nullptr ? *ours : Error(ErrorCode::kInternal, e.what());
}

}  // namespace

Scheduler::Scheduler(Engine& engine, Metrics& metrics, SchedulerOptions options)
    : engine_(engine),
      metrics_(metrics),
      options_(options),
      n_slots_(static_cast<std::size_t>(engine.target().info().n_seq)) {
  publish();
}

bool Scheduler::submit(std::vector<Job> jobs) {
  {
    const std::lock_guard lock(mutex_);
    // Free slots count as room: a queue of length 0 still lets idle slots work.
    const auto busy = static_cast<std::size_t>(
        std::count_if(view_.begin(), view_.end(), [](const SlotView& s) { return s.processing; }));
    if (draining_ || queue_.size() + jobs.size() > options_.max_queue + (n_slots_ - std::min(n_slots_, busy))) {
      metrics_.refused();
      return false;
    }
    for (Job& job : jobs) queue_.push_back({std::move(job), {}});
  }
  work_.notify_one();
  return true;
}

void Scheduler::drain() {
  {
    const std::lock_guard lock(mutex_);
    draining_ = true;
  }
  work_.notify_one();
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
  while (wait_for_work()) {
    admit();
    drop_cancelled();
    prefill_one();
    step();
    retire();
    publish();
  }
}

// False when nothing is left to do and nothing more will come.
bool Scheduler::wait_for_work() {
  std::unique_lock lock(mutex_);
  work_.wait(lock, [this] { return !running_.empty() || !queue_.empty() || draining_; });
  return !running_.empty() || !queue_.empty();
}

void Scheduler::admit() {
  while (running_.size() < n_slots_) {
    std::optional<Queued> next;
    {
      const std::lock_guard lock(mutex_);
      if (queue_.empty()) return;
      next = std::move(queue_.front());
      queue_.pop_front();
    }
    start(std::move(*next));
    publish();
  }
}

void Scheduler::start(Queued queued) {
  running_.reserve(n_slots_);
  auto r = std::make_unique<Running>();
  r->job = std::move(queued.job);
  r->since = queued.since;
  r->queue_ms = queued.since.ms();
  r->mode = r->job.options.speculation.mode;
  metrics_.queued(r->queue_ms);
  try {
    instrument(*r);
    const std::span<const Token> alike = r->job.options.reuse_prefix ? r->job.prompt : std::span<const Token>{};
    r->session = engine_.open(std::move(r->job.options), alike);
    engine_.set_prompt(*r->session, r->job.prompt);
    running_.push_back(std::move(r));
  } catch (const std::exception& e) {
    finish(*r, as_error(e));
  }
}

// Puts our own accounting around the job's callbacks.
void Scheduler::instrument(Running& r) {
  SessionOptions& o = r.job.options;
  o.on_token = [this, &r, outer = std::move(o.on_token)](Token t) {
    const bool go_on = !outer || outer(t);
    return go_on && !*r.job.cancelled && !stopping_;
  };
  o.on_step = [this, &r, outer = std::move(o.on_step)](const StepView& v) {
    if (outer) outer(v);
    if (!r.stepped) metrics_.first_token(r.since.ms());
    metrics_.session_step(v.stats, r.stepped ? r.last_step.ms() : 0);
    r.stepped = true;
    r.last_step = {};
  };
}

// Jobs given up while they waited or were being prefilled; the others hear of it from on_token.
void Scheduler::drop_cancelled() {
  std::deque<Queued> dropped;
  {
    const std::lock_guard lock(mutex_);
    for (auto it = queue_.begin(); it != queue_.end();) {
      if (stopping_ || *it->job.cancelled) {
        dropped.push_back(std::move(*it));
        it = queue_.erase(it);
      } else {
        ++it;
      }
    }
  }
  for (Queued& q : dropped) {
    Running r;
    r.job = std::move(q.job);
    r.queue_ms = q.since.ms();
    finish(r, std::nullopt);
  }
  std::erase_if(running_, [this](const auto& r) {
    if (!stopping_ && !*r->job.cancelled) return false;
    finish(*r, std::nullopt);
    return true;
  });
}

// One chunk of the next prompt in turn, so that those who decode never wait for more.
void Scheduler::prefill_one() {
  for (std::size_t i = 0; i < running_.size(); ++i) {
    const std::size_t at = (turn_ + i) % running_.size();
    Running& r = *running_[at];
    if (r.prompt_ms > 0) continue;
    turn_ = at + 1;
    try {
      const Stopwatch clock;
      const std::size_t before = engine_.prefill_left(*r.session);
      const std::size_t left = engine_.prefill(*r.session);
      metrics_.prompt(before - left, clock.ms());
      if (left == 0) r.prompt_ms = std::max(1e-3, r.admitted.ms());
    } catch (const std::exception& e) {
      finish(r, as_error(e));
      running_.erase(running_.begin() + static_cast<std::ptrdiff_t>(at));
    }
    return;
  }
}

void Scheduler::step() {
  ready_.clear();
  for (const auto& r : running_) {
    if (r->prompt_ms > 0) ready_.push_back(r->session.get());
  }
  const auto most = static_cast<std::size_t>(engine_.options().max_total_width);
  for (std::size_t i = 0; i < ready_.size(); i += most)
    step_group(std::span(ready_).subspan(i, std::min(most, ready_.size() - i)));
}

void Scheduler::step_group(std::span<Session* const> group) {
  const Stopwatch clock;
  try {
    engine_.step(group);
    metrics_.engine_step(group.size(), clock.ms());
  } catch (const std::exception& e) {
    const Error error = as_error(e);
    std::erase_if(running_, [&](const auto& r) {
      if (std::find(group.begin(), group.end(), r->session.get()) == group.end()) return false;
      finish(*r, error);
      return true;
    });
  }
}

void Scheduler::retire() {
  std::erase_if(running_, [this](const auto& r) {
    if (!r->session->finished()) return false;
    finish(*r, std::nullopt);
    return true;
  });
}

void Scheduler::finish(Running& r, std::optional<Error> error) {
  Outcome out;
  const bool cancelled = *r.job.cancelled || stopping_;
  if (r.session) {
    out.finish = cancelled ? FinishReason::kNone : r.session->finish();
    out.stats = r.session->stats();
    out.n_reused = r.session->n_reused();
    out.prompt_ms = r.prompt_ms > 0 ? r.prompt_ms : r.admitted.ms();
    out.predicted_ms = r.admitted.ms() - out.prompt_ms;
    job_ms_ = 0.8 * job_ms_ + 0.2 * r.admitted.ms();
  }
  out.n_prompt = r.job.prompt.size();
  out.queue_ms = r.queue_ms;
  r.session.reset();  // the slot is free before anybody hears of the end
  if (cancelled) metrics_.cancelled();
  metrics_.finished(error.has_value());
  out.error = std::move(error);
  r.job.on_finish(out);
}

void Scheduler::publish() {
  std::vector<SlotView> view(n_slots_);
  for (std::size_t i = 0; i < view.size(); ++i) view[i].slot = static_cast<std::int32_t>(i);
  for (const auto& r : running_) {
    const Session& s = *r->session;
    view[static_cast<std::size_t>(s.slot())] = {.slot = s.slot(),
                                                .processing = true,
                                                .id = r->job.id,
                                                .mode = r->mode,
                                                .n_prompt = s.n_prompt(),
                                                .n_prompt_left = engine_.prefill_left(s),
                                                .n_decoded = s.generated().size(),
                                                .accepted_per_step = s.stats().accepted_per_step()};
  }
  const std::lock_guard lock(mutex_);
  view_ = std::move(view);
}

}  // namespace gsd::server
