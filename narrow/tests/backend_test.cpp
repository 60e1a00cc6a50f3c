// The built plugin inside ggml: loading, what it takes, and graphs shared with the CPU device by ggml's scheduler.
#include <ggml-alloc.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
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

TEST_F(Plugin, TakesTheEightFormatsFromTwoColumnsOn) {
  for (const FormatInfo& info : kAllFormats) {
    EXPECT_TRUE(takes(info.type, 512, 64, 2)) << info.name;
    EXPECT_TRUE(takes(info.type, 512, 64, 512)) << info.name;
    EXPECT_FALSE(takes(info.type, 512, 64, 1)) << info.name;
    EXPECT_FALSE(takes(info.type, 512, 64, 513)) << info.name;
  }
  EXPECT_FALSE(takes(GGML_TYPE_Q4_1, 512, 64, 8));
  EXPECT_FALSE(takes(GGML_TYPE_IQ4_NL, 512, 64, 8));
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

  ggml_tensor* make() const {
    const auto cache = [&](ggml_type type) { return ggml_new_tensor_3d(context.get(), type, size, cells, kv_heads); };
    ggml_tensor* q = ggml_new_tensor_3d(context.get(), GGML_TYPE_F32, size, tokens, heads);
    ggml_tensor* m = mask ? ggml_new_tensor_2d(context.get(), GGML_TYPE_F16, cells, tokens) : nullptr;
    ggml_tensor* node = ggml_flash_attn_ext(context.get(), q, cache(k_type), cache(v_type), m, 0.125F, bias, cap);
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
  EXPECT_FALSE(AttentionNode{.bias = 8}.taken());
  EXPECT_FALSE(AttentionNode{.cap = 30}.taken());
  EXPECT_FALSE(AttentionNode{.mask = false}.taken());
  EXPECT_FALSE(AttentionNode{.sinks = true}.taken());
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
    std::vector<ggml_backend_ptr> owned;
    std::vector<ggml_backend_t> backends;
    for (ggml_backend_dev_t device : on) {
      owned.emplace_back(ggml_backend_dev_init(device, nullptr));
      backends.push_back(owned.back().get());
    }
    const ggml_backend_sched_ptr scheduler(
        ggml_backend_sched_new(backends.data(), nullptr, static_cast<int>(backends.size()), 64, false, true));
    EXPECT_TRUE(ggml_backend_sched_alloc_graph(scheduler.get(), graph));
    ggml_backend_tensor_set(x, input.data(), 0, ggml_nbytes(x));
    EXPECT_EQ(ggml_backend_sched_graph_compute(scheduler.get(), graph), GGML_STATUS_SUCCESS);
    std::vector<float> result(static_cast<size_t>(ggml_nelements(out)));
    ggml_backend_tensor_get(out, result.data(), 0, ggml_nbytes(out));
    return result;
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
  EXPECT_EQ(s1.regions - s0.regions, 2U) << "gate and up share one region";
  EXPECT_EQ(layer.out->src[1], inner) << "the scheduler put a copy between the devices";
  double error = 0;
  double size = 0;
  for (size_t i = 0; i < ours.size(); ++i) {
    error += (ours[i] - stock[i]) * (ours[i] - stock[i]);
    size += stock[i] * stock[i];
  }
  EXPECT_LT(std::sqrt(error / size), 0.02);
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
