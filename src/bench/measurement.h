// One measurement, and the file of them.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <tuple>
#include <vector>

#include "gsd/engine.h"

namespace gsd::bench {

// How sure the planner was and how often it was right, over tree nodes whose father was accepted: bin i holds the nodes
// whose probability given their father lay in [i, i+1) / kBins.
struct Reliability {
  static constexpr int kBins = 10;
  struct Bin {
    std::int64_t nodes = 0;
    double predicted = 0;  // sum of the probabilities
    std::int64_t accepted = 0;
  };
  std::array<Bin, kBins> bin{};
  void observe(double probability, bool accepted);
  void add(const Reliability& other);
};

// What is observed in the steps of a run.
struct Observations {
  static constexpr int kDepths = 16;             // deeper ones count with the last
  std::array<std::int64_t, kDepths> tried{};     // steps that proposed something at depth i + 1, and got there
  std::array<std::int64_t, kDepths> accepted{};  // … and had it accepted
  std::array<Reliability, static_cast<std::size_t>(Origin::kHint) + 1> by_origin{};  // index: Origin
  void observe(const StepView& step);
  void add(const Observations& other);
};

// One configuration on one prompt (with several sessions: on a group of prompts, named by its first).
struct Measurement {
  std::string kind;
  std::string config;
  int prompt = 0;
  double temperature = 0;
  int sessions = 1;
  int repetition = 0;
  bool tuning = false;  // spent on choosing settings; no part of results

  std::int64_t tokens = 0;  // generated, by the measured program's own count
  double decode_ms = 0;     // from the end of the prefill
  double prefill_ms = 0;
  double first_token_ms = 0;  // from the start of the prefill
  double peak_mib = 0;        // greatest memory of the process so far
  // Tuning only, else 0: plain decoding of the same prompt just before, ms per token. Runs of a search are minutes
  // apart, and a machine's speed drifts by more than settings differ.
  double plain_ms_per_token = 0;
  bool same_text = true;  // as plain decoding's, as far as both go
  Stats stats;            // zero for other programs
  Observations seen;

  double ms_per_token() const { return decode_ms / static_cast<double>(std::max<std::int64_t>(1, tokens)); }
  // What makes it one of its kind: measured once, found again when a run goes on.
  using Key = std::tuple<std::string, int, double, int, int, bool>;
  Key key() const { return {config, prompt, temperature, sessions, repetition, tuning}; }
};

// Conditions of a run: its parameters, the models, the machine.
using Conditions = nlohmann::ordered_json;

struct Measurements {
  Conditions conditions;
  std::vector<Measurement> list;
};

std::string to_line(const Measurement& m);
std::string to_line(const Conditions& c);

// Reads what to_line() wrote; a last line without its end (the program was killed) is left out.
// Throws Error(kIo) if the file cannot be read, Error(kUsage) naming the line that is no measurement.
Measurements read_measurements(const std::string& path);

double median(std::vector<double> v);  // 0 for none

}  // namespace gsd::bench
