#include "profile_store.h"

#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <vector>

#include "../util/atomic_file.h"
#include "gsd/error.h"

namespace gsd {
namespace {

constexpr std::size_t kMostEntries = 200;

using nlohmann::json;

std::filesystem::path user_cache() {
  if (const char* dir = std::getenv("XDG_CACHE_HOME"); dir != nullptr && *dir != '\0')
    return std::filesystem::path(dir) / "gsd";
  if (const char* dir = std::getenv("HOME"); dir != nullptr && *dir != '\0')
    return std::filesystem::path(dir) / ".cache" / "gsd";
  return {};
}

json to_json(const CostModel& m) {
  json out = json::array();
  for (const auto& p : m.points()) out.push_back({p.width, p.ms});
  return out;
}

void from_json(const json& j, CostModel& m) {
  std::vector<CostModel::Point> points;
  for (const json& p : j) {
    if (p.at(0).get<int>() <= m.max_width()) points.push_back({p.at(0).get<int>(), p.at(1).get<double>()});
  }
  m.load(points);
}

json to_json(const std::map<int, Calibration>& calibrations) {
  constexpr std::size_t kMost = 8;
  json out = json::object();
  for (const auto& [key, c] : calibrations) {
    if (out.size() < kMost) out[std::to_string(key)] = c.counts();
  }
  return out;
}

// Leaves out what is not as to_json() wrote it.
void from_json(const json& j, std::map<int, Calibration>& calibrations) {
  for (const auto& [key, counts] : j.items()) {
    const int tenths = std::atoi(key.c_str());
    Calibration c(tenths < 0);
    if (std::to_string(tenths) == key && c.set_counts(counts.get<std::vector<double>>()))
      calibrations.insert({tenths, c});
  }
}

// What profiles.json holds; empty if there is none, or it is damaged. Nothing in it is nested deeper than this: what
// is, was not written here, and would take long to write again.
json read_profiles(const std::filesystem::path& file) {
  constexpr int kMaxNesting = 5;
  const auto shallow = [](int depth, json::parse_event_t, const json&) {
    if (depth > kMaxNesting) throw Error(ErrorCode::kIo, "The profiles are nested too deep.");
    return true;
  };
  try {
    std::ifstream in(file);
    json all = json::parse(in, shallow);
    if (all.is_object()) return all;
  } catch (const std::exception&) {
  }
  return json::object();
}

}  // namespace

ProfileStore::ProfileStore(const std::string& folder)
    : file_(folder.empty() ? user_cache() : std::filesystem::path(folder)) {
  if (!file_.empty()) file_ /= "profiles.json";
}

bool ProfileStore::load(const std::string& key, CostModel& target, std::span<CostModel> drafts,
                        std::map<int, Calibration>& calibrations) const noexcept {
  try {
    const json all = read_profiles(file_);
    const json& mine = all.at(key);
    from_json(mine.at("target_ms"), target);
    for (std::size_t i = 0; i < drafts.size(); ++i) from_json(mine.at("drafts_ms").at(i), drafts[i]);
    from_json(mine.value("acceptance", json::object()), calibrations);
    return true;
  } catch (const std::exception&) {
    return false;  // no file, not ours, or damaged
  }
}

void ProfileStore::save(const std::string& key, const CostModel& target, std::span<const CostModel> drafts,
                        const std::map<int, Calibration>& calibrations) const noexcept {
  if (file_.empty()) return;
  try {
    std::filesystem::create_directories(file_.parent_path());
    const FileLock lock(file_.string() + ".lock");
    json all = read_profiles(file_);
    if (all.size() > kMostEntries) all = json::object();
    json drafts_ms = json::array();
    for (const CostModel& draft : drafts) drafts_ms.push_back(to_json(draft));
    all[key] = {
        {"target_ms", to_json(target)}, {"drafts_ms", std::move(drafts_ms)}, {"acceptance", to_json(calibrations)}};
    AtomicFile out(file_.string(), "profile");
    out.write(all.dump(1));
    out.commit();
  } catch (const std::exception&) {
  }
}

}  // namespace gsd
