// The built plugin inside ggml: loading, what it takes, and graphs shared with the CPU device by ggml's scheduler.
#include <ggml-alloc.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <set>
#include <string>

#include "ggml_devices.h"
#include "gsd_narrow.h"
#include "matrices.h"

namespace gsd::narrow::test {
namespace {

template <class F>
F function(const char* name) {
  return reinterpret_cast<F>(ggml_backend_reg_get_proc_address(devices().reg, name));
}

gsd_narrow_stats stats() {
  gsd_narrow_stats s{};
  s.size = sizeof s;
  EXPECT_EQ(function<gsd_narrow_get_stats_t>(GSD_NARROW_GET_STATS)(&s), 0);
  return s;
}

class Plugin : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_NE(devices().reg, nullptr);
    if (devices().gsd == nullptr) GTEST_SKIP() << "no AVX2";
    if (devices().cpu == nullptr) GTEST_SKIP() << "ggml's CPU backend was not found";
    before_.size = sizeof before_;
    ASSERT_EQ(function<gsd_narrow_get_params_t>(GSD_NARROW_GET_PARAMS)(&before_), 0);
    original_ = before_;
    before_.min_width = 2;
    before_.min_matrix_bytes = 0;
    ASSERT_EQ(configure(before_), 0);
  }
  void TearDown() override {
    if (original_.size != 0) configure(original_);
  }

  static int configure(const gsd_narrow_params& p) {
    return function<gsd_narrow_configure_t>(GSD_NARROW_CONFIGURE)(&p);
  }

  static bool takes(ggml_type type, int64_t k, int64_t rows, int64_t columns) {
    const ggml_context_ptr context = make_context();
    ggml_tensor* w = ggml_new_tensor_2d(context.get(), type, k, rows);
    ggml_tensor* x = ggml_new_tensor_2d(context.get(), GGML_TYPE_F32, k, columns);
    return ggml_backend_dev_supports_op(devices().gsd, ggml_mul_mat(context.get(), w, x));
  }

  gsd_narrow_params original_{};
  gsd_narrow_params before_{};  // what the tests start from
};

TEST_F(Plugin, TakesItsFormatsFromTwoColumnsOn) {
  for (const FormatInfo& info : kAllFormats) {
    EXPECT_TRUE(takes(info.type, 512, 64, 2)) << info.name;
    EXPECT_TRUE(takes(info.type, 512, 64, 512)) << info.name;
    EXPECT_FALSE(takes(info.type, 512, 64, 1)) << info.name;
    EXPECT_FALSE(takes(info.type, 512, 64, 513)) << info.name;
  }
}

// Every format of weights that ggml has is either taken or stands here as one that is not.
TEST_F(Plugin, KnowsWhatIsLeftToGgml) {
  const std::set<std::string> left_to_ggml = {"q8_1", "tq1_0", "tq2_0", "q1_0", "q8_K", "q2_0"};
  for (int i = 0; i < GGML_TYPE_COUNT; ++i) {
    const auto type = static_cast<ggml_type>(i);
    const char* name = ggml_type_name(type);
    if (name == nullptr || ggml_blck_size(type) == 0 || !ggml_is_quantized(type)) continue;
    const bool taken = takes(type, 512, 64, 8);
    if (!taken) std::printf("left to ggml: %s\n", name);
    EXPECT_EQ(!taken, left_to_ggml.contains(name)) << name;
  }
}

TEST_F(Plugin, LeavesOtherShapesAndOperationsToGgml) {
  const ggml_context_ptr context = make_context();
  ggml_tensor* x = ggml_new_tensor_2d(context.get(), GGML_TYPE_F32, 64, 8);
  ggml_tensor* heads = ggml_new_tensor_3d(context.get(), GGML_TYPE_F16, 64, 32, 4);
  ggml_tensor* queries = ggml_new_tensor_3d(context.get(), GGML_TYPE_F32, 64, 8, 4);
  auto supported = [&](ggml_tensor* t) { return ggml_backend_dev_supports_op(devices().gsd, t); };
  EXPECT_FALSE(supported(ggml_mul_mat(context.get(), heads, queries)));
  EXPECT_FALSE(supported(ggml_add(context.get(), x, x)));
  EXPECT_FALSE(supported(ggml_mul_mat(context.get(), ggml_silu(context.get(), x), x)));
  EXPECT_TRUE(supported(ggml_reshape_2d(context.get(), x, 8, 64)));
}

// An attention operation without data, to be asked about.
struct AttentionNode {
  ggml_context_ptr context = make_context();
  ggml_type k_type = GGML_TYPE_F16, v_type = GGML_TYPE_F16;
  int64_t size = 64, cells = 256, tokens = 4, heads = 8, kv_heads = 2;
  float bias = 0, cap = 0;
  bool mask = true, sinks = false;
  int32_t unknown = 0;  // a parameter that ggml may have some day

  ggml_tensor* make() const {
    const auto cache = [&](ggml_type type) { return ggml_new_tensor_3d(context.get(), type, size, cells, kv_heads); };
    ggml_tensor* q = ggml_new_tensor_3d(context.get(), GGML_TYPE_F32, size, tokens, heads);
    ggml_tensor* m = mask ? ggml_new_tensor_2d(context.get(), GGML_TYPE_F16, cells, tokens) : nullptr;
    ggml_tensor* node = ggml_flash_attn_ext(context.get(), q, cache(k_type), cache(v_type), m, 0.125F, bias, cap);
    ggml_flash_attn_ext_set_n_kv_max(node, static_cast<int32_t>(cells));
    node->op_params[6] = unknown;
    if (sinks) ggml_flash_attn_ext_add_sinks(node, ggml_new_tensor_1d(context.get(), GGML_TYPE_F32, heads));
    return node;
  }
  bool taken() const { return ggml_backend_dev_supports_op(devices().gsd, make()); }
};

