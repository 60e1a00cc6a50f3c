// gsd make-draft: a draft made out of the target by leaving out layers (the paper's self-speculative setting).
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <memory>

#include "../core/stopwatch.h"
#include "commands.h"
#include "console.h"
#include "options.h"
#include "run.h"

namespace gsd::app {
namespace {

struct MakeDraftFlags {
  ModelFlags model;
  std::string out;
  std::vector<int> keep;
  std::string prompts;
  double budget_s = 300;
};

// Used where no prompts are given: prose, a help page, a question.
const std::vector<std::string> kPrompts{
    "The main difference between a compiler and an interpreter is that",
    "# tar\n\n> Archiving utility.\n",
    "Question: Tom has 12 boxes with 8 pens each. He gives 30 pens away. How many pens are left?\nAnswer:",
    "To install the package, first make sure that",
};

std::string list(const std::vector<int>& layers) { return fmt::format("{}", fmt::join(layers, ",")); }

// Measures drafts against one loaded target.
class Search {
 public:
  Search(const MakeDraftFlags& flags, const Model& target)
      : flags_(flags), target_(target), context_(flags.model.pair.context), scratch_(flags.out + ".candidate") {
    if (context_.n_ctx == 0) context_.n_ctx = std::clamp(target.n_ctx_train(), 16, 1024);
    if (flags.prompts.empty()) {
      for (const std::string& p : kPrompts) prompts_.push_back(target.tokenize(p, true, false));
    } else {
      prompts_.push_back(target.tokenize(read_file(flags.prompts), true, false));
    }
    target_backend_ = make_backend(target, context_);
    target_cost_ = std::make_unique<CostModel>(64);
    measure_cost(*target_backend_, *target_cost_, 500);
  }
  ~Search() { std::remove(scratch_.c_str()); }

  struct Score {
    double tokens_per_second = 0;
    double accepted_per_step = 0;
  };

  Score plain() {
    Engine engine(*target_backend_, nullptr);
    return run(engine, Mode::kPlain);
  }

  Score measure(const std::vector<int>& keep) {
    write_pruned(target_, keep, scratch_);
    const Model draft(ModelOptions{.path = scratch_,
                                   .gpu_layers = flags_.model.pair.draft_gpu_layers,
                                   .repack = flags_.model.no_narrow,
                                   .progress = {}});
    const auto backend = make_backend(draft, context_);
    Engine engine(*target_backend_, backend.get());
    engine.planner().target_cost().load(target_cost_->points());
    measure_cost(*backend, engine.planner().draft_cost(), 200);
    return run(engine, Mode::kAuto);
  }

  double seconds() const { return clock_.ms() / 1000; }
  bool out_of_time() const { return interrupted() || seconds() > flags_.budget_s; }

 private:
  Score run(Engine& engine, Mode mode) {
    std::vector<double> speed;
    for (int repetition = 0; repetition < 3; ++repetition) {
      const Stats before = engine.stats();
      for (const auto& prompt : prompts_) {
        SessionOptions o;
        o.speculation.mode = mode;
        o.speculation.max_width = 32;
        o.speculation.history = false;  // what the draft is worth, not what the prompt repeats
        o.max_tokens = std::min<std::int64_t>(64, context_.n_ctx - 1);
        o.ignore_eog = true;
        const auto session = engine.open(std::move(o));
        engine.set_prompt(*session, std::span(prompt).last(std::min<std::size_t>(
                                        prompt.size(), static_cast<std::size_t>(context_.n_ctx) / 2)));
        while (engine.prefill(*session) > 0) {
        }
        Session* list[] = {session.get()};
        while (!session->finished() && !interrupted()) engine.step(list);
      }
      const Stats& after = engine.stats();
      speed.push_back(1000 * static_cast<double>(after.emitted - before.emitted) / (after.total_ms - before.total_ms));
      score_.accepted_per_step = after.accepted_per_step();
    }
    std::sort(speed.begin(), speed.end());
    score_.tokens_per_second = speed[speed.size() / 2];
    return score_;
  }

