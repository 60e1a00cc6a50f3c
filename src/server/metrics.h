// Counters and histograms of the server, in the text format of Prometheus.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "gsd/engine.h"

namespace gsd::server {

// A cumulative histogram. Not thread safe.
class Histogram {
 public:
  // `bounds`: upper bounds of the buckets, ascending; one for everything above is added.
  explicit Histogram(std::vector<double> bounds) : bounds_(std::move(bounds)), counts_(bounds_.size() + 1) {}
  void observe(double value, std::int64_t times = 1);
  // Appends the lines of metric `name`.
  void print(std::string& out, const char* name, const char* help) const;
  std::int64_t count() const { return count_; }
  double sum() const { return sum_; }

 private:
  std::vector<double> bounds_;
  std::vector<std::int64_t> counts_;  // [bounds + 1], not cumulative
  std::int64_t count_ = 0;
  double sum_ = 0;
};

// What the scheduler reports while it runs. All functions may be called from any thread.
class Metrics {
 public:
  void queued(double ms);                        // a request left the queue after that time
  void first_token(double ms);                   // from its arrival
  void prompt(std::size_t n_tokens, double ms);  // prompt tokens taken in, without reused ones
  void session_step(const Stats& step,
                    double between_ms);                 // one session's share of a step, and the time since its last
  void engine_step(std::size_t n_sessions, double ms);  // one step of all sessions together
  void finished(bool failed);
  void refused() { count(refused_); }  // the queue was full, or the server was shutting down
  void cancelled() { count(cancelled_); }

  // `processing`, `waiting`: sessions in slots and in the queue at this moment.
  std::string prometheus(std::size_t processing, std::size_t waiting) const;

 private:
  void count(std::int64_t& counter) {
    const std::lock_guard lock(mutex_);
    ++counter;
  }

  static constexpr std::size_t kPositions = 16;

  mutable std::mutex mutex_;
  Stats total_;
  std::int64_t prompt_tokens_ = 0;
  double prompt_ms_ = 0;
  std::int64_t engine_steps_ = 0;
  std::int64_t busy_slots_ = 0;  // summed over the engine's steps
  double step_ms_ = 0;
  std::int64_t requests_ = 0;
  std::int64_t failed_ = 0;
  std::int64_t refused_ = 0;
  std::int64_t cancelled_ = 0;
  std::int64_t accepted_at_[kPositions] = {};  // steps that accepted a proposed token at this depth
  Histogram accepted_per_step_{{0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32}};
  Histogram queue_s_{{0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 60}};
  Histogram first_token_s_{{0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60}};
  Histogram between_s_{{0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1}};
};

}  // namespace gsd::server
