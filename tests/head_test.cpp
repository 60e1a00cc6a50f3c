// Heads beside their target, compared with what libllama alone gives when it is driven one token after the other.
#include <gtest/gtest.h>
#include <llama.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "../src/llama/state_functions.h"
#include "gsd/drafter.h"
#include "gsd/llama.h"
#include "gsd/runtime.h"
#include "random.h"
#include "zoo/zoo.h"

namespace gsd {
namespace {

constexpr int kBatch = 32;  // largest pass; the target's states are kept for two of these

// libllama's own context of a head, fed a text from the beginning with the states of its target.
class Reference {
 public:
  // `head`: the target's own file for MTP layers.
  Reference(const std::string& target, const std::string& head, DraftType type) : type_(type) {
    llama_model_params mp = llama_model_default_params();
    mp.use_extra_bufts = false;
    mp.load_mtp = type == DraftType::kMtp;
    model_.reset(llama_model_load_from_file(target.c_str(), mp));
    head_model_.reset(llama_model_load_from_file(head.c_str(), mp));
    llama_context_params cp = llama_context_default_params();
    cp.n_ctx = 512;
    cp.n_batch = cp.n_ubatch = 256;
    cp.n_threads = cp.n_threads_batch = 1;
    cp.type_k = cp.type_v = GGML_TYPE_F32;
    cp.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    target_.reset(llama_init_from_model(model_.get(), cp));
    if (type == DraftType::kMtp) cp.ctx_type = LLAMA_CONTEXT_TYPE_MTP;
    cp.ctx_other = target_.get();
    head_.reset(llama_init_from_model(head_model_.get(), cp));
    const std::int32_t* ids = state_functions()->layer_ids(head_model_.get());
    if (type == DraftType::kEagle3) layers_.assign(ids, ids + state_functions()->n_layer_ids(head_model_.get()));
    if (type == DraftType::kMtp) state_functions()->set_nextn(target_.get(), true, false);
    for (const std::int32_t l : layers_)
      state_functions()->set_layer_input(target_.get(), static_cast<std::uint32_t>(l), true);
    state_functions()->set_nextn(head_.get(), true, true);
  }

  // The head's logits after text[from, n) and the tokens drafted on it, each of which goes on from the head's own
  // state.
  std::vector<float> logits(std::span<const Token> text, std::size_t from, std::span<const Token> drafted) {
    llama_memory_clear(llama_get_memory(target_.get()), true);
    llama_memory_clear(llama_get_memory(head_.get()), true);
    run(target_.get(), text, 0, {});
    const std::vector<float> states = type_ == DraftType::kMtp ? nextn_states(text.size()) : encoded(text.size());
    const std::size_t width = states.size() / text.size();
    run(head_.get(), text.subspan(from), from, std::span(states).subspan((from - 1) * width));
    auto last = static_cast<std::int32_t>(text.size() - from - 1);
    for (std::size_t i = 0; i < drafted.size(); ++i) {
      const float* own = state_functions()->nextn_ith(head_.get(), last);
      const std::vector<float> state(own, own + width);
      run(head_.get(), drafted.subspan(i, 1), text.size() + i, state);
      last = 0;
    }
    const float* row = llama_get_logits_ith(head_.get(), last);
    return {row, row + llama_vocab_n_tokens(llama_model_get_vocab(model_.get()))};
  }

 private:
  struct Freer {
    void operator()(llama_model* m) const { llama_model_free(m); }
    void operator()(llama_context* c) const { llama_free(c); }
    void operator()(llama_batch_ext* b) const { llama_batch_ext_free(b); }
  };
  using Batch = std::unique_ptr<llama_batch_ext, Freer>;

  std::vector<float> nextn_states(std::size_t n) {
    const float* rows = state_functions()->nextn(target_.get());
    return {rows, rows + n * static_cast<std::size_t>(llama_model_n_embd_out(model_.get()))};
  }

  // What the target's layers are given, through the head's encoder.
  std::vector<float> encoded(std::size_t n) {
    const auto width = static_cast<std::size_t>(llama_model_n_embd(model_.get()));
    const Batch batch(llama_batch_ext_init(head_.get()));
    for (std::size_t i = 0; i < n; ++i) {
      std::vector<float> row;
      for (const std::int32_t l : layers_) {
        const float* rows = state_functions()->layer_input(target_.get(), static_cast<std::uint32_t>(l));
        row.insert(row.end(), rows + i * width, rows + (i + 1) * width);
      }
      const std::int32_t at = llama_batch_ext_add_embd(batch.get(), 0, {row.data(), 1, row.size()});
      const auto pos = static_cast<llama_pos>(i);
      llama_batch_ext_set_pos(batch.get(), at, &pos);
      llama_batch_ext_set_output_logits(batch.get(), at, true);
    }
    EXPECT_EQ(llama_process(head_.get(), LLAMA_PROCESS_TYPE_ENCODE, batch.get()), 0);
    const float* rows = state_functions()->nextn(head_.get());
    return {rows, rows + n * static_cast<std::size_t>(llama_model_n_embd(head_model_.get()))};
  }

