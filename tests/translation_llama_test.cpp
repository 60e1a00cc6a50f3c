// Drafts of another vocabulary on the toy pair: its draft with other ids, other pieces, another kind of tokenizer.
#include <gguf.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include "../src/core/engine_state.h"
#include "../src/draft/translated_text.h"
#include "gsd/runtime.h"
#include "other_vocabulary.h"

namespace gsd {
namespace {

const std::string kTarget = GSD_MODELS_DIR "/toy-target.gguf";
const std::string kDraft = GSD_MODELS_DIR "/toy-draft.gguf";
constexpr Mode kSpeculative[] = {Mode::kChain, Mode::kTree, Mode::kGraph, Mode::kAuto};
const std::vector<std::string> kPrompts{
    "# tar\n\n> Archiving utility.\n",
    "Question: There are 50 children at the party. Three-fifths of them are boys. How many of the children are "
    "girls?\nAnswer:",
    "# échapper\n\n> « Où est-ce ? » 中文 😀.\n"};

class OtherVocabulary : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    dir_ = testing::TempDir() + "vocabularies-" + std::to_string(::getpid());
    std::filesystem::create_directory(dir_);
    for (const auto& [name, how] : kWays) test::write_revocabulary(kDraft, file(name), how);
  }
  static void TearDownTestSuite() { std::filesystem::remove_all(dir_); }
  static std::string file(const std::string& name) { return dir_ + "/" + name + ".gguf"; }

  static constexpr std::pair<const char*, test::Revocabulary> kWays[] = {{"permuted", test::Revocabulary::kPermute},
                                                                         {"finer", test::Revocabulary::kFiner},
                                                                         {"spm", test::Revocabulary::kSpm}};
  static inline std::string dir_;
};

RuntimeOptions pair_options(const std::string& draft, int n_seq = 1) {
  RuntimeOptions o;
  o.target = kTarget;
  o.draft = draft;
  o.context.n_ctx = 512;
  o.context.n_threads = 1;
  o.context.n_seq = n_seq;
  o.engine.exact = true;  // texts are compared bit by bit
  o.profile = false;
  return o;
}

struct Text {
  std::vector<Token> tokens;
  Stats stats;
};

// Costs as on a machine where speculation pays.
void set_costs(Engine& engine) {
  engine.state().planner_.target_cost().load({{1, 10}, {8, 12}, {32, 16}});
  engine.state().planner_.target_cost().freeze(true);
  engine.state().planner_.draft_cost().load({{1, 0.5}, {16, 1}});
  engine.state().planner_.draft_cost().freeze(true);
}

Text generate(Runtime& pair, const std::string& prompt, Mode mode, float temperature) {
  SessionOptions o;
  o.speculation.mode = mode;
  o.speculation.history = false;
  o.sampling.temperature = temperature;
  o.sampling.seed = 11;
  o.max_tokens = 40;
  o.ignore_eog = true;
  Engine& engine = pair.engine();
  set_costs(engine);
  const auto s = engine.open(std::move(o));
  engine.set_prompt(*s, pair.target().tokenize(prompt, AddBegin::kYes, ParseControl::kNo));
  run_to_end(engine, *s);
  return {{s->generated().begin(), s->generated().end()}, s->stats()};
}

// Tokens of a step over the prompts, by a pair that has learned nothing before.
double each_step(const std::string& draft, Mode mode, float temperature,
                 const std::vector<std::vector<Token>>& expected) {
  Runtime pair(pair_options(draft));
  Stats sum;
  for (std::size_t i = 0; i < kPrompts.size(); ++i) {
    const Text text = generate(pair, kPrompts[i], mode, temperature);
    EXPECT_EQ(text.tokens, expected[i]) << mode_name(mode) << ", prompt " << i;
    sum.add(text.stats);
  }
  return static_cast<double>(sum.emitted) / static_cast<double>(sum.steps);
}

// The text is plain decoding's whatever the draft's vocabulary; with other ids alone as much is accepted as ever.
TEST_F(OtherVocabulary, TheTextIsPlainDecodingsAndWhatMapsIsAccepted) {
  Runtime own(pair_options(kDraft));
  for (const float temperature : {0.0F, 0.8F}) {
    std::vector<std::vector<Token>> expected;
    for (const std::string& p : kPrompts) expected.push_back(generate(own, p, Mode::kPlain, temperature).tokens);
    for (const Mode mode : kSpeculative) {
      if (temperature > 0 && mode != Mode::kGraph) continue;
      const double before = each_step(kDraft, mode, temperature, expected);
      for (const auto& [name, how] : kWays) {
        SCOPED_TRACE(std::string(name) + " " + mode_name(mode));
        const double now = each_step(file(name), mode, temperature, expected);
        std::printf("%s, %s, temperature %.1f: %.2f tokens a step, with the target's vocabulary %.2f\n", name,
                    mode_name(mode), static_cast<double>(temperature), now, before);
        if (how == test::Revocabulary::kPermute) {
          EXPECT_NEAR(now, before, 0.03 * before);  // equal logits stand in the order of the ids
        } else {
          EXPECT_GT(now, how == test::Revocabulary::kSpm ? 1 + 0.5 * (before - 1) : 1.1);
        }
      }
    }
  }
}