TEST_F(Plugin, TakesAttentionOverFloatingPointCaches) {
  EXPECT_TRUE(AttentionNode().taken());
  EXPECT_TRUE((AttentionNode{.k_type = GGML_TYPE_F32, .v_type = GGML_TYPE_BF16}.taken()));
  EXPECT_TRUE((AttentionNode{.size = 80, .cells = 16, .tokens = 512}.taken()));
  EXPECT_FALSE(AttentionNode{.tokens = 1}.taken()) << "libllama asks this to see if flash attention is supported";
  EXPECT_FALSE(AttentionNode{.tokens = 513}.taken());
  EXPECT_FALSE(AttentionNode{.k_type = GGML_TYPE_Q8_0}.taken());
  EXPECT_FALSE(AttentionNode{.v_type = GGML_TYPE_Q8_0}.taken());
  EXPECT_FALSE(AttentionNode{.size = 72}.taken());
  EXPECT_FALSE(AttentionNode{.cells = 250}.taken());
  EXPECT_TRUE(AttentionNode{.bias = 8}.taken());
  EXPECT_TRUE(AttentionNode{.cap = 30}.taken());
  EXPECT_TRUE(AttentionNode{.sinks = true}.taken());
  EXPECT_FALSE(AttentionNode{.mask = false}.taken());
  EXPECT_FALSE(AttentionNode{.unknown = 1}.taken());
}

TEST_F(Plugin, ExactModeCountsTheAttentionItLeaves) {
  const uint64_t before = stats().attentions_declined;
  EXPECT_FALSE(AttentionNode{.size = 72}.taken());
  EXPECT_EQ(stats().attentions_declined, before) << "not in exact mode";
  gsd_narrow_params p = before_;
  p.exact = 1;
  ASSERT_EQ(configure(p), 0);
  EXPECT_TRUE(AttentionNode{.tokens = 1}.taken());
  EXPECT_FALSE(AttentionNode{.tokens = 513}.taken());
  EXPECT_EQ(stats().attentions_declined, before);
  EXPECT_FALSE(AttentionNode{.size = 72}.taken());
  EXPECT_EQ(stats().attentions_declined, before + 1);
}

TEST_F(Plugin, UsesHostMemoryOnly) {
  ggml_backend_buffer_type_t host = ggml_backend_cpu_buffer_type();
  EXPECT_EQ(ggml_backend_dev_buffer_type(devices().gsd), host);
  EXPECT_TRUE(ggml_backend_dev_supports_buft(devices().gsd, host));
  EXPECT_EQ(ggml_backend_dev_type(devices().gsd), GGML_BACKEND_DEVICE_TYPE_ACCEL);
  EXPECT_STREQ(ggml_backend_dev_name(devices().gsd), "GSD");
}

TEST_F(Plugin, SettingsCanBeChangedByName) {
  gsd_narrow_params p = before_;
  p.exact = 1;
  ASSERT_EQ(configure(p), 0);
  EXPECT_TRUE(takes(GGML_TYPE_F32, 32, 4, 1));
  p.enabled = 0;
  ASSERT_EQ(configure(p), 0);
  EXPECT_FALSE(takes(GGML_TYPE_F32, 32, 4, 1));
  p.max_width = 0;
  EXPECT_EQ(configure(p), -1);
  EXPECT_EQ(ggml_backend_reg_get_proc_address(devices().reg, "no such function"), nullptr);
}

// A graph that ggml's scheduler has split over devices, the last of them the CPU.
class Scheduled {
 public:
  // threads 0: each device's own number
  Scheduled(ggml_cgraph* graph, const std::vector<ggml_backend_dev_t>& devices, int threads = 0) : graph_(graph) {
    std::vector<ggml_backend_t> backends;
    for (ggml_backend_dev_t device : devices) {
      owned_.emplace_back(ggml_backend_dev_init(device, nullptr));
      backends.push_back(owned_.back().get());
      if (threads > 0) {
        reinterpret_cast<ggml_backend_set_n_threads_t>(ggml_backend_reg_get_proc_address(
            ggml_backend_dev_backend_reg(device), "ggml_backend_set_n_threads"))(backends.back(), threads);
      }
    }
    scheduler_.reset(ggml_backend_sched_new(backends.data(), nullptr, static_cast<int>(backends.size()),
                                            GGML_DEFAULT_GRAPH_SIZE, false, true));
    EXPECT_TRUE(ggml_backend_sched_alloc_graph(scheduler_.get(), graph_));
  }

  int splits() const { return ggml_backend_sched_get_n_splits(scheduler_.get()); }
  // Once the inputs are set. The bytes of `out` as floats.
  std::vector<float> compute(ggml_tensor* out) const {
    EXPECT_EQ(ggml_backend_sched_graph_compute(scheduler_.get(), graph_), GGML_STATUS_SUCCESS);
    std::vector<float> result(ggml_nbytes(out) / sizeof(float));
    ggml_backend_tensor_get(out, result.data(), 0, ggml_nbytes(out));
    return result;
  }

 private:
  ggml_cgraph* graph_;
  std::vector<ggml_backend_ptr> owned_;
  ggml_backend_sched_ptr scheduler_;
};

