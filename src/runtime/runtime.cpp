#include "gsd/runtime.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "../core/engine_state.h"
#include "../core/stopwatch.h"
#include "../core/utf8.h"
#include "../draft/translating_drafter.h"
#include "gsd/lookup_text.h"
#include "profile_store.h"

namespace gsd {

// Who drafts: a file's model, or layers of the target.
struct LoadedDraft {
  DraftType type;
  std::string path;              // empty: the target's
  std::unique_ptr<Model> model;  // null: the target's
  std::unique_ptr<Backend> backend;
  std::shared_ptr<const VocabularyMap> map;  // null: the target's vocabulary
  std::string difference;                    // of the vocabularies, as pair_mismatch() has it
};

namespace {

std::string read_text(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(in), {}};
  if (!in.is_open() || in.bad())
    throw Error(ErrorCode::kIo, "The file '" + path + "' cannot be read; check its name and permissions.");
  return text;
}

// Whether the target's own layers draft. Throws Error(kUsage) where they are asked for and cannot.
bool choose_mtp(const RuntimeOptions& o, const MtpLayers& mtp) {
  const auto refuse = [](const std::string& why) { throw Error(ErrorCode::kUsage, why); };
  const bool asked = o.with_mtp || o.draft_type == DraftType::kMtp;
  if (!asked && (!o.draft.empty() || o.draft_type == DraftType::kModel)) return false;
  if (asked && mtp.count == 0)
    refuse("The target '" + o.target + "' has no MTP layers; a draft model is given with --draft.");
  if (asked && !mtp.obstacle.empty())
    refuse("The MTP layers of '" + o.target + "' cannot be used: " + mtp.obstacle + ".");
  return mtp.count > 0 && mtp.obstacle.empty();
}

// What is to draft. Throws Error(kUsage) where the files have nothing of the kind that was asked for.
std::vector<LoadedDraft> choose_drafts(const RuntimeOptions& o, const MtpLayers& mtp) {
  const auto refuse = [](const std::string& why) { throw Error(ErrorCode::kUsage, why); };
  std::vector<std::string> paths = o.more_drafts;
  if (!o.draft.empty()) paths.insert(paths.begin(), o.draft);
  if (!paths.empty() && o.draft_type == DraftType::kMtp)
    refuse("MTP layers stand in the target's own file: leave out the draft '" + paths.front() + "', or its type.");
  if (paths.empty() && (o.draft_type == DraftType::kEagle3 || o.draft_type == DraftType::kDFlash))
    refuse("A head of EAGLE-3 or DFlash is a file of its own; give it as the draft.");
  std::vector<LoadedDraft> out;
  for (const std::string& path : paths) {
    const DraftType type = draft_type(path);
    if (o.draft_type && *o.draft_type != type)
      refuse("The draft '" + path + "' is " +
             (type == DraftType::kModel ? "a model of its own"
                                        : "a head of the type " + std::string(draft_type_name(type))) +
             "; leave out --draft-type " + draft_type_name(*o.draft_type) + ".");
    for (const LoadedDraft& other : out)
      if (other.type == type)
        refuse("The drafts '" + other.path + "' and '" + path + "' are both of the type " + draft_type_name(type) +
               "; give one of each.");
    out.push_back({type, path, nullptr, nullptr, nullptr, {}});
  }
  if (choose_mtp(o, mtp)) out.push_back({DraftType::kMtp, "", nullptr, nullptr, nullptr, {}});
  return out;
}

std::vector<std::string> paths(const std::vector<RuntimeOptions::Adapter>& adapters) {
  std::vector<std::string> out;
  for (const auto& a : adapters) out.push_back(a.path);
  return out;
}

std::vector<float> scales(const std::vector<RuntimeOptions::Adapter>& adapters) {
  std::vector<float> out;
  for (const auto& a : adapters) out.push_back(a.scale);
  return out;
}

// Where a sequence may have all that there is, it gets no more than the models are to be trusted with.
int default_context(const Model& target, const std::vector<const Model*>& all, int n_shared) {
  int most = n_shared > 0 ? std::min(n_shared, target.n_ctx_trusted()) : std::min(4096, target.n_ctx_train());
  for (const Model* m : all) {
    if (m->max_positions() > 0) most = std::min(most, m->max_positions());
  }
  return std::max(16, most);
}

// For a text that may take half as many tokens again in the draft's vocabulary, where the draft has the positions.
ContextOptions with_room(ContextOptions draft, const Model& model, int n_ctx) {
  draft.n_ctx += n_ctx / 2;
  if (draft.n_shared > 0) draft.n_shared += draft.n_shared / 2;
  if (model.max_positions() > 0) draft.n_ctx = std::min(draft.n_ctx, model.max_positions());
  return draft;
}

}  // namespace

