// What runs learned about costs and acceptance, kept from one to the next.
#pragma once

#include <filesystem>
#include <map>
#include <span>
#include <string>

#include "../core/calibration.h"
#include "../core/cost_model.h"

namespace gsd {

// One file, shared by all processes of a user: an entry for each key. A folder that is not there, a file that is
// damaged or not ours, a full disk: then nothing is known, or nothing is kept.
class ProfileStore {
 public:
  // An empty folder: the user's cache.
  explicit ProfileStore(const std::string& folder);

  // True with the models and calibrations filled if something is known for the key; otherwise they are as they were,
  // or partly filled with what is sound. `drafts`: as many as were saved.
  bool load(const std::string& key, CostModel& target, std::span<CostModel> drafts,
            std::map<int, Calibration>& calibrations) const noexcept;
  // Entries that other processes wrote meanwhile stay.
  void save(const std::string& key, const CostModel& target, std::span<const CostModel> drafts,
            const std::map<int, Calibration>& calibrations) const noexcept;

 private:
  std::filesystem::path file_;  // empty: nothing is kept
};

}  // namespace gsd
