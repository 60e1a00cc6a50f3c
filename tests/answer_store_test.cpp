// The store of answers: what it finds is there, what it keeps is bounded, and a file is whole or put aside.
#include "../src/draft/answer_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>

#include "gsd/error.h"
#include "random.h"

namespace gsd {
namespace {

using ::testing::HasSubstr;

std::vector<Token> words(std::initializer_list<int> list) { return {list.begin(), list.end()}; }

// What the store would write after `text`, at most n tokens.
std::vector<Token> follow(const AnswerStore& store, const std::vector<Token>& text, std::size_t n) {
  std::vector<Token> out;
  Source::Match m = store.find(text);
  for (Token t; m && out.size() < n && (t = store.next(m)) >= 0; m = store.advance(m)) out.push_back(t);
  return out;
}

TEST(AnswerStore, ARepeatedAnswerIsFoundToItsEnd) {
  AnswerStore store(64);
  store.add(words({1, 2, 3}), words({4, 5, 6, 7, 8}));
  EXPECT_EQ(follow(store, words({9, 1, 2, 3}), 20), words({4, 5, 6, 7, 8}));
  EXPECT_EQ(follow(store, words({3, 4, 5}), 20), words({6, 7, 8}));
  EXPECT_FALSE(store.find(words({2, 3})));                    // too short
  EXPECT_FALSE(store.find(words({2, 3, 5})));                 // never there
  EXPECT_EQ(follow(store, words({6, 7, 8}), 20), words({}));  // nothing follows, and no match crosses the end
  store.add({}, {});
  EXPECT_EQ(store.size(), 9U);
}

TEST(AnswerStore, TheMoreFrequentContinuationIsProposed) {
  AnswerStore store(1024);
  const auto answer = [&](Token last) { store.add({}, std::vector<Token>{1, 2, 3, last}); };
  for (int i = 0; i < 5; ++i) answer(4);
  answer(9);
  EXPECT_EQ(follow(store, words({1, 2, 3}), 1), words({4}));
  for (int i = 0; i < 8; ++i) answer(9);
  EXPECT_EQ(follow(store, words({1, 2, 3}), 1), words({9}));
}

TEST(AnswerStore, ALongerContextDecides) {
  AnswerStore store(1024);
  for (int i = 0; i < 9; ++i) store.add({}, words({5, 1, 2, 3, 4}));
  store.add({}, words({6, 7, 1, 2, 3, 8}));
  EXPECT_EQ(follow(store, words({6, 7, 1, 2, 3}), 1), words({8}));
  EXPECT_EQ(follow(store, words({0, 0, 1, 2, 3}), 1), words({4}));
}

// Random answers against a model that keeps all text: whatever is found stands there, agrees as far as is said, and is
// new enough to be kept.
TEST(AnswerStore, WhatIsFoundIsThere) {
  std::size_t n_found = 0;
  for (std::uint64_t index = 0; index < 20; ++index) {
    GSD_SEEDED(rng, index);
    const int capacity = 64 << rng() % 4;
    const auto letters = static_cast<Token>(2 + rng() % 6);
    AnswerStore store(capacity);
    std::vector<Token> all;  // with -1 after each answer
    const auto random_text = [&](std::size_t most) {
      std::vector<Token> out(rng() % most);
      for (Token& t : out) t = static_cast<Token>(rng()) & 0x7fffffff, t %= letters;
      return out;
    };
    for (int i = 0; i < 60; ++i) {
      const std::vector<Token> prompt = random_text(40), answer = random_text(30);
      store.add(prompt, answer);
      if (!answer.empty()) {
        all.insert(all.end(), prompt.end() - static_cast<std::ptrdiff_t>(std::min<std::size_t>(24, prompt.size())),
                   prompt.end());
        all.insert(all.end(), answer.begin(), answer.end());
        all.push_back(-1);
      }
      store.check_integrity();
      EXPECT_EQ(store.size(), std::min(all.size(), static_cast<std::size_t>(capacity)));
      for (int k = 0; k < 10; ++k) {
        const std::vector<Token> text = random_text(50);
        const Source::Match m = store.find(text);
        if (!m) continue;
        ++n_found;
        ASSERT_LT(m.position + 1, static_cast<std::int64_t>(all.size()));
        ASSERT_GE(m.position, static_cast<std::int64_t>(all.size()) - capacity);
        ASSERT_GE(m.length, 3);
        ASSERT_LE(m.length, Source::kMaxMatch);
        for (std::int32_t j = 0; j < m.length; ++j)
          ASSERT_EQ(all[static_cast<std::size_t>(m.position - j)], text[text.size() - 1 - static_cast<std::size_t>(j)]);
        ASSERT_EQ(store.next(m), all[static_cast<std::size_t>(m.position + 1)]);
        ASSERT_GE(store.next(m), 0);
      }
    }
  }
  EXPECT_GT(n_found, 1000U);
}

TEST(AnswerStore, OldAnswersAndUselessPlacesGo) {
  AnswerStore store(128);
  store.add({}, words({1, 2, 3, 4}));
  for (Token t = 10; t < 200; t += 5) store.add({}, words({t, t + 1, t + 2, t + 3, t + 4}));
  EXPECT_FALSE(store.find(words({1, 2, 3})));
  EXPECT_EQ(follow(store, words({195, 196, 197}), 9), words({198, 199}));
  EXPECT_EQ(store.size(), 128U);
  store.check_integrity();
  EXPECT_THROW(AnswerStore(63), Error);
  EXPECT_THROW(AnswerStore((1 << 24) + 1), Error);
}

class AnswerFile : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "gsd-store-XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    dir = name;
    path = (dir / "answers").string();
  }
  void TearDown() override { std::filesystem::remove_all(dir); }
  std::string bytes() const {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  void put(const std::string& text) const { std::ofstream(path, std::ios::binary) << text; }

  std::filesystem::path dir;
  std::string path;
};

TEST_F(AnswerFile, GoesOnWhereItWas) {
  AnswerStore store(256);
  std::mt19937_64 rng(test::base_seed());
  for (int i = 0; i < 30; ++i) {
    std::vector<Token> answer(20);
    for (Token& t : answer) t = static_cast<Token>(rng() % 50);
    store.add({}, answer);
  }
  store.add(words({1, 2, 3}), words({4, 5, 6, 7}));
  store.save(path, "mine");
  for (const int capacity : {256, 1024, 64}) {
    AnswerStore loaded(capacity);
    EXPECT_EQ(loaded.load(path, "mine"), "");
    EXPECT_EQ(follow(loaded, words({1, 2, 3}), 9), words({4, 5, 6, 7}));
    loaded.check_integrity();
  }
  AnswerStore none;
  EXPECT_EQ(none.load((dir / "nothing").string(), "mine"), "");
  EXPECT_EQ(none.size(), 0U);
}

TEST_F(AnswerFile, DamageIsPutAside) {
  AnswerStore store(256);
  store.add(words({1, 2, 3}), words({4, 5, 6, 7}));
  store.save(path, "mine");
  const std::string good = bytes();
  const auto expect = [&](const std::string& text, const std::string& vocabulary, const char* words_) {
    put(text);
    AnswerStore loaded(256);
    EXPECT_THAT(loaded.load(path, vocabulary), HasSubstr(words_));
    EXPECT_EQ(loaded.size(), 0U);
    EXPECT_FALSE(std::filesystem::exists(path));
    EXPECT_TRUE(std::filesystem::exists(path + ".old"));
  };
  expect("", "mine", "another version");
  expect("gsd answers 2\nmine\n0 0\n", "mine", "another version");
  expect(good, "yours", "other tokens");
  expect(good + "x", "mine", "damaged");
  for (std::size_t n = 14; n < good.size(); ++n) {  // cut anywhere after the version
    put(good.substr(0, n));
    AnswerStore loaded(256);
    EXPECT_NE(loaded.load(path, "mine"), "") << n;
    EXPECT_EQ(loaded.size(), 0U);
  }
  for (std::size_t i = 19; i < good.size(); ++i) {  // a bit anywhere behind the vocabulary
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ 4);
    put(bad);
    AnswerStore loaded(256);
    EXPECT_NE(loaded.load(path, "mine"), "") << i;
    EXPECT_EQ(loaded.size(), 0U);
  }
  put(good);
  AnswerStore loaded(256);
  EXPECT_EQ(loaded.load(path, "mine"), "");
  std::filesystem::remove(path);
  std::filesystem::create_directory(path);
  EXPECT_THROW(loaded.load(path, "mine"), Error);
  EXPECT_THROW(loaded.save(path, "mine"), Error);
}

}  // namespace
}  // namespace gsd
