// Where libllama's messages go.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <llama.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "gsd/llama.h"

namespace gsd {
namespace {

// The program around the library logs on its own, from before the library's first call on.
std::atomic<long> host_heard{0};
const bool host_has_a_log = [] {
  llama_log_set([](ggml_log_level, const char*, void*) { ++host_heard; }, nullptr);
  return true;
}();

Model load(const std::string& path) { return Model(ModelOptions{.path = path, .mmap = {}, .progress = {}}); }
const std::string kToy = GSD_MODELS_DIR "/toy-draft.gguf";

TEST(Log, TheHostProgramKeepsItsOwn) {
  ASSERT_TRUE(host_has_a_log);
  const long before = host_heard;
  load(kToy);
  EXPECT_GT(host_heard, before);
}

TEST(Log, ACallbackHearsEverythingAndCanBeTakenBack) {
  std::atomic<int> info{0};
  std::atomic<int> error{0};
  set_log([&](LogLevel level, std::string_view text) {
    EXPECT_FALSE(text.empty());
    ++(level == LogLevel::kError ? error : info);
  });
  load(kToy);
  EXPECT_GT(info, 10);
  EXPECT_EQ(error, 0);
  const std::string broken = testing::TempDir() + "log-" + std::to_string(::getpid()) + ".gguf";
  std::filesystem::copy_file(kToy, broken, std::filesystem::copy_options::overwrite_existing);
  std::filesystem::resize_file(broken, 200000);
  EXPECT_THROW(load(broken), Error);
  EXPECT_GT(error, 0);
  set_log({});
  const int so_far = info;
  load(kToy);
  EXPECT_EQ(info, so_far);
  std::filesystem::remove(broken);
}

// Files that are broken in different ways, loaded at the same time: each sentence tells of its own file only.
TEST(Log, FailuresOfSeveralThreadsAreNotMixedUp) {
  const std::string stem = testing::TempDir() + "log-" + std::to_string(::getpid());
  const std::string cut = stem + "-cut.gguf";
  const std::string odd = stem + "-odd.gguf";
  std::filesystem::copy_file(kToy, cut, std::filesystem::copy_options::overwrite_existing);
  std::filesystem::resize_file(cut, std::filesystem::file_size(kToy) - 1000);
  std::ofstream(odd, std::ios::binary) << "GGUF" << std::string(64, '\x7f');
  const auto words = [](const std::string& path) -> std::string {
    try {
      load(path);
    } catch (const Error& e) {
      const std::string what = e.what();
      return what.substr(what.find("(libllama:") + 1);
    }
    return "loaded";
  };
  const std::string of_cut = words(cut);
  const std::string of_odd = words(odd);
  ASSERT_NE(of_cut, of_odd);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      for (int round = 0; round < 20; ++round) {
        if (i % 2 == 0) {
          EXPECT_EQ(words(cut), of_cut);
        } else {
          EXPECT_EQ(words(odd), of_odd);
        }
      }
    });
  }
  for (std::thread& t : threads) t.join();
  std::filesystem::remove(cut);
  std::filesystem::remove(odd);
}

}  // namespace
}  // namespace gsd
