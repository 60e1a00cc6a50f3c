// Loads and sets up the narrow-matmul backend (docs/narrow-matmul.md).
#include <ggml-backend.h>
#include <gsd_narrow.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "handles.h"
#include "location.h"

namespace gsd {
namespace {

std::atomic<ggml_backend_reg_t> plugin{nullptr};  // once it is loaded

ggml_backend_reg_t load_plugin() {
  static std::once_flag once;
  std::call_once(once, [] {
    const std::string path = narrow_plugin();
    plugin = path.empty() ? nullptr : ggml_backend_load(path.c_str());
    take_llama_errors();  // without the plugin ggml goes on as before
  });
  return plugin;
}

template <typename Function>
Function function(ggml_backend_reg_t reg, const char* name) {
  return reinterpret_cast<Function>(ggml_backend_reg_get_proc_address(reg, name));
}

// What those who are alive want.
std::mutex users_mutex;
std::vector<const NarrowOptions*> users;  // guarded by users_mutex

std::optional<gsd_narrow_stats> narrow_stats(ggml_backend_reg_t reg) {
  gsd_narrow_stats s{};
  s.size = sizeof s;
  const auto get = reg == nullptr ? nullptr : function<gsd_narrow_get_stats_t>(reg, GSD_NARROW_GET_STATS);
  if (get == nullptr || get(&s) != 0) return std::nullopt;
  return s;
}

}  // namespace

// Named by the environment; else in the tree of the program, or of libgsd.so, which looks the same built and installed;
// else beside a libllama that was installed with it; else where it was to be installed.
std::string narrow_plugin() {
  if (const char* path = std::getenv("GSD_NARROW_PLUGIN"); path != nullptr) return path;
  std::error_code ignored;
  for (const std::filesystem::path& folder : {program_folder().parent_path() / GSD_PLUGIN_DIR, own_folder() / "gsd",
                                              libllama_folder(), std::filesystem::path(GSD_PLUGIN_INSTALL_DIR)}) {
    const std::filesystem::path file = folder / "libggml-gsd.so";
    if (folder.is_absolute() && std::filesystem::exists(file, ignored)) return file.string();
  }
  return {};
}

namespace {

// Makes the plugin do what its users want together; returns its instruction set, or nothing where it has none to use.
std::string apply_policy(std::span<const NarrowOptions* const> wanted) {
  ggml_backend_reg_t reg = load_plugin();
  if (reg == nullptr || wanted.empty()) return "";
  const auto get = function<gsd_narrow_get_params_t>(reg, GSD_NARROW_GET_PARAMS);
  const auto set = function<gsd_narrow_configure_t>(reg, GSD_NARROW_CONFIGURE);
  gsd_narrow_params params{};
  params.size = sizeof params;
  const std::optional<gsd_narrow_stats> stats = narrow_stats(reg);
  if (get == nullptr || set == nullptr || get(&params) != 0 || !stats || stats->available == 0) return "";
  const auto any = [&](bool NarrowOptions::*wish) {
    return std::any_of(wanted.begin(), wanted.end(), [&](const NarrowOptions* o) { return o->*wish; });
  };
  params.enabled = any(&NarrowOptions::enabled) ? 1 : 0;
  params.exact = any(&NarrowOptions::exact) ? 1 : 0;
  if (std::getenv("GSD_NARROW_ATTENTION") == nullptr) params.attention = any(&NarrowOptions::gpu) ? 2 : 1;
  return set(&params) == 0 && params.enabled != 0 ? stats->instruction_set : "";
}

}  // namespace

NarrowKernels::NarrowKernels(const NarrowOptions& options) : options_(options) {
  start_llama();
  const std::lock_guard lock(users_mutex);
  if (!users.empty() && users.front()->enabled != options.enabled) {
    throw Error(ErrorCode::kUsage, options.enabled
                                       ? "Another model of this process was loaded without the narrow backend; load "
                                         "this one without it too, or close the other one first."
                                       : "Another model of this process uses the narrow backend; load this one with "
                                         "it too, or close the other one first.");
  }
  users.push_back(&options_);
  instruction_set_ = apply_policy(users);
}

NarrowKernels::~NarrowKernels() {
  const std::lock_guard lock(users_mutex);
  std::erase(users, &options_);
  apply_policy(users);
}

std::optional<std::uint64_t> narrow_attentions_declined(int max_batch) {
  ggml_backend_reg_t reg = plugin;
  const std::optional<gsd_narrow_stats> stats = narrow_stats(reg);
  gsd_narrow_params params{};
  params.size = sizeof params;
  if (!stats || stats->available == 0 || function<gsd_narrow_get_params_t>(reg, GSD_NARROW_GET_PARAMS)(&params) != 0 ||
      params.enabled == 0 || params.exact == 0 || params.attention == 0 || params.max_width < max_batch)
    return std::nullopt;
  return stats->attentions_declined;
}

}  // namespace gsd
