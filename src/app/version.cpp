// gsd --version.
#include <fmt/format.h>

#include "../llama/versions.h"
#include "commands.h"
#include "gsd_commit.h"

namespace gsd::app {

std::string version_text() {
  const Versions v = versions();
  return fmt::format("gsd {} (commit {})\nlibllama {}, ggml {}\nnarrow-matmul backend: {}\nggml's CPU backend: {}",
                     GSD_VERSION, GSD_COMMIT, v.llama, v.ggml, v.narrow.empty() ? "none" : v.narrow, v.cpu);
}

}  // namespace gsd::app
