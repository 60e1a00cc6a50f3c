// Prompts that slots had to give up and get back, on libllama: the bundled pair and tiny models whose memory has a
// window or a state. What is written after them is judged token by token with libllama alone.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <map>
#include <random>

#include "../src/core/engine_state.h"
#include "gsd/llama.h"
#include "zoo/judge.h"
#include "zoo/zoo.h"

namespace gsd {
namespace {

using zoo::Tokens;

constexpr int kContext = 512;

// A model and what may draft for it in memory.
struct Pair {
  explicit Pair(const std::string& name) {
    dir = std::filesystem::temp_directory_path() / ("gsd-prefix-" + std::to_string(getpid()));
    std::filesystem::create_directories(dir);
    const std::string models = GSD_MODELS_DIR;
    path = models + "/toy-target.gguf";
    std::string draft_path = models + "/toy-draft.gguf";
    const bool mtp = name.ends_with("+mtp");
    if (name != "bundled") {
      const zoo::Table table = zoo::read_table(GSD_ZOO_TABLE);
      path = dir / "target.gguf";
      draft_path = dir / "draft.gguf";
      zoo::write_model(table.entry(name), models + "/toy-target.gguf", {}, path);
      zoo::write_model(table.entry(name), models + "/toy-target.gguf", {.draft = true, .formats = {}}, draft_path);
    }
    model = std::make_unique<Model>(ModelOptions{.path = path, .mmap = {}, .mtp = mtp, .progress = {}});
    ContextOptions c{.n_ctx = kContext, .n_seq = 3, .n_threads = 1, .max_leaves = 4};
    ContextOptions d = c;
    d.n_ctx += 256;
    std::vector<std::unique_ptr<Drafter>> drafters;
    if (mtp) {
      const Head head{model.get(), DraftType::kMtp};
      BackendsWithHeads made = make_backends(*model, {&head, 1}, c, d);
      target = std::move(made.target);
      draft = std::move(made.heads[0].backend);
      drafters.push_back(std::move(made.heads[0].drafter));
    } else {
      target = make_backend(*model, c);
      draft_model = std::make_unique<Model>(ModelOptions{.path = draft_path, .mmap = {}, .progress = {}});
      draft = make_backend(*draft_model, d);
      drafters.push_back(make_model_drafter(*draft, model->n_vocab()));
    }
    engine =
        std::make_unique<Engine>(*target, std::move(drafters),
                                 EngineOptions{.prefill_chunk = 48, .keep_prefixes = true, .cache_bytes = 64 << 20});
  }
  ~Pair() { std::filesystem::remove_all(dir); }

  std::unique_ptr<Session> begin(const Tokens& prompt, Mode mode) {
    SessionOptions o;
    o.speculation.mode = mode;
    o.max_tokens = 16;
    o.ignore_eog = true;
    auto s = engine->open(o, prompt);
    engine->set_prompt(*s, prompt);
    engine->recall(*s);
    return s;
  }

  NarrowKernels kernels{{.enabled = false}};  // as the judge; starts libllama
  std::filesystem::path dir;
  std::string path;
  std::unique_ptr<Model> model;
  std::unique_ptr<Model> draft_model;
  std::unique_ptr<Backend> target;
  std::unique_ptr<Backend> draft;
  std::unique_ptr<Engine> engine;
};

class Prefix : public testing::TestWithParam<const char*> {};

TEST_P(Prefix, SevenConversationsInTurnOnThreeSlotsKeepTheirs) {
  Pair p(GetParam());
  zoo::Judge judge(p.path, "f16", kContext);
  std::mt19937_64 rng(1);
  std::vector<Tokens> texts(7);
  const auto say = [&](Tokens& text, std::size_t n) {
    for (; n > 0; --n) text.push_back(static_cast<Token>(300 + rng() % 600));
  };
  for (Tokens& t : texts) say(t, 70 + rng() % 60);
  zoo::Case all;
  for (int turn = 0; turn < 3; ++turn) {
    std::size_t n_reused = 0;
    std::size_t n_before = 0;
    for (std::size_t i = 0; i < texts.size(); ++i) {
      // Another one runs beside it: what is put back and what runs must leave each other alone.
      std::size_t other = (i + 3) % texts.size();
      const std::unique_ptr<Session> beside = p.begin(texts[other], Mode::kPlain);
      Session* list[] = {beside.get()};
      while (p.engine->prefill(*beside) > 0) {
      }
      for (int k = 0; k < 4; ++k) p.engine->step(list);
      const std::unique_ptr<Session> s = p.begin(texts[i], turn % 2 == 0 ? Mode::kGraph : Mode::kAuto);
      n_reused += s->n_reused();
      n_before += turn > 0 ? texts[i].size() - 30 : 0;
      Session* both[] = {s.get(), beside.get()};
      ASSERT_TRUE(run_to_end(*p.engine, both));
      for (const Session* each : both)
        judge.judge({each->tokens().begin(), each->tokens().begin() + static_cast<std::ptrdiff_t>(each->n_prompt())},
                    {each->generated().begin(), each->generated().end()}, {}, all);
      texts[i].assign(s->tokens().begin(), s->tokens().end());
      say(texts[i], 12);
    }
    EXPECT_GE(n_reused * 10, n_before * 8) << n_reused << " of " << n_before;
  }
  EXPECT_EQ(all.wrong, 0) << all.ties << " ties, regret " << all.regret;
  EXPECT_GE(p.engine->state().cache_.size(), 4U);
}

INSTANTIATE_TEST_SUITE_P(Models, Prefix,
                         testing::Values("bundled", "gemma3", "gpt-oss", "qwen35", "qwen35+mtp", "glm4moe+mtp", "lfm2",
                                         "mamba", "rwkv7", "deepseek2"),
                         [](const auto& param) {
                           std::string name = param.param;
                           std::erase_if(name, [](char c) { return std::isalnum(static_cast<unsigned char>(c)) == 0; });
                           return name;
                         });

}  // namespace
}  // namespace gsd
