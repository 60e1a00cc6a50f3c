// Runs a model of the zoo in every way in which the program can run it and judges each text with libllama alone.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "zoo.h"

namespace gsd::zoo {

// One text, or several that were written together.
struct Case {
  std::string name;       // "graph", "sessions", …
  std::string error;      // why there is no text; empty if there is
  int tokens = 0;         // emitted
  double per_step = 0;    // tokens emitted per step
  int distinct = 0;       // different tokens
  int ties = 0;           // tokens that are not libllama's best but so close that rounding decides
  int other_experts = 0;  // tokens that are libllama's with a nearly tied choice of experts taken the other way
  int wrong = 0;          // tokens that are not
  double regret = 0;      // largest logit of libllama minus that of the emitted token
  double noise = 0;       // how far the logits are from libllama's, in their deviations; 0 where they were not kept
  double own_noise = 0;   // how far libllama's are from its own when the embeddings change by next to nothing
  double own_other_experts = 0;  // share of tokens to which libllama then gives other experts
  bool bits_equal = false;       // in exact mode: all rows of logits are those of plain decoding
};

struct Report {
  std::string name;
  std::string architecture;
  std::string kind;       // "dense", "mixture", "window", "hybrid" …, joined by ", "
  std::string drafts;     // "graph", "chain, snapshots" or "chain, copies"
  std::string refused;    // the sentence with which the program refuses the model, or empty
  bool no_q8_0 = false;   // libllama has no q8_0 cache for it
  std::string obstacles;  // what keeps --exact from promising equal bits, or empty
  std::vector<Case> cases;
  std::vector<std::string> failures() const;  // one sentence for each; empty = all right
};

struct CheckOptions {
  bool fast = false;        // fewer and shorter texts
  bool only_exact = false;  // only the cases of exact mode
  Recipe recipe;            // of the target; the draft's is made of it
  std::filesystem::path dir;
  std::filesystem::path vocabulary;
};
// Writes the entry's models into options.dir, which must exist, and checks them.
// Throws std::runtime_error if the model cannot be written or libllama alone does not decode it.
Report check(const Entry& entry, const CheckOptions& options);

// Checks every entry with `program check --json NAME`, `jobs` at once, and writes the table. What stands in the folder
// `results` from an earlier run is not checked again. Returns how many models have failures.
int write_report(const Table& table, const std::string& program, int jobs, const std::filesystem::path& results,
                 const std::filesystem::path& file);

nlohmann::json to_json(const Report& report);
Report from_json(const nlohmann::json& json);

}  // namespace gsd::zoo
