// ggml's devices behind gsd/devices.h.
#pragma once

#include <ggml-backend.h>

#include <string>
#include <vector>

#include "gsd/devices.h"

namespace gsd {

// Whether ggml reaches it by RPC.
bool is_on_another_machine(ggml_backend_dev_t device);

// As devices_of().
std::vector<ggml_backend_dev_t> choose_devices(const Placement& placement);

// What times depend on: the devices, in order, and how a model is divided among them; empty for none.
std::string placement_key(const Placement& placement, const std::vector<ggml_backend_dev_t>& devices);

}  // namespace gsd