double relative_difference(const std::vector<float>& a, const std::vector<float>& b) {
  double error = 0;
  double size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    error += (a[i] - b[i]) * (a[i] - b[i]);
    size += b[i] * b[i];
  }
  return std::sqrt(error / size);
}

// gate and up of the same activations, and down of their product: a feed-forward layer.
struct Layer {
  ggml_context_ptr context = make_context();
  ggml_tensor *gate, *up, *down, *x, *out;
  ggml_cgraph* graph;
  ggml_backend_buffer_ptr weights;

  Layer(int64_t width, int64_t inner, int64_t columns) {
    gate = ggml_new_tensor_2d(context.get(), GGML_TYPE_Q4_0, width, inner);
    up = ggml_new_tensor_2d(context.get(), GGML_TYPE_Q8_0, width, inner);
    down = ggml_new_tensor_2d(context.get(), GGML_TYPE_Q6_K, inner, width);
    weights.reset(ggml_backend_alloc_ctx_tensors_from_buft(context.get(), ggml_backend_cpu_buffer_type()));
    ggml_backend_buffer_set_usage(weights.get(), GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
    std::mt19937 random(3);
    for (ggml_tensor* t : {gate, up, down}) {
      const Matrix m = make_matrix(t->type, normal(random, t->ne[0] * t->ne[1], 0.05F), t->ne[0]);
      ggml_backend_tensor_set(t, m.data(), 0, ggml_nbytes(t));
    }
    x = ggml_new_tensor_2d(context.get(), GGML_TYPE_F32, width, columns);
    ggml_set_input(x);
    ggml_tensor* g = ggml_mul_mat(context.get(), gate, x);
    ggml_tensor* u = ggml_mul_mat(context.get(), up, x);
    graph = ggml_new_graph(context.get());
    ggml_build_forward_expand(graph, g);
    ggml_build_forward_expand(graph, u);
    out = ggml_mul_mat(context.get(), down, ggml_mul(context.get(), ggml_silu(context.get(), g), u));
    ggml_set_output(out);
    ggml_build_forward_expand(graph, out);
  }

  // Runs the layer on the given devices; the last is the CPU.
  std::vector<float> run(std::vector<ggml_backend_dev_t> on, const std::vector<float>& input) {
    const Scheduled scheduled(graph, on);
    ggml_backend_tensor_set(x, input.data(), 0, ggml_nbytes(x));
    return scheduled.compute(out);
  }
};

TEST_F(Plugin, SharesAGraphWithTheCpuWithoutCopies) {
  std::mt19937 random(4);
  const std::vector<float> input = normal(random, 256 * 8);
  const std::vector<float> stock = Layer(256, 512, 8).run({devices().cpu}, input);
  Layer layer(256, 512, 8);
  ggml_tensor* inner = layer.out->src[1];
  const gsd_narrow_stats s0 = stats();
  const std::vector<float> ours = layer.run({devices().gsd, devices().cpu}, input);
  const gsd_narrow_stats s1 = stats();
  EXPECT_EQ(s1.products - s0.products, 3U);
  EXPECT_EQ(s1.conversions - s0.conversions, 2U) << "gate and up share one";
  EXPECT_EQ(layer.out->src[1], inner) << "the scheduler put a copy between the devices";
  EXPECT_LT(relative_difference(ours, stock), 0.02);
}

// A transformer of a few layers as libllama builds it: rotary embedding, a cache that is written and read, gated
// feed-forward layers. Its result is the last layer's activations.
struct Transformer {
  static constexpr int64_t kHead = 32, kHeads = 4, kKvHeads = 2, kWidth = kHead * kHeads, kInner = 320, kCells = 64;
  static constexpr int kLayers = 3;

  int64_t tokens;
  ggml_context_ptr context = make_context();
  ggml_context_ptr weights_context = make_context();
  ggml_backend_buffer_ptr weights;
  std::vector<ggml_tensor*> matrices, caches;
  ggml_tensor *x, *positions, *index, *mask, *out;
  ggml_cgraph* graph = ggml_new_graph(context.get());

