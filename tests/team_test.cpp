// The choice of threads, on machines that are given as a time for each choice.
#include "../src/core/team.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <unistd.h>

#include <functional>
#include <random>
#include <thread>

#include "../src/util/free_cores.h"

namespace gsd {
namespace {

// Time of `runs` passes, and the share of them that all threads computed.
struct Result {
  double ms = 0;
  double all = 0;
};
Result simulate(
    Team& team, int runs, double all_ms, double one_ms, int tokens = 4, int free_cores = -1,
    const std::function<double()>& noise = [] { return 1.0; }) {
  Result r;
  for (int i = 0; i < runs; ++i) {
    const int threads = team.choose(tokens, 4, free_cores);
    EXPECT_TRUE(threads == 1 || threads == 4);
    const double ms = (threads == 1 ? one_ms : all_ms) * noise();
    team.ran(ms);
    r.ms += ms;
    r.all += threads == 4 ? 1.0 / runs : 0;
  }
  return r;
}

TEST(Team, TakesWhatIsFasterAndLosesLittleByTrying) {
  struct Case {
    double all, one;
  };
  for (const Case c : {Case{1, 1.7}, {1, 4}, {3, 1}, {20, 1}, {1, 1.05}, {1, 0.99}}) {
    Team team;
    simulate(team, 100, c.all, c.one);
    const Result r = simulate(team, 4000, c.all, c.one);
    EXPECT_LT(r.ms, 4000 * std::min(c.all, c.one) * 1.011) << c.all << " " << c.one;
    EXPECT_EQ(r.all > 0.5, c.all < 1.02 * c.one) << c.all << " " << c.one;
  }
}

TEST(Team, FollowsALoadThatComesAndGoes) {
  Team team;
  simulate(team, 1000, 1, 1.6);
  for (int i = 0; i < 3; ++i) {
    EXPECT_LT(simulate(team, 60, 8, 2).all, 0.5);  // found at once: every run is a surprise
    EXPECT_LT(simulate(team, 1000, 8, 2).all, 0.03);
    simulate(team, 3000, 1, 1.6);  // gone: found when it is tried the next time
    EXPECT_GT(simulate(team, 300, 1, 1.6).all, 0.9);
  }
}

TEST(Team, SingleSlowRunsChangeNothing) {
  Team team;
  std::mt19937 random(3);
  simulate(team, 200, 1, 1.6);
  const Result r = simulate(team, 5000, 1, 1.6, 4, -1, [&] { return random() % 50 == 0 ? 5.0 : 1.0; });
  EXPECT_GT(r.all, 0.9);
}

TEST(Team, NarrowPassesAreJudgedApartFromWideOnes) {
  Team team;
  for (int i = 0; i < 50; ++i) {
    simulate(team, 10, 0.3, 0.1, 1);
    simulate(team, 10, 1, 1.7);
  }
  EXPECT_LT(simulate(team, 100, 0.3, 0.1, 1).all, 0.05);
  EXPECT_GT(simulate(team, 100, 1, 1.7).all, 0.95);
}

TEST(Team, AWidthThatIsNewBeginsAsTheLastOneDid) {
  Team team;
  simulate(team, 300, 9, 2, 4);
  EXPECT_EQ(team.choose(64, 4, -1), 1);
}

TEST(Team, BeginsWithAllThreadsOnFreeCoresAndAloneBesideOthers) {
  Team team;
  std::mt19937 random(5);
  const auto noise = [&] { return random() % 10 == 0 ? 9.0 : 1.0; };
  EXPECT_NEAR(simulate(team, 20, 1, 1.6, 4, 4).all, 1, 1e-9);
  EXPECT_EQ(simulate(team, 2000, 50, 2, 4, 1, noise).all, 0);
  EXPECT_NEAR(simulate(team, 20, 1, 1.6, 4, 4).all, 1, 1e-9);  // what was learned beside others is kept apart
}

TEST(Team, TakesNoMoreThreadsThanCoresAreFree) {
  Team team;
  EXPECT_EQ(team.choose(4, 16, 15), 15);
  team.ran(1);
  EXPECT_EQ(team.choose(4, 16, 40), 16);
}

TEST(Team, RunnableThreadsThatTakeNothingAreFoundOut) {
  Team team;  // a program of low priority runs beside it
  simulate(team, 15000, 1, 1.6, 4, 1);
  EXPECT_GT(simulate(team, 300, 1, 1.6, 4, 1).all, 0.9);
}

TEST(FreeCores, IsKnownOnlyWhereThisProcessMayRunEverywhere) {
  const int cores = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  FreeCores free;
  const int n = free.get();
  EXPECT_GE(n, -1);
  EXPECT_LE(n, cores);
  if (cores < 2) GTEST_SKIP() << "one core";
  std::thread([] {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(0, &one);
    ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
    EXPECT_EQ(FreeCores().get(), -1);
  }).join();
}

TEST(Team, OneThreadIsOne) {
  Team team;
  for (const int tokens : {1, 7, 512, 1 << 20}) {
    EXPECT_EQ(team.choose(tokens, 1, -1), 1);
    team.ran(1);
  }
}

}  // namespace
}  // namespace gsd