  const MakeDraftFlags& flags_;
  const Model& target_;
  ContextOptions context_;
  std::string scratch_;
  Stopwatch clock_;
  std::vector<std::vector<Token>> prompts_;
  std::unique_ptr<Backend> target_backend_;
  std::unique_ptr<CostModel> target_cost_;
  Score score_;
};

// Forward selection from the outermost layers: adds the layer that helps most until none does.
std::vector<int> search_layers(Search& search, int n_layers) {
  std::vector<int> best{0, n_layers - 1};
  Search::Score best_score = search.measure(best);
  fmt::print("layers {}: {:.1f} tokens/s, {:.2f} per step\n", list(best), best_score.tokens_per_second,
             best_score.accepted_per_step);
  for (bool better = true; better && static_cast<int>(best.size()) < n_layers && !search.out_of_time();) {
    better = false;
    const std::vector<int> base = best;
    for (int layer = 1; layer + 1 < n_layers && !search.out_of_time(); ++layer) {
      if (std::find(base.begin(), base.end(), layer) != base.end()) continue;
      std::vector<int> trial = base;
      trial.insert(std::upper_bound(trial.begin(), trial.end(), layer), layer);
      const Search::Score score = search.measure(trial);
      const bool wins = score.tokens_per_second > best_score.tokens_per_second;
      fmt::print("layers {}: {:.1f} tokens/s, {:.2f} per step{}\n", list(trial), score.tokens_per_second,
                 score.accepted_per_step, wins ? "  <- best so far" : "");
      std::fflush(stdout);
      if (!wins) continue;
      better = true;
      best = trial;
      best_score = score;
    }
  }
  return best;
}

int make_draft(const MakeDraftFlags& flags) {
  const bool narrow = !configure_narrow(!flags.model.no_narrow, false).empty();
  const Model target(ModelOptions{.path = flags.model.pair.target,
                                  .gpu_layers = flags.model.pair.target_gpu_layers,
                                  .repack = !narrow,
                                  .progress = {}});
  std::vector<int> keep = flags.keep;
  std::sort(keep.begin(), keep.end());
  if (target.n_layers() < 3 && keep.empty())
    throw Error(ErrorCode::kModelUnsupported, "The target has too few layers to leave some out.");
  if (!keep.empty()) write_pruned(target, keep, flags.out);  // complain about layers or folder before measuring
  Search search(flags, target);
  const Search::Score plain = search.plain();
  fmt::print("{}: {} layers, {:.1f} tokens/s plain\n", target.description(), target.n_layers(),
             plain.tokens_per_second);
  if (keep.empty()) keep = search_layers(search, target.n_layers());
  if (interrupted()) return kExitInterrupted;
  const Search::Score final_score = search.measure(keep);
  if (flags.keep.empty()) write_pruned(target, keep, flags.out);
  fmt::print("\n'{}' keeps layers {} of {}: {:.1f} tokens/s ({:.2f}x plain), {:.2f} tokens per step; {:.0f} s\n",
             flags.out, list(keep), target.n_layers(), final_score.tokens_per_second,
             final_score.tokens_per_second / std::max(1e-9, plain.tokens_per_second), final_score.accepted_per_step,
             search.seconds());
  if (final_score.tokens_per_second < 1.02 * plain.tokens_per_second) {
    fmt::print("This draft gains nothing on this machine; a model trained as a draft will do better.\n");
  }
  return 0;
}

}  // namespace

void add_make_draft(CLI::App& program, int& exit_code) {
  auto flags = std::make_shared<MakeDraftFlags>();
  CLI::App* app = program.add_subcommand("make-draft", "Make a draft out of the target by leaving out layers");
  app->footer(
      R"(Without --keep-layers the layers are searched for: from the first and the last on, the layer that raises the
measured tokens/s most is added, until none does or the budget is used up.

Examples:
  gsd make-draft -m target.gguf -o draft.gguf
  gsd make-draft -m target.gguf -o draft.gguf --keep-layers 0,1,2,11)");
  app->add_option("-o,--output", flags->out, "The draft (GGUF)")->required()->type_name("FILE");
  app->add_option("--keep-layers", flags->keep, "Layers to keep, counted from 0; without it they are searched for")
      ->delimiter(',');
  app->add_option("-f,--file", flags->prompts, "Text to measure on")->type_name("FILE");
  app->add_option("--budget", flags->budget_s, "Seconds that the search may take")
      ->capture_default_str()
      ->check(CLI::Range(1.0, 1e6));
  add_target_flags(*app, flags->model);
  app->callback([flags, &exit_code] { exit_code = make_draft(*flags); });
}

}  // namespace gsd::app
