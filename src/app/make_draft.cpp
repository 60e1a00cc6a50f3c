// gsd make-draft: a draft made out of the target by leaving out layers (the paper's self-speculative setting).
#include <fcntl.h>
#include <fmt/ranges.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <optional>
#include <set>

#include "../core/engine_state.h"
#include "../core/stopwatch.h"
#include "../util/atomic_file.h"
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

// True if libllama runs the model. It asserts on some layers that it never met alone, so a child process tries first.
bool runs(const std::string& path) {
  const pid_t child = fork();
  if (child < 0) throw Error(ErrorCode::kOutOfMemory, "No process could be started to try the draft in.");
  if (child == 0) {
    if (const int null = open("/dev/null", O_WRONLY); null >= 0) dup2(null, STDERR_FILENO);
    setenv("GGML_NO_BACKTRACE", "1", 1);
    try {
      const Model model(ModelOptions{.path = path, .repack = false, .mmap = true, .progress = {}});
      const auto backend = make_backend(model, {.n_ctx = 64, .n_threads = 1, .max_outputs = 1, .max_batch = 1});
      backend->forward(std::vector<NodeInput>{{0, 0, -1, true, true}});
      _exit(0);
    } catch (...) {
      _exit(1);
    }
  }
  int status = -1;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

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
    // Beyond what the target was trained for there is nothing to be learned.
    context_.n_ctx = std::clamp(target.n_ctx_train(), 16, context_.n_ctx == 0 ? 1024 : std::max(16, context_.n_ctx));
    if (flags.prompts.empty()) {
      for (const std::string& p : kPrompts) prompts_.push_back(target.tokenize(p, AddBegin::kYes, ParseControl::kNo));
    } else {
      prompts_.push_back(target.tokenize(read_file(flags.prompts), AddBegin::kYes, ParseControl::kNo));
    }
    target_backend_ = make_backend(target, context_);
    target_cost_ = std::make_unique<CostModel>(64);
    measure_cost(*target_backend_, *target_cost_, 500);
    Engine engine(*target_backend_);
    plain_ = run(engine, Mode::kPlain, 0);
  }
  ~Search() { std::remove(scratch_.c_str()); }

  struct Score {
    double tokens_per_second = 0;
    double tokens_per_step = 0;
    Mode mode = Mode::kAuto;
    bool gains = false;

    // Drafts that gain nothing are all as fast as plain decoding in mode auto, which then leaves them alone. Among them
    // the speed of a chain that always drafts kChainDepth tokens tells which way to search.
    bool better_than(const Score& other) const {
      return gains != other.gains ? gains : tokens_per_second > kMargin * other.tokens_per_second;
    }
  };

  const Score& plain() const { return plain_; }

  // As measure(), or none if what is left is no model that can be run: some layers cannot do without others.
  std::optional<Score> try_to_measure(const std::vector<int>& keep, const Score& best) {
    write_pruned(target_, keep, scratch_);
    if (!runs(scratch_)) return std::nullopt;
    return measure(best);
  }

  // Median of three runs; of one where that is clearly slower than `best`.
  Score measure(const Score& best) {
    const Model draft(ModelOptions{.path = scratch_,
                                   .place = place_of_draft(flags_.model.pair),
                                   .repack = flags_.model.no_narrow,
                                   .mmap = flags_.model.pair.mmap,
                                   .progress = {}});
    const auto backend = make_backend(draft, context_);
    Engine engine(*target_backend_, backend.get());
    engine.state().planner_.target_cost().load(target_cost_->points());
    measure_cost(*backend, engine.state().planner_.draft_cost(), 200);
    Score score = run(engine, Mode::kAuto, best.mode == Mode::kAuto ? 0.9 * best.tokens_per_second : 0);
    score.gains = score.tokens_per_second > kMargin * plain_.tokens_per_second && score.tokens_per_step > kMargin;
    if (score.gains || best.gains) return score;
    return run(engine, Mode::kChain, 0.9 * best.tokens_per_second);
  }

  double seconds() const { return clock_.ms() / 1000; }
  bool out_of_time() const { return interrupted() || seconds() > flags_.budget_s; }

 private:
  static constexpr double kMargin = 1.01;  // less is noise
  static constexpr int kChainDepth = 4;

  Score run(Engine& engine, Mode mode, double hopeless) {
    std::vector<double> speed;
    const Stats start = engine.stats();
    for (int repetition = 0; repetition < 3 && !(repetition == 1 && speed[0] < hopeless); ++repetition) {
      const Stats before = engine.stats();
      for (const auto& prompt : prompts_) generate(engine, mode, prompt);
      const Stats& after = engine.stats();
      speed.push_back(1000 * static_cast<double>(after.emitted - before.emitted) / (after.total_ms - before.total_ms));
    }
    std::sort(speed.begin(), speed.end());
    const Stats& end = engine.stats();
    return {.tokens_per_second = speed[speed.size() / 2],
            .tokens_per_step =
                static_cast<double>(end.emitted - start.emitted) / static_cast<double>(end.steps - start.steps),
            .mode = mode};
  }

  void generate(Engine& engine, Mode mode, const std::vector<Token>& prompt) {
    SessionOptions o;
    o.speculation.mode = mode;
    o.speculation.max_width = 32;
    if (mode == Mode::kChain) {
      o.speculation.depth = kChainDepth;
      o.speculation.path_threshold = 0;
    }
    o.speculation.history = false;  // what the draft is worth, not what the prompt repeats
    o.max_tokens = std::min<std::int64_t>(64, context_.n_ctx - 1);
    o.ignore_eog = true;
    const auto session = engine.open(std::move(o));
    const auto tail = std::min<std::size_t>(prompt.size(), static_cast<std::size_t>(context_.n_ctx) / 2);
    engine.set_prompt(*session, std::span(prompt).last(tail));
    run_to_end(engine, *session, [](std::size_t) { return !interrupted(); });
  }

  const MakeDraftFlags& flags_;
  const Model& target_;
  ContextOptions context_;
  std::string scratch_;
  Stopwatch clock_;
  std::vector<std::vector<Token>> prompts_;
  std::unique_ptr<Backend> target_backend_;
  std::unique_ptr<CostModel> target_cost_;
  Score plain_;
};

