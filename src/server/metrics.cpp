#include "metrics.h"

#include <fmt/format.h>

#include <algorithm>

namespace gsd::server {

void Histogram::observe(double value, std::int64_t times) {
  const auto bucket = std::lower_bound(bounds_.begin(), bounds_.end(), value) - bounds_.begin();
  counts_[static_cast<std::size_t>(bucket)] += times;
  count_ += times;
  sum_ += value * static_cast<double>(times);
}

void Histogram::print(std::string& out, const char* name, const char* help) const {
  out += fmt::format("# HELP {0} {1}\n# TYPE {0} histogram\n", name, help);
  std::int64_t below = 0;
  for (std::size_t i = 0; i < bounds_.size(); ++i) {
    below += counts_[i];
    out += fmt::format("{}_bucket{{le=\"{}\"}} {}\n", name, bounds_[i], below);
  }
  out += fmt::format("{0}_bucket{{le=\"+Inf\"}} {1}\n{0}_sum {2}\n{0}_count {1}\n", name, count_, sum_);
}

void Metrics::queued(double ms) {
  const std::lock_guard lock(mutex_);
  queue_s_.observe(ms / 1000);
}

void Metrics::first_token(double ms) {
  const std::lock_guard lock(mutex_);
  first_token_s_.observe(ms / 1000);
}

void Metrics::prompt(std::size_t n_tokens, double ms) {
  const std::lock_guard lock(mutex_);
  prompt_tokens_ += static_cast<std::int64_t>(n_tokens);
  prompt_ms_ += ms;
}

void Metrics::session_step(const Stats& step, double between_ms) {
  const std::lock_guard lock(mutex_);
  total_.add(step);
  accepted_per_step_.observe(static_cast<double>(step.accepted));
  for (std::size_t i = 0; i < std::min(kPositions, static_cast<std::size_t>(step.accepted)); ++i) ++accepted_at_[i];
  if (step.emitted > 0 && between_ms > 0)
    between_s_.observe(between_ms / 1000 / static_cast<double>(step.emitted), step.emitted);
}

void Metrics::engine_step(std::size_t n_sessions, double ms) {
  const std::lock_guard lock(mutex_);
  ++engine_steps_;
  busy_slots_ += static_cast<std::int64_t>(n_sessions);
  step_ms_ += ms;
}

void Metrics::finished(bool failed) {
  const std::lock_guard lock(mutex_);
  ++requests_;
  failed_ += failed ? 1 : 0;
}

std::string Metrics::prometheus(std::size_t processing, std::size_t waiting) const {
  const std::lock_guard lock(mutex_);
  std::string out;
  const auto metric = [&](const char* type, const char* name, auto value, const char* help) {
    out += fmt::format("# HELP gsd:{0} {3}\n# TYPE gsd:{0} {1}\ngsd:{0} {2}\n", name, type, value, help);
  };
  const auto rate = [](std::int64_t n, double ms) { return ms > 0 ? 1000 * static_cast<double>(n) / ms : 0; };
  metric("counter", "prompt_tokens_total", prompt_tokens_, "Prompt tokens taken in, reused ones not counted.");
  metric("counter", "prompt_seconds_total", prompt_ms_ / 1000, "Time spent on them.");
  metric("counter", "tokens_predicted_total", total_.emitted, "Tokens generated.");
  metric("counter", "tokens_predicted_seconds_total", step_ms_ / 1000, "Time of the steps that generated them.");
  metric("counter", "n_decode_total", engine_steps_, "Steps; each advances all running requests.");
  metric("gauge", "n_busy_slots_per_decode",
         engine_steps_ > 0 ? static_cast<double>(busy_slots_) / static_cast<double>(engine_steps_) : 0,
         "Running requests per step.");
  metric("gauge", "prompt_tokens_seconds", rate(prompt_tokens_, prompt_ms_), "Prompt tokens per second.");
  metric("gauge", "predicted_tokens_seconds", rate(total_.emitted, step_ms_), "Generated tokens per second.");
  metric("gauge", "requests_processing", processing, "Requests in slots.");
  metric("gauge", "requests_deferred", waiting, "Requests in the queue.");
  metric("counter", "requests_total", requests_, "Requests finished.");
  metric("counter", "requests_failed_total", failed_, "Of these, ended by an error.");
  metric("counter", "requests_cancelled_total", cancelled_, "Of these, given up by the client.");
  metric("counter", "requests_refused_total", refused_, "Requests refused because the queue was full.");
  metric("counter", "spec_decode_num_draft_tokens_total", total_.verified, "Proposed tokens that the target scored.");
  metric("counter", "spec_decode_num_accepted_tokens_total", total_.accepted, "Of these, accepted.");
  metric("counter", "spec_decode_num_drafts_total", total_.steps - total_.plain_steps,
         "Steps of one request that proposed tokens.");
  metric("counter", "spec_decode_num_drafted_nodes_total", total_.drafted, "Candidates made by the draft model.");
  metric("counter", "spec_decode_num_merges_total", total_.merged, "Merges: subtrees that were not drafted again.");
  metric("counter", "spec_decode_num_plain_steps_total", total_.plain_steps, "Steps of one request without proposals.");
  out +=
      "# HELP gsd:spec_decode_num_accepted_tokens_per_pos_total Accepted tokens by their place in the proposal.\n"
      "# TYPE gsd:spec_decode_num_accepted_tokens_per_pos_total counter\n";
  for (std::size_t i = 0; i < kPositions; ++i)
    out += fmt::format("gsd:spec_decode_num_accepted_tokens_per_pos_total{{position=\"{}\"}} {}\n", i, accepted_at_[i]);
  const auto by_drafter = [&](const char* name, std::int64_t DraftStats::*sum, const char* help) {
    out += fmt::format("# HELP gsd:{0} {1}\n# TYPE gsd:{0} counter\n", name, help);
    visit_drafters(
        [&](std::string_view drafter, const DraftStats& sums) {
          out += fmt::format("gsd:{}{{drafter=\"{}\"}} {}\n", name, drafter, sums.*sum);
        },
        total_);
  };
  by_drafter("drafter_passes_total", &DraftStats::forwards, "Passes of a drafter, once for each request in them.");
  by_drafter("drafter_tokens_total", &DraftStats::verified, "Tokens named by a drafter that the target scored.");
  by_drafter("drafter_accepted_tokens_total", &DraftStats::accepted, "Of these, accepted.");
  accepted_per_step_.print(out, "gsd:accepted_tokens_per_step", "Accepted proposals of one request in one step.");
  queue_s_.print(out, "gsd:queue_time_seconds", "Time in the queue.");
  first_token_s_.print(out, "gsd:time_to_first_token_seconds", "From a request's arrival to its first token.");
  between_s_.print(out, "gsd:time_between_tokens_seconds", "Time of a step by the tokens it gave, per token.");
  return out;
}

}  // namespace gsd::server
