// Loads and sets up the narrow-matmul backend (docs/narrow-matmul.md).
#include <ggml-backend.h>
#include <gsd_narrow.h>

#include <cstdlib>
#include <filesystem>
#include <mutex>

#include "handles.h"

namespace gsd {
namespace {

ggml_backend_reg_t load_plugin() {
  static ggml_backend_reg_t reg = [] {
    const std::string path = narrow_plugin();
    ggml_backend_reg_t loaded = path.empty() ? nullptr : ggml_backend_load(path.c_str());
    take_llama_errors();  // without the plugin ggml goes on as before
    return loaded;
  }();
  return reg;
}

template <typename Function>
Function function(ggml_backend_reg_t reg, const char* name) {
  return reinterpret_cast<Function>(ggml_backend_reg_get_proc_address(reg, name));
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

std::string configure_narrow(bool enabled, bool exact) {
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  start_llama();
  ggml_backend_reg_t reg = load_plugin();
  if (reg == nullptr) return "";
  const auto get = function<gsd_narrow_get_params_t>(reg, GSD_NARROW_GET_PARAMS);
  const auto set = function<gsd_narrow_configure_t>(reg, GSD_NARROW_CONFIGURE);
  const auto stats = function<gsd_narrow_get_stats_t>(reg, GSD_NARROW_GET_STATS);
  gsd_narrow_params params{};
  params.size = sizeof params;
  gsd_narrow_stats s{};
  s.size = sizeof s;
  if (get == nullptr || set == nullptr || stats == nullptr || get(&params) != 0 || stats(&s) != 0 || s.available == 0)
    return "";
  params.enabled = enabled ? 1 : 0;
  params.exact = exact ? 1 : 0;
  if (set(&params) != 0 || !enabled) return "";
  return s.instruction_set;
}

}  // namespace gsd
