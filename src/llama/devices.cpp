#include "devices.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <mutex>
#include <numeric>
#include <string_view>

#include "handles.h"
#include "remote.h"

namespace gsd {
namespace {

[[noreturn]] void refuse(const std::string& sentence) { throw Error(ErrorCode::kUsage, sentence); }

bool holds_layers(ggml_backend_dev_t device) {
  const auto type = ggml_backend_dev_type(device);
  return type == GGML_BACKEND_DEVICE_TYPE_GPU || type == GGML_BACKEND_DEVICE_TYPE_IGPU;
}

std::vector<ggml_backend_dev_t> all_devices() {
  start_llama();
  std::vector<ggml_backend_dev_t> out;
  for (std::size_t i = 0; i < ggml_backend_dev_count(); ++i)
    if (ggml_backend_dev_t device = ggml_backend_dev_get(i); holds_layers(device)) out.push_back(device);
  return out;
}

Device describe(ggml_backend_dev_t device) {
  ggml_backend_dev_props props{};
  call_remote(is_on_another_machine(device), [&] { ggml_backend_dev_get_props(device, &props); });
  return {props.name, props.description, props.memory_total, props.memory_free};
}

std::string list_of(const std::vector<ggml_backend_dev_t>& devices) {
  std::string out;
  for (ggml_backend_dev_t d : devices) {
    out.append(out.empty() ? "" : ", ").append(ggml_backend_dev_name(d));
    out.append(" (").append(ggml_backend_dev_description(d)).append(")");
  }
  return out;
}

// libllama's own choice: other machines first, and processors that share the CPU's memory only where there is nothing
// else. One that two backends know counts once.
std::vector<ggml_backend_dev_t> default_devices() {
  std::vector<ggml_backend_dev_t> out;
  std::vector<std::string> ids;
  std::vector<ggml_backend_dev_t> all = all_devices();
  std::stable_partition(all.begin(), all.end(), is_on_another_machine);
  for (const auto type : {GGML_BACKEND_DEVICE_TYPE_GPU, GGML_BACKEND_DEVICE_TYPE_IGPU}) {
    if (!out.empty()) break;
    for (ggml_backend_dev_t d : all) {
      ggml_backend_dev_props props{};
      if (!is_on_another_machine(d)) ggml_backend_dev_get_props(d, &props);
      const std::string id = props.device_id == nullptr ? "" : props.device_id;
      if (ggml_backend_dev_type(d) != type || (!id.empty() && std::find(ids.begin(), ids.end(), id) != ids.end()))
        continue;
      out.push_back(d);
      ids.push_back(id);
    }
  }
  return out;
}

std::vector<ggml_backend_dev_t> named_devices(const std::vector<std::string>& names) {
  const std::vector<ggml_backend_dev_t> all = all_devices();
  std::vector<ggml_backend_dev_t> out;
  for (const std::string& name : names) {
    const auto at = std::find_if(all.begin(), all.end(), [&](auto d) { return ggml_backend_dev_name(d) == name; });
    if (at == all.end())
      refuse("There is no device '" + name + "'; " +
             (all.empty() ? "ggml finds none beside the CPU here." : "there is " + list_of(all) + "."));
    if (std::find(out.begin(), out.end(), *at) != out.end()) refuse("The device '" + name + "' is named twice.");
    out.push_back(*at);
  }
  return out;
}

}  // namespace

bool is_on_another_machine(ggml_backend_dev_t device) {
  return std::string_view(ggml_backend_reg_name(ggml_backend_dev_backend_reg(device))).starts_with("RPC");
}

std::vector<ggml_backend_dev_t> choose_devices(const Placement& p) {
  const bool named = !p.devices.empty();
  const bool cpu = p.devices == std::vector<std::string>{"none"};
  std::vector<ggml_backend_dev_t> out;
  if (named && !cpu) out = named_devices(p.devices);
  if (cpu || p.layers.value_or(named ? -1 : 0) == 0) return {};
  if (!named) out = default_devices();
  if (out.empty()) return {};
  if (out.size() > llama_max_devices())
    refuse("libllama divides a model among at most " + std::to_string(llama_max_devices()) + " devices.");
  if (p.shares.size() > out.size())
    refuse("There are shares for " + std::to_string(p.shares.size()) + " devices, but the model lies on " +
           list_of(out) + ".");
  if (p.main_device < 0 || static_cast<std::size_t>(p.main_device) >= out.size())
    refuse("The main device must be from 0 to " + std::to_string(out.size() - 1) + ", counted in " + list_of(out) +
           ".");
  return out;
}

std::string placement_key(const Placement& p, const std::vector<ggml_backend_dev_t>& chosen) {
  if (chosen.empty()) return "";
  const auto& modes = split_modes_by_name();
  const auto mode = std::find_if(modes.begin(), modes.end(), [&](const auto& m) { return m.second == p.split; });
  std::string out = std::to_string(p.layers.value_or(-1));
  out.append(" layers on ").append(list_of(chosen)).append(" split ").append(mode->first);
  if (p.split == SplitMode::kNone || p.split == SplitMode::kRow)
    out.append(" main ").append(std::to_string(p.main_device));
  for (const float share : p.shares) out.append(" ").append(std::to_string(share));
  return out;
}

std::vector<Device> devices() {
  std::vector<Device> out;
  for (ggml_backend_dev_t d : all_devices()) out.push_back(describe(d));
  return out;
}

std::vector<Device> devices_of(const Placement& placement) {
  std::vector<Device> out;
  for (ggml_backend_dev_t d : choose_devices(placement)) out.push_back(describe(d));
  return out;
}

const std::map<std::string_view, SplitMode>& split_modes_by_name() {
  static const std::map<std::string_view, SplitMode> names{{"layer", SplitMode::kLayer},
                                                           {"none", SplitMode::kNone},
                                                           {"row", SplitMode::kRow},
                                                           {"tensor", SplitMode::kTensor}};
  return names;
}

namespace {

// What stands between the characters of `separators`.
std::vector<std::string> pieces(std::string_view text, std::string_view separators) {
  std::vector<std::string> out;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find_first_of(separators, begin), text.size());
    out.emplace_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return out;
}

}  // namespace

std::vector<std::string> parse_devices(std::string_view text) {
  std::vector<std::string> out = pieces(text, ",");
  if (std::find(out.begin(), out.end(), "") != out.end())
    refuse("Devices are names with commas between them, or none; not '" + std::string(text) + "'.");
  return out;
}

std::vector<float> parse_shares(std::string_view text) {
  const auto refused = [&] {
    refuse("The shares of devices are numbers from 0 on with commas between them, one above 0; not '" +
           std::string(text) + "'.");
  };
  std::vector<float> out;
  for (const std::string& piece : pieces(text, ",/")) {
    float share = 0;
    const char* const end = piece.data() + piece.size();
    const auto [stop, error] = std::from_chars(piece.data(), end, share);
    if (error != std::errc() || stop != end || !std::isfinite(share) || share < 0) refused();
    out.push_back(share);
  }
  if (std::accumulate(out.begin(), out.end(), 0.0F) <= 0) refused();
  return out;
}

}  // namespace gsd