Placement place_of_draft(const RuntimeOptions& o) {
  if (!o.draft_place.devices.empty()) return o.draft_place;
  Placement out = o.target_place;
  out.layers = o.draft_place.layers.value_or(0);
  return out;
}

struct Runtime::Impl {
  explicit Impl(const RuntimeOptions& o) : options(o), store(o.profile_dir) {}

  RuntimeOptions options;
  ProfileStore store;
  MtpLayers mtp;                          // of the target's file; looked for where they may draft
  std::unique_ptr<NarrowKernels> narrow;  // outlives what is computed with it
  std::unique_ptr<Model> target;
  std::unique_ptr<Backend> target_backend;
  std::vector<LoadedDraft> drafts;
  std::unique_ptr<Engine> engine;
  std::string profile_source = "off";
  int n_threads = 0;

  std::string profile_key() const;
  bool load_profile();
  void make_profile(double load_ms);
  void load_draft(LoadedDraft& draft, const std::function<std::unique_ptr<Model>(ModelOptions)>& load,
                  const std::function<bool(float)>& progress);
  void make_contexts(const ContextOptions& context);
};

// Everything the times depend on, as far as it can be known.
std::string Runtime::Impl::profile_key() const {
  std::vector<std::string> names;
  for (const LoadedDraft& d : drafts)
    names.push_back((d.model ? d.model->fingerprint() : draft_type_name(d.type)) + (d.map ? " translated" : ""));
  for (const auto& a : options.adapters) names.push_back(fmt::format("adapter {} {}", a.path, a.scale));
  for (const auto& a : options.draft_adapters) names.push_back(fmt::format("draft's adapter {} {}", a.path, a.scale));
  return fmt::format("gsd {} | {} | {} | {} | {} threads | ctx {} | kv {} {} | {} | narrow {}", GSD_VERSION, cpu_name(),
                     target->fingerprint(), names.empty() ? "none" : fmt::format("{}", fmt::join(names, " + ")),
                     n_threads, options.context.n_ctx, options.context.type_k, options.context.type_v,
                     options.engine.exact ? "exact" : "fast",
                     narrow->instruction_set().empty() ? "off" : narrow->instruction_set());
}

bool Runtime::Impl::load_profile() {
  Learned learned;
  const auto costs = engine->state().planner_.draft_costs().first(drafts.size());
  if (!store.load(profile_key(), engine->state().planner_.target_cost(), costs, learned.calibrations)) return false;
  engine->state().exchange(learned);
  constexpr double kBudgetMs = 100;  // a user waits for it in every run
  check_cost(*target_backend, engine->state().planner_.target_cost(), kBudgetMs);
  for (std::size_t i = 0; i < drafts.size(); ++i)
    if (drafts[i].backend)  // what a block costs is learned while running
      check_cost(*drafts[i].backend, costs[i], kBudgetMs / 5 / static_cast<double>(drafts.size()));
  return true;
}

void Runtime::Impl::make_profile(double load_ms) {
  const double budget = std::max(500.0, load_ms / 10);
  measure_cost(*target_backend, engine->state().planner_.target_cost(), drafts.empty() ? budget : budget * 0.8);
  for (std::size_t i = 0; i < drafts.size(); ++i)
    if (drafts[i].backend)
      measure_cost(*drafts[i].backend, engine->state().planner_.draft_costs()[i],
                   budget * 0.2 / static_cast<double>(drafts.size()));
}

void Runtime::Impl::load_draft(LoadedDraft& draft, const std::function<std::unique_ptr<Model>(ModelOptions)>& load,
                               const std::function<bool(float)>& progress) {
  draft.model =
      load({.path = draft.path,
            .place = place_of_draft(options),
            .mmap = options.mmap,
            .adapters = draft.type == DraftType::kModel ? paths(options.draft_adapters) : std::vector<std::string>(),
            .head = draft.type != DraftType::kModel,
            .progress = progress});
  draft.difference = pair_mismatch(*target, *draft.model);
  if (draft.difference.empty()) return;
  const std::string obstacle =
      draft.type == DraftType::kModel ? translation_obstacle(*draft.model) : "a head needs its target's own tokens";
  if (!obstacle.empty())
    throw Error(ErrorCode::kPairMismatch, "The draft '" + draft.path + "' does not fit the target '" + options.target +
                                              "': " + draft.difference + ", and " + obstacle + ".");
  draft.map = std::make_shared<VocabularyMap>(vocabulary(*target), vocabulary(*draft.model));
}

