#include <fmt/format.h>
#include <ggml-backend.h>
#include <ggml.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "../core/stopwatch.h"
#include "../util/atomic_file.h"
#include "gsd/lookup_text.h"
#include "gsd/utf8.h"
#include "handles.h"

namespace gsd {
namespace {

using nlohmann::json;

std::filesystem::path user_cache() {
  if (const char* dir = std::getenv("XDG_CACHE_HOME"); dir != nullptr && *dir != '\0')
    return std::filesystem::path(dir) / "gsd";
  if (const char* dir = std::getenv("HOME"); dir != nullptr && *dir != '\0')
    return std::filesystem::path(dir) / ".cache" / "gsd";
  return {};
}

json to_json(const CostModel& m) {
  json out = json::array();
  for (const auto& p : m.points()) out.push_back({p.width, p.ms});
  return out;
}

void from_json(const json& j, CostModel& m) {
  std::vector<CostModel::Point> points;
  for (const json& p : j) {
    if (p.at(0).get<int>() <= m.max_width()) points.push_back({p.at(0).get<int>(), p.at(1).get<double>()});
  }
  m.load(points);
}

json to_json(const std::map<int, Calibration>& calibrations) {
  constexpr std::size_t kMost = 8;
  json out = json::object();
  for (const auto& [key, c] : calibrations) {
    if (out.size() < kMost) out[std::to_string(key)] = c.counts();
  }
  return out;
}

// Leaves out what is not as to_json() wrote it.
void from_json(const json& j, std::map<int, Calibration>& calibrations) {
  for (const auto& [key, counts] : j.items()) {
    const int tenths = std::atoi(key.c_str());
    Calibration c(tenths < 0);
    if (std::to_string(tenths) == key && c.set_counts(counts.get<std::vector<double>>()))
      calibrations.insert({tenths, c});
  }
}

// What profiles.json holds; empty if there is none, or it is damaged. Nothing in it is nested deeper than this: what
// is, was not written here, and would take long to write again.
json read_profiles(const std::filesystem::path& file) {
  constexpr int kMaxNesting = 4;
  const auto shallow = [](int depth, json::parse_event_t, const json&) {
    if (depth > kMaxNesting) throw Error(ErrorCode::kIo, "The profiles are nested too deep.");
    return true;
  };
  try {
    std::ifstream in(file);
    json all = json::parse(in, shallow);
    if (all.is_object()) return all;
  } catch (const std::exception&) {
  }
  return json::object();
}

// The graphics processors that layers may lie on.
std::string gpu_names() {
  std::string names;
  for (std::size_t i = 0; i < ggml_backend_dev_count(); ++i) {
    ggml_backend_dev_t device = ggml_backend_dev_get(i);
    const auto type = ggml_backend_dev_type(device);
    if (type == GGML_BACKEND_DEVICE_TYPE_GPU || type == GGML_BACKEND_DEVICE_TYPE_IGPU)
      names += fmt::format(" {}", ggml_backend_dev_description(device));
  }
  return names;
}

std::string read_text(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(in), {}};
  if (!in.is_open() || in.bad())
    throw Error(ErrorCode::kIo, "The file '" + path + "' cannot be read; check its name and permissions.");
  return text;
}

int default_context(const Model& target) { return std::clamp(target.n_ctx_train(), 16, 4096); }

}  // namespace

std::string cpu_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  }
  return "unknown";
}

struct Pair::Impl {
  PairOptions options;
  std::unique_ptr<NarrowKernels> narrow;  // outlives what is computed with it
  std::unique_ptr<Model> target;
  std::unique_ptr<Model> draft;
  std::unique_ptr<Backend> target_backend;
  std::unique_ptr<Backend> draft_backend;
  std::unique_ptr<Engine> engine;
  std::string profile_source = "off";
  int n_threads = 0;

  std::filesystem::path profile_file() const {
    const std::filesystem::path dir =
        options.profile_dir.empty() ? user_cache() : std::filesystem::path(options.profile_dir);
    return dir.empty() ? dir : dir / "profiles.json";
  }
  std::string profile_key() const;
  bool load_profile();
  void make_profile(double load_ms);
};