  void run(llama_context* context, std::span<const Token> tokens, std::size_t position, std::span<const float> states) {
    const std::size_t width = type_ == DraftType::kMtp
                                  ? static_cast<std::size_t>(llama_model_n_embd_out(model_.get()))
                                  : static_cast<std::size_t>(llama_model_n_embd(head_model_.get()));
    const Batch batch(llama_batch_ext_init(context));
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      const std::int32_t at = llama_batch_ext_add_token(batch.get(), 0, tokens[i]);
      if (!states.empty()) {
        const llama_embd state{&states[i * width], 1, width};
        ASSERT_TRUE(type_ == DraftType::kMtp ? llama_batch_ext_set_embd_state(batch.get(), at, state)
                                             : llama_batch_ext_set_embd_token(batch.get(), at, state));
      }
      const auto pos = static_cast<llama_pos>(position + i);
      llama_batch_ext_set_pos(batch.get(), at, &pos);
      llama_batch_ext_set_output_logits(batch.get(), at, true);
    }
    ASSERT_EQ(llama_process(context, LLAMA_PROCESS_TYPE_DECODE, batch.get()), 0);
  }

  DraftType type_;
  std::unique_ptr<llama_model, Freer> model_;
  std::unique_ptr<llama_model, Freer> head_model_;
  std::unique_ptr<llama_context, Freer> target_;
  std::unique_ptr<llama_context, Freer> head_;
  std::vector<std::int32_t> layers_;
};

// A tiny target with its head. One expert: none is nearly tied with another then.
class Pair {
 public:
  Pair(const std::string& name, DraftType kind) : type(kind) {
    const NarrowKernels start({.enabled = false});  // libllama
    zoo::Entry entry = zoo::read_table(GSD_ZOO_TABLE).entry(name);
    if (std::any_of(entry.metadata.begin(), entry.metadata.end(),
                    [](const auto& m) { return m.first == "expert_count"; }))
      for (const char* key : {"expert_count", "expert_used_count"}) entry.metadata.emplace_back(key, "1");
    const std::string stem =
        (std::filesystem::temp_directory_path() / ("head_test-" + std::to_string(getpid()))).string();
    path = head_path = stem + ".gguf";
    zoo::write_model(entry, GSD_MODELS_DIR "/toy-target.gguf", {}, path);
    target = load({.path = path, .repack = false, .mmap = {}, .mtp = type == DraftType::kMtp, .progress = {}});
    if (type == DraftType::kMtp) return;
    head_path = stem + ".head.gguf";
    zoo::write_model(zoo::eagle3_of(entry, "0,1,1"), GSD_MODELS_DIR "/toy-target.gguf", {}, head_path);
    own_head = load({.path = head_path, .repack = false, .mmap = {}, .head = true, .progress = {}});
  }
  ~Pair() {
    std::filesystem::remove(path);
    std::filesystem::remove(head_path);
  }
  static std::unique_ptr<Model> load(const ModelOptions& o) { return std::make_unique<Model>(o); }
  BackendsWithHead backends(const ContextOptions& target_options, const ContextOptions& head_options) const {
    return make_backends(*target, own_head ? *own_head : *target, type, target_options, head_options);
  }

