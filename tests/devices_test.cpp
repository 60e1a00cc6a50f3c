// Where models are placed, as far as that shows without a device. tests/devices_test.py does it with them.
#include "gsd/devices.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "gsd/llama.h"

namespace gsd {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// The sentence with which `call` is refused, or "".
std::string refusal(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kUsage);
    return e.what();
  }
  return "";
}

TEST(Devices, ListsAreReadAsLlamasProgramsWriteThem) {
  EXPECT_THAT(parse_devices("Vulkan0"), ElementsAre("Vulkan0"));
  EXPECT_THAT(parse_devices("Vulkan0,RPC1"), ElementsAre("Vulkan0", "RPC1"));
  EXPECT_THAT(parse_shares("3"), ElementsAre(3.0F));
  EXPECT_THAT(parse_shares("3,1/0.5,0"), ElementsAre(3.0F, 1.0F, 0.5F, 0.0F));
  for (const char* text : {"", ",", "a,", ",a", "a,,b"})
    EXPECT_THAT(refusal([&] { parse_devices(text); }), HasSubstr("names with commas")) << text;
  for (const char* text : {"", ",", "1,", "x", "1;2", "-1", "1,-1", "0,0", "nan", "inf", "1e99", "1 ,2"})
    EXPECT_THAT(refusal([&] { parse_shares(text); }), HasSubstr("numbers from 0 on")) << text;
}

TEST(Devices, WhatIsNotThereIsRefusedWithWhatIs) {
  const std::string said = refusal([] { devices_of({.devices = {"Nowhere0"}}); });
  EXPECT_THAT(said, HasSubstr("no device 'Nowhere0'"));
  if (devices().empty()) {
    EXPECT_THAT(said, HasSubstr("finds none beside the CPU"));
  }
  for (const Device& d : devices()) EXPECT_THAT(said, HasSubstr(d.name + " (" + d.description + ")"));
  EXPECT_THAT(refusal([] { devices_of({.layers = 0, .devices = {"Nowhere0"}}); }), HasSubstr("no device"));
  EXPECT_THAT(refusal([] { devices_of({.devices = {"none", "none"}}); }), HasSubstr("no device 'none'"));
}

TEST(Devices, WithoutLayersOrDevicesEverythingIsOnTheCpu) {
  EXPECT_TRUE(devices_of({}).empty());
  EXPECT_TRUE(devices_of({.layers = 0}).empty());
  EXPECT_TRUE(devices_of({.layers = -1, .devices = {"none"}}).empty());
  EXPECT_TRUE(devices_of({.devices = {"none"}, .split = SplitMode::kNone, .shares = {3, 1}, .main_device = 7}).empty());
  EXPECT_EQ(devices_of({.layers = 99}).empty(), devices().empty());

  const ModelOptions plain{.path = GSD_MODELS_DIR "/toy-draft.gguf", .mmap = {}, .progress = {}};
  ModelOptions none = plain;
  none.place = {.layers = 99, .devices = {"none"}};
  const Model a(plain), b(none);
  EXPECT_TRUE(b.devices().empty());
  EXPECT_EQ(a.fingerprint(), b.fingerprint()) << "they take the same time";
}

}  // namespace
}  // namespace gsd
