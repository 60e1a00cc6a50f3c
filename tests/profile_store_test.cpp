// Profiles kept from run to run: what is saved is loaded, and nothing that lies in their place does harm.
#include "../src/runtime/profile_store.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <string>
#include <thread>
#include <vector>

namespace gsd {
namespace {

class ProfileStoreTest : public testing::Test {
 protected:
  ProfileStoreTest() {
    std::string name = testing::TempDir() + "gsd-profiles-XXXXXX";
    folder_ = mkdtemp(name.data());
    target_.load(std::vector<CostModel::Point>{{1, 2.0}, {8, 3.0}});
    draft_.load(std::vector<CostModel::Point>{{1, 0.5}});
  }
  ~ProfileStoreTest() override { std::filesystem::remove_all(folder_); }
  void put(const std::string& text) { std::ofstream(folder_ + "/profiles.json") << text; }

  std::string folder_;
  CostModel target_{16};
  CostModel draft_{16};
  std::map<int, Calibration> calibrations_{{-1, Calibration(true)}, {7, Calibration(false)}};
};

TEST_F(ProfileStoreTest, KeepsEntriesByKey) {
  const ProfileStore store(folder_ + "/new/folder");
  store.save("a", target_, {&draft_, 1}, calibrations_);
  CostModel other(16);
  other.load(std::vector<CostModel::Point>{{1, 70.0}});
  store.save("b", other, {}, {});
  CostModel target(16), draft(16);
  std::map<int, Calibration> calibrations;
  ASSERT_TRUE(store.load("a", target, {&draft, 1}, calibrations));
  EXPECT_DOUBLE_EQ(target.ms(1), target_.ms(1));
  EXPECT_DOUBLE_EQ(target.ms(8), target_.ms(8));
  EXPECT_DOUBLE_EQ(draft.ms(1), draft_.ms(1));
  EXPECT_EQ(calibrations.size(), 2U);
  ASSERT_TRUE(store.load("b", target, {}, calibrations));
  EXPECT_DOUBLE_EQ(target.ms(1), 70);
  EXPECT_FALSE(store.load("c", target, {&draft, 1}, calibrations));
}

TEST_F(ProfileStoreTest, WhatIsDamagedIsNotKnown) {
  CostModel target(16), draft(16);
  std::map<int, Calibration> calibrations;
  for (const std::string text :
       {"", "{", "[]", "7", "null", R"({"a": 3})", R"({"a": {}})", R"({"a": {"target_ms": 4}})",
        R"({"a": {"target_ms": [[1]], "drafts_ms": []}})", R"({"a": {"target_ms": [["x", "y"]], "drafts_ms": []}})"}) {
    put(text);
    const ProfileStore store(folder_);
    EXPECT_FALSE(store.load("a", target, {&draft, 1}, calibrations)) << text;
    store.save("a", target_, {&draft_, 1}, calibrations_);
    EXPECT_TRUE(store.load("a", target, {&draft, 1}, calibrations)) << "mended after " << text;
  }
  put(std::string(100000, '['));
  EXPECT_FALSE(ProfileStore(folder_).load("a", target, {&draft, 1}, calibrations));
}

TEST_F(ProfileStoreTest, WhereNothingCanBeKeptNothingIs) {
  put("a file where a folder should be");
  const ProfileStore store(folder_ + "/profiles.json");
  store.save("a", target_, {&draft_, 1}, calibrations_);
  CostModel target(16);
  EXPECT_FALSE(store.load("a", target, {}, calibrations_));
}

TEST_F(ProfileStoreTest, WritersAtTheSameTimeLoseNothing) {
  std::vector<std::thread> writers;
  for (int i = 0; i < 8; ++i)
    writers.emplace_back([&, i] {
      ProfileStore(folder_).save(std::to_string(i), target_, {&draft_, 1}, calibrations_);
    });
  for (std::thread& t : writers) t.join();
  CostModel target(16);
  for (int i = 0; i < 8; ++i)
    EXPECT_TRUE(ProfileStore(folder_).load(std::to_string(i), target, {}, calibrations_)) << i;
}

}  // namespace
}  // namespace gsd