  explicit Transformer(int64_t n, int rope_mode = GGML_ROPE_TYPE_NORMAL) : tokens(n) {
    ggml_context* c = context.get();
    x = ggml_new_tensor_2d(c, GGML_TYPE_F32, kWidth, n);
    positions = ggml_new_tensor_1d(c, GGML_TYPE_I32, n);
    index = ggml_new_tensor_1d(c, GGML_TYPE_I64, n);
    mask = ggml_new_tensor_2d(c, GGML_TYPE_F16, kCells, n);
    for (ggml_tensor* input : {x, positions, index, mask}) ggml_set_input(input);
    ggml_tensor* current = x;
    for (int layer = 0; layer < kLayers; ++layer) {
      const auto heads = [&](ggml_tensor* t, int64_t count) { return ggml_reshape_3d(c, t, kHead, count, n); };
      const auto rope = [&](ggml_tensor* t) {
        return ggml_rope_ext(c, t, positions, nullptr, kHead, rope_mode, 4096, 10000, 1, 0, 1, 32, 1);
      };
      const auto norm = [&](ggml_tensor* t) {
        return ggml_mul(c, ggml_rms_norm(c, t, 1e-5F), weight(GGML_TYPE_F32, kWidth, 1));
      };
      ggml_tensor* input = norm(current);
      ggml_tensor* q = rope(heads(ggml_mul_mat(c, weight(GGML_TYPE_Q8_0, kWidth, kWidth), input), kHeads));
      ggml_build_forward_expand(graph, q);
      ggml_tensor* v = ggml_mul_mat(c, weight(GGML_TYPE_Q8_0, kWidth, kHead * kKvHeads), input);
      ggml_tensor* k = rope(heads(ggml_mul_mat(c, weight(GGML_TYPE_Q8_0, kWidth, kHead * kKvHeads), input), kKvHeads));
      const auto store = [&](ggml_tensor* t) {
        caches.push_back(ggml_new_tensor_2d(weights_context.get(), GGML_TYPE_F16, kHead * kKvHeads, kCells));
        ggml_build_forward_expand(graph,
                                  ggml_set_rows(c, caches.back(), ggml_reshape_2d(c, t, kHead * kKvHeads, n), index));
        return ggml_permute(c, ggml_reshape_3d(c, caches.back(), kHead, kKvHeads, kCells), 0, 2, 1, 3);
      };
      ggml_tensor* keys = store(k);
      ggml_tensor* values = store(v);
      ggml_tensor* attended = ggml_flash_attn_ext(c, ggml_permute(c, q, 0, 2, 1, 3), keys, values, mask, 0.2F, 0, 0);
      attended = ggml_reshape_2d(c, attended, kWidth, n);
      current = ggml_add(c, ggml_mul_mat(c, weight(GGML_TYPE_Q8_0, kWidth, kWidth), attended), current);
      input = norm(current);
      ggml_tensor* gate = ggml_mul_mat(c, weight(GGML_TYPE_Q8_0, kWidth, kInner), input);
      ggml_tensor* up = ggml_mul_mat(c, weight(GGML_TYPE_Q8_0, kWidth, kInner), input);
      ggml_tensor* down = ggml_mul_mat(c, weight(GGML_TYPE_Q8_0, kInner, kWidth), ggml_swiglu_split(c, gate, up));
      current = ggml_add(c, down, current);
    }
    out = current;
    ggml_set_output(out);
    ggml_build_forward_expand(graph, out);
    weights.reset(ggml_backend_alloc_ctx_tensors_from_buft(weights_context.get(), ggml_backend_cpu_buffer_type()));
    ggml_backend_buffer_set_usage(weights.get(), GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
    std::mt19937 random(9);
    for (ggml_tensor* t : matrices) {
      const Matrix m = make_matrix(t->type, normal(random, t->ne[0] * t->ne[1], 0.08F), t->ne[0]);
      ggml_backend_tensor_set(t, m.data(), 0, ggml_nbytes(t));
    }
    for (ggml_tensor* t : caches) {
      const Matrix m = make_matrix(t->type, normal(random, t->ne[0] * t->ne[1]), t->ne[0]);
      ggml_backend_tensor_set(t, m.data(), 0, ggml_nbytes(t));
    }
  }

  ggml_tensor* weight(ggml_type type, int64_t k, int64_t rows) {
    matrices.push_back(ggml_new_tensor_2d(weights_context.get(), type, k, rows));
    return matrices.back();
  }

  // The cells before those of the tokens are another text's; each token sees them, and the tokens before it.
  std::vector<float> run(const std::vector<ggml_backend_dev_t>& on, int threads) {
    const Scheduled scheduled(graph, on, threads);
    std::mt19937 random(10);
    const std::vector<float> input = normal(random, kWidth * tokens);
    std::vector<int32_t> position;
    std::vector<int64_t> cell;
    std::vector<uint16_t> seen;
    for (int64_t t = 0; t < tokens; ++t) {
      position.push_back(static_cast<int32_t>(20 + t));
      cell.push_back(kCells - 1 - t);  // backwards, as after rejected tokens
      for (int64_t i = 0; i < kCells; ++i)
        seen.push_back(ggml_fp32_to_fp16(i < 20 || i >= kCells - 1 - t ? 0.0F : -INFINITY));
    }
    ggml_backend_tensor_set(x, input.data(), 0, ggml_nbytes(x));
    ggml_backend_tensor_set(positions, position.data(), 0, ggml_nbytes(positions));
    ggml_backend_tensor_set(index, cell.data(), 0, ggml_nbytes(index));
    ggml_backend_tensor_set(mask, seen.data(), 0, ggml_nbytes(mask));
    splits = scheduled.splits();
    return scheduled.compute(out);
  }

  int splits = 0;
};

TEST_F(Plugin, ComputesATransformerInOnePiece) {
  gsd_narrow_params p = before_;
  p.min_width = 1;
  p.attention = 1;
  for (const int mode : {GGML_ROPE_TYPE_NORMAL, GGML_ROPE_TYPE_NEOX}) {
    for (const int64_t tokens : {1, 2, 7, 30}) {
      p.rows = 1;
      ASSERT_EQ(configure(p), 0);
      const gsd_narrow_stats s0 = stats();
      Transformer whole(tokens, mode);
      const std::vector<float> ours = whole.run({devices().gsd, devices().cpu}, 2);
      const gsd_narrow_stats s1 = stats();
      EXPECT_EQ(s1.products - s0.products, 21U);
      EXPECT_EQ(s1.conversions - s0.conversions, 12U) << "q, k and v share one, gate and up too";
      EXPECT_EQ(s1.attentions - s0.attentions, 3U);
      EXPECT_EQ(s1.row_operations - s0.row_operations, 31U) << "all but the first layer's norm and its weights";
      EXPECT_LE(whole.splits, 2);
      const std::vector<float> stock = Transformer(tokens, mode).run({devices().cpu}, 2);
      EXPECT_LT(relative_difference(ours, stock), 0.01) << tokens << " tokens";
      p.rows = 0;
      ASSERT_EQ(configure(p), 0);
      const std::vector<float> products_only = Transformer(tokens, mode).run({devices().gsd, devices().cpu}, 2);
      EXPECT_EQ(stats().row_operations, s1.row_operations);
      EXPECT_LT(relative_difference(ours, products_only), 2e-3) << tokens << " tokens";
    }
  }
}

// Steps that share memory, or wait for each other too little, would show here.
TEST_F(Plugin, ThreadsAndTokensBesideItDoNotChangeATokensBits) {
  gsd_narrow_params p = before_;
  p.min_width = 1;
  p.attention = 1;
  ASSERT_EQ(configure(p), 0);
  const std::vector<float> all = Transformer(30).run({devices().gsd, devices().cpu}, 1);
  for (const int threads : {2, 3, 8}) {
    for (int i = 0; i < 5; ++i)
      ASSERT_EQ(Transformer(30).run({devices().gsd, devices().cpu}, threads), all) << threads << " threads";
  }
  for (const int64_t tokens : {1, 5, 17}) {
    const std::vector<float> some = Transformer(tokens).run({devices().gsd, devices().cpu}, 2);
    EXPECT_EQ(std::memcmp(some.data(), all.data(), some.size() * sizeof(float)), 0) << tokens << " tokens";
  }
}

TEST_F(Plugin, ExactModeLeavesNormsGatesAndRotationsToGgml) {
  gsd_narrow_params p = before_;
  p.exact = 1;
  ASSERT_EQ(configure(p), 0);
  const gsd_narrow_stats s0 = stats();
  const std::vector<float> all = Transformer(30).run({devices().gsd, devices().cpu}, 2);
  EXPECT_EQ(stats().row_operations - s0.row_operations, 9U) << "additions, and writing values to the cache";
  for (const int64_t tokens : {1, 5, 17}) {
    const std::vector<float> some = Transformer(tokens).run({devices().gsd, devices().cpu}, 2);
    EXPECT_EQ(std::memcmp(some.data(), all.data(), some.size() * sizeof(float)), 0) << tokens << " tokens";
  }
}

// A layer of a mixture of experts as libllama builds it: gate and up in one matrix or in two, with biases and the gate
// of gpt-oss or without.
struct Mixture {
  static constexpr int64_t kWidth = 256, kInner = 160, kExperts = 12, kUsed = 4;
  struct Kind {
    ggml_type type = GGML_TYPE_Q8_0;
    bool fused = false, biased = false;
  };

