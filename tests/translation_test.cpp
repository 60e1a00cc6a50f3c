// Drafts of another vocabulary, on vocabularies and models whose text is known.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "../src/draft/translated_text.h"
#include "../src/draft/translating_drafter.h"
#include "../src/draft/vocabulary_map.h"
#include "engine_rig.h"
#include "gsd/error.h"

namespace gsd {
namespace {

constexpr Token kEnd = 0;  // of text, in all vocabularies here: a control token

// Takes the longest token from the left. `blank`: puts a blank in front of a text, as SentencePiece does.
Vocabulary longest_match(std::vector<std::string> tokens, bool blank = false) {
  tokens.insert(tokens.begin(), "");
  const auto all = std::make_shared<const std::vector<std::string>>(std::move(tokens));
  Vocabulary v;
  v.size = static_cast<int>(all->size());
  v.tokenize = [all, blank](std::string_view in, AddBegin, ParseControl) {
    const std::string text = (blank && !in.empty() ? " " : "") + std::string(in);
    std::vector<Token> out;
    for (std::size_t at = 0; at < text.size();) {
      Token best = -1;
      for (Token t = 1; t < static_cast<Token>(all->size()); ++t) {
        const std::string& piece = (*all)[static_cast<std::size_t>(t)];
        if (text.compare(at, piece.size(), piece) == 0 &&
            (best < 0 || piece.size() > (*all)[static_cast<std::size_t>(best)].size()))
          best = t;
      }
      if (best >= 0) out.push_back(best);
      at += best < 0 ? 1 : (*all)[static_cast<std::size_t>(best)].size();
    }
    return out;
  };
  v.piece = [all](Token t, ShowControl show) {
    return t == kEnd && show == ShowControl::kYes ? "<end>" : (*all)[static_cast<std::size_t>(t)];
  };
  v.is_eog = [](Token t) { return t == kEnd; };
  v.end = kEnd;
  return v;
}

std::vector<std::string> all_bytes() {
  std::vector<std::string> out;
  for (int c = 0; c < 256; ++c) out.emplace_back(1, static_cast<char>(c));
  return out;
}

const std::vector<std::string> kSnippets{
    "a",      "b",  "the",      " the",         " ",    "  ", "\n",    "\n\n", "é", "中", "国",  "😀",   "ß", "ing",
    " thing", "12", "\xE4\xB8", "\xF0\x9F\x98", "\xFF", ".",  " \xC3", "\xA9", "▁", "\t", "foo", "_bar"};

std::string random_text(std::mt19937_64& rng, std::size_t n) {
  std::string out;
  for (std::size_t i = 0; i < n; ++i) out += kSnippets[rng() % kSnippets.size()];
  return out;
}

// Some snippets and parts of them; all bytes unless they are left out, which makes a vocabulary with gaps.
Vocabulary random_vocabulary(std::mt19937_64& rng, bool bytes) {
  std::vector<std::string> tokens;
  if (bytes) tokens = all_bytes();
  for (int i = 0; i < 40; ++i) {
    const std::string text = random_text(rng, 2);
    const std::string part = text.substr(0, 1 + rng() % text.size());
    if (std::find(tokens.begin(), tokens.end(), part) == tokens.end()) tokens.push_back(part);
  }
  std::shuffle(tokens.begin(), tokens.end(), rng);
  return longest_match(tokens, rng() % 2 == 0);
}

TEST(ByteVocabulary, PiecesCoverEveryByteOnce) {
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 rng(seed);
    const bool bytes = rng() % 3 != 0;
    const ByteVocabulary v(random_vocabulary(rng, bytes));
    const std::string text = random_text(rng, rng() % 30);
    for (const auto place : {ByteVocabulary::Place::kStart, ByteVocabulary::Place::kMiddle}) {
      std::string back;
      for (const auto& p : v.encode(text, place)) {
        const std::string_view said = std::string_view(text).substr(back.size(), static_cast<std::size_t>(p.bytes));
        back += said;
        if (p.token == ByteVocabulary::kNone) {
          ASSERT_FALSE(bytes);
        } else {
          ASSERT_TRUE(v.bytes(p.token).ends_with(said));
          if (back.size() > said.size() || place == ByteVocabulary::Place::kMiddle) {
            ASSERT_EQ(v.bytes(p.token).size(), said.size());
          }
        }
      }
      ASSERT_EQ(back, text);
    }
  }
}

// A text that grows by the target's tokens, is cut, and goes on as the draft itself has said it, against one made anew.
TEST(TranslatedText, NeitherLosesNorDoublesAByte) {
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 rng(seed);
    const auto map =
        std::make_shared<const VocabularyMap>(random_vocabulary(rng, true), random_vocabulary(rng, rng() % 3 != 0));
    const ByteVocabulary& target = map->target();
    TranslatedText text(map);
    std::vector<Token> tokens;
    std::int32_t held = 0;
    for (int round = 0; round < 20; ++round) {
      if (rng() % 4 == 0) {
        const auto n = static_cast<std::int32_t>(rng() % (tokens.size() + 1));
        tokens.resize(std::min(tokens.size(), static_cast<std::size_t>(n)));
        held = std::min(held, text.cut(n));
        ASSERT_LE(text.n_known(held), n);
      }
      const std::string more = random_text(rng, 1 + rng() % 6);
      for (const Token t : target.vocabulary().tokenize(more, AddBegin::kNo, ParseControl::kNo)) tokens.push_back(t);
      if (rng() % 6 == 0) tokens.push_back(kEnd);
      const auto end = rng() % 2 ? TranslatedText::End::kRoot : TranslatedText::End::kText;
      const std::int32_t before = held;
      const std::int32_t same = text.go_on(tokens, held, end);
      text.check_integrity();
      ASSERT_LE(same, std::min(before, text.size()));
      ASSERT_GE(text.size(), 1);
      held = text.size();
      ASSERT_LE(text.rest().size(), end == TranslatedText::End::kRoot ? 3U : 0U);
      if (text.rest().empty()) {
        ASSERT_EQ(text.n_known(held), static_cast<std::int32_t>(tokens.size()));
      }
      if (rng() % 3 == 0) held = static_cast<std::int32_t>(rng() % static_cast<std::uint64_t>(held + 1));
    }
  }
}