// The search over layers: evenly spread ones of a quarter, half and three quarters first, then from the best of these
// on whatever change of one layer, put in or left out, makes it faster, until none does or the time is used up.
class Climb {
 public:
  Climb(Search& search, int n_layers) : search_(search), n_layers_(n_layers) {}

  std::vector<int> run() {
    for (const int quarters : {2, 1, 3}) {  // whatever the budget: there must be a result
      if (best_.empty() || !search_.out_of_time()) consider(spread(std::max(2, n_layers_ * quarters / 4)));
    }
    if (best_.empty())
      throw Error(
          ErrorCode::kModelUnsupported,
          "No draft can be made of this target: libllama does not run it without the layers that were left out.");
    // `since`: layers tried since the last improvement; once all have been, this is a local optimum.
    for (int layer = 0, since = 0; since < n_layers_ && !search_.out_of_time(); layer = (layer + 1) % n_layers_) {
      since = consider(changed(layer)) ? 0 : since + 1;
    }
    return best_;
  }

 private:
  // `count` layers with the first and the last among them.
  std::vector<int> spread(int count) const {
    std::vector<int> layers;
    for (int i = 0; i < count; ++i) layers.push_back(i * (n_layers_ - 1) / (count - 1));
    return layers;
  }

  std::vector<int> changed(int layer) const {
    std::vector<int> layers = best_;
    const auto at = std::lower_bound(layers.begin(), layers.end(), layer);
    if (at != layers.end() && *at == layer) {
      layers.erase(at);
    } else {
      layers.insert(at, layer);
    }
    return layers;
  }

