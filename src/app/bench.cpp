// gsd bench: the modes beside each other on the same prompts, interleaved.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>

#include "commands.h"
#include "console.h"
#include "options.h"
#include "run.h"

namespace gsd::app {
namespace {

using nlohmann::json;

struct BenchFlags {
  ModelFlags model;
  std::string prompts;
  std::vector<std::string> modes{"plain", "chain", "tree", "graph", "auto"};
  int repetitions = 3;
  int per_kind = 0;
  std::string json_out;
};

struct Prompt {
  std::string kind;
  std::string text;
};

// What one mode did on one prompt, over the repetitions.
struct Result {
  std::vector<double> ms_per_token;
  std::vector<double> first_token_ms;
  Stats stats;
  std::int64_t differing = 0;  // runs whose text is not plain decoding's
};

double median(std::vector<double> v) {
  if (v.empty()) return 0;
  const auto mid = v.begin() + static_cast<std::ptrdiff_t>(v.size() / 2);
  std::nth_element(v.begin(), mid, v.end());
  return *mid;
}

// JSON lines with "prompt" and, optionally, "kind".
std::vector<Prompt> read_prompts(const std::string& path, int per_kind) {
  std::vector<Prompt> out;
  std::map<std::string, int> seen;
  std::istringstream lines(read_file(path));
  int number = 0;
  for (std::string line; std::getline(lines, line);) {
    ++number;
    if (line.empty()) continue;
    const json j = json::parse(line, nullptr, false);
    if (!j.is_object() || !j.contains("prompt") || !j["prompt"].is_string()) {
      throw Error(ErrorCode::kIo, fmt::format("Line {} of '{}' is no JSON object with a \"prompt\".", number, path));
    }
    Prompt p{j.contains("kind") && j["kind"].is_string() ? j["kind"].get<std::string>() : "all",
             j["prompt"].get<std::string>()};
    if (per_kind > 0 && ++seen[p.kind] > per_kind) continue;
    out.push_back(std::move(p));
  }
  if (out.empty()) throw Error(ErrorCode::kIo, fmt::format("'{}' holds no prompts.", path));
  return out;
}

class Bench {
 public:
  Bench(const BenchFlags& flags, Pair& pair)
      : flags_(flags), pair_(pair), prompts_(read_prompts(flags.prompts, flags.per_kind)) {
    if (!flags.json_out.empty()) {
      out_.open(flags.json_out);
      if (!out_) throw Error(ErrorCode::kIo, "The file '" + flags.json_out + "' cannot be written.");
    }
    tokenize();
  }

  bool run_all() {
    ProgressLine line("Measuring");
    for (const std::string& mode : flags_.modes) measure(0, mode, -1);  // warm-up
    const std::size_t total = prompts_.size() * flags_.modes.size() * static_cast<std::size_t>(flags_.repetitions);
    std::size_t done = 0;
    for (int repetition = 0; repetition < flags_.repetitions; ++repetition) {
      for (std::size_t p = 0; p < prompts_.size(); ++p) {
        for (const std::string& mode : flags_.modes) {
          if (interrupted()) return false;
          measure(p, mode, repetition);
          line.show(static_cast<float>(++done) / static_cast<float>(total));
        }
      }
    }
    return true;
  }

  std::string table() const {
    std::string out = fmt::format(
        "{} prompts, {} tokens each, temperature {}, {} repetitions, interleaved; {}, narrow-matmul backend {}\n\n",
        prompts_.size(), flags_.model.n_predict, flags_.model.sampling.temperature, flags_.repetitions,
        pair_.target().description(), pair_.narrow().empty() ? "off" : pair_.narrow());
    if (cut_ > 0) out += fmt::format("{} prompts did not fit the context and were cut from the front\n\n", cut_);
    out +=
        "| text | mode | tokens/s | speed-up | tokens per step | drafted | merged | verified | draft passes | draft ms "
        "| verify ms | rest us | first token ms | other text |\n";
    out += "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n";
    std::vector<std::string> kinds;
    for (const Prompt& p : prompts_) {
      if (std::find(kinds.begin(), kinds.end(), p.kind) == kinds.end()) kinds.push_back(p.kind);
    }
    if (kinds.size() > 1) kinds.emplace_back("");
    for (const std::string& kind : kinds) {
      for (const std::string& mode : flags_.modes) out += row(kind, mode);
    }
    return out;
  }

 private:
  void tokenize() {
    const auto room = static_cast<std::size_t>(
        std::max<std::int64_t>(1, pair_.n_ctx() - std::max<std::int64_t>(0, flags_.model.n_predict)));
    for (const Prompt& p : prompts_) {
      tokens_.push_back(pair_.target().tokenize(p.text, true, false));
      if (tokens_.back().size() <= room) continue;
      tokens_.back().erase(tokens_.back().begin(), tokens_.back().end() - static_cast<std::ptrdiff_t>(room));
      ++cut_;
    }
  }

