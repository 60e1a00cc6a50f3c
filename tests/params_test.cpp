// The tables of parameters and statistics: every range is kept, every name is documented.
#include "gsd/params.h"

#include <gmock/gmock.h>

#include <cmath>
#include <fstream>
#include <iterator>
#include <limits>
#include <string>

#include "gsd/error.h"
#include "gsd/stats.h"

namespace gsd {
namespace {

template <typename P>
std::string message(const P& params) {
  try {
    validate(params);
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kUsage);
    return e.what();
  }
  return "";
}

// Just beyond `end`, upwards or downwards, in the type of the field.
template <typename T>
T beyond(double end, double towards) {
  if constexpr (std::is_same_v<T, float>) return std::nextafter(static_cast<float>(end), static_cast<float>(towards));
  return static_cast<T>(end + (towards > end ? 1 : -1));
}

template <typename P>
void walk_range() {
  P params;
  EXPECT_EQ(message(params), "") << "defaults";
  visit_params(params, [&](const Param& param, auto& field) {
    using T = std::remove_reference_t<decltype(field)>;
    if constexpr (std::is_same_v<T, int> || std::is_same_v<T, float>) {
      const T before = field;
      const auto refused = [&](T value) {
        field = value;
        EXPECT_THAT(message(params), testing::HasSubstr(param.name)) << value;
        EXPECT_THAT(message(params), testing::HasSubstr(param.range)) << value;
      };
      const auto taken = [&](T value) {
        field = value;
        EXPECT_EQ(message(params), "") << param.name << " " << value;
      };
      const T low = static_cast<T>(param.low), high = static_cast<T>(param.high);
      param.low_open ? refused(low) : taken(low);
      param.high_open ? refused(high) : taken(high);
      refused(beyond<T>(param.low, -1e9));
      if (param.high < kMostInt) refused(beyond<T>(param.high, 1e9));
      if constexpr (std::is_same_v<T, float>) {
        refused(std::numeric_limits<float>::quiet_NaN());
        refused(std::numeric_limits<float>::infinity());
      }
      field = before;
    }
  });
}

TEST(Params, EveryRangeIsKept) {
  walk_range<SpeculationParams>();
  walk_range<SamplingParams>();
}

std::string read(const char* name) {
  std::ifstream in(std::string(GSD_DOCS_DIR "/") + name);
  return {std::istreambuf_iterator<char>(in), {}};
}

TEST(Params, TheDocumentsNameEach) {
  const std::string guide = read("guide.md"), server = read("server.md");
  const auto check = [&](const auto& params) {
    visit_params(params, [&](const Param& param, const auto& field) {
      const bool flag = std::is_same_v<decltype(field), const bool&>;
      EXPECT_THAT(guide, testing::HasSubstr((flag ? "--no-" : "--") + std::string(param.flag)));
      EXPECT_THAT(server, testing::HasSubstr(param.name));
    });
  };
  check(SpeculationParams{});
  check(SamplingParams{});
  const Stats stats;
  visit_stats([&](const char* name, const auto&) { EXPECT_THAT(server, testing::HasSubstr(name)); }, stats);
}

TEST(Params, NamesOfModesAreReadBack) {
  for (const Mode m : {Mode::kPlain, Mode::kChain, Mode::kTree, Mode::kGraph, Mode::kAuto})
    EXPECT_EQ(parse_mode(mode_name(m)), m);
  EXPECT_THROW(parse_mode(""), Error);
}

TEST(Stats, AddSumsEveryField) {
  Stats a, b;
  int n = 0;
  visit_stats([&](const char*, auto& x, auto& y) { x = ++n, y = 100 * n; }, a, b);
  a.add(b);
  n = 0;
  visit_stats([&](const char* name, auto& x) { EXPECT_EQ(x, 101 * ++n) << name; }, a);
}

}  // namespace
}  // namespace gsd
