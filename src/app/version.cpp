// gsd --version.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <string>
#include <vector>

#include "../llama/versions.h"
#include "commands.h"
#include "gsd/devices.h"
#include "gsd_commit.h"

namespace gsd::app {

std::string version_text() {
  const Versions v = versions();
  std::vector<std::string> names;
  for (const Device& d : devices()) names.push_back(fmt::format("{} ({})", d.name, d.description));
  return fmt::format(
      "gsd {} (commit {})\nlibllama {}, ggml {}\nnarrow-matmul backend: {}\nggml's CPU backend: {}\ndevices: {}",
      GSD_VERSION, GSD_COMMIT, v.llama, v.ggml, v.narrow.empty() ? "none" : v.narrow, v.cpu,
      names.empty() ? "none beside the CPU" : fmt::format("{}", fmt::join(names, ", ")));
}

}  // namespace gsd::app
