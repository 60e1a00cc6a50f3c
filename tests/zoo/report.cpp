// What check() found, for people.
#include <fmt/format.h>
#include <llama.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <fstream>
#include <functional>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>

#include "check.h"

namespace gsd::zoo {
namespace {

struct Row {
  Report report;
  std::string died;  // how its process ended, or empty
};

// In a process of its own: libllama ends the process where an assertion of its fails.
Row check_apart(const std::string& program, const std::string& name) {
  const std::string command = fmt::format("timeout 300 '{}' check --json '{}' 2>/dev/null", program, name);
  FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return {{name, "", "", "", "", {}}, "no process"};
  std::string out;
  std::array<char, 4096> buffer;
  while (const std::size_t n = std::fread(buffer.data(), 1, buffer.size(), pipe)) out.append(buffer.data(), n);
  const int status = pclose(pipe);
  const int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  try {
    return {from_json(nlohmann::json::parse(out)), ""};
  } catch (const nlohmann::json::exception&) {
    const std::string why = code == 124  ? "no end after 300 s"
                            : code > 128 ? fmt::format("signal {}", code - 128)
                                         : "libllama alone does not run it";
    return {{name, "", "", "", "", {}}, why};
  }
}

// "yes", or what is wrong with the cases that `wanted` accepts; "–" if there is none.
std::string verdict(const Report& r, const std::function<bool(const Case&)>& wanted) {
  std::string bad;
  int count = 0;
  for (const Case& c : r.cases) {
    if (!wanted(c)) continue;
    ++count;
    if (!c.error.empty() || c.wrong > 0)
      bad += fmt::format("{}{} {}", bad.empty() ? "" : ", ", c.name,
                         c.error.empty() ? fmt::format("{} of {} wrong", c.wrong, c.tokens) : "fails");
  }
  return count == 0 ? "–" : bad.empty() ? "yes" : bad;
}

std::string exact(const Report& r) {
  int count = 0;
  std::string differ;
  for (const Case& c : r.cases) {
    if (!c.name.starts_with("exact")) continue;
    ++count;
    if (!c.error.empty() || !c.bits_equal)
      differ += (differ.empty() ? "" : ", ") + (c.error.empty() ? c.name.substr(7) : "fails");
  }
  return count == 0 ? "–" : differ.empty() ? "yes" : "not " + differ;
}

std::string notes(const Report& r) {
  int ties = 0;
  double regret = 0;
  double chain = 0;
  for (const Case& c : r.cases) {
    ties += c.ties;
    regret = std::max(regret, c.regret);
    if (c.name == "chain") chain = c.per_step;
  }
  std::string out;
  if (chain > 0) out = fmt::format("chain {:.1f}", chain);
  if (ties > 0) out += fmt::format(", {} near-tie{}", ties, ties > 1 ? "s" : "");
  if (regret > 0) out += fmt::format(", {:.1g}", regret);
  for (const std::string& f : r.failures())
    if (f.starts_with("plain: the text") || f.starts_with("chain: ") || f.starts_with("auto: "))
      out += "; does not count (" + f + ")";
  return out;
}

bool is_mode(const Case& c) { return c.name.find(' ') == std::string::npos && c.name != "sessions"; }

std::string line(const Row& row) {
  const Report& r = row.report;
  if (!row.died.empty()) return fmt::format("| {} | | | | | | | {} |\n", r.name, row.died);
  if (!r.refused.empty()) return fmt::format("| {} | {} | refused | – | – | – | – | |\n", r.name, r.kind);
  return fmt::format("| {} | {} | {} | {} | {} | {} | {} | {} |\n", r.name, r.kind, verdict(r, is_mode),
                     verdict(r, [](const Case& c) { return c.name == "sessions"; }),
                     verdict(r, [](const Case& c) { return c.name.starts_with("q8_0"); }),
                     verdict(r, [](const Case& c) { return c.name.starts_with("ggml"); }), exact(r), notes(r));
}

}  // namespace

void write_report(const Table& table, const std::string& program, int jobs, const std::filesystem::path& file) {
  std::vector<Row> rows(table.entries.size());
  std::mutex mutex;
  std::size_t next = 0;
  const auto work = [&] {
    for (;;) {
      std::size_t mine;
      {
        const std::lock_guard lock(mutex);
        if (next == rows.size()) return;
        mine = next++;
      }
      rows[mine] = check_apart(program, table.entries[mine].name);
      const std::lock_guard lock(mutex);
      std::fputs(line(rows[mine]).c_str(), stdout);
      std::fflush(stdout);
    }
  };
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < jobs; ++i) threads.emplace_back(work);
  }
  std::string out = fmt::format(R"(# Models

Every architecture that libllama {} can decode, as a tiny model with random weights, run in every way in which the program can
run it and judged, token by token, with libllama alone. Written by `zoo report` (`tests/zoo`); do not edit.

- *modes*: plain, chain, tree, graph and auto, one session, a prompt of 120 tokens (longer than the windows of 32).
- *sessions*: four at once in mixed modes; prompts that share a beginning, then gone on with, asked again, changed in the middle, cut.
- *q8_0*: mode graph with a q8_0 cache. *ggml*: chain and graph without our kernels.
- *exact*: under `--exact` all logits have the bits of plain decoding.
- *notes*: tokens per step of a chain of 4 (below 2.5 a case shows nothing); near-ties, which are tokens that are not libllama's best
  but within 2 % of the logits' standard deviation of it; the largest such gap ("regret").

| model | kind | modes | sessions | q8_0 | ggml | exact | notes |
|---|---|---|---|---|---|---|---|
)",
                                llama_version());
  for (const Row& row : rows) out += line(row);
  out += "\nNot in the table, because they do not decode text token by token:\n\n";
  for (const auto& [architecture, why] : table.left_out) out += fmt::format("- {}: {}\n", architecture, why);
  std::ofstream(file) << out;
}

}  // namespace gsd::zoo