  Kind kind;
  int64_t tokens;
  ggml_context_ptr context = make_context();
  ggml_context_ptr weights_context = make_context();
  ggml_backend_buffer_ptr weights;
  std::vector<ggml_tensor*> matrices;
  ggml_tensor *x, *out;
  ggml_cgraph* graph = ggml_new_graph(context.get());
  int splits = 0;

  Mixture(const Kind& which, int64_t n) : kind(which), tokens(n) {
    ggml_context* c = context.get();
    x = ggml_new_tensor_2d(c, GGML_TYPE_F32, kWidth, n);
    ggml_set_input(x);
    ggml_tensor* input = ggml_mul_mat(c, weight(kind.type, kWidth, kWidth), x);
    ggml_tensor* logits = ggml_mul_mat(c, weight(GGML_TYPE_F32, kWidth, kExperts), input);
    ggml_tensor* probabilities = ggml_soft_max(c, logits);
    ggml_tensor* chosen = ggml_argsort_top_k(c, probabilities, kUsed);
    ggml_tensor* shares = ggml_get_rows(c, ggml_reshape_3d(c, probabilities, 1, kExperts, n), chosen);
    shares = ggml_reshape_2d(c, shares, kUsed, n);
    shares = ggml_div(c, shares, ggml_clamp(c, ggml_sum_rows(c, shares), 6e-5F, INFINITY));
    shares = ggml_reshape_3d(c, shares, 1, kUsed, n);
    ggml_build_forward_expand(graph, shares);
    const auto by_experts = [&](ggml_tensor* of, int64_t rows) {
      ggml_tensor* product = ggml_mul_mat_id(c, weight(kind.type, of->ne[0], rows, kExperts), of, chosen);
      return kind.biased ? ggml_add_id(c, product, weight(GGML_TYPE_F32, rows, kExperts), chosen) : product;
    };
    input = ggml_reshape_3d(c, input, kWidth, 1, n);
    ggml_tensor* gate = nullptr;
    ggml_tensor* up = nullptr;
    if (kind.fused) {
      ggml_tensor* both = by_experts(input, 2 * kInner);
      const auto half = [&](size_t i) {
        return ggml_view_3d(c, both, kInner, kUsed, n, both->nb[1], both->nb[2], i * kInner * sizeof(float));
      };
      gate = half(0);
      up = half(1);
    } else {
      gate = by_experts(input, kInner);
      up = by_experts(input, kInner);
    }
    ggml_tensor* inner = kind.biased ? ggml_swiglu_oai(c, gate, up, 1.7F, 7) : ggml_swiglu_split(c, gate, up);
    ggml_tensor* experts = ggml_mul(c, by_experts(inner, kWidth), shares);
    const auto slot = [&](size_t i) {
      ggml_tensor* view = ggml_view_2d(c, experts, kWidth, n, experts->nb[2], i * experts->nb[1]);
      ggml_build_forward_expand(graph, view);
      return view;
    };
    ggml_tensor* views[] = {slot(0), slot(1), slot(2), slot(3)};
    out = ggml_add(c, views[0], views[1]);
    for (const size_t i : {2U, 3U}) out = ggml_add(c, out, views[i]);
    out = ggml_add(c, out, x);
    ggml_set_output(out);
    ggml_build_forward_expand(graph, out);
    weights.reset(ggml_backend_alloc_ctx_tensors_from_buft(weights_context.get(), ggml_backend_cpu_buffer_type()));
    ggml_backend_buffer_set_usage(weights.get(), GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
    std::mt19937 random(9);
    for (ggml_tensor* t : matrices) {
      const Matrix m = make_matrix(t->type, normal(random, ggml_nelements(t), 0.08F), t->ne[0]);
      ggml_backend_tensor_set(t, m.data(), 0, ggml_nbytes(t));
    }
  }

  ggml_tensor* weight(ggml_type type, int64_t k, int64_t rows, int64_t experts = 1) {
    // K formats have blocks of 256, and the inner width is none of them.
    const bool fits = k % ggml_blck_size(type) == 0;
    matrices.push_back(ggml_new_tensor_3d(weights_context.get(), fits ? type : GGML_TYPE_Q8_0, k, rows, experts));
    return matrices.back();
  }

  std::vector<float> run(const std::vector<ggml_backend_dev_t>& on, int threads) {
    const Scheduled scheduled(graph, on, threads);
    std::mt19937 random(10);
    const std::vector<float> input = normal(random, kWidth * tokens);
    ggml_backend_tensor_set(x, input.data(), 0, ggml_nbytes(x));
    splits = scheduled.splits();
    return scheduled.compute(out);
  }
};

TEST_F(Plugin, ComputesMixturesOfExperts) {
  gsd_narrow_params p = before_;
  p.min_width = 1;
  ASSERT_EQ(configure(p), 0);
  for (const FormatInfo& info : kAllFormats) {
    const bool fused = info.block == 256;
    const Mixture::Kind kind{info.type, fused, info.block == 32};
    for (const int64_t tokens : {1, 9}) {
      const gsd_narrow_stats s0 = stats();
      Mixture ours(kind, tokens);
      const std::vector<float> out = ours.run({devices().gsd, devices().cpu}, 2);
      const gsd_narrow_stats s1 = stats();
      EXPECT_EQ(s1.products - s0.products, fused ? 4U : 5U) << info.name;
      EXPECT_EQ(s1.row_operations - s0.row_operations, kind.biased ? 9U : 6U) << info.name;
      EXPECT_LE(ours.splits, 4) << "products, routing by ggml, experts";
      const std::vector<float> stock = Mixture(kind, tokens).run({devices().cpu}, 1);
      EXPECT_LT(relative_difference(out, stock), 0.02) << info.name << ", " << tokens << " tokens";
    }
  }
}

TEST_F(Plugin, ThreadsAndTokensDoNotChangeTheBitsOfMixtures) {
  gsd_narrow_params p = before_;
  p.min_width = 1;
  for (const int exact : {0, 1}) {
    p.exact = exact;
    ASSERT_EQ(configure(p), 0);
    for (const Mixture::Kind& kind : {Mixture::Kind{GGML_TYPE_Q4_K}, Mixture::Kind{GGML_TYPE_Q8_0, true, true}}) {
      const std::vector<float> all = Mixture(kind, 64).run({devices().gsd, devices().cpu}, 1);
      for (const int threads : {2, 3, 8})
        ASSERT_EQ(Mixture(kind, 64).run({devices().gsd, devices().cpu}, threads), all) << threads << " threads";
      for (const int64_t tokens : {1, 5, 17}) {
        const std::vector<float> some = Mixture(kind, tokens).run({devices().gsd, devices().cpu}, 2);
        EXPECT_EQ(std::memcmp(some.data(), all.data(), some.size() * sizeof(float)), 0) << tokens << " tokens";
      }
    }
  }
}

TEST_F(Plugin, TakesProductsByExpertsOfOrdinaryShape) {
  const ggml_context_ptr context = make_context();
  const auto takes_experts = [&](ggml_type type, int64_t tokens, int64_t x_slots, ggml_type x_type = GGML_TYPE_F32) {
    ggml_tensor* w = ggml_new_tensor_3d(context.get(), type, 512, 64, 4);
    ggml_tensor* x = ggml_new_tensor_3d(context.get(), x_type, 512, x_slots, tokens);
    ggml_tensor* ids = ggml_new_tensor_2d(context.get(), GGML_TYPE_I32, 2, tokens);
    return ggml_backend_dev_supports_op(devices().gsd, ggml_mul_mat_id(context.get(), w, x, ids));
  };
  for (const FormatInfo& info : kAllFormats) {
    EXPECT_TRUE(takes_experts(info.type, 2, 1)) << info.name;
    EXPECT_TRUE(takes_experts(info.type, 512, 2)) << info.name;
    EXPECT_FALSE(takes_experts(info.type, 1, 1)) << info.name;
    EXPECT_FALSE(takes_experts(info.type, 513, 1)) << info.name;
  }
  gsd_narrow_params p = before_;
  p.min_matrix_bytes = 2 * 64 * 512 * 4 + 1;  // what two experts have in F32, and one more
  ASSERT_EQ(configure(p), 0);
  EXPECT_FALSE(takes_experts(GGML_TYPE_F32, 2, 1));
}

// One or more operations behind a product of 128 rows and 6 tokens, on both devices and on ggml's alone.
class RowOperations : public Plugin {
 protected:
  static constexpr int64_t kWidth = 128, kTokens = 6;

