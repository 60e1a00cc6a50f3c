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

constexpr Token kVocabulary = 100;

TEST_F(AnswerFile, GoesOnWhereItWas) {
  std::mt19937_64 rng(test::base_seed());
  {
    AnswerStore store(256);
    EXPECT_EQ(store.keep_in(path, "mine", kVocabulary), "");
    EXPECT_EQ(store.size(), 0U);
    store.save();
    EXPECT_FALSE(std::filesystem::exists(path)) << "nothing to keep";
    for (int i = 0; i < 30; ++i) {
      std::vector<Token> answer(20);
      for (Token& t : answer) t = static_cast<Token>(rng() % 50);
      store.add({}, answer);
    }
    store.add(words({1, 2, 3}), words({4, 5, 6, 7}));
    store.save();
  }
  EXPECT_EQ(std::filesystem::status(path).permissions() & std::filesystem::perms::all,
            std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
  for (const int capacity : {256, 1024, 64}) {
    AnswerStore loaded(capacity);
    EXPECT_EQ(loaded.keep_in(path, "mine", kVocabulary), "");
    EXPECT_EQ(follow(loaded, words({1, 2, 3}), 9), words({4, 5, 6, 7}));
    loaded.check_integrity();
  }
  put("");  // made by somebody else, for us
  AnswerStore none;
  EXPECT_EQ(none.keep_in(path, "mine", kVocabulary), "");
  EXPECT_EQ(none.size(), 0U);
}

TEST_F(AnswerFile, TwoThatWriteItLoseNothing) {
  AnswerStore a(1024);
  AnswerStore b(1024);
  a.keep_in(path, "mine", kVocabulary);
  b.keep_in(path, "mine", kVocabulary);
  for (Token t = 0; t + 4 < kVocabulary; t += 5) {
    AnswerStore& writer = t % 2 == 0 ? a : b;
    writer.add({}, words({t, t + 1, t + 2, t + 3, t + 4}));
    writer.save();
    writer.save();  // nothing is written twice
  }
  AnswerStore both(1024);
  both.keep_in(path, "mine", kVocabulary);
  EXPECT_EQ(both.size(), 6U * kVocabulary / 5);
  for (Token t = 0; t + 4 < kVocabulary; t += 5)
    EXPECT_EQ(follow(both, words({t, t + 1, t + 2}), 9), words({t + 3, t + 4}));
  AnswerStore small(64);
  small.keep_in(path, "mine", kVocabulary);
  small.add({}, words({7, 7, 7, 8}));
  small.save();
  EXPECT_LT(bytes().size(), 64 * sizeof(Token) + 100) << "the file has a bound too";
}

// A process that is killed saves nothing at its end.
TEST_F(AnswerFile, IsWrittenNowAndThen) {
  AnswerStore store;
  store.keep_in(path, "mine", kVocabulary);
  std::size_t n = 0;
  for (; !std::filesystem::exists(path) && n < 100'000; n += 1001) store.add({}, std::vector<Token>(1000, 5));
  EXPECT_LT(n, 20'000U);
  AnswerStore loaded;
  EXPECT_EQ(loaded.keep_in(path, "mine", kVocabulary), "");
  EXPECT_EQ(loaded.size(), n);
  std::filesystem::remove(path);
  std::filesystem::create_directory(path);  // it cannot be written any more
  EXPECT_NO_THROW(for (n = 0; n < 40'000; n += 1001) store.add({}, std::vector<Token>(1000, 5)));
  EXPECT_THROW(store.save(), Error);
  std::filesystem::remove(path);
  {
    const FileLock held(path + ".lock");  // by another process, for however long
    for (std::size_t more = 0; more < 40'000; more += 1001) store.add({}, std::vector<Token>(1000, 5));
    EXPECT_FALSE(std::filesystem::exists(path));
  }
  store.save();
  AnswerStore whole;
  whole.keep_in(path, "mine", kVocabulary);
  EXPECT_GE(whole.size(), n) << "nothing was lost by it";
}

TEST_F(AnswerFile, DamageIsPutAside) {
  {
    AnswerStore store(256);
    store.keep_in(path, "mine", kVocabulary);
    store.add(words({1, 2, 3}), words({4, 5, 6, 7}));
    store.save();
  }
  const std::string good = bytes();
  const auto expect_aside = [&](const std::string& text, const char* words_, const std::string& what) {
    std::filesystem::remove(path + ".old");
    put(text);
    AnswerStore loaded(256);
    EXPECT_THAT(loaded.keep_in(path, "mine", kVocabulary), HasSubstr(words_)) << what;
    EXPECT_EQ(loaded.size(), 0U) << what;
    EXPECT_FALSE(std::filesystem::exists(path)) << what;
    std::ifstream old(path + ".old", std::ios::binary);
    EXPECT_EQ(std::string(std::istreambuf_iterator<char>(old), {}), text) << what;
  };
  expect_aside("gsd answers 2\nmine\n0 0\n", "another version", "a later version");
  expect_aside(good + "x", "damaged", "something follows");
  constexpr std::size_t kVersion = 14;
  for (std::size_t n = kVersion; n < good.size(); ++n)
    expect_aside(good.substr(0, n), "damaged", "cut at " + std::to_string(n));
  for (std::size_t i = kVersion; i < good.size(); ++i) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ 4);
    expect_aside(bad, "damaged", "a bit at " + std::to_string(i));
  }
}

// A wrong name must not cost a file.
TEST_F(AnswerFile, OtherFilesStayAsTheyAre) {
  AnswerStore store(256);
  store.keep_in(path, "mine", kVocabulary);
  store.add({}, words({1, 2, 3, 99}));
  store.save();
  const std::string good = bytes();
  const auto expect_refused = [&](const std::string& text, const char* vocabulary, Token n_vocab, const char* words_) {
    put(text);
    AnswerStore other(256);
    try {
      other.keep_in(path, vocabulary, n_vocab);
      ADD_FAILURE() << words_;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kIo);
      EXPECT_THAT(e.what(), HasSubstr(words_));
    }
    EXPECT_EQ(other.size(), 0U);
    EXPECT_EQ(bytes(), text);
  };
  expect_refused("GGUF and so on", "mine", kVocabulary, "is no store of answers");
  expect_refused("x", "mine", kVocabulary, "is no store of answers");
  expect_refused(good, "yours", kVocabulary, "other tokens");
  put(good);
  AnswerStore fewer(256);
  EXPECT_THAT(fewer.keep_in(path, "mine", 99), HasSubstr("damaged")) << "a token that there is none of";
  const std::string foreign = (dir / "foreign").string();
  std::ofstream(foreign) << "GGUF and so on";
  EXPECT_THROW(AnswerStore().keep_in(foreign, "mine", kVocabulary), Error);
  EXPECT_FALSE(std::filesystem::exists(foreign + ".lock")) << "nothing is left beside somebody else's file";
  std::filesystem::create_directory(path);
  EXPECT_THROW(AnswerStore().keep_in(path, "mine", kVocabulary), Error);
  EXPECT_THROW(AnswerStore().keep_in((dir / "none" / "answers").string(), "mine", kVocabulary), Error)
      << "there before the first answer, not after the last";
}

}  // namespace
}  // namespace gsd