TEST(TranslatedText, OnlyTheLastWordsAreMadeAnew) {
  std::vector<std::string> tokens = all_bytes();
  for (const char* t : {" wor", " word", "ds", " words"}) tokens.emplace_back(t);
  const Vocabulary v = longest_match(tokens);
  TranslatedText text(std::make_shared<const VocabularyMap>(longest_match(all_bytes()), v));
  std::vector<Token> bytes;
  std::int32_t held = 0;
  for (int i = 0; i < 4000; ++i) {
    bytes.push_back(1 + static_cast<Token>(static_cast<unsigned char>(" words"[i % 6])));
    const std::int32_t same = text.go_on(bytes, held, TranslatedText::End::kRoot);
    ASSERT_LE(held - same, 8);
    held = text.size();
  }
  EXPECT_LT(text.size(), 4000 / 6 + 8);
}

TEST(VocabularyMap, MapsTextByBytesAndControlTokensByName) {
  const Vocabulary target = longest_match({"a", "b", "ab", "c"});
  const VocabularyMap map(target, longest_match({"c", "a", "b", "d"}));
  EXPECT_EQ(map.to_draft(kEnd), kEnd);
  EXPECT_EQ(map.to_draft(1), 2);
  EXPECT_EQ(map.to_draft(3), ByteVocabulary::kNone);
  EXPECT_EQ(map.to_target(4), ByteVocabulary::kNone);
  EXPECT_EQ(map.share(), 0.75);
  EXPECT_FALSE(map.complete());
}

// ---- whole generations