  struct Graph {
    ggml_context_ptr context = make_context();
    std::vector<std::pair<ggml_tensor*, std::vector<uint8_t>>> inputs;
    ggml_tensor* product = nullptr;
    ggml_tensor* out = nullptr;

    ggml_context* c() const { return context.get(); }
    template <class T>
    ggml_tensor* input(ggml_type type, std::vector<int64_t> sizes, const std::vector<T>& values) {
      ggml_tensor* t = ggml_new_tensor(c(), type, static_cast<int>(sizes.size()), sizes.data());
      ggml_set_input(t);
      std::vector<uint8_t> bytes(ggml_nbytes(t));
      if (!values.empty()) std::memcpy(bytes.data(), values.data(), std::min(bytes.size(), values.size() * sizeof(T)));
      inputs.emplace_back(t, bytes);
      return t;
    }
    ggml_tensor* heads() { return ggml_reshape_3d(c(), product, 32, kWidth / 32, kTokens); }
    ggml_tensor* positions() { return input<int32_t>(GGML_TYPE_I32, {kTokens}, {0, 1, 2, 40, 41, 1000}); }
    ggml_tensor* rope(ggml_tensor* x, int mode, int dims, ggml_tensor* factors = nullptr, float base = 10000,
                      float yarn = 0) {
      return ggml_rope_ext(c(), x, positions(), factors, dims, mode, 4096, base, 0.5F, yarn, 1.1F, 32, 1);
    }
  };
  using Build = std::function<ggml_tensor*(Graph&)>;