  void measure(std::size_t p, const std::string& mode, int repetition) {
    SessionOptions o = flags_.model.session(pair_);
    const int wanted = o.speculation.max_width;
    o.speculation.mode = parse_mode(mode);
    o.speculation.max_width = flags_.model.width == "auto" && mode != "auto" ? 16 : wanted;
    const Run r = run_prompt(pair_, tokens_[p], std::move(o), false, nullptr);
    if (repetition < 0 || r.tokens.empty() || interrupted()) return;
    if (mode == "plain") plain_[p] = r.tokens;
    Result& result = results_[{p, mode}];
    result.ms_per_token.push_back(r.decode_ms / static_cast<double>(r.tokens.size()));
    result.first_token_ms.push_back(r.first_token_ms);
    result.stats.add(r.stats);
    if (const auto plain = plain_.find(p); plain != plain_.end() && plain->second != r.tokens) ++result.differing;
    if (out_.is_open()) {
      json line = to_json(r);
      line["mode"] = mode;
      line["kind"] = prompts_[p].kind;
      line["prompt"] = p;
      line["repetition"] = repetition;
      line.erase("text");
      line.erase("tokens");
      out_ << line.dump() << '\n';
    }
  }

  std::string row(const std::string& kind, const std::string& mode) const {
    Stats sum;
    double ms = 0;
    double log_ratio = 0;
    int n = 0;
    int compared = 0;
    std::int64_t differing = 0;
    std::vector<double> first;
    for (std::size_t p = 0; p < prompts_.size(); ++p) {
      const auto found = results_.find({p, mode});
      if (found == results_.end() || (!kind.empty() && prompts_[p].kind != kind)) continue;
      const Result& r = found->second;
      sum.add(r.stats);
      ms += median(r.ms_per_token);
      ++n;
      differing += r.differing;
      first.insert(first.end(), r.first_token_ms.begin(), r.first_token_ms.end());
      if (const auto plain = results_.find({p, "plain"}); plain != results_.end()) {
        log_ratio += std::log(median(plain->second.ms_per_token) / median(r.ms_per_token));
        ++compared;
      }
    }
    if (n == 0) return "";
    const auto steps = static_cast<double>(std::max<std::int64_t>(1, sum.steps));
    const auto per_step = [&](auto v) { return static_cast<double>(v) / steps; };
    const double rest = sum.total_ms - sum.draft_ms - sum.verify_ms;
    return fmt::format(
        "| {} | {} | {:.0f} | {} | {:.2f} | {:.1f} | {:.1f} | {:.1f} | {:.1f} | {:.2f} | {:.2f} | {:.0f} | {:.1f} | {} "
        "|\n",
        kind.empty() ? "**all**" : kind, mode, 1000 * n / ms,
        compared > 0 ? fmt::format("{:.2f}x", std::exp(log_ratio / compared)) : "", sum.accepted_per_step(),
        per_step(sum.drafted), per_step(sum.merged), per_step(sum.verified), per_step(sum.draft_forwards),
        per_step(sum.draft_ms), per_step(sum.verify_ms), 1000 * rest / steps, median(first), differing);
  }

  const BenchFlags& flags_;
  Pair& pair_;
  std::vector<Prompt> prompts_;
  std::vector<std::vector<Token>> tokens_;
  std::map<std::pair<std::size_t, std::string>, Result> results_;
  std::map<std::size_t, std::vector<Token>> plain_;
  std::ofstream out_;
  int cut_ = 0;
};

int bench(const BenchFlags& flags) {
  for (const std::string& mode : flags.modes) parse_mode(mode);
  flags.model.session();
  Pair pair = load_pair(flags.model);
  Bench b(flags, pair);
  const bool complete = b.run_all();
  pair.save_profile();
  if (!write_out(b.table())) throw Error(ErrorCode::kIo, "The output was closed before the table was complete.");
  if (!complete) std::fputs("gsd: interrupted; the table holds what was measured so far\n", stderr);
  return complete ? 0 : kExitInterrupted;
}

}  // namespace

void add_bench(CLI::App& program, int& exit_code) {
  auto flags = std::make_shared<BenchFlags>();
  flags->model.n_predict = 128;
  CLI::App* app = program.add_subcommand("bench", "Measure the modes beside each other on a file of prompts");
  app->footer(
      R"(The speed-up is the geometric mean over the prompts of plain decoding's median time per token over the mode's.
"other text": runs whose tokens are not plain decoding's (near-ties, see docs/guide.md).

Examples:
  gsd bench -m target.gguf -d draft.gguf --prompts models/prompts/prompts.jsonl
  gsd bench -m target.gguf -d draft.gguf --prompts p.jsonl --modes plain,auto --temp 0.7 --json runs.jsonl)");
  app->add_option("--prompts", flags->prompts, "JSON lines with \"prompt\" and, optionally, \"kind\"")
      ->required()
      ->type_name("FILE");
  app->add_option("--modes", flags->modes, "Modes to compare")->delimiter(',')->capture_default_str();
  app->add_option("--repetitions", flags->repetitions, "Runs of each prompt and mode")
      ->capture_default_str()
      ->check(CLI::Range(1, 1000));
  app->add_option("--per-kind", flags->per_kind, "Take at most this many prompts of each kind; 0 = all")
      ->capture_default_str()
      ->check(CLI::Range(0, 1000000));
  app->add_option("--json", flags->json_out, "Write each run as a JSON line to this file")->type_name("FILE");
  add_model_flags(*app, flags->model);
  add_speculation_flags(*app, flags->model);
  add_sampling_flags(*app, flags->model);
  app->callback([flags, &exit_code] { exit_code = bench(*flags); });
}

}  // namespace gsd::app
