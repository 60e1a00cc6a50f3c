#include "config.h"

#include <gtest/gtest.h>

#include <cstdlib>

namespace gsd::narrow {
namespace {

gsd_narrow_params params_of(const Config& config) {
  gsd_narrow_params p{};
  p.size = sizeof p;
  EXPECT_EQ(config.get(&p), 0);
  return p;
}

TEST(NarrowConfig, LeavesOneColumnAndSmallMatricesToGgml) {
  const Config config;
  EXPECT_FALSE(config.takes(1, 1 << 30, 2));
  EXPECT_TRUE(config.takes(1, 1 << 30, 1)) << "a format that is faster at one column too";
  EXPECT_FALSE(config.takes(8, 1 << 10, 2));
  EXPECT_TRUE(config.takes(2, 128 << 10, 1));
  EXPECT_FALSE(config.takes(1, 128 << 10, 1)) << "one column pays for the hand-over only in a larger matrix";
  EXPECT_TRUE(config.takes(8, 1 << 30, 2));
  EXPECT_TRUE(config.takes(512, 1 << 30, 2));
  EXPECT_FALSE(config.takes(513, 1 << 30, 2));
}

TEST(NarrowConfig, LeavesAttentionOfOneTokenToGgml) {
  Config config;
  EXPECT_FALSE(config.takes_attention(1));
  EXPECT_TRUE(config.takes_attention(2));
  EXPECT_TRUE(config.takes_attention(512));
  EXPECT_FALSE(config.takes_attention(513));
  gsd_narrow_params p = params_of(config);
  p.exact = 1;
  ASSERT_EQ(config.set(&p), 0);
  EXPECT_TRUE(config.takes_attention(1));
  p.attention = 0;
  ASSERT_EQ(config.set(&p), 0);
  EXPECT_FALSE(config.takes_attention(8));
  p = params_of(Config());
  p.attention = 1;
  ASSERT_EQ(config.set(&p), 0);
  EXPECT_TRUE(config.takes_attention(1));
  p.enabled = 0;
  ASSERT_EQ(config.set(&p), 0);
  EXPECT_FALSE(config.takes_attention(8));
}

TEST(NarrowConfig, ExactTakesEveryWidthAndSize) {
  Config config;
  gsd_narrow_params p = params_of(config);
  p.exact = 1;
  ASSERT_EQ(config.set(&p), 0);
  EXPECT_TRUE(config.takes(1, 1, 2));
  EXPECT_TRUE(config.takes(512, 1, 2));
  EXPECT_FALSE(config.takes(513, 1, 2));
  p.enabled = 0;
  ASSERT_EQ(config.set(&p), 0);
  EXPECT_FALSE(config.takes(1, 1, 2));
}

TEST(NarrowConfig, RefusesWhatMakesNoSenseAndKeepsWhatItHad) {
  Config config;
  gsd_narrow_params p = params_of(config);
  p.min_width = 3;
  ASSERT_EQ(config.set(&p), 0);
  gsd_narrow_params bad = p;
  bad.min_width = -1;
  EXPECT_EQ(config.set(&bad), -1);
  bad = p;
  bad.max_width = 2;
  EXPECT_EQ(config.set(&bad), -1);
  bad = p;
  bad.size = 4;
  EXPECT_EQ(config.set(&bad), -1);
  bad = p;
  bad.min_matrix_bytes = -1;
  EXPECT_EQ(config.set(&bad), -1);
  bad = p;
  bad.attention = -1;
  EXPECT_EQ(config.set(&bad), -1);
  EXPECT_EQ(config.set(nullptr), -1);
  EXPECT_EQ(config.get(nullptr), -1);
  EXPECT_EQ(params_of(config).min_width, 3);
}

TEST(NarrowConfig, IgnoresWhatIsOutOfRangeAlone) {
  setenv("GSD_NARROW_MAX_WIDTH", "16", 1);
  setenv("GSD_NARROW_ATTENTION", "-1", 1);
  setenv("GSD_NARROW_MIN_WIDTH", "17", 1);
  setenv("GSD_NARROW_MIN_MATRIX_BYTES", "4294967296", 1);
  const gsd_narrow_params p = params_of(Config());
  for (const char* name :
       {"GSD_NARROW_MAX_WIDTH", "GSD_NARROW_ATTENTION", "GSD_NARROW_MIN_WIDTH", "GSD_NARROW_MIN_MATRIX_BYTES"})
    unsetenv(name);
  EXPECT_EQ(p.max_width, 16);
  EXPECT_EQ(p.attention, params_of(Config()).attention);
  EXPECT_EQ(p.min_width, params_of(Config()).min_width);
  EXPECT_EQ(p.min_matrix_bytes, int64_t{1} << 32);
}

TEST(NarrowConfig, ReadsTheEnvironment) {
  setenv("GSD_NARROW_EXACT", "1", 1);
  setenv("GSD_NARROW_MAX_WIDTH", "16", 1);
  setenv("GSD_NARROW_MIN_WIDTH", "many", 1);
  setenv("GSD_NARROW_HUGE_PAGES", "0", 1);
  setenv("GSD_NARROW_ATTENTION", "5", 1);
  const Config config;
  unsetenv("GSD_NARROW_EXACT");
  unsetenv("GSD_NARROW_MAX_WIDTH");
  unsetenv("GSD_NARROW_MIN_WIDTH");
  unsetenv("GSD_NARROW_HUGE_PAGES");
  unsetenv("GSD_NARROW_ATTENTION");
  EXPECT_FALSE(config.huge_pages());
  EXPECT_TRUE(Config().huge_pages());
  EXPECT_EQ(params_of(config).exact, 1);
  EXPECT_EQ(params_of(config).max_width, 16);
  EXPECT_EQ(params_of(config).attention, 5);
  EXPECT_EQ(params_of(config).min_width, params_of(Config()).min_width);
  EXPECT_FALSE(config.takes(17, 1 << 30, 2));
}

}  // namespace
}  // namespace gsd::narrow