// Everything the times depend on, as far as it can be known.
std::string Pair::Impl::profile_key() const {
  const auto model = [](const Model* m, int layers) {
    if (m == nullptr) return std::string("none");
    return fmt::format("{} {} {} {}{}", m->description(), m->n_params(), m->n_bytes(),
                       m->impl().options.mmap.value_or(false) ? "mapped" : "read",
                       layers == 0 ? "" : fmt::format(" gpu {}{}", layers, gpu_names()));
  };
  return fmt::format("gsd {} | ggml {} {} | {} | {} | {} | {} threads | ctx {} | kv {} {} | {} | narrow {}",
                     GSD_VERSION, ggml_version(), ggml_commit(), cpu_name(),
                     model(target.get(), options.target_gpu_layers), model(draft.get(), options.draft_gpu_layers),
                     n_threads, options.context.n_ctx, options.context.type_k, options.context.type_v,
                     options.engine.exact ? "exact" : "fast",
                     narrow->instruction_set().empty() ? "off" : narrow->instruction_set());
}

bool Pair::Impl::load_profile() {
  try {
    const json all = read_profiles(profile_file());
    const json& mine = all.at(profile_key());
    from_json(mine.at("target_ms"), engine->planner().target_cost());
    if (draft) from_json(mine.at("draft_ms"), engine->planner().draft_cost());
    Learned learned;
    from_json(mine.value("acceptance", json::object()), learned.calibrations);
    engine->exchange(learned);
  } catch (const std::exception&) {
    return false;  // no file, not ours, or damaged: measure
  }
  constexpr double kBudgetMs = 100;  // a user waits for it in every run
  check_cost(*target_backend, engine->planner().target_cost(), kBudgetMs);
  if (draft) check_cost(*draft_backend, engine->planner().draft_cost(), kBudgetMs / 5);
  return true;
}

void Pair::Impl::make_profile(double load_ms) {
  const double budget = std::max(500.0, load_ms / 10);
  measure_cost(*target_backend, engine->planner().target_cost(), draft ? budget * 0.8 : budget);
  if (draft) measure_cost(*draft_backend, engine->planner().draft_cost(), budget * 0.2);
}

Pair::Pair(const PairOptions& options) : impl_(std::make_unique<Impl>()) {
  const Stopwatch clock;
  Impl& m = *impl_;
  m.options = options;
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
    const int positions = model != nullptr ? model->impl().learned_positions : 0;
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
    m.engine->add_source(make_lookup_text(m.target->tokenize(read_text(file), false, false)));
  if (!options.profile) return;
  if (m.load_profile()) {
    m.profile_source = "cached";
    return;
  }
  m.make_profile(clock.ms());
  m.profile_source = "measured";
  save_profile();
}

Pair::~Pair() = default;
Pair::Pair(Pair&&) noexcept = default;

const Model& Pair::target() const { return *impl_->target; }
const Model* Pair::draft() const { return impl_->draft.get(); }
Engine& Pair::engine() { return *impl_->engine; }
int Pair::n_ctx() const { return impl_->options.context.n_ctx; }
int Pair::n_threads() const { return impl_->n_threads; }
const std::string& Pair::narrow() const { return impl_->narrow->instruction_set(); }
const std::string& Pair::profile_source() const { return impl_->profile_source; }

void Pair::save_profile() const {
  const std::filesystem::path file = impl_->profile_file();
  if (file.empty() || !impl_->options.profile) return;
  try {
    std::filesystem::create_directories(file.parent_path());
    const FileLock lock(file.string() + ".lock");  // what others wrote meanwhile stays
    json all = read_profiles(file);
    if (all.size() > 200) all = json::object();  // bounded
    Planner& planner = impl_->engine->planner();
    all[impl_->profile_key()] = {{"target_ms", to_json(planner.target_cost())},
                                 {"draft_ms", to_json(planner.draft_cost())},
                                 {"acceptance", to_json(impl_->engine->calibrations())}};
    AtomicFile out(file.string(), "profile");
    out.write(all.dump(1));
    out.commit();
  } catch (const std::exception&) {
  }
}

std::string Pair::generate(std::string_view prompt, SessionOptions options,
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
  engine.set_prompt(*session, model.tokenize(prompt, true, false));
  run_to_end(engine, *session);
  const std::string rest = utf8.flush();
  text += rest;
  if (!rest.empty() && on_text) on_text(rest);
  return text;
}

}  // namespace gsd