// A scripted target with tokens t1, t2, …, and the same model with its ids in another order.
struct Permuted {
  explicit Permuted(const World& w) {
    std::vector<std::string> names;
    for (int t = 1; t < w.n_vocab; ++t) names.push_back("<" + std::to_string(t) + ">");
    target = longest_match(names);
    order.resize(static_cast<std::size_t>(w.n_vocab));
    std::iota(order.begin(), order.end(), 0);
    std::mt19937_64 rng(w.seed);
    std::shuffle(order.begin() + 1, order.end(), rng);
    std::vector<std::string> moved(names.size());
    for (std::size_t t = 1; t < order.size(); ++t) moved[static_cast<std::size_t>(order[t]) - 1] = names[t - 1];
    draft = longest_match(moved);
  }
  Script script(const World& w) const {
    std::vector<Token> back(order.size());
    for (std::size_t t = 0; t < order.size(); ++t) back[static_cast<std::size_t>(order[t])] = static_cast<Token>(t);
    return [inner = random_script(w.seed, w.order, w.sharpness, w.drift), back](std::span<const Token> context,
                                                                                std::span<float> logits) {
      std::vector<Token> tokens;
      for (const Token t : context) tokens.push_back(back[static_cast<std::size_t>(t)]);
      std::vector<float> out(logits.size());
      inner(tokens, out);
      for (std::size_t i = 0; i < out.size(); ++i) logits[i] = out[static_cast<std::size_t>(back[i])];
    };
  }
  Vocabulary target;
  Vocabulary draft;
  std::vector<Token> order;  // [target's id]
};

void set_costs(Engine& engine) {
  engine.state().planner_.target_cost().load({{1, 10}, {8, 12}, {16, 16}, {32, 40}});
  engine.state().planner_.target_cost().freeze(true);
  for (CostModel& cost : engine.state().planner_.draft_costs()) {
    cost.load({{1, 0.5}, {16, 1}});
    cost.freeze(true);
  }
}

std::vector<Token> run(Engine& engine, SessionOptions o, std::span<const Token> prompt, Stats* stats = nullptr) {
  o.on_step = [](const StepView& v) {
    v.hypotheses.tree().check_integrity();
    v.hypotheses.graph().check_integrity();
  };
  const auto s = engine.open(std::move(o));
  engine.set_prompt(*s, prompt);
  run_to_end(engine, *s);
  if (stats != nullptr) *stats = s->stats();
  return {s->generated().begin(), s->generated().end()};
}

// Every token maps: the very same nodes must be proposed and accepted as with the target's own ids.
TEST(TranslatingDrafter, OtherIdsAloneChangeNothing) {
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 rng(seed);
    Case c = random_case(rng);
    c.world.with_draft = true;
    c.world.more_drafts.clear();
    c.world.eog = kEnd;
    Rig plain(c.world);
    const std::vector<Token> expected = plain.run(c.options, c.prompt);
    const Permuted other(c.world);
    for (const Mode mode : kSpeculative) {
      c.options.speculation.mode = mode;
      Rig own(c.world);
      EXPECT_EQ(own.run(c.options, c.prompt), expected);
      BackendInfo info = draft_info(own.info);
      info.n_ctx += 8;
      ScriptedBackend target(own.info, random_script(c.world.seed, c.world.order, c.world.sharpness), c.world.order,
                             kEnd);
      ScriptedBackend draft(info, other.script(c.world), c.world.order, kEnd);
      Engine engine(target,
                    make_translating_drafter(draft, std::make_shared<const VocabularyMap>(other.target, other.draft)),
                    c.world.engine);
      set_costs(engine);
      Stats stats;
      EXPECT_EQ(run(engine, c.options, c.prompt, &stats), expected) << mode_name(mode);
      EXPECT_EQ(stats.steps, own.stats.steps) << mode_name(mode);
      EXPECT_EQ(stats.accepted, own.stats.accepted) << mode_name(mode);
      EXPECT_EQ(stats.drafted, own.stats.drafted) << mode_name(mode);
      EXPECT_EQ(stats.draft_nodes, own.stats.draft_nodes) << mode_name(mode);
      EXPECT_EQ(draft.n_speculative(0), 0);
    }
  }
}

// A text that goes round, and models that know it by heart in whatever tokens they have.
const std::string kSong = "we all live in a yellow submarine, 一艘黄色的潜水艇, and the bañd begins to pläy; ";