  bool consider(const std::vector<int>& layers) {
    if (layers.empty() || static_cast<int>(layers.size()) == n_layers_ || !seen_.insert(layers).second) return false;
    const auto measured = search_.try_to_measure(layers, best_score_);
    if (!measured) {
      fmt::print("{:4.0f} s  {:>2} layers, {}: cannot be run without the others\n", search_.seconds(), layers.size(),
                 list(layers));
      return false;
    }
    const Search::Score& score = *measured;
    const bool wins = best_.empty() || score.better_than(best_score_);
    print(fmt::format("{:4.0f} s  {:>2} layers, {}: {:.1f} tokens/s {}, {:.2f} per step{}\n", search_.seconds(),
                      layers.size(), list(layers), score.tokens_per_second,
                      score.mode == Mode::kAuto ? "" : " as a chain", score.tokens_per_step,
                      wins ? "  <- best so far" : ""));
    if (wins) {
      best_ = layers;
      best_score_ = score;
    }
    return wins;
  }

  Search& search_;
  int n_layers_;
  std::set<std::vector<int>> seen_;
  std::vector<int> best_;
  Search::Score best_score_;
};

int make_draft(const MakeDraftFlags& flags) {
  const NarrowKernels narrow({.enabled = !flags.model.no_narrow,
                              .gpu = !devices_of(flags.model.pair.target_place).empty() ||
                                     !devices_of(place_of_draft(flags.model.pair)).empty()});
  const Model target(ModelOptions{.path = flags.model.pair.target,
                                  .place = flags.model.pair.target_place,
                                  .repack = narrow.instruction_set().empty(),
                                  .mmap = flags.model.pair.mmap,
                                  .progress = {}});
  std::vector<int> keep = flags.keep;
  std::sort(keep.begin(), keep.end());
  if (target.n_layers() < 3 && keep.empty())
    throw Error(ErrorCode::kModelUnsupported, "The target has too few layers to leave some out.");
  { const AtomicFile writable(flags.out, "model"); }  // complain about the folder before measuring
  Search search(flags, target);
  const Search::Score& plain = search.plain();
  print(fmt::format("{}: {} layers, {:.1f} tokens/s plain\n", target.description(), target.n_layers(),
                    plain.tokens_per_second));
  if (keep.empty()) keep = Climb(search, target.n_layers()).run();
  if (interrupted()) return kExitInterrupted;
  const auto measured = search.try_to_measure(keep, {.gains = true});
  if (!measured) {
    throw Error(ErrorCode::kModelUnsupported,
                fmt::format("libllama does not run the target with layers {} alone; keep others too.", list(keep)));
  }
  const Search::Score& final_score = *measured;
  write_pruned(target, keep, flags.out);
  print(fmt::format("\n'{}' keeps layers {} of {}: {:.1f} tokens/s ({:.2f}x plain), {:.2f} tokens per step; {:.0f} s\n",
                    flags.out, list(keep), target.n_layers(), final_score.tokens_per_second,
                    final_score.tokens_per_second / std::max(1e-9, plain.tokens_per_second),
                    final_score.tokens_per_step, search.seconds()));
  if (final_score.tokens_per_second < 1.02 * plain.tokens_per_second) {
    print("This draft gains nothing on this machine; a model trained as a draft will do better.\n");
  }
  return 0;
}

}  // namespace

void add_make_draft(CLI::App& program, int& exit_code) {
  auto flags = std::make_shared<MakeDraftFlags>();
  CLI::App* app = program.add_subcommand("make-draft", "Make a draft out of the target by leaving out layers");
  app->footer(
      R"(Without --keep-layers the layers are searched for: a quarter, half and three quarters of them, evenly spread, are measured;
then, from the fastest on, layers are put in or left out as long as one such change raises the measured tokens/s or until
the budget is used up.

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
