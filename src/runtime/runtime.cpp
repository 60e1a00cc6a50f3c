#include "gsd/runtime.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "../core/stopwatch.h"
#include "../core/utf8.h"
#include "gsd/lookup_text.h"
#include "profile_store.h"

namespace gsd {
namespace {

std::string read_text(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(in), {}};
  if (!in.is_open() || in.bad())
    throw Error(ErrorCode::kIo, "The file '" + path + "' cannot be read; check its name and permissions.");
  return text;
}

int default_context(const Model& target) { return std::clamp(target.n_ctx_train(), 16, 4096); }

}  // namespace

struct Runtime::Impl {
  explicit Impl(const RuntimeOptions& o) : options(o), store(o.profile_dir) {}

  RuntimeOptions options;
  ProfileStore store;
  std::unique_ptr<NarrowKernels> narrow;  // outlives what is computed with it
  std::unique_ptr<Model> target;
  std::unique_ptr<Model> draft;
  std::unique_ptr<Backend> target_backend;
  std::unique_ptr<Backend> draft_backend;
  std::unique_ptr<Engine> engine;
  std::string profile_source = "off";
  int n_threads = 0;

  std::string profile_key() const;
  bool load_profile();
  void make_profile(double load_ms);
};

// Everything the times depend on, as far as it can be known.
std::string Runtime::Impl::profile_key() const {
  return fmt::format("gsd {} | {} | {} | {} | {} threads | ctx {} | kv {} {} | {} | narrow {}", GSD_VERSION, cpu_name(),
                     target->fingerprint(), draft ? draft->fingerprint() : "none", n_threads, options.context.n_ctx,
                     options.context.type_k, options.context.type_v, options.engine.exact ? "exact" : "fast",
                     narrow->instruction_set().empty() ? "off" : narrow->instruction_set());
}

bool Runtime::Impl::load_profile() {
  Learned learned;
  CostModel* draft_cost = draft ? &engine->planner().draft_cost() : nullptr;
  if (!store.load(profile_key(), engine->planner().target_cost(), draft_cost, learned.calibrations)) return false;
  engine->exchange(learned);
  constexpr double kBudgetMs = 100;  // a user waits for it in every run
  check_cost(*target_backend, engine->planner().target_cost(), kBudgetMs);
  if (draft) check_cost(*draft_backend, *draft_cost, kBudgetMs / 5);
  return true;
}

void Runtime::Impl::make_profile(double load_ms) {
  const double budget = std::max(500.0, load_ms / 10);
  measure_cost(*target_backend, engine->planner().target_cost(), draft ? budget * 0.8 : budget);
  if (draft) measure_cost(*draft_backend, engine->planner().draft_cost(), budget * 0.2);
}

Runtime::Runtime(const RuntimeOptions& options) : impl_(std::make_unique<Impl>(options)) {
  const Stopwatch clock;
  Impl& m = *impl_;
  const bool exact = options.engine.exact;
  const bool with_draft = !options.draft.empty();
  const bool gpu = options.target_gpu_layers != 0 || options.draft_gpu_layers != 0;
  m.narrow = std::make_unique<NarrowKernels>(NarrowOptions{options.narrow, exact, gpu});
  const bool repack =
      !exact && m.narrow->instruction_set().empty();  // the narrow backend reads the weights as they stand in the file
  const auto part = [&](float from, float to) {
    return [&progress = options.progress, from, to](float share) {
      return !progress || progress(from + (to - from) * share);
    };
  };
  const auto load = [&](const std::string& path, int gpu_layers, std::function<bool(float)> progress) {
    return std::make_unique<Model>(ModelOptions{path, gpu_layers, repack, options.mmap, std::move(progress)});
  };
  m.target = load(options.target, options.target_gpu_layers, part(0, with_draft ? 0.9F : 1));
  if (with_draft) {
    m.draft = load(options.draft, options.draft_gpu_layers, part(0.9F, 1));
    const std::string why = pair_mismatch(*m.target, *m.draft);
    if (!why.empty())
      throw Error(ErrorCode::kPairMismatch,
                  "The draft '" + options.draft + "' does not fit the target '" + options.target + "': " + why + ".");
  }
  ContextOptions context = options.context;
  if (context.n_ctx == 0) context.n_ctx = default_context(*m.target);
  for (const Model* model : {m.target.get(), m.draft.get()}) {
    const int positions = model != nullptr ? model->max_positions() : 0;
    if (positions > 0 && context.n_ctx > positions)
      throw Error(ErrorCode::kUsage, "The model '" + model->path() + "' has positions for " +
                                         std::to_string(positions) + " tokens and no more; ask for a smaller context.");
  }
  context.exact = exact;
  if (context.n_threads == 0) context.n_threads = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  m.options.context = context;
  m.n_threads = context.n_threads;
  m.target_backend = make_backend(*m.target, context);
  if (with_draft) {
    ContextOptions draft_context = context;
    draft_context.exact = false;                // it only proposes
    draft_context.n_ctx = context.n_ctx + 256;  // room for a step's graph
    m.draft_backend = make_backend(*m.draft, draft_context);
  }
  m.engine = std::make_unique<Engine>(*m.target_backend, m.draft_backend.get(), options.engine);
  for (const std::string& file : options.lookup)
    m.engine->add_source(make_lookup_text(m.target->tokenize(read_text(file), AddBegin::kNo, ParseControl::kNo)));
  if (!options.profile) return;
  if (m.load_profile()) {
    m.profile_source = "cached";
    return;
  }
  m.make_profile(clock.ms());
  m.profile_source = "measured";
  save_profile();
}

Runtime::~Runtime() = default;
Runtime::Runtime(Runtime&&) noexcept = default;

const Model& Runtime::target() const { return *impl_->target; }
const Model* Runtime::draft() const { return impl_->draft.get(); }
Engine& Runtime::engine() { return *impl_->engine; }
int Runtime::n_ctx() const { return impl_->options.context.n_ctx; }
int Runtime::n_threads() const { return impl_->n_threads; }
const std::string& Runtime::narrow() const { return impl_->narrow->instruction_set(); }
const std::string& Runtime::profile_source() const { return impl_->profile_source; }

void Runtime::save_profile() const {
  if (!impl_->options.profile) return;
  Planner& planner = impl_->engine->planner();
  impl_->store.save(impl_->profile_key(), planner.target_cost(), impl_->draft ? &planner.draft_cost() : nullptr,
                    impl_->engine->calibrations());
}

std::string Runtime::generate(std::string_view prompt, SessionOptions options,
                              const std::function<bool(std::string_view)>& on_text) {
  std::string text;
  Utf8Buffer utf8;
  const Model& model = *impl_->target;
  const auto outer = std::move(options.on_token);
  options.on_token = [&](Token t) {
    const std::string ready = utf8.push(model.is_eog(t) ? "" : model.piece(t));
    text += ready;
    const bool go_on = !outer || outer(t);
    return (ready.empty() || !on_text || on_text(ready)) && go_on;
  };
  Engine& engine = *impl_->engine;
  const auto session = engine.open(std::move(options));
  engine.set_prompt(*session, model.tokenize(prompt, AddBegin::kYes, ParseControl::kNo));
  run_to_end(engine, *session);
  const std::string rest = utf8.flush();
  text += rest;
  if (!rest.empty() && on_text) on_text(rest);
  return text;
}

}  // namespace gsd
