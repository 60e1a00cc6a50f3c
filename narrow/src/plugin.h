// What the parts of the plugin share: its settings, the machine's kernels, and counters.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

#include "config.h"
#include "dispatch.h"

namespace gsd::narrow {

struct Plugin {
  Config config;
  Machine machine;
  KernelTable kernels;
  std::string description;
  std::atomic<uint64_t> products{0};
  std::atomic<uint64_t> conversions{0};
  std::atomic<uint64_t> attentions{0};
  std::atomic<uint64_t> attentions_declined{0};
  std::atomic<uint64_t> row_operations{0};

  Plugin();
};

Plugin& plugin();  // one for the process

}  // namespace gsd::narrow
