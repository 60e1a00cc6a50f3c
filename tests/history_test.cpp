#include "../src/core/history.h"

#include <gtest/gtest.h>

#include <vector>

#include "gsd/error.h"
#include "random.h"

namespace gsd {
namespace {

void push_all(History& h, const std::vector<Token>& tokens) {
  for (const Token t : tokens) h.push(t);
}

TEST(History, ContinuesTheLongestMatch) {
  History h(64);
  push_all(h, {9, 1, 2, 3, 50, 1, 2, 3, 60, 9, 1, 2, 3});
  const std::vector<Token> context{9, 1, 2, 3};
  const auto m = h.find(context);
  ASSERT_TRUE(m);
  EXPECT_EQ(m.length, 4);
  EXPECT_EQ(h.next(m), 50) << "the older occurrence agrees in four tokens";
}

TEST(History, NewestOfEqualMatches) {
  History h(64);
  push_all(h, {1, 2, 3, 50, 4, 1, 2, 3, 60});
  const std::vector<Token> context{8, 1, 2, 3};
  EXPECT_EQ(h.next(h.find(context)), 60);
}

TEST(History, ChainsDoNotTouch) {
  History h(64);
  push_all(h, {1, 2, 3});
  h.end_chain();
  push_all(h, {4, 1, 2});
  h.end_chain();
  push_all(h, {3, 5});
  EXPECT_FALSE(h.find(std::vector<Token>{1, 2, 3})) << "nothing follows inside the chain";
  EXPECT_FALSE(h.find(std::vector<Token>{2, 3, 5}));
  EXPECT_FALSE(h.find(std::vector<Token>{1, 2})) << "shorter than a 3-gram";
}

TEST(History, RefusesAbsurdCapacities) {
  EXPECT_THROW(History(2), Error);
  EXPECT_THROW(History(1 << 25), Error);
}

// Every match is a true one, stays inside a chain and inside the ring; and where a plain search over the last tokens
// finds a 3-gram among few occurrences, so does find().
TEST(History, RandomChainsAgreeWithASearch) {
  for (int round = 0; round < 200; ++round) {
    GSD_SEEDED(rng, round);
    const int capacity = 16;
    History h(capacity);
    std::vector<Token> all;  // -1 between chains, as the ring holds them
    const auto vocab = 2 + rng() % 5;
    for (int op = 0; op < 80; ++op) {
      if (rng() % 12 == 0 && !all.empty() && all.back() >= 0) {
        h.end_chain();
        all.push_back(-1);
      } else {
        all.push_back(static_cast<Token>(rng() % vocab));
        h.push(all.back());
      }
      std::vector<Token> context(3 + rng() % 4);
      for (Token& t : context) t = static_cast<Token>(rng() % vocab);
      const auto m = h.find(context);
      const auto n = static_cast<std::int64_t>(all.size());
      int best = 0;
      int occurrences = 0;
      const auto oldest = std::max<std::int64_t>(0, n - capacity);
      for (std::int64_t end = oldest; end + 1 < n; ++end) {
        if (all[static_cast<std::size_t>(end + 1)] < 0) continue;
        int length = 0;
        while (length < static_cast<int>(context.size()) && end - length >= oldest &&
               all[static_cast<std::size_t>(end - length)] ==
                   context[context.size() - 1 - static_cast<std::size_t>(length)]) {
          ++length;
        }
        occurrences += length >= 3 ? 1 : 0;
        best = std::max(best, length);
      }
      if (m) {
        ASSERT_GE(m.length, 3);
        for (int i = 0; i < m.length; ++i) {
          ASSERT_EQ(all[static_cast<std::size_t>(m.position - i)],
                    context[context.size() - 1 - static_cast<std::size_t>(i)]);
        }
        ASSERT_GE(m.position - m.length + 1, oldest);
        ASSERT_EQ(h.next(m), all[static_cast<std::size_t>(m.position + 1)]);
      }
      if (occurrences == 1) {
        ASSERT_TRUE(m);
        ASSERT_EQ(m.length, best);
      }
      if (occurrences == 0) {
        ASSERT_FALSE(m);
      }
    }
  }
}

}  // namespace
}  // namespace gsd
