// What measurements say: tables, a page, and a comparison of two runs.
#pragma once

#include <string>
#include <vector>

#include "measurement.h"

namespace gsd::bench {

// A geometric mean of ratios over prompts with the ends of its 90 % interval (bootstrap over prompts, 2,000 resamples
// with a fixed seed).
struct Ratio {
  double mean = 0;
  double low = 0;
  double high = 0;
  int n = 0;  // prompts; 0 = nothing to compare
};
Ratio geometric_mean(const std::vector<double>& log_ratios);

// A configuration over the prompts of a kind.
struct Row {
  std::string kind;  // empty = all kinds
  std::string config;
  double temperature = 0;
  int sessions = 1;
  int prompts = 0;
  double tokens_per_second = 0;  // of all sessions together; tokens over the prompts' median times
  Ratio speed_up;                // over plain decoding with as many sessions
  double first_token_ms = 0;     // median
  double peak_mib = 0;
  int differing = 0;  // runs whose text is not plain decoding's
  Stats stats;
  Observations seen;
};

// One row per kind, configuration, temperature and number of sessions, in the order of the measurements; those for all
// kinds come last where there are several. Tuning runs are left out.
std::vector<Row> summarise(const Measurements& m);

// The speed of `config` relative to every other configuration, by kind.
struct Duel {
  std::string other;
  double temperature = 0;
  int sessions = 1;
  std::vector<std::pair<std::string, Ratio>> by_kind;  // the last one, with an empty kind, over all
};
std::vector<Duel> duels(const Measurements& m, const std::string& config);

// Chains of fixed depth (chain_configs) and plain decoding as points (ms per step, tokens per step), over all kinds.
// Interpolated at the time per step of `config`, they tell what a chain of equal time would have had accepted.
struct EqualTime {
  double ms_per_step = 0;
  double tokens_per_step = 0;
  double chain_tokens_per_step = 0;  // 0 = no chains were measured, or none so dear
};
EqualTime equal_time(const std::vector<Row>& rows, const std::string& config);

std::string markdown(const Measurements& m);
// One HTML page that needs nothing else.
std::string page(const Measurements& m);

// NEW against OLD by configuration and kind, in Markdown. `slower` is set if, for some configuration, the whole 90 %
// interval of the speed ratio lies below `limit`.
std::string compare(const Measurements& before, const Measurements& after, double limit, bool& slower);

}  // namespace gsd::bench
