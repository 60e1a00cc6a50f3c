// Continuous batching: requests join and leave between the steps of one engine.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <future>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "../core/stopwatch.h"
#include "gsd/engine.h"
#include "gsd/error.h"
#include "metrics.h"

namespace gsd::server {

// How a job ended.
struct Outcome {
  FinishReason finish = FinishReason::kNone;  // kNone: cancelled, or failed
  std::optional<Error> error;
  Stats stats;
  std::size_t n_prompt = 0;
  std::size_t n_reused = 0;  // prompt tokens whose memory was there already
  double queue_ms = 0;
  double prompt_ms = 0;     // from leaving the queue to the end of the prefill
  double predicted_ms = 0;  // from then on
  std::int32_t slot = -1;   // -1: it never had one
};

// How far a prompt is taken in.
struct PromptProgress {
  std::size_t total = 0;
  std::size_t reused = 0;
  std::size_t processed = 0;  // those that are reused included
  double ms = 0;              // since it left the queue
};

// One generation. The callbacks, also those in `options`, are called from the thread in Scheduler::run. What they
// throw, on_finish apart, ends the job with that error.
struct Job {
  std::vector<Token> prompt;
  SessionOptions options;
  std::shared_ptr<std::atomic<bool>> cancelled;   // set by any thread: the job ends with the step in progress
  std::function<void(const Outcome&)> on_finish;  // exactly once; may not throw
  std::function<void(const PromptProgress&)> on_prompt = {};  // before its first chunk and after each; may be empty
  std::uint64_t id = 0;                                       // for SlotView
};

// One slot for people to look at.
struct SlotView {
  std::int32_t slot = 0;
  bool processing = false;
  std::uint64_t id = 0;  // of the job
  Mode mode = Mode::kAuto;
  std::size_t n_prompt = 0;
  std::size_t n_prompt_left = 0;  // still to be taken in
  std::size_t n_decoded = 0;
  double tokens_per_step = 0;
  std::array<DraftStats, kMaxDrafters> drafter{};  // see Stats
};

struct SchedulerOptions {
  std::size_t max_queue = 64;  // jobs that wait for a slot
  std::size_t n_shared = 0;    // positions that all slots share; 0 = each has its own
};

// Owns the order of work: first come, first served into the slots; all slots advance in every step; between two steps
// at most one chunk of one prompt is taken in, the prompts taking turns. Where slots share their positions, a prompt
// waits in its slot until it fits beside the texts that came before it. When those have grown into all there is, the
// one that came last gives up its memory, and goes on where it was once another one has ended. The engine belongs to
// the thread in run(); the other functions may be called from any thread.
class Scheduler {
 public:
  // Both references must outlive the scheduler.
  Scheduler(Engine& engine, Metrics& metrics, SchedulerOptions options = {});

  // Jobs that can be there at once, in slots and in the queue.
  std::size_t capacity() const { return options_.max_queue + n_slots_; }
  // Puts the jobs into the queue, all or none. False if it has no room for them or the scheduler is draining.
  bool submit(std::vector<Job> jobs);

  // Works until drain() or stop(), then returns when nothing is left. A failed pass ends the jobs that took part in it.
  // What fails beside that (memory for its own bookkeeping) is thrown after every job was ended with it; no further
  // jobs are taken then.
  void run();
  // One round of that without waiting; false if nothing is to do. For who owns the thread and has other work (a
  // simulation); not beside run().
  bool turn();
  // Has `work` done in the thread of run(), between two steps, as soon as it says that it is done (false: to be tried
  // again after the next step); waits for that. Throws what it throws, Error(kUsage) if the scheduler ends before.
  void between_steps(std::function<bool(Engine&)> work);
  // No further jobs are taken; those that are there come to their end.
  void drain();
  // The same, and all jobs are cancelled.
  void stop();
  bool draining() const;

  std::vector<SlotView> slots() const;
  std::size_t n_waiting() const;
  std::size_t n_processing() const;
  // Seconds after which a refused request may try again: a guess from the time that jobs took lately, 1 to 60.
  int retry_after() const;

 private:
  struct Queued {
    Job job;
    Stopwatch since;
  };
  struct Running {
    Job job;
    std::unique_ptr<Session> session;
    Stopwatch since;  // arrival
    Stopwatch admitted;
    Stopwatch last_step;
    double queue_ms = 0;
    double prompt_ms = 0;  // 0 until prefilled
    bool stepped = false;
    bool reported = false;        // how far its prompt is, at the beginning
    bool inside = false;          // its text has a place among the positions
    bool entered = false;         // it had one at some time
    bool put_out = false;         // it lost it, and nothing has ended since
    std::optional<Error> failed;  // what a callback of the job has thrown
    Mode mode = Mode::kAuto;
  };

  struct Errand {
    std::function<bool(Engine&)> work;
    std::promise<void> done;
  };
  bool wait_for_work();
  bool has_waiting() const;
  void run_errands();
  void refuse_errands();
  bool can_start(const Job& job) const;
  void work();
  void admit();
  void start(std::unique_ptr<Running> r);
  template <typename Wanted>
  bool take_queued(Running& r, Wanted wanted);
  void drop_cancelled();
  void let_in();
  bool prefilled(const Running& r) const;
  std::size_t n_held() const;
  void make_room(std::size_t n);
  void recall(Running& r);
  void prefill_one();
  void report_prompt(const Running& r) const;
  void step();
  void step_group(std::span<Session* const> group);
  void retire();
  void finish(Running& r, std::optional<Error> error) noexcept;
  void end_all(const Error& error);
  void publish();
  void instrument(Running& r);

  Engine& engine_;
  Metrics& metrics_;
  SchedulerOptions options_;

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Queued> queue_;    // guarded by mutex_
  std::vector<SlotView> view_;  // guarded by mutex_
  std::list<Errand> errands_;   // guarded by mutex_
  bool draining_ = false;       // guarded by mutex_
  std::size_t n_slots_;
  std::atomic<bool> stopping_{false};
  std::atomic<double> job_ms_{1000};  // of the last jobs, smoothed

  std::unique_ptr<Running> next_;
  std::vector<std::unique_ptr<Running>> running_;  // in order of arrival; of the thread in run() only, as what follows
  std::vector<Session*> ready_;
  std::size_t turn_ = 0;  // whose prompt is next
  bool ended_ = false;    // a job, since let_in()
};

}  // namespace gsd::server