Script singer(const Vocabulary& vocabulary, double sure) {
  const auto known = std::make_shared<const ByteVocabulary>(vocabulary);
  return [known, sure](std::span<const Token> context, std::span<float> logits) {
    std::string said;
    for (const Token t : context) said += known->bytes(t);
    const std::string song = kSong + kSong + kSong;
    const std::size_t tail = std::min<std::size_t>(said.size(), 6);
    const auto at = song.find(said.substr(said.size() - tail));
    const std::string next = at == song.npos ? "" : song.substr(at + tail, 40);
    // The token that the vocabulary's own tokenizer would take.
    const auto tokens = known->encode(next, ByteVocabulary::Place::kMiddle);
    for (std::size_t t = 0; t < logits.size(); ++t)
      logits[t] = static_cast<float>((t * 2654435761U + said.size() * 40503U) % 97) / 97;
    if (!tokens.empty()) logits[static_cast<std::size_t>(tokens.front().token)] = static_cast<float>(sure);
  };
}

std::vector<std::string> with_words(std::vector<std::string> words) {
  std::vector<std::string> out = all_bytes();
  out.insert(out.end(), words.begin(), words.end());
  return out;
}

struct Singers {
  explicit Singers(const Vocabulary& t, const Vocabulary& d, int n_seq = 1, std::int32_t draft_ctx = 4096)
      : map(std::make_shared<const VocabularyMap>(t, d)),
        target({.n_vocab = t.size, .n_ctx = 1024, .n_seq = n_seq, .max_batch = 64, .max_outputs = 64, .max_leaves = 8},
               singer(t, 12), 16, kEnd),
        draft({.n_vocab = d.size,
               .n_ctx = draft_ctx,
               .n_seq = n_seq,
               .max_batch = 64,
               .max_outputs = 64,
               .max_leaves = 8},
              singer(d, 9), 16, kEnd),
        engine(target, make_translating_drafter(draft, map), {.keep_prefixes = true}) {
    set_costs(engine);
  }
  std::vector<Token> prompt() const {
    return map->target().vocabulary().tokenize(kSong, AddBegin::kNo, ParseControl::kNo);
  }
  std::shared_ptr<const VocabularyMap> map;
  ScriptedBackend target;
  ScriptedBackend draft;
  Engine engine;
};

SessionOptions without_history(Mode mode, float temperature) {
  SessionOptions o = options(mode, temperature, 7, 150);
  o.speculation.history = false;
  return o;
}

const std::vector<std::string> kWords{"we",    " all", " live", " in",  " yellow", " submarine",
                                      " the",  "黄色", "的",    "一艘", "潜水艇",  " begins",
                                      " bañd", " and", " to",   " pl",  "äy",      "; "};
const std::vector<std::string> kParts{" su",  "bm", "bma", "ar", "ine", " ye",  "llo", "ow",  " li", "ve",
                                      "潜水", "艇", "黄",  "be", "gin", " beg", "ins", " an", "d ",  "all "};

struct Pairing {
  const char* name;
  std::vector<std::string> target, draft;
  bool blank_target, blank_draft;
  double least;  // tokens of a greedy step, in the modes that branch
};

// Finer, coarser and crosswise pieces: the text is plain decoding's, and what the draft knows is accepted.
TEST(TranslatingDrafter, ProposesWhatTheDraftKnowsInPiecesOfAnyKind) {
  const std::vector<Pairing> pairings{
      {"equal", kWords, kWords, false, true, 4},         {"bytes to words", {}, kWords, false, false, 4},
      {"words to bytes", kWords, {}, true, false, 1.2},  {"words to parts", kWords, kParts, false, false, 1.5},
      {"parts to words", kParts, kWords, true, true, 3},
  };
  for (const Pairing& p : pairings) {
    const Vocabulary t = longest_match(with_words(p.target), p.blank_target);
    const Vocabulary d = longest_match(with_words(p.draft), p.blank_draft);
    for (const float temperature : {0.0F, 0.8F}) {
      Singers alone(t, d);
      const auto expected = run(alone.engine, without_history(Mode::kPlain, temperature), alone.prompt());
      for (const Mode mode : kSpeculative) {
        SCOPED_TRACE(std::string(p.name) + " " + mode_name(mode) + " " + std::to_string(temperature));
        Singers s(t, d);
        Stats stats;
        EXPECT_EQ(run(s.engine, without_history(mode, temperature), s.prompt(), &stats), expected);
        const double each = static_cast<double>(stats.emitted) / static_cast<double>(stats.steps);
        if (temperature == 0) {
          EXPECT_GE(each, p.least);
        }
        if (temperature == 0) std::printf("%s, %s: %.2f tokens a step\n", p.name, mode_name(mode), each);
      }
    }
  }
}

