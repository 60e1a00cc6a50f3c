// Where the layers of a model lie: the devices that ggml finds beside the CPU, and how a model is divided among them.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace gsd {

// What can hold layers: a graphics processor, or a processor of another machine.
struct Device {
  std::string name;         // "Vulkan0", "RPC0"
  std::string description;  // the hardware's name, or the other machine's address
  std::uint64_t bytes = 0;
  std::uint64_t bytes_free = 0;
};
// All there are, in ggml's order. Asks each for its memory. Any thread.
std::vector<Device> devices();

// What lies on which of several devices: whole layers (kLayer), everything on one (kNone), or parts of each matrix
// (kRow, kTensor), which not every device can.
enum class SplitMode : std::uint8_t { kLayer, kNone, kRow, kTensor };
const std::map<std::string_view, SplitMode>& split_modes_by_name();

struct Placement {
  std::optional<int> layers = {};  // that lie on devices, the last ones; -1 = all; unset = all if devices are named
  std::vector<std::string> devices = {};  // by name; empty = all there are; "none" alone = the CPU
  SplitMode split = SplitMode::kLayer;
  std::vector<float> shares = {};  // of each device, in their order; empty = as much as each has memory free
  int main_device = 0;             // the one with everything for kNone, counted from 0

  bool operator==(const Placement&) const = default;
};
// The devices that a model placed so takes up, in order; none: it lies on the CPU alone, as it does where there are no
// devices. Throws Error(kUsage) for a device that is not there (naming those that are) or that is named twice, for
// shares that do not fit the devices, and for a main device that is none of them. Any thread.
std::vector<Device> devices_of(const Placement& placement);

// "Vulkan0,RPC1" and "3,1" (or "3/1") as llama.cpp's programs take them. Throw Error(kUsage).
std::vector<std::string> parse_devices(std::string_view text);
std::vector<float> parse_shares(std::string_view text);

// Makes the devices of machines that run ggml-rpc-server known, "HOST:PORT" each; one that is known already is passed
// over. Models can be placed on them from then on. There is no way to take them back. Throws Error(kUsage) where ggml's
// RPC backend is not installed or an address makes no sense, Error(kBackend) where nobody answers; servers before that
// one stay. Any thread.
void add_rpc_servers(std::span<const std::string> addresses);

}  // namespace gsd