TEST_F(OtherVocabulary, ANoteSaysWhatShareMaps) {
  EXPECT_EQ(Runtime(pair_options(kDraft)).vocabulary_note(), "");
  const std::string note = Runtime(pair_options(file("permuted"))).vocabulary_note();
  EXPECT_THAT(note, testing::HasSubstr(file("permuted")));
  EXPECT_THAT(note, testing::HasSubstr("; 100.0 % of the target's tokens of text"));
  std::printf("%s\n", Runtime(pair_options(file("spm"))).vocabulary_note().c_str());
}

TEST_F(OtherVocabulary, SeveralSessionsAndPromptsThatBeginAlike) {
  RuntimeOptions o = pair_options(file("spm"), 3);
  o.engine.exact = false;
  o.engine.keep_prefixes = true;
  Runtime pair(o);
  set_costs(pair.engine());
  const std::string prefix = "- Display help:\n\n`ls --help`\n\n- Display version:\n\n";
  for (int round = 0; round < 2; ++round) {
    std::vector<std::unique_ptr<Session>> sessions;
    std::vector<Session*> list;
    for (int i = 0; i < 3; ++i) {
      SessionOptions s;
      s.speculation.mode = kSpeculative[round + 2];
      s.speculation.history = false;
      s.max_tokens = 40;
      s.ignore_eog = true;
      sessions.push_back(pair.engine().open(std::move(s)));
      const std::string prompt = prefix + "`ls " + std::string(static_cast<std::size_t>(i + round), '-');
      pair.engine().set_prompt(*sessions.back(), pair.target().tokenize(prompt, AddBegin::kYes, ParseControl::kNo));
      list.push_back(sessions.back().get());
    }
    run_to_end(pair.engine(), list);
    for (const Session* s : list) {
      EXPECT_EQ(s->generated().size(), 40U);
      EXPECT_GT(s->stats().accepted, 0);
      if (round > 0) {
        EXPECT_GT(s->n_reused(), 10U);
      }
    }
  }
}

// What libllama's tokenizers make of texts in the middle of a word, a character, a run of blanks.
TEST_F(OtherVocabulary, TheTokenizersOfLibllamaCoverEveryByteOnce) {
  const std::vector<std::string> snippets{"a",    " the",    "the",    "  ", "\n", "\n\n ",    "é",
                                          "中文", "😀",       "12,345", "'s", "\t", "\u2581",   "\xE4\xB8",
                                          "\xFF", "foo_bar", "!!",     " ß", "ａ", "e\xCC\x81"};
  const Model target({.path = kTarget, .mmap = {}, .progress = {}});
  for (const auto& way : kWays) {
    const Model draft({.path = file(way.first), .mmap = {}, .progress = {}});
    const auto map = std::make_shared<const VocabularyMap>(vocabulary(target), vocabulary(draft));
    for (std::uint64_t seed = 0; seed < 40; ++seed) {
      SCOPED_TRACE(std::string(way.first) + " " + std::to_string(seed));
      std::mt19937_64 rng(seed);
      TranslatedText text(map);
      std::vector<Token> tokens{vocabulary(target).begin};
      std::string whole;
      std::int32_t held = 0;
      for (int round = 0; round < 12; ++round) {
        std::string more;
        for (auto n = 1 + rng() % 6; n > 0; --n) more += snippets[rng() % snippets.size()];
        whole += more;
        for (const auto& p : map->target().encode(more, ByteVocabulary::Place::kMiddle)) tokens.push_back(p.token);
        held = std::min(held, text.go_on(tokens, held, TranslatedText::End::kText));
        text.check_integrity();
        held = text.size();
        ASSERT_EQ(text.n_known(held), static_cast<std::int32_t>(tokens.size()));
        std::string said;
        for (std::int32_t i = 0; i < text.size(); ++i) said += map->draft().bytes(text.token(i));
        // A blank that SentencePiece puts in front is no byte of the text.
        if (said.size() > whole.size()) said.erase(0, 1);
        ASSERT_EQ(said, whole);
      }
    }
  }
}

TEST_F(OtherVocabulary, ATokenizerThatChangesTheTextIsRefused) {
  ggml_context* tensors = nullptr;
  gguf_context* in = gguf_init_from_file(kDraft.c_str(), {.no_alloc = false, .ctx = &tensors});
  gguf_context* out = gguf_init_empty();
  gguf_set_kv(out, in);
  for (std::int64_t i = 0; i < gguf_get_n_tensors(in); ++i)
    gguf_add_tensor(out, ggml_get_tensor(tensors, gguf_get_tensor_name(in, i)));
  gguf_set_val_str(out, "tokenizer.ggml.model", "bert");
  gguf_write_to_file(out, file("bert").c_str(), false);
  gguf_free(out);
  gguf_free(in);
  ggml_free(tensors);
  try {
    Runtime pair(pair_options(file("bert")));
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kPairMismatch);
    EXPECT_THAT(e.what(), testing::HasSubstr("the draft's WordPiece tokenizer changes the text"));
  }
}

}  // namespace
}  // namespace gsd
