// What check() found, for people.
#include <fmt/format.h>
#include <llama.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>

#include "check.h"
#include "gsd/llama.h"

namespace gsd::zoo {
namespace {

struct Row {
  Report report;
  std::string died;  // how its process ended, or empty
};

// In a process of its own: libllama ends the process where an assertion of its fails.
Row check_apart(const std::string& program, const std::string& name, const std::filesystem::path& result) {
  if (!std::filesystem::exists(result)) {
    const std::string command =
        fmt::format("GGML_NO_BACKTRACE=1 timeout 900 '{}' check --json '{}' 2>/dev/null >'{}.part'", program, name,
                    result.string());
    const int status = std::system(command.c_str());
    const int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    std::filesystem::rename(result.string() + ".part", result);
    if (std::filesystem::file_size(result) == 0)
      std::ofstream(result) << nlohmann::json{{"died", code == 124  ? "no end after 900 s"
                                                       : code > 128 ? fmt::format("signal {}", code - 128)
                                                                    : "libllama alone does not run it"}};
  }
  const nlohmann::json j = nlohmann::json::parse(std::ifstream(result));
  if (j.contains("died")) {
    Row row;
    row.report.name = name;
    row.died = j.at("died");
    return row;
  }
  return {from_json(j), ""};
}

// "right", or the cases whose texts are not.
std::string text(const Report& r) {
  std::string bad;
  for (const Case& c : r.cases) {
    if (c.error.empty() && c.wrong == 0) continue;
    bad += fmt::format("{}{}{}", bad.empty() ? "" : ", ", c.name,
                       c.error.empty() ? fmt::format(": {} of {} wrong", c.wrong, c.tokens) : " fails");
  }
  return bad.empty() ? "right" : bad;
}

std::string exact(const Report& r) {
  std::string differ;
  for (const Case& c : r.cases) {
    if (c.name.starts_with("exact") && (!c.error.empty() || !c.bits_equal))
      differ += (differ.empty() ? "" : ", ") + (c.error.empty() ? c.name.substr(7) : "fails");
  }
  if (!r.obstacles.empty()) return "no: " + r.obstacles;
  return differ.empty() ? "yes" : "broken: " + differ;
}

std::string notes(const Report& r) {
  int ties = 0;
  int experts = 0;
  double regret = 0;
  std::string out;
  const auto add = [&](const std::string& note) { out += (out.empty() ? "" : "; ") + note; };
  for (const Case& c : r.cases) {
    ties += c.ties;
    experts += c.other_experts;
    regret = std::max(regret, c.regret);
    if (c.name == "chain") add(fmt::format("{:.1f}", c.per_step));
  }
  if (r.no_q8_0) add("libllama has no q8_0 cache for it");
  if (ties > 0) add(fmt::format("{} near-tie{} (up to {:.1g})", ties, ties > 1 ? "s" : "", regret));
  if (experts > 0) add(fmt::format("{} by other experts", experts));
  for (const std::string& f : r.failures())
    if (f.starts_with("plain: the text") || f.starts_with("chain: ") || f.starts_with("auto: ")) add(f);
  return out;
}

std::string line(const Row& row) {
  const Report& r = row.report;
  if (!row.died.empty()) return fmt::format("| `{}` | | | {} | | |\n", r.name, row.died);
  if (!r.refused.empty()) return fmt::format("| `{}` | {} | – | refused | – | {} |\n", r.name, r.kind, r.refused);
  return fmt::format("| `{}` | {} | {} | {} | {} | {} |\n", r.name, r.kind, r.drafts, text(r), exact(r), notes(r));
}

// How many tokens were judged, and how.
std::string summary(const std::vector<Row>& rows) {
  std::int64_t tokens = 0;
  std::int64_t ties = 0;
  std::int64_t experts = 0;
  std::int64_t wrong = 0;
  std::size_t good = 0;
  for (const Row& row : rows) {
    good += row.died.empty() && row.report.failures().empty() ? 1 : 0;
    for (const Case& c : row.report.cases) {
      tokens += c.tokens;
      ties += c.ties;
      experts += c.other_experts;
      wrong += c.wrong;
    }
  }
  return fmt::format(
      "{} of {} models pass. Of {} tokens {} are libllama's own first choice, {} are near-ties, {} come of nearly tied "
      "choices of experts, {} are wrong.",
      good, rows.size(), tokens, tokens - ties - experts - wrong, ties, experts, wrong);
}

}  // namespace

int write_report(const Table& table, const std::string& program, int jobs, const std::filesystem::path& results,
                 const std::filesystem::path& file) {
  std::filesystem::create_directories(results);
  std::vector<Row> rows(table.entries.size());
  std::mutex mutex;
  std::size_t next = 0;
  int bad = 0;
  const auto work = [&] {
    for (;;) {
      std::size_t mine;
      {
        const std::lock_guard lock(mutex);
        if (next == rows.size()) return;
        mine = next++;
      }
      const std::string& name = table.entries[mine].name;
      rows[mine] = check_apart(program, name, results / (name + ".json"));
      const std::lock_guard lock(mutex);
      bad += rows[mine].died.empty() && rows[mine].report.failures().empty() ? 0 : 1;
      std::fputs(line(rows[mine]).c_str(), stdout);
      std::fflush(stdout);
    }
  };
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < jobs; ++i) threads.emplace_back(work);
  }
  const std::string kernels = NarrowKernels({}).instruction_set();
  std::string out = fmt::format(R"(# Models

Every architecture that libllama {} can decode, as a tiny model with random weights, run in every way in which the program can
run it and judged, token by token, with libllama alone. Written by `zoo report` (`tests/zoo`); do not edit.

{} Our kernels: {}.

- *drafts*: what is verified in one pass. **graph**: graphs, trees and chains. **chain**: chains only, because layers keep one state
  of all the text; what was rejected is taken back by libllama's *snapshots* of that state, or by *copies* of it, after which the
  accepted tokens are computed again with the next pass.
- *text*: plain, chain, tree, graph and auto with a prompt of 120 tokens (longer than the windows of 32), with f16 and q8_0 caches, with
  our kernels and with ggml's; four sessions at once whose prompts share a beginning, are gone on with, asked again, changed in the
  middle and cut. "right": every token is libllama's first choice, or a near-tie: within 2 % of the logits' standard deviation, or within
  six times what libllama's own logits change by when its embeddings change by 2^-12 of themselves (more only where weights or caches are quantised).
- *exact*: under `--exact` all logits have the bits of plain decoding, in all modes, and lie as near to libllama's as libllama's own do after
  such a change, times 1.5.
- *notes*: tokens per step of a chain of 4 (a case below 2.5 would show nothing); near-ties; tokens that libllama alone gives when one of
  its nearly tied choices of experts is taken the other way. Mixtures have these, since rounding may choose another expert.

| model | kind | drafts | text | exact | notes |
|---|---|---|---|---|---|
)",
                                llama_version(), summary(rows), kernels.empty() ? "none on this machine" : kernels);
  for (const Row& row : rows) out += line(row);
  out += "\nNot in the table:\n\n";
  for (const auto& [architecture, why] : table.left_out) out += fmt::format("- `{}`: {}\n", architecture, why);
  std::ofstream(file) << out;
  return bad;
}

}  // namespace gsd::zoo
