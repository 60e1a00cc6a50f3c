#include "../src/util/atomic_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include "gsd/error.h"

namespace gsd {
namespace {

class Files : public testing::Test {
 protected:
  Files() : dir_(std::filesystem::temp_directory_path() / ("gsd-files-" + std::to_string(::getpid()))) {
    std::filesystem::create_directories(dir_);
  }
  ~Files() override { std::filesystem::remove_all(dir_); }

  std::string path(const char* name) const { return (dir_ / name).string(); }
  static std::string read(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  std::ptrdiff_t count() const {
    return std::distance(std::filesystem::directory_iterator(dir_), std::filesystem::directory_iterator());
  }
  // What `child` returns in a process of its own.
  static int in_child(const std::function<int()>& child) {
    const pid_t pid = ::fork();
    if (pid == 0) ::_exit(child());
    int status = 0;
    ::waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

  std::filesystem::path dir_;
};

TEST_F(Files, AreThereWholeOrNotAtAll) {
  const std::string file = path("a");
  {
    AtomicFile out(file, "page");
    out.write("first");
    EXPECT_FALSE(std::filesystem::exists(file));
    out.commit();
  }
  EXPECT_EQ(read(file), "first");
  {
    AtomicFile out(file, "page");
    out.write("second");
  }
  EXPECT_EQ(read(file), "first") << "not committed";
  EXPECT_EQ(count(), 1) << "nothing is left beside it";
}

TEST_F(Files, SayWhatCannotBeWritten) {
  for (const auto& [bad, words] : {std::pair{path("no/such/folder"), "The page"},
                                   {dir_.string(), "no ordinary file"},
                                   {std::string("/dev/full"), "no ordinary file"}}) {
    try {
      AtomicFile out(bad, "page");
      FAIL() << bad;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kIo);
      EXPECT_THAT(e.what(), testing::HasSubstr(words));
      EXPECT_THAT(e.what(), testing::HasSubstr(bad));
    }
  }
}

// As on a full disk: whether the write fails that is under way, or the last one, when buffers are emptied.
TEST_F(Files, AFullDiskLeavesWhatWasThere) {
  const std::string file = path("a");
  std::ofstream(file) << "before";
  for (const std::size_t size : {4096U, 65536U, 1000000U}) {
    const int told = in_child([&] {
      std::signal(SIGXFSZ, SIG_IGN);
      const rlimit limit{2000, 2000};
      ::setrlimit(RLIMIT_FSIZE, &limit);
      try {
        AtomicFile out(file, "page");
        for (std::size_t i = 0; i < size; i += 1000) out.write(std::string(1000, 'x'));
        out.commit();
      } catch (const Error& e) {
        return e.code() == ErrorCode::kIo ? 7 : 8;
      }
      return 0;
    });
    EXPECT_EQ(told, 7);
    EXPECT_EQ(read(file), "before");
    EXPECT_EQ(count(), 1);
  }
}

TEST_F(Files, NamesBesideAreSharedByNobody) {
  const std::string file = path("a");
  AtomicFile one(file, "page");
  AtomicFile two(file, "page");
  EXPECT_NE(one.scratch(), two.scratch());
  one.write("one");
  two.write("two");
  EXPECT_EQ(in_child([&] {
              AtomicFile three(file, "page");
              three.write("three");
              three.commit();
              return 0;
            }),
            0);
  EXPECT_EQ(read(file), "three");
  two.commit();
  EXPECT_EQ(read(file), "two");
  one.commit();
  EXPECT_EQ(read(file), "one");
}

// Read, change, write again, by threads of several processes: no change is lost.
TEST_F(Files, ALockLetsOneChangeAfterAnother) {
  constexpr int kProcesses = 4;
  constexpr int kThreads = 3;
  constexpr int kChanges = 10;
  const std::string file = path("a");
  const auto change = [&] {
    for (int i = 0; i < kChanges; ++i) {
      const FileLock lock(file + ".lock");
      const std::string all = read(file) + "x";
      AtomicFile out(file, "page");
      out.write(all);
      out.commit();
    }
  };
  std::vector<pid_t> children;
  for (int p = 0; p < kProcesses; ++p) {
    children.push_back(::fork());
    if (children.back() != 0) continue;
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; ++t) threads.emplace_back(change);
    for (std::thread& t : threads) t.join();
    ::_exit(0);
  }
  for (const pid_t child : children) ::waitpid(child, nullptr, 0);
  EXPECT_EQ(read(file).size(), static_cast<std::size_t>(kProcesses * kThreads * kChanges));
  EXPECT_EQ(count(), 2) << "the file and its lock";
}

}  // namespace
}  // namespace gsd
