// What slots keep, in files, on the scripted backend.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "server_rig.h"

namespace gsd::server {
namespace {

class Slots : public testing::Test {
 protected:
  void SetUp() override {
    dir = std::filesystem::temp_directory_path() / ("gsd-slots-" + std::to_string(getpid()));
    std::filesystem::create_directories(dir);
  }
  void TearDown() override { std::filesystem::remove_all(dir); }

  std::unique_ptr<Rig> rig(const std::string& model = "a model") const {
    RigOptions o;
    o.n_seq = 2;
    ApiOptions api = api_options(o);
    api.slot_path = dir;
    api.slots_model = model;
    auto out = std::make_unique<Rig>(o, std::move(api));
    out->start();
    return out;
  }
  static Json ask(Rig& rig, int slot, const std::string& prompt = kPrompt) {
    const Json body{{"prompt", prompt}, {"n_predict", 10}, {"temperature", 0}, {"ignore_eos", true}, {"id_slot", slot}};
    const auto call = rig.api.native(body.dump());
    while (!call->finished()) call->advance(std::chrono::milliseconds(20));
    return Json::parse(call->response());
  }
  static Json act(Rig& rig, int slot, const char* action, const std::string& name = "file") {
    return Json::parse(rig.api.slot_action(slot, action, Json{{"filename", name}}.dump()));
  }
  static std::string refused(Rig& rig, int slot, const char* action, const std::string& name = "file") {
    try {
      act(rig, slot, action, name);
    } catch (const ApiError& e) {
      EXPECT_GE(e.status(), 400);
      return e.what();
    }
    return "";
  }
  std::string bytes() const {
    std::ifstream in(dir / "file", std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  void put(const std::string& bytes) const { std::ofstream(dir / "file", std::ios::binary) << bytes; }

  static inline const std::string kPrompt = std::string(60, 'p') + "rompt";
  std::filesystem::path dir;
};

TEST_F(Slots, WhatIsSavedIsThereInAnotherSlotOfAnotherServer) {
  std::string text;
  {
    const auto first = rig();
    text = ask(*first, 1)["content"];
    const Json saved = act(*first, 1, "save");
    EXPECT_EQ(saved["n_saved"], kPrompt.size() + 9);
    EXPECT_EQ(saved["n_written"], bytes().size());
    EXPECT_EQ(saved["id_slot"], 1);
  }
  const auto second = rig();
  const Json restored = act(*second, 0, "restore");
  EXPECT_EQ(restored["n_restored"], kPrompt.size() + 9);
  EXPECT_EQ(restored["n_read"], bytes().size());
  const Json again = ask(*second, 0, kPrompt + text);
  EXPECT_EQ(again["timings"]["cache_n"], kPrompt.size() + 9);
  EXPECT_EQ(again["id_slot"], 0);
  EXPECT_EQ(text + again["content"].get<std::string>(), Rig::alone(kPrompt, [] {
              SessionOptions o;
              o.max_tokens = 20;
              o.ignore_eog = true;
              return o;
            }()));
}

TEST_F(Slots, AnErasedSlotKeepsNothing) {
  const auto r = rig();
  ask(*r, 1);
  EXPECT_EQ(act(*r, 1, "erase")["n_erased"], kPrompt.size() + 9);
  EXPECT_EQ(ask(*r, 1)["timings"]["cache_n"], 0);
  EXPECT_EQ(act(*r, 0, "erase")["n_erased"], 0);
  EXPECT_NE(refused(*r, 0, "save"), "");
}

TEST_F(Slots, AnActionWaitsForItsSlot) {
  RigOptions o;
  o.n_seq = 1;
  o.step_us = 300;
  ApiOptions api = api_options(o);
  api.slot_path = dir;
  Rig r(o, std::move(api));
  r.start();
  const auto call =
      r.api.native(R"({"prompt": "abcdefghijklmnopqrst", "n_predict": 50, "ignore_eos": true, "id_slot": 0})");
  while (r.scheduler.n_processing() == 0) std::this_thread::yield();
  EXPECT_EQ(act(r, 0, "save")["n_saved"], 69);
  while (!call->finished()) call->advance(std::chrono::milliseconds(20));
}

TEST_F(Slots, WhereTheServerEndsNobodyWaits) {
  const auto r = rig();
  r->finish();
  EXPECT_NE(refused(*r, 0, "erase"), "");
}

TEST_F(Slots, NamesAreThoseOfFilesInTheFolder) {
  const auto r = rig();
  ask(*r, 0);
  for (const char* name : {"", ".", "..", "../file", "a/b", "/etc/passwd", ".hidden", "a\\b", "a\nb"})
    EXPECT_NE(refused(*r, 0, "save", name), "") << name;
  EXPECT_NE(refused(*r, 0, "save", std::string("a\0b", 3)), "");
  EXPECT_NE(refused(*r, 0, "save", std::string(300, 'x')), "");
  EXPECT_NE(refused(*r, 0, "restore", "none"), "");
  std::filesystem::create_directory(dir / "folder");
  EXPECT_NE(refused(*r, 0, "restore", "folder"), "");
  EXPECT_NE(refused(*r, 0, "save", "folder"), "");
  EXPECT_NE(refused(*r, 7, "erase"), "");
  EXPECT_NE(refused(*r, 0, "burn"), "");
  EXPECT_THROW(r->api.slot_action(0, "save", "no json"), ApiError);
}

TEST_F(Slots, AFileThatIsDamagedOrForeignIsRefusedBeforeItIsRead) {
  const auto r = rig();
  ask(*r, 0);
  act(*r, 0, "save");
  const std::string good = bytes();
  for (std::size_t n = 0; n < good.size(); ++n) {
    put(good.substr(0, n));
    ASSERT_NE(refused(*r, 1, "restore"), "") << "the first " << n << " bytes";
    std::string bad = good;
    bad[n] = static_cast<char>(bad[n] ^ 64);
    put(bad);
    ASSERT_NE(refused(*r, 1, "restore"), "") << "byte " << n;
  }
  put(good + "x");
  EXPECT_NE(refused(*r, 1, "restore"), "");
  put(good);
  EXPECT_THAT(refused(*rig("another model"), 1, "restore"), testing::HasSubstr("another model"));
  act(*r, 1, "restore");
  EXPECT_EQ(ask(*r, 1)["timings"]["cache_n"], kPrompt.size() - 1);
}

TEST_F(Slots, ARequestMayNameItsSlot) {
  const auto r = rig();
  for (const int slot : {1, 1, 0, 1}) EXPECT_EQ(ask(*r, slot)["id_slot"], slot);
  EXPECT_THROW(ask(*r, 2), ApiError);
}

}  // namespace
}  // namespace gsd::server
