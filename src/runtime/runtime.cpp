#include "gsd/runtime.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "../core/engine_state.h"
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

// What is to draft. Throws Error(kUsage) where the files have nothing of the kind that was asked for.
std::optional<DraftType> choose_draft_type(const RuntimeOptions& o, const MtpLayers& mtp) {
  const auto refuse = [](const std::string& why) { throw Error(ErrorCode::kUsage, why); };
  if (!o.draft.empty()) {
    const DraftType type = draft_type(o.draft);
    if (o.draft_type == DraftType::kMtp)
      refuse("MTP layers stand in the target's own file: leave out the draft '" + o.draft + "', or its type.");
    if (o.draft_type == DraftType::kModel && type == DraftType::kEagle3)
      refuse("The draft '" + o.draft + "' is an EAGLE-3 head and no model of its own; leave out --draft-type model.");
    if (o.draft_type == DraftType::kEagle3 && type != DraftType::kEagle3)
      refuse("The draft '" + o.draft + "' is no EAGLE-3 head; leave out --draft-type eagle3.");
    return type;
  }
  if (o.draft_type == DraftType::kEagle3) refuse("A head of EAGLE-3 is a file of its own; give it as the draft.");
  if (o.draft_type == DraftType::kModel) return std::nullopt;
  if (o.draft_type == DraftType::kMtp && mtp.count == 0)
    refuse("The target '" + o.target + "' has no MTP layers; a draft model is given with --draft.");
  if (o.draft_type == DraftType::kMtp && !mtp.obstacle.empty())
    refuse("The MTP layers of '" + o.target + "' cannot be used: " + mtp.obstacle + ".");
  return mtp.count > 0 && mtp.obstacle.empty() ? std::optional(DraftType::kMtp) : std::nullopt;
}

// Where a sequence may have all that there is, it gets no more than the models are to be trusted with.
int default_context(const Model& target, const Model* draft, int n_shared) {
  int most = n_shared > 0 ? std::min(n_shared, target.n_ctx_trusted()) : std::min(4096, target.n_ctx_train());
  for (const Model* m : {&target, draft}) {
    if (m != nullptr && m->max_positions() > 0) most = std::min(most, m->max_positions());
  }
  return std::max(16, most);
}

}  // namespace

struct Runtime::Impl {
  explicit Impl(const RuntimeOptions& o) : options(o), store(o.profile_dir) {}

  RuntimeOptions options;
  ProfileStore store;
  MtpLayers mtp;  // of the target's file; looked for where no draft is given
  std::optional<DraftType> type;
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
                     target->fingerprint(),
                     draft  ? draft->fingerprint()
                     : type ? draft_type_name(*type)
                            : "none",
                     n_threads, options.context.n_ctx, options.context.type_k, options.context.type_v,
                     options.engine.exact ? "exact" : "fast",
                     narrow->instruction_set().empty() ? "off" : narrow->instruction_set());
}

bool Runtime::Impl::load_profile() {
  Learned learned;
  CostModel* draft_cost = draft_backend ? &engine->state().planner_.draft_cost() : nullptr;
  if (!store.load(profile_key(), engine->state().planner_.target_cost(), draft_cost, learned.calibrations))
    return false;
  engine->state().exchange(learned);
  constexpr double kBudgetMs = 100;  // a user waits for it in every run
  check_cost(*target_backend, engine->state().planner_.target_cost(), kBudgetMs);
  if (draft_backend) check_cost(*draft_backend, *draft_cost, kBudgetMs / 5);
  return true;
}

void Runtime::Impl::make_profile(double load_ms) {
  const double budget = std::max(500.0, load_ms / 10);
  measure_cost(*target_backend, engine->state().planner_.target_cost(), draft_backend ? budget * 0.8 : budget);
  if (draft_backend) measure_cost(*draft_backend, engine->state().planner_.draft_cost(), budget * 0.2);
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
  const auto load = [&](ModelOptions model) {
    model.repack = repack;
    return std::make_unique<Model>(model);
  };
  if (!with_draft) m.mtp = mtp_layers(options.target);
  m.type = choose_draft_type(options, m.mtp);
  m.target = load({.path = options.target,
                   .gpu_layers = options.target_gpu_layers,
                   .mmap = options.mmap,
                   .mtp = m.type == DraftType::kMtp,
                   .progress = part(0, with_draft ? 0.9F : 1)});
  if (with_draft) {
    m.draft = load({.path = options.draft,
                    .gpu_layers = options.draft_gpu_layers,
                    .mmap = options.mmap,
                    .head = m.type != DraftType::kModel,
                    .progress = part(0.9F, 1)});
    const std::string why = pair_mismatch(*m.target, *m.draft);
    if (!why.empty())
      throw Error(ErrorCode::kPairMismatch,
                  "The draft '" + options.draft + "' does not fit the target '" + options.target + "': " + why + ".");
  }
  ContextOptions context = options.context;
  if (context.n_ctx == 0) context.n_ctx = default_context(*m.target, m.draft.get(), context.n_shared);
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
  ContextOptions draft_context = context;
  draft_context.exact = false;                // it only proposes
  draft_context.n_ctx = context.n_ctx + 256;  // room for a step's graph
  if (context.n_shared > 0) draft_context.n_shared = context.n_shared + 256 * context.n_seq;
  if (m.type && m.type != DraftType::kModel) {
    BackendsWithHead both = make_backends(*m.target, m.draft ? *m.draft : *m.target, *m.type, context, draft_context);
    m.target_backend = std::move(both.target);
    m.draft_backend = std::move(both.head);
  } else {
    m.target_backend = make_backend(*m.target, context);
    if (m.draft) m.draft_backend = make_backend(*m.draft, draft_context);
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
std::optional<DraftType> Runtime::draft_type() const { return impl_->type; }
std::string Runtime::draft_description() const {
  if (impl_->draft) return impl_->draft->description();
  if (!impl_->type) return "";
  const int n = impl_->mtp.count;
  return fmt::format("{} MTP layer{} of the target", n, n == 1 ? "" : "s");
}
std::string Runtime::idle_layers() const {
  const MtpLayers& mtp = impl_->mtp;
  if (mtp.count == 0 || mtp.obstacle.empty()) return "";
  return fmt::format(
      "'{}' holds {} MTP layer{}, and {}; a draft model is given with --draft, and gsd make-draft makes one",
      impl_->target->path(), mtp.count, mtp.count == 1 ? "" : "s", mtp.obstacle);
}
Engine& Runtime::engine() { return *impl_->engine; }
int Runtime::n_ctx() const { return impl_->options.context.n_ctx; }
int Runtime::n_threads() const { return impl_->n_threads; }
const std::string& Runtime::narrow() const { return impl_->narrow->instruction_set(); }
const std::string& Runtime::profile_source() const { return impl_->profile_source; }

void Runtime::save_profile() const {
  if (!impl_->options.profile) return;
  Planner& planner = impl_->engine->state().planner_;
  impl_->store.save(impl_->profile_key(), planner.target_cost(), impl_->draft_backend ? &planner.draft_cost() : nullptr,
                    impl_->engine->state().calibrations_);
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