  DraftType type;
  std::string path;
  std::string head_path;
  std::unique_ptr<Model> target;
  std::unique_ptr<Model> own_head;
};

double difference(std::span<const float> a, std::span<const float> b) {
  double d = 0;
  for (std::size_t i = 0; i < a.size(); ++i) d = std::max(d, std::abs(static_cast<double>(a[i]) - b[i]));
  return d;
}

ContextOptions options(int n_seq, const std::string& cache = "f32") {
  ContextOptions o;
  o.n_ctx = 400;
  o.n_seq = n_seq;
  o.n_threads = 1;
  o.max_leaves = 4;
  o.max_outputs = o.max_batch = kBatch;
  o.type_k = o.type_v = cache;
  return o;
}

// Takes text[from, to) in as certain tokens.
void feed(Backend& b, std::int32_t seq, std::span<const Token> text, std::size_t from, std::size_t to) {
  std::vector<NodeInput> nodes;
  std::vector<std::int32_t> path;
  for (std::size_t i = from; i < to; ++i) {
    const auto index = static_cast<std::int32_t>(i - from);
    nodes.push_back({seq, text[i], index - 1, i + 1 == to, true});
    path.push_back(index);
    if (nodes.size() < kBatch && i + 1 < to) continue;
    b.forward(nodes);
    b.commit(seq, path);
    feed(b, seq, text, i + 1, to);
    return;
  }
}

constexpr double kRounding = 0.1;  // logits are some units apart

class Heads : public testing::TestWithParam<std::pair<DraftType, const char*>> {};

std::string name_of(const testing::TestParamInfo<Heads::ParamType>& p) {
  std::string name = std::string(draft_type_name(p.param.first)) + "_" + p.param.second;
  std::replace_if(
      name.begin(), name.end(), [](char c) { return c == '-' || c == '+'; }, '_');
  return name;
}

std::vector<Heads::ParamType> kinds() {
  std::vector<Heads::ParamType> out;
  for (const char* name : {"cohere2moe+mtp", "deepseek2+mtp", "glm4moe+mtp", "hy_v3+mtp", "qwen35+mtp", "qwen35moe+mtp",
                           "qwen3next+mtp", "step35+mtp"})
    out.emplace_back(DraftType::kMtp, name);
  for (const char* name : {"gpt-oss", "llama", "qwen3", "qwen3moe"}) out.emplace_back(DraftType::kEagle3, name);
  return out;
}
INSTANTIATE_TEST_SUITE_P(All, Heads, testing::ValuesIn(kinds()), name_of);

// Two sequences that are gone on with, drafted from and cut: a head's rows are those of libllama driven alone.
TEST_P(Heads, RowsOfTextsAndTreesAreLibllamas) {
  const Pair pair(GetParam().second, GetParam().first);
  Reference reference(pair.path, pair.head_path, pair.type);
  const std::string name = GetParam().second;
  const bool windowed = name.starts_with("cohere2moe") || name.starts_with("step35");
  for (std::uint64_t i = 0; i < 2; ++i) {
    GSD_SEEDED(rng, i);
    const BackendsWithHead both = pair.backends(options(2), options(2));
    ASSERT_TRUE(both.head->info().tentative);
    std::vector<std::vector<Token>> texts(2);
    const auto draw = [&] { return static_cast<Token>(1 + rng() % 1000); };
    for (int step = 0; step < 12; ++step) {
      const auto seq = static_cast<std::int32_t>(rng() % 2);
      std::vector<Token>& text = texts[static_cast<std::size_t>(seq)];
      if (text.size() > 4 && rng() % 4 == 0) {  // another prompt that begins alike
        text.resize(1 + rng() % (text.size() - 1));
        const auto n = static_cast<std::int32_t>(text.size()) - 1;
        both.target->truncate(seq, std::min(n, both.target->n_committed(seq)));
        both.head->truncate(seq, n);
      }
      for (auto n = 2 + rng() % 9; n > 0; --n) text.push_back(draw());
      const std::size_t root = text.size() - 1;  // the target has not seen it yet
      feed(*both.target, seq, text, static_cast<std::size_t>(both.target->n_committed(seq)), root);
      feed(*both.head, seq, text, static_cast<std::size_t>(both.head->n_committed(seq)), root + 1);
      EXPECT_EQ(both.head->n_committed(seq), static_cast<std::int32_t>(text.size()));
      ASSERT_LT(difference(both.head->logits(0), reference.logits(text, 1, {})), kRounding);
      const Token a = draw();
      const Token b = a % 1000 + 1;
      both.head->forward(std::vector<NodeInput>{{seq, a, -1, true}, {seq, b, -1, true}});
      ASSERT_LT(difference(both.head->logits(1), reference.logits(text, 1, std::vector{b})), kRounding) << step;
      try {
        both.head->forward(std::vector<NodeInput>{{seq, b, 0, true}, {seq, a, 1, true}, {seq, b, 1, true}});
        ASSERT_LT(difference(both.head->logits(0), reference.logits(text, 1, std::vector{a, b})), kRounding);
        ASSERT_LT(difference(both.head->logits(2), reference.logits(text, 1, std::vector{b, b})), kRounding);
      } catch (const Error& e) {
        ASSERT_EQ(e.code(), ErrorCode::kNoKvSlot);  // a tree does not grow across the end of a window
        ASSERT_TRUE(windowed) << e.what();
      }
      both.head->commit(seq, {});
      // The target verifies a tree and accepts what does not stand first, or a chain.
      const bool chain = both.target->info().max_leaves == 1;
      const std::vector<NodeInput> nodes{{seq, text[root], -1, true, true}, {seq, a, 0, true}, {seq, b, 0, true}};
      both.target->forward(chain ? std::vector{nodes[0], nodes[2]} : nodes);
      both.target->commit(seq, std::vector<std::int32_t>{0, chain ? 1 : 2});
      text.push_back(b);
    }
  }
}

// Whatever a head proposes, and this one knows nothing, the text is that of plain decoding, alone and beside others.
TEST(Head, OfEagle3LeavesTheTextAlone) {
  const Pair pair("llama", DraftType::kEagle3);
  for (const bool exact : {false, true}) {
    RuntimeOptions o;
    o.target = pair.path;
    o.draft = pair.head_path;
    o.context.n_ctx = 300;
    o.context.n_seq = 2;
    o.context.n_threads = 1;
    o.profile = false;
    o.engine.exact = exact;
    Runtime runtime(o);
    ASSERT_EQ(runtime.draft_type(), DraftType::kEagle3);
    std::vector<Token> plain;
    for (const Mode mode : {Mode::kPlain, Mode::kChain, Mode::kTree, Mode::kGraph, Mode::kAuto}) {
      SessionOptions session;
      session.speculation.mode = mode;
      session.speculation.path_threshold = 0;
      session.speculation.history = false;
      session.max_tokens = 40;
      session.ignore_eog = true;
      std::vector<std::unique_ptr<Session>> sessions;
      std::vector<Session*> list;
      for (const Token first : {5, 700}) {
        const std::vector<Token> prompt{0, first, 9, 30, 77, 12, 400};
        sessions.push_back(runtime.engine().open(session, prompt));
        runtime.engine().set_prompt(*sessions.back(), prompt);
        list.push_back(sessions.back().get());
      }
      run_to_end(runtime.engine(), list);
      const auto text = sessions[0]->generated();
      if (mode == Mode::kPlain) plain.assign(text.begin(), text.end());
      EXPECT_TRUE(std::equal(text.begin(), text.end(), plain.begin(), plain.end())) << mode_name(mode);
      if (mode != Mode::kPlain && mode != Mode::kAuto) {
        EXPECT_GT(sessions[0]->stats().verified, 20) << mode_name(mode);
      }
    }
  }
}

// What was decoded without the head leaves states of a bounded number of tokens behind: it goes on from there.
TEST(Head, BeginsWhereTheStatesOfItsTargetDo) {
  const Pair pair("glm4moe+mtp", DraftType::kMtp);
  Reference reference(pair.path, pair.head_path, pair.type);
  ContextOptions few = options(1);
  few.max_outputs = 8;  // fewer than the head is behind
  const BackendsWithHead both = pair.backends(options(1), few);
  GSD_SEEDED(rng, 0);
  std::vector<Token> text;
  for (int i = 0; i < 150; ++i) text.push_back(static_cast<Token>(1 + rng() % 1000));
  feed(*both.target, 0, text, 0, 20);
  feed(*both.head, 0, text, 1, 21);
  feed(*both.target, 0, text, 20, 149);
  const auto from = static_cast<std::size_t>(both.head->n_committed(0));
  EXPECT_EQ(from, 149 - 2 * kBatch + 1);
  feed(*both.head, 0, text, from, 150);
  EXPECT_LT(difference(both.head->logits(0), reference.logits(text, from, {})), kRounding);
  // Cut to what it never saw: nothing is left of it, and it begins anew with the target.
  both.target->truncate(0, 30);
  both.head->truncate(0, 30);
  EXPECT_EQ(both.head->n_committed(0), 30);
  text.resize(32);
  feed(*both.target, 0, text, 30, 31);
  feed(*both.head, 0, text, 30, 32);
  EXPECT_EQ(both.head->n_committed(0), 32);
}

// A state that belongs to another token would go unnoticed otherwise: the text is the target's own whatever is drafted.
TEST(Head, RowsDependOnTheStates) {
  const Pair pair("glm4moe+mtp", DraftType::kMtp);
  Reference reference(pair.path, pair.head_path, pair.type);
  std::vector<Token> text{5, 9, 30, 77, 12, 400};
  const std::vector<float> right = reference.logits(text, 1, {});
  text[3] = 78;
  text.erase(text.begin());
  text.insert(text.begin(), 6);
  EXPECT_GT(difference(right, reference.logits(text, 1, {})), 4 * kRounding);
}

TEST(Head, FilesTellWhatTheyDraftBy) {
  const Pair pair("llama", DraftType::kEagle3);
  const Pair file("glm4moe+mtp", DraftType::kMtp);
  EXPECT_EQ(draft_type(pair.head_path), DraftType::kEagle3);
  EXPECT_EQ(mtp_layers(file.path).count, 1);
  EXPECT_EQ(mtp_layers(file.path).obstacle, no_state_functions());
  EXPECT_EQ(mtp_layers(GSD_MODELS_DIR "/toy-target.gguf").count, 0);
  EXPECT_EQ(draft_type(GSD_MODELS_DIR "/toy-draft.gguf"), DraftType::kModel);
  EXPECT_THROW(Model(ModelOptions{.path = GSD_MODELS_DIR "/toy-draft.gguf", .mmap = {}, .head = true, .progress = {}}),
               Error);
}

}  // namespace
}  // namespace gsd