// The backends, and the engine over them.
void Runtime::Impl::make_contexts(const ContextOptions& context) {
  ContextOptions draft_context = context;
  draft_context.exact = false;                // it only proposes
  draft_context.n_ctx = context.n_ctx + 256;  // room for a step's graph
  if (context.n_shared > 0) draft_context.n_shared = context.n_shared + 256 * context.n_seq;
  std::vector<Head> heads;
  for (const LoadedDraft& d : drafts)
    if (d.type != DraftType::kModel) heads.push_back({d.model ? d.model.get() : target.get(), d.type});
  BackendsWithHeads made = make_backends(*target, heads, context, draft_context);
  target_backend = std::move(made.target);
  auto head = made.heads.begin();
  std::vector<std::unique_ptr<Drafter>> drafters;
  for (LoadedDraft& d : drafts) {
    if (d.type == DraftType::kModel) {
      d.backend = make_backend(*d.model, d.map ? with_room(draft_context, *d.model, context.n_ctx) : draft_context);
      d.backend->adapt(scales(options.draft_adapters));
      drafters.push_back(d.map ? make_translating_drafter(*d.backend, d.map, draft_type_name(d.type))
                               : make_model_drafter(*d.backend, target->n_vocab(), draft_type_name(d.type)));
    } else {
      d.backend = std::move(head->backend);
      drafters.push_back(std::move(head->drafter));
      ++head;
    }
  }
  engine = std::make_unique<Engine>(*target_backend, std::move(drafters), options.engine);
}

Runtime::Runtime(const RuntimeOptions& options) : impl_(std::make_unique<Impl>(options)) {
  const Stopwatch clock;
  Impl& m = *impl_;
  const bool exact = options.engine.exact;
  const bool with_draft = !options.draft.empty() || !options.more_drafts.empty();
  const bool gpu = !devices_of(options.target_place).empty() || !devices_of(place_of_draft(options)).empty();
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
  if (!with_draft || options.with_mtp) m.mtp = mtp_layers(options.target);
  m.drafts = choose_drafts(options, m.mtp);
  if (!options.draft_adapters.empty() &&
      std::none_of(m.drafts.begin(), m.drafts.end(), [](const LoadedDraft& d) { return d.type == DraftType::kModel; }))
    throw Error(ErrorCode::kUsage, "There is no draft model that the draft's adapters could act on.");
  m.target = load({.path = options.target,
                   .place = options.target_place,
                   .mmap = options.mmap,
                   .adapters = paths(options.adapters),
                   .mtp = !m.drafts.empty() && m.drafts.back().type == DraftType::kMtp,
                   .progress = part(0, with_draft ? 0.9F : 1)});
  for (LoadedDraft& d : m.drafts)
    if (!d.path.empty()) m.load_draft(d, load, part(0.9F, 1));
  ContextOptions context = options.context;
  std::vector<const Model*> models = drafts();
  models.push_back(m.target.get());
  if (context.n_ctx == 0) context.n_ctx = default_context(*m.target, models, context.n_shared);
  for (const Model* model : models) {
    const int positions = model->max_positions();
    if (positions > 0 && context.n_ctx > positions)
      throw Error(ErrorCode::kUsage, "The model '" + model->path() + "' has positions for " +
                                         std::to_string(positions) + " tokens and no more; ask for a smaller context.");
  }
  context.exact = exact;
  if (context.n_threads == 0) context.n_threads = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  m.options.context = context;
  m.n_threads = context.n_threads;
  m.make_contexts(context);
  for (const std::string& file : options.lookup)
    m.engine->add_source(make_lookup_text(m.target->tokenize(read_text(file), AddBegin::kNo, ParseControl::kNo)));
  if (!options.profile) return;
  m.engine->state().adapted_ = scales(options.adapters);  // what passes cost with them
  m.target_backend->adapt(m.engine->state().adapted_);
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
std::vector<const Model*> Runtime::drafts() const {
  std::vector<const Model*> out;
  for (const LoadedDraft& d : impl_->drafts)
    if (d.model) out.push_back(d.model.get());
  return out;
}
std::vector<DraftType> Runtime::draft_types() const {
  std::vector<DraftType> out;
  for (const LoadedDraft& d : impl_->drafts) out.push_back(d.type);
  return out;
}
std::string Runtime::draft_description() const {
  std::vector<std::string> out;
  const int n = impl_->mtp.count;
  for (const LoadedDraft& d : impl_->drafts)
    out.push_back(d.model ? d.model->description() : fmt::format("{} MTP layer{} of the target", n, n == 1 ? "" : "s"));
  return fmt::format("{}", fmt::join(out, " + "));
}
std::string Runtime::vocabulary_note() const {
  constexpr double kUseful = 0.5;
  for (const LoadedDraft& d : impl_->drafts)
    if (d.map)
      return fmt::format(
          "the draft '{}' has another vocabulary than the target ({}); {:.1f} % of the target's tokens of text are "
          "also the draft's, the others are translated by their bytes{}",
          d.path, d.difference, 100 * d.map->share(),
          d.map->share() < kUseful ? "; below 50 % a draft seldom pays, gsd bench tells whether this one does" : "");
  return "";
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
  impl_->store.save(impl_->profile_key(), planner.target_cost(), planner.draft_costs().first(impl_->drafts.size()),
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
