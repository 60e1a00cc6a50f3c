// Loads and sets up the narrow-matmul backend (docs/narrow-matmul.md).
#include <ggml-backend.h>
#include <gsd_narrow.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <mutex>
#include <optional>

#include "handles.h"

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

std::optional<gsd_narrow_stats> narrow_stats(ggml_backend_reg_t reg) {
  gsd_narrow_stats s{};
  s.size = sizeof s;
  const auto get = reg == nullptr ? nullptr : function<gsd_narrow_get_stats_t>(reg, GSD_NARROW_GET_STATS);
  if (get == nullptr || get(&s) != 0) return std::nullopt;
  return s;
}

}  // namespace

// Named by the environment, where it was built, or where it was installed.
std::string narrow_plugin() {
  std::error_code ignored;
  if (const char* path = std::getenv("GSD_NARROW_PLUGIN"); path != nullptr) return path;
  for (const char* path : {GSD_NARROW_BUILD_PATH, GSD_NARROW_INSTALL_PATH}) {
    if (*path != '\0' && std::filesystem::exists(path, ignored)) return path;
  }
  return {};
}

std::string configure_narrow(const NarrowOptions& options) {
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  start_llama();
  ggml_backend_reg_t reg = load_plugin();
  if (reg == nullptr) return "";
  const auto get = function<gsd_narrow_get_params_t>(reg, GSD_NARROW_GET_PARAMS);
  const auto set = function<gsd_narrow_configure_t>(reg, GSD_NARROW_CONFIGURE);
  gsd_narrow_params params{};
  params.size = sizeof params;
  const std::optional<gsd_narrow_stats> stats = narrow_stats(reg);
  if (get == nullptr || set == nullptr || get(&params) != 0 || !stats || stats->available == 0) return "";
  params.enabled = options.enabled ? 1 : 0;
  params.exact = options.exact ? 1 : 0;
  if (std::getenv("GSD_NARROW_ATTENTION") == nullptr) params.attention = options.gpu ? 2 : 1;
  if (set(&params) != 0 || !options.enabled) return "";
  return stats->instruction_set;
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
