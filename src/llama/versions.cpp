#include "versions.h"

#include <ggml-backend.h>

#include <fstream>
#include <string>

#include "handles.h"

namespace gsd {
namespace {

// The names of the features that are on.
std::string cpu_features() {
  std::string out;
  ggml_backend_dev_t cpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
  if (cpu == nullptr) return out;
  const auto features = reinterpret_cast<ggml_backend_get_features_t>(
      ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(cpu), "ggml_backend_get_features"));
  if (features == nullptr) return out;
  for (const ggml_backend_feature* f = features(ggml_backend_dev_backend_reg(cpu)); f->name != nullptr; ++f) {
    if (std::string_view(f->value) == "1") out.append(out.empty() ? "" : " ").append(f->name);
  }
  return out;
}

}  // namespace

std::string cpu_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  }
  return "unknown";
}

Versions versions() {
  start_llama();
  return {llama_version(), ggml_version(), NarrowKernels({}).instruction_set(), cpu_features()};
}

}  // namespace gsd
