// Heads beside their target, compared with what libllama alone gives when it is driven one token after the other.
#include <gtest/gtest.h>
#include <llama.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "../src/core/calibration.h"
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
    open();
  }

  // A context that has decoded a longer text in one block does not decode a shorter one right: begins anew.
  void open() {
    llama_context_params cp = llama_context_default_params();
    cp.n_ctx = 512;
    cp.n_batch = cp.n_ubatch = 256;
    cp.n_threads = cp.n_threads_batch = 1;
    cp.type_k = cp.type_v = GGML_TYPE_F32;
    cp.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    head_.reset();
    target_.reset(llama_init_from_model(model_.get(), cp));
    if (type_ == DraftType::kMtp) cp.ctx_type = LLAMA_CONTEXT_TYPE_MTP;
    cp.ctx_other = target_.get();
    head_.reset(llama_init_from_model(head_model_.get(), cp));
    const std::int32_t* ids = state_functions()->layer_ids(head_model_.get());
    if (type_ != DraftType::kMtp) layers_.assign(ids, ids + state_functions()->n_layer_ids(head_model_.get()));
    if (type_ == DraftType::kMtp) state_functions()->set_nextn(target_.get(), true, false);
    for (const std::int32_t l : layers_) {
      if (l == llama_model_n_layer(model_.get())) {
        state_functions()->set_nextn(target_.get(), true, false);
      } else {
        state_functions()->set_layer_input(target_.get(), static_cast<std::uint32_t>(l), true);
      }
    }
    state_functions()->set_nextn(head_.get(), true, true);
    if (type_ == DraftType::kDFlash) llama_set_causal_attn(head_.get(), false);
  }

  // Rows [block - 1] of a block after the text, of which the head has seen text[from, end - 1).
  std::vector<std::vector<float>> block(std::span<const Token> text, std::size_t from, std::size_t n_block) {
    open();
    const std::size_t last = text.size() - 1;
    run(target_.get(), text, 0, {});
    if (from < last) process(states_batch(from, last, false).get(), LLAMA_PROCESS_TYPE_DECODE);
    std::vector<Token> tokens(n_block, llama_vocab_mask(llama_model_get_vocab(head_model_.get())));
    tokens[0] = text.back();
    run(head_.get(), tokens, last, {});
    std::vector<std::vector<float>> rows;
    for (std::size_t i = 1; i < n_block; ++i) {
      const float* row = llama_get_logits_ith(head_.get(), static_cast<std::int32_t>(i));
      rows.emplace_back(row, row + llama_vocab_n_tokens(llama_model_get_vocab(model_.get())));
    }
    return rows;
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

  // What the target's layers are given.
  Batch states_batch(std::size_t from, std::size_t to, bool output) {
    const auto width = static_cast<std::size_t>(llama_model_n_embd(model_.get()));
    Batch batch(llama_batch_ext_init(head_.get()));
    states_.clear();
    for (std::size_t i = from; i < to; ++i) {
      std::vector<float>& row = states_.emplace_back();
      for (const std::int32_t l : layers_) {
        const float* rows = l == llama_model_n_layer(model_.get())
                                ? state_functions()->nextn(target_.get())
                                : state_functions()->layer_input(target_.get(), static_cast<std::uint32_t>(l));
        row.insert(row.end(), rows + i * width, rows + (i + 1) * width);
      }
      const std::int32_t at = llama_batch_ext_add_embd(batch.get(), 0, {row.data(), 1, row.size()});
      const auto pos = static_cast<llama_pos>(i);
      llama_batch_ext_set_pos(batch.get(), at, &pos);
      llama_batch_ext_set_output_logits(batch.get(), at, output);
    }
    return batch;
  }

  void process(llama_batch_ext* batch, llama_process_type type) {
    ASSERT_EQ(llama_process(head_.get(), type, batch), 0);
  }

  // The same through the head's encoder.
  std::vector<float> encoded(std::size_t n) {
    process(states_batch(0, n, true).get(), LLAMA_PROCESS_TYPE_ENCODE);
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
  std::vector<std::vector<float>> states_;  // of the batch in progress
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
    const zoo::Entry head =
        type == DraftType::kDFlash ? zoo::dflash_of(entry, "0,1,2") : zoo::eagle3_of(entry, "0,1,1");
    zoo::write_model(head, GSD_MODELS_DIR "/toy-target.gguf", {}, head_path);
    own_head = load({.path = head_path, .repack = false, .mmap = {}, .head = true, .progress = {}});
  }
  ~Pair() {
    std::filesystem::remove(path);
    std::filesystem::remove(head_path);
  }
  static std::unique_ptr<Model> load(const ModelOptions& o) { return std::make_unique<Model>(o); }
  struct Both {
    std::unique_ptr<Backend> target;
    std::unique_ptr<Backend> head;  // null for DFlash
    std::unique_ptr<Drafter> drafter;
  };
  Both backends(const ContextOptions& target_options, const ContextOptions& head_options) const {
    const Head head{own_head ? own_head.get() : target.get(), type};
    BackendsWithHeads made = make_backends(*target, {&head, 1}, target_options, head_options);
    return {std::move(made.target), std::move(made.heads.front().backend), std::move(made.heads.front().drafter)};
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
    const Pair::Both both = pair.backends(options(2), options(2));
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

// Two sequences whose blocks are computed together: their candidates are libllama's, for all positions. Texts have no
// token twice, so that nothing is known of what follows which, until it is learned on purpose.
class Blocks : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(All, Blocks, testing::Values("gpt-oss", "llama", "qwen3", "qwen3moe"), [](const auto& p) {
  return name_of({{DraftType::kDFlash, p.param}, 0});
});

// The candidates of a graph's nodes against the rows: the best ones, and their probabilities. What follows tokens of
// `seen_before` may have been learned.
void expect_rows(const Hypotheses& h, std::span<const Token> seen_before, const std::vector<std::vector<float>>& rows) {
  std::vector<bool> seen(rows.size());
  for (std::int32_t id = 0; id < h.graph().size(); ++id) {
    const GraphNode& n = h.graph().node(id);
    if (n.expanded == 0) continue;
    const auto depth = static_cast<std::size_t>(n.depth);
    ASSERT_LT(depth, rows.size());
    seen[depth] = true;
    if (id > 0 && std::find(seen_before.begin(), seen_before.end(), n.token) != seen_before.end()) continue;
    const std::vector<float>& row = rows[depth];
    const float best = *std::max_element(row.begin(), row.end());
    double sum = 0;
    for (const float x : row) sum += std::exp(static_cast<double>(x) - best);
    for (std::int32_t e = n.first_edge; e >= 0; e = h.graph().edge(e).next) {
      const GraphEdge& edge = h.graph().edge(e);
      const double want = row[static_cast<std::size_t>(edge.token)] - best - std::log(sum);
      EXPECT_NEAR(edge.log_q[0], want, kRounding) << "token " << edge.token << " at depth " << depth;
    }
    const GraphEdge& first = h.graph().edge(n.first_edge);
    EXPECT_GT(row[static_cast<std::size_t>(first.token)], best - kRounding);
  }
  EXPECT_EQ(std::count(seen.begin(), seen.end(), true), static_cast<std::ptrdiff_t>(rows.size()));
}

// What a session of an engine holds beside the text.
struct Proposals {
  explicit Proposals(int n_vocab) : is_eog(new bool[static_cast<std::size_t>(n_vocab)]()), n(n_vocab) {}
  static SpeculationParams params() {
    SpeculationParams p;
    p.mode = Mode::kTree;
    p.path_threshold = 0;
    p.max_nodes = 256;
    p.top_k = 2;
    p.history = false;
    return p;
  }
  std::unique_ptr<bool[]> is_eog;
  int n;
  Sampler sampler{SamplingParams{}};
  Calibration calibration{true};
  Hypotheses hypotheses{params(), sampler, calibration, {is_eog.get(), static_cast<std::size_t>(n)}, 400};
};

TEST_P(Blocks, CandidatesOfAllPositionsAreLibllamas) {
  const Pair pair(GetParam(), DraftType::kDFlash);
  Reference reference(pair.path, pair.head_path, pair.type);
  GSD_SEEDED(rng, 1);
  const Pair::Both both = pair.backends(options(2), options(2));
  Drafter& drafter = *both.drafter;
  const int block = drafter.info().levels + 1;
  EXPECT_EQ(block, 8);
  EXPECT_EQ(drafter.info().name, "dflash");
  std::vector<Token> deck(1000);
  for (std::size_t i = 0; i < deck.size(); ++i) deck[i] = static_cast<Token>(i + 1);
  std::shuffle(deck.begin(), deck.end(), rng);
  const std::vector<Token> all = deck;
  const auto draw = [&] {
    const Token t = deck.back();
    deck.pop_back();
    return t;
  };
  std::vector<std::vector<Token>> texts(2);
  std::array<Proposals, 2> proposals{Proposals(pair.target->n_vocab()), Proposals(pair.target->n_vocab())};
  for (int step = 0; step < 10; ++step) {
    std::vector<Drafter::Root> roots;
    for (std::int32_t seq = 0; seq < 2; ++seq) {
      std::vector<Token>& text = texts[static_cast<std::size_t>(seq)];
      if (text.size() > 4 && rng() % 3 == 0) {  // another prompt that begins alike
        text.resize(1 + rng() % (text.size() - 1));
        const auto n = static_cast<std::int32_t>(text.size());
        both.target->truncate(seq, std::min(n, both.target->n_committed(seq)));
        drafter.truncate(seq, n);
      }
      for (auto n = 2 + rng() % 5; n > 0; --n) text.push_back(draw());
      feed(*both.target, seq, text, static_cast<std::size_t>(both.target->n_committed(seq)), text.size() - 1);
      if (rng() % 2 == 0) {
        EXPECT_TRUE(drafter.catch_up(seq, text, static_cast<std::int32_t>(text.size()) - 2));
        EXPECT_EQ(drafter.n_known(seq), static_cast<std::int32_t>(text.size()) - 2);
      }
      Hypotheses& h = proposals[static_cast<std::size_t>(seq)].hypotheses;
      h.begin(text, 0);
      roots.push_back({seq, text, &h});
    }
    const std::size_t which = rng() % 3;  // one of them or both
    std::vector<Drafter::Root> asked(roots.begin() + (which == 1), roots.end() - (which == 2));
    ASSERT_TRUE(drafter.roots(asked));
    for (const Drafter::Root& r : asked) {
      EXPECT_EQ(drafter.n_known(r.slot), static_cast<std::int32_t>(r.text.size()) - 1);
      expect_rows(*r.hypotheses, std::span(all).subspan(deck.size()),
                  reference.block(r.text, 0, static_cast<std::size_t>(block)));
      r.hypotheses->graph().check_integrity();
    }
    for (std::int32_t seq = 0; seq < 2; ++seq) {  // the target verifies a tree and accepts what does not stand first
      std::vector<Token>& text = texts[static_cast<std::size_t>(seq)];
      const Token a = draw();
      const Token b = draw();
      both.target->forward(
          std::vector<NodeInput>{{seq, text.back(), -1, true, true}, {seq, a, 0, true}, {seq, b, 0, true}});
      both.target->commit(seq, std::vector<std::int32_t>{0, 2});
      text.push_back(b);
      drafter.commit(seq, proposals[static_cast<std::size_t>(seq)].hypotheses, {});
      drafter.truncate(seq, static_cast<std::int32_t>(text.size()) - 1);
    }
  }
}

TEST(Block, BeginsWhereTheStatesOfItsTargetDo) {
  const Pair pair("llama", DraftType::kDFlash);
  Reference reference(pair.path, pair.head_path, pair.type);
  const Pair::Both both = pair.backends(options(1), options(1));
  std::vector<Token> text;
  for (Token t = 1; t <= 150; ++t) text.push_back(t * 5);
  feed(*both.target, 0, text, 0, 149);
  const auto from = static_cast<std::size_t>(both.drafter->n_known(0));
  EXPECT_EQ(from, 149 - 2 * kBatch);
  for (std::int32_t end = both.drafter->n_known(0); end < 149;) {
    end = std::min(149, end + both.drafter->info().max_batch);
    ASSERT_TRUE(both.drafter->catch_up(0, text, end));
    EXPECT_EQ(both.drafter->n_known(0), end);
  }
  Proposals p(pair.target->n_vocab());
  p.hypotheses.begin(text, 0);
  const Drafter::Root root{0, text, &p.hypotheses};
  ASSERT_TRUE(both.drafter->roots({&root, 1}));
  expect_rows(p.hypotheses, text, reference.block(text, from, 8));
}

// Tiny models of a target and of all that can draft for it.
struct Cast {
  const char* target;
  std::vector<DraftType> drafters;
};

class Casts : public testing::TestWithParam<Cast> {};
INSTANTIATE_TEST_SUITE_P(All, Casts,
                         testing::Values(Cast{"llama", {DraftType::kEagle3}}, Cast{"llama", {DraftType::kDFlash}},
                                         Cast{"llama", {DraftType::kModel, DraftType::kDFlash}},
                                         Cast{"llama", {DraftType::kModel, DraftType::kEagle3, DraftType::kDFlash}},
                                         Cast{"glm4moe+mtp", {DraftType::kModel, DraftType::kMtp}},
                                         Cast{"qwen35+mtp", {DraftType::kModel, DraftType::kMtp}}),
                         [](const auto& p) {
                           std::string name = p.param.target;
                           for (const DraftType type : p.param.drafters)
                             name += std::string("_") + draft_type_name(type);
                           return name_of({{DraftType::kModel, name.c_str()}, 0});
                         });

class Files {
 public:
  explicit Files(const Cast& cast) {
    const NarrowKernels start({.enabled = false});  // libllama
    const zoo::Entry entry = zoo::read_table(GSD_ZOO_TABLE).entry(cast.target);
    const auto write = [&](const zoo::Entry& e, bool draft) {
      paths_.push_back((std::filesystem::temp_directory_path() /
                        ("head_test-" + std::to_string(getpid()) + "-" + std::to_string(paths_.size()) + ".gguf"))
                           .string());
      zoo::write_model(e, GSD_MODELS_DIR "/toy-target.gguf", {.draft = draft, .formats = {}}, paths_.back());
      return paths_.back();
    };
    options.target = write(entry, false);
    for (const DraftType type : cast.drafters) {
      if (type == DraftType::kMtp) {
        options.with_mtp = true;
        continue;
      }
      const std::string path = type == DraftType::kModel    ? write(entry, true)
                               : type == DraftType::kEagle3 ? write(zoo::eagle3_of(entry, "0,1,1"), false)
                                                            : write(zoo::dflash_of(entry, "0,1,2"), false);
      if (options.draft.empty()) {
        options.draft = path;
      } else {
        options.more_drafts.push_back(path);
      }
    }
    options.context.n_ctx = 300;
    options.context.n_seq = 2;
    options.context.n_threads = 1;
    options.profile = false;
  }
  ~Files() {
    for (const std::string& path : paths_) std::filesystem::remove(path);
  }
  RuntimeOptions options;

 private:
  std::vector<std::string> paths_;
};

// Whatever is proposed, and heads here know nothing, the text is that of plain decoding, alone and beside others.
TEST_P(Casts, LeaveTheTextAlone) {
  Files files(GetParam());
  for (const bool exact : {false, true}) {
    if (!exact && std::string(GetParam().target) != "llama") continue;  // ties of experts, and of other orders
    files.options.engine.exact = exact;
    files.options.engine.keep_prefixes = !exact;
    Runtime runtime(files.options);
    std::vector<DraftType> types = GetParam().drafters;
    ASSERT_EQ(runtime.draft_types(), types);
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
      const Stats& stats = sessions[0]->stats();
      if (mode == Mode::kPlain || mode == Mode::kAuto) continue;
      EXPECT_GT(stats.verified, 20) << mode_name(mode);
      for (std::size_t d = 0; d < types.size(); ++d) {
        EXPECT_EQ(stats.drafter[d].name, draft_type_name(types[d]));
        EXPECT_EQ(stats.drafter[d].forwards > 0, d == 0 || mode != Mode::kChain) << d << mode_name(mode);
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
  const Pair::Both both = pair.backends(options(1), few);
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
  {
    const Pair blocks("llama", DraftType::kDFlash);
    EXPECT_EQ(draft_type(blocks.head_path), DraftType::kDFlash);
    RuntimeOptions o;
    o.target = blocks.path;
    o.draft = blocks.head_path;
    const auto refused = [&](auto change) {
      RuntimeOptions changed = o;
      change(changed);
      EXPECT_THROW(Runtime{changed}, Error);
    };
    refused([](RuntimeOptions& c) { c.draft_type = DraftType::kEagle3; });
    refused([](RuntimeOptions& c) { c.with_mtp = true; });
    refused([](RuntimeOptions& c) { c.more_drafts = {c.draft}; });
  }
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