TEST(TranslatingDrafter, SessionsTogetherAndPrefixesThatAreUsedAgain) {
  const Vocabulary t = longest_match(with_words(kParts));
  const Vocabulary d = longest_match(with_words(kWords), true);
  Singers alone(t, d);
  const auto expected = run(alone.engine, without_history(Mode::kPlain, 0), alone.prompt());
  Singers s(t, d, 3);
  for (int round = 0; round < 3; ++round) {
    std::vector<std::unique_ptr<Session>> sessions;
    std::vector<Session*> list;
    for (int i = 0; i < 3; ++i) {
      sessions.push_back(s.engine.open(without_history(kSpeculative[(round + i) % 4], 0)));
      s.engine.set_prompt(*sessions.back(), s.prompt());
      list.push_back(sessions.back().get());
    }
    run_to_end(s.engine, list);
    for (const Session* session : list)
      EXPECT_EQ(std::vector<Token>(session->generated().begin(), session->generated().end()), expected);
    if (round > 0) {
      EXPECT_GT(list[0]->n_reused(), 0U);
    }
  }
}

// Passes without room, broken passes and a context that ends before the text does cost speed and no token.
TEST(TranslatingDrafter, FailuresCostNoToken) {
  const Vocabulary t = longest_match(with_words(kWords));
  const Vocabulary d = longest_match(with_words(kParts));
  Singers alone(t, d);
  const auto expected = run(alone.engine, without_history(Mode::kPlain, 0), alone.prompt());
  for (std::uint64_t seed = 0; seed < 30; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 rng(seed);
    Singers s(t, d, 1, rng() % 3 == 0 ? 1024 : 4096);
    if (rng() % 2) s.draft.go_back_to_multiples_of(1 + rng() % 7);
    SessionOptions o = without_history(kSpeculative[rng() % 4], 0);
    const auto session = s.engine.open(std::move(o));
    s.engine.set_prompt(*session, s.prompt());
    int broken = 0;
    while (!session->finished()) {
      if (rng() % 5 == 0) s.draft.fail_next(1 + static_cast<int>(rng() % 3));
      if (rng() % 9 == 0) s.draft.break_at(1 + static_cast<int>(rng() % 4));
      try {
        run_to_end(s.engine, *session, [&, steps = 0](std::size_t) mutable { return ++steps < 4; });
      } catch (const Error& e) {
        ASSERT_EQ(e.code(), ErrorCode::kBackend);
        ASSERT_LT(++broken, 100);
      }
    }
    EXPECT_EQ(std::vector<Token>(session->generated().begin(), session->generated().end()), expected);
  }
}

// A target whose text takes more of the draft's tokens than its context holds.
TEST(TranslatingDrafter, GoesOnWithoutADraftThatHasNoPositionsLeft) {
  const Vocabulary t = longest_match(with_words(kWords));
  const Vocabulary d = longest_match(all_bytes());
  Singers alone(t, d);
  SessionOptions o = without_history(Mode::kPlain, 0);
  o.max_tokens = 600;
  const auto expected = run(alone.engine, o, alone.prompt());
  Singers s(t, d, 1, 1024);
  o.speculation.mode = Mode::kTree;
  EXPECT_EQ(run(s.engine, o, s.prompt()), expected);
  EXPECT_LT(s.draft.n_committed(0), 1024);
}

}  // namespace
}  // namespace gsd