  static void make(Graph& g, const Build& build, float size) {
    std::mt19937 random(12);
    const Matrix w = make_matrix(GGML_TYPE_Q8_0, normal(random, kWidth * kWidth, size), kWidth);
    ggml_tensor* weights = g.input(GGML_TYPE_Q8_0, {kWidth, kWidth}, w.bytes);
    ggml_tensor* x = g.input(GGML_TYPE_F32, {kWidth, kTokens}, normal(random, kWidth * kTokens));
    g.product = ggml_mul_mat(g.c(), weights, x);
    g.out = build(g);
    ggml_set_output(g.out);
  }

  static std::vector<float> run(const Build& build, float size, std::vector<ggml_backend_dev_t> on) {
    Graph g;
    make(g, build, size);
    ggml_cgraph* graph = ggml_new_graph(g.c());
    ggml_build_forward_expand(graph, g.out);
    const Scheduled scheduled(graph, on);
    for (const auto& [tensor, bytes] : g.inputs) ggml_backend_tensor_set(tensor, bytes.data(), 0, bytes.size());
    return scheduled.compute(g.out);
  }

  static bool taken(const Build& build) {
    Graph g;
    make(g, build, 1);
    return ggml_backend_dev_supports_op(devices().gsd, g.out);
  }

  void expect_same(const char* what, const Build& build, uint64_t operations, float size = 0.1F) {
    EXPECT_TRUE(taken(build)) << what;
    const uint64_t before = stats().row_operations;
    const std::vector<float> ours = run(build, size, {devices().gsd, devices().cpu});
    EXPECT_EQ(stats().row_operations - before, operations) << what;
    EXPECT_LT(relative_difference(ours, run(build, size, {devices().cpu})), 0.01) << what;
  }
};

TEST_F(RowOperations, AreThoseOfGgml) {
  std::mt19937 random(13);
  std::vector<float> factors = normal(random, 16);
  for (float& f : factors) f = 1 + std::abs(f);
  const std::vector<float> weights = normal(random, 32);
  expect_same(
      "a norm of small values", [](Graph& g) { return ggml_rms_norm(g.c(), g.product, 1e-3F); }, 1, 1e-4F);
  expect_same(
      "the same for every token",
      [](Graph& g) { return ggml_add(g.c(), g.product, g.input(GGML_TYPE_F32, {kWidth}, std::vector(kWidth, 0.5F))); },
      1);
  expect_same(
      "a norm of heads, their weights, a rotation",
      [&](Graph& g) {
        ggml_tensor* norm = ggml_rms_norm(g.c(), g.heads(), 1e-5F);
        return g.rope(ggml_mul(g.c(), norm, g.input(GGML_TYPE_F32, {32}, weights)), GGML_ROPE_TYPE_NEOX, 32);
      },
      3);
  for (const int mode : {GGML_ROPE_TYPE_NORMAL, GGML_ROPE_TYPE_NEOX}) {
    expect_same(
        "a rotation of a part", [&](Graph& g) { return g.rope(g.heads(), mode, 20); }, 1);
    expect_same(
        "a rotation with factors",
        [&](Graph& g) { return g.rope(g.heads(), mode, 32, g.input(GGML_TYPE_F32, {16}, factors)); }, 1);
    expect_same(
        "two different rotations",
        [&](Graph& g) { return g.rope(g.rope(g.heads(), mode, 32, nullptr, 500), mode, 32); }, 2);
  }
  const std::vector<int64_t> order = {3, 0, 5, 4, 2, 1};
  const auto stored = [&](Graph& g) {
    ggml_tensor* cache = g.input(GGML_TYPE_F32, {kWidth, kTokens}, std::vector<float>(kWidth * kTokens));
    return ggml_set_rows(g.c(), cache, g.product, g.input(GGML_TYPE_I64, {kTokens}, order));
  };
  expect_same("rows stored elsewhere", stored, 1);
  for (int i = 0; i < 20; ++i) {  // a thread must not read what another has yet to write
    expect_same(
        "rows read after they were stored elsewhere", [&](Graph& g) { return ggml_add(g.c(), g.product, stored(g)); },
        2);
  }
}

TEST_F(RowOperations, OthersStayWithGgml) {
  const auto floats = [](Graph& g, std::vector<int64_t> sizes) {
    return g.input(GGML_TYPE_F32, std::move(sizes), std::vector<float>{});
  };
  EXPECT_TRUE(taken([](Graph& g) { return g.rope(g.heads(), GGML_ROPE_TYPE_NORMAL, 32); }));
  EXPECT_FALSE(taken([](Graph& g) { return ggml_rope_set_offset(g.rope(g.heads(), GGML_ROPE_TYPE_NORMAL, 16), 16); }))
      << "another part than the first";
  EXPECT_FALSE(taken([](Graph& g) { return g.rope(g.heads(), GGML_ROPE_TYPE_NORMAL, 32, nullptr, 1e4F, 1); }))
      << "YaRN";
  EXPECT_FALSE(taken([](Graph& g) { return ggml_geglu_split(g.c(), g.product, g.product); }));
  EXPECT_TRUE(taken([](Graph& g) { return ggml_swiglu_split(g.c(), g.product, g.product); }));
  EXPECT_FALSE(taken([](Graph& g) { return ggml_swiglu(g.c(), g.product); })) << "both halves in one tensor";
  EXPECT_FALSE(taken([&](Graph& g) {
    return ggml_add(g.c(), floats(g, {kWidth, kTokens}), floats(g, {kWidth, kTokens}));
  })) << "not next to a product";
  EXPECT_FALSE(taken([&](Graph& g) { return ggml_mul(g.c(), g.product, floats(g, {kWidth, kTokens})); }));
  EXPECT_FALSE(taken([&](Graph& g) {
    ggml_tensor* cache = g.input(GGML_TYPE_BF16, {kWidth, kTokens}, std::vector<uint16_t>{});
    return ggml_set_rows(g.c(), cache, g.product, g.input(GGML_TYPE_I64, {kTokens}, std::vector<int64_t>{}));
  }));
  gsd_narrow_params p = before_;
  p.rows = 0;
  ASSERT_EQ(configure(p), 0);
  EXPECT_FALSE(taken([](Graph& g) { return ggml_swiglu_split(g.c(), g.product, g.product); }));
}

// Kilobytes of the mapping that holds `p` which lie in huge pages.
int huge_kilobytes(const void* p) {
  std::ifstream maps("/proc/self/smaps");
  bool ours = false;
  for (std::string line; std::getline(maps, line);) {
    unsigned long begin = 0;
    unsigned long end = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx ", &begin, &end) == 2)
      ours = begin <= reinterpret_cast<uintptr_t>(p) && reinterpret_cast<uintptr_t>(p) < end;
    if (ours && line.starts_with("AnonHugePages:")) return std::atoi(line.c_str() + 14);
  }
  return 0;
}

TEST_F(Plugin, MovesWeightsIntoHugePagesUnlessToldNotTo) {
  std::mt19937 random(4);
  const std::vector<float> input = normal(random, 2048 * 2);
  std::vector<float> small_pages;
  for (const int huge : {0, 1}) {
    gsd_narrow_params p = before_;
    p.huge_pages = huge;
    ASSERT_EQ(configure(p), 0);
    Layer layer(2048, 4096, 2);  // 20 MB
    const void* middle = layer.up->data;
    if (huge_kilobytes(middle) > 0) GTEST_SKIP() << "the system uses huge pages without being asked";
    const std::vector<float> out = layer.run({devices().gsd, devices().cpu}, input);
    if (huge == 0) {
      small_pages = out;
      EXPECT_EQ(huge_kilobytes(middle), 0);
      continue;
    }
    EXPECT_EQ(out, small_pages);
    if (huge_kilobytes(middle) > 0) continue;
    constexpr uintptr_t kPage = 2 << 20;
    void* page = reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(middle) / kPage * kPage);
    if (madvise(page, kPage, 25) != 0) GTEST_SKIP() << "not before Linux 6.1, nor where free memory is in small pieces";
    ADD_FAILURE() << "the system could, but the backend did not ask";
  }
}

TEST_F(Plugin, LeavesOneColumnAlone) {
  std::mt19937 random(4);
  const gsd_narrow_stats s0 = stats();
  Layer(256, 512, 1).run({devices().gsd, devices().cpu}, normal(random, 256));
  EXPECT_EQ(stats().products, s0.products);
}

TEST_F(Plugin, ExactModeGivesAColumnTheSameBitsInEveryBatch) {
  gsd_narrow_params p = before_;
  p.exact = 1;
  ASSERT_EQ(configure(p), 0);
  std::mt19937 random(4);
  const std::vector<float> input = normal(random, 256 * 9);
  const std::vector<float> batch = Layer(256, 512, 9).run({devices().gsd, devices().cpu}, input);
  for (int64_t c = 0; c < 9; ++c) {
    const std::vector<float> column(input.begin() + c * 256, input.begin() + (c + 1) * 256);
    const std::vector<float> alone = Layer(256, 512, 1).run({devices().gsd, devices().cpu}, column);
    EXPECT_EQ(std::memcmp(alone.data(), batch.data() + c * 256, 256 * sizeof(float)), 0) << "column " << c;
  }
}

}  // namespace
}  // namespace gsd::narrow::test
