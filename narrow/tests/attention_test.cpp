// Attention of every instruction set on this machine: against double precision, on adversarial caches, and bit for bit
// across batches, threads and what the mask leaves out; and beside ggml's.
#include "attention.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <thread>

#include "ggml_devices.h"
#include "matrices.h"

namespace gsd::narrow::test {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Shape {
  int64_t k_size = 64, v_size = 64, cells = 256, tokens = 1, heads = 1, kv_heads = 1, streams = 1;
};

// Queries, a cache and a mask, laid out as libllama does: all heads of a token or cell side by side.
struct Problem {
  Shape s;
  Matrix k, v;                 // rows: streams * cells, of all heads
  std::vector<float> q;        // [streams][tokens][heads][k_size]
  std::vector<uint16_t> mask;  // [streams][tokens][cells]
  float scale;
  float cap = 0, max_bias = 0;
  std::vector<float> sinks;  // [heads], or empty

  Problem(const Shape& shape, ggml_type k_type, ggml_type v_type, std::mt19937& random, double left_out = 0.3)
      : s(shape), scale(1 / std::sqrt(static_cast<float>(shape.k_size))) {
    const int64_t rows = s.streams * s.cells * s.kv_heads;
    k = make_matrix(k_type, normal(random, rows * s.k_size), s.k_size * s.kv_heads);
    v = make_matrix(v_type, normal(random, rows * s.v_size), s.v_size * s.kv_heads);
    q = normal(random, s.streams * s.tokens * s.heads * s.k_size);
    std::bernoulli_distribution leave_out(left_out);
    for (int64_t i = 0; i < s.streams * s.tokens * s.cells; ++i)
      mask.push_back(ggml_fp32_to_fp16(leave_out(random) ? -kInfinity : i % 5 == 0 ? -0.5F : 0.0F));
  }

  uint16_t* mask_row(int64_t token, int64_t stream = 0) { return &mask[index(stream * s.tokens + token, s.cells)]; }
  void leave_out(int64_t token, int64_t cell) { mask_row(token)[cell] = ggml_fp32_to_fp16(-kInfinity); }
  // The bytes of one cell's vector of one head.
  uint8_t* vector(Matrix& m, int64_t cell, int64_t head) {
    return m.data() + static_cast<size_t>(cell) * m.row_bytes() +
           static_cast<size_t>(head) * ggml_row_size(m.type, m.k / s.kv_heads);
  }

  Attention attention(const KernelTable& table, float* out) const {
    const auto kernel = [&](ggml_type t) {
      return &table.of[static_cast<int>(t == GGML_TYPE_F32   ? Format::kF32
                                        : t == GGML_TYPE_F16 ? Format::kF16
                                                             : Format::kBF16)];
    };
    const auto cells = static_cast<size_t>(s.cells);
    const size_t q_head = static_cast<size_t>(s.k_size) * sizeof(float);
    const size_t q_token = q_head * static_cast<size_t>(s.heads);
    return {.keys = kernel(k.type),
            .values = kernel(v.type),
            .q = reinterpret_cast<const uint8_t*>(q.data()),
            .q_stream = q_token * static_cast<size_t>(s.tokens),
            .q_head = q_head,
            .q_token = q_token,
            .k = k.data(),
            .k_stream = k.row_bytes() * cells,
            .k_head = ggml_row_size(k.type, s.k_size),
            .k_cell = k.row_bytes(),
            .v = v.data(),
            .v_stream = v.row_bytes() * cells,
            .v_head = ggml_row_size(v.type, s.v_size),
            .v_cell = v.row_bytes(),
            .mask = reinterpret_cast<const uint8_t*>(mask.data()),
            .mask_stream = static_cast<size_t>(s.tokens) * cells * sizeof(uint16_t),
            .mask_token = cells * sizeof(uint16_t),
            .out = out,
            .k_size = s.k_size,
            .v_size = s.v_size,
            .cells = s.cells,
            .tokens = s.tokens,
            .heads = s.heads,
            .kv_heads = s.kv_heads,
            .streams = s.streams,
            .scale = scale,
            .cap = cap,
            .max_bias = max_bias,
            .sinks = sinks.empty() ? nullptr : sinks.data()};
  }

  // Masks become distances, as models with ALiBi have them, and heads get what the variation says.
  Problem& vary(float new_cap, float new_bias, bool with_sinks) {
    cap = new_cap;
    max_bias = new_bias;
    for (int64_t h = 0; with_sinks && h < s.heads; ++h)
      sinks.push_back(h % 3 == 2 ? 8.0F : 0.7F * static_cast<float>(h));
    if (max_bias > 0) {
      for (size_t i = 0; i < mask.size(); ++i) {
        const auto cell = static_cast<int64_t>(i) % s.cells;
        if (ggml_fp16_to_fp32(mask[i]) != -kInfinity)
          mask[i] = ggml_fp32_to_fp16(static_cast<float>(cell - s.cells) / 8);
      }
    }
    return *this;
  }

  // The slope of a head, as the paper gives it for numbers of heads that are powers of two and, between them, for
  // others.
  double slope(int64_t head) const {
    if (max_bias == 0) return 1;
    const auto power = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(s.heads)));
    const double exponent = head < power ? static_cast<double>(head + 1) / static_cast<double>(power)
                                         : (static_cast<double>(head - power) + 0.5) / static_cast<double>(power);
    return std::exp2(-static_cast<double>(max_bias) * exponent);
  }

  // [streams][tokens][heads][v_size]
  std::vector<float> run(const KernelTable& table, int threads = 1) const {
    std::vector<float> out(index(s.streams * s.tokens * s.heads, s.v_size), -777.0F);
    const Attention a = attention(table, out.data());
    AttentionWork work(a, threads);
    std::vector<std::thread> pool;
    for (int t = 0; t < threads; ++t) {
      pool.emplace_back([&] {
        struct alignas(kBlockBytes) Line {
          std::byte bytes[kBlockBytes];
        };
        std::vector<Line> scratch(attention_scratch(s.k_size, s.v_size) / kBlockBytes);
        work.attend(scratch.front().bytes);
      });
    }
    for (std::thread& t : pool) t.join();
    return out;
  }

  // One result in double precision, and what it may be off by when scores are off by a `relative` part of their terms.
  struct Expected {
    std::vector<double> value, tolerance;
  };
  Expected expect(int64_t stream, int64_t token, int64_t head, double relative) const {
    const int64_t kv_head = head / (s.heads / s.kv_heads);
    const float* query = &q[index((stream * s.tokens + token) * s.heads + head, s.k_size)];
    std::vector<double> scores(static_cast<size_t>(s.cells), -kInfinity);
    double highest = -kInfinity;
    double terms = 1 + cap;
    std::vector<std::vector<float>> values(static_cast<size_t>(s.cells));
    for (int64_t c = 0; c < s.cells; ++c) {
      const float m = ggml_fp16_to_fp32(mask[index(stream * s.tokens + token, s.cells) + static_cast<size_t>(c)]);
      if (m == -kInfinity) continue;
      const std::vector<float> keys = k.row(stream * s.cells + c);
      double score = 0;
      double size = 0;
      for (int64_t d = 0; d < s.k_size; ++d) {
        const double term = static_cast<double>(query[d]) * keys[index(kv_head, s.k_size) + static_cast<size_t>(d)];
        score += term;
        size += std::abs(term);
      }
      score *= scale;
      if (cap > 0) score = cap * std::tanh(score / cap);
      score += slope(head) * m;
      size += std::abs(slope(head) * m) / scale;
      scores[static_cast<size_t>(c)] = score;
      highest = std::max(highest, score);
      terms = std::max(terms, size * scale);
      values[static_cast<size_t>(c)] = v.row(stream * s.cells + c);
    }
    Expected e{std::vector<double>(static_cast<size_t>(s.v_size)), std::vector<double>(static_cast<size_t>(s.v_size))};
    double total = 0;
    if (!sinks.empty()) {
      const double sink = sinks[static_cast<size_t>(head)];
      highest = std::max(highest, sink);
      total = std::exp(sink - highest);
    }
    for (const double score : scores) total += std::exp(score - highest);
    for (size_t c = 0; c < scores.size(); ++c) {
      if (values[c].empty()) continue;
      const double p = std::exp(scores[c] - highest) / total;
      for (size_t d = 0; d < e.value.size(); ++d) {
        const double part = p * values[c][index(kv_head, s.v_size) + d];
        e.value[d] += part;
        e.tolerance[d] += std::abs(part) * terms * relative * 2;
      }
    }
    for (double& t : e.tolerance) t += 1e-30;
    return e;
  }

  static size_t index(int64_t row, int64_t size) { return static_cast<size_t>(row) * static_cast<size_t>(size); }
};

struct InstructionSet {
  const char* name;
  KernelTable table;
};

std::vector<InstructionSet> instruction_sets() {
  std::vector<InstructionSet> all;
  for (const char* limit : {"avx2", "avx512", ""}) {
    const KernelTable table = select_kernels(detect_machine(limit));
    const auto same = [&](const InstructionSet& known) {
      for (const Format f : {Format::kF32, Format::kF16, Format::kBF16}) {
        if (known.table.of[static_cast<int>(f)].tile != table.of[static_cast<int>(f)].tile) return false;
      }
      return true;
    };
    if (table.of[0].tile != nullptr && std::none_of(all.begin(), all.end(), same))
      all.push_back({*limit == 0 ? "all" : limit, table});
  }
  return all;
}

class AttentionOf : public testing::TestWithParam<InstructionSet> {
 protected:
  const KernelTable& table() const { return GetParam().table; }

  void check(const Problem& p) {
    const bool rounds =
        p.k.type == GGML_TYPE_BF16 && table().of[static_cast<int>(Format::kBF16)].packing != Packing::kF32;
    const std::vector<float> out = p.run(table());
    size_t at = 0;
    for (int64_t stream = 0; stream < p.s.streams; ++stream) {
      for (int64_t token = 0; token < p.s.tokens; ++token) {
        for (int64_t head = 0; head < p.s.heads; ++head) {
          const Problem::Expected e = p.expect(stream, token, head, rounds ? 1.0 / 256 : 1e-6);
          for (size_t d = 0; d < e.value.size(); ++d, ++at) {
            ASSERT_NEAR(out[at], e.value[d], e.tolerance[d])
                << "stream " << stream << " token " << token << " head " << head << " element " << d << "; sizes "
                << p.s.k_size << " " << p.s.v_size << ", " << p.s.cells << " cells, " << p.s.tokens << " tokens, "
                << p.s.heads << " heads on " << p.s.kv_heads;
          }
        }
      }
    }
  }

  std::mt19937 random_{20261126};
};

TEST_P(AttentionOf, EverySizeOfVector) {
  for (int64_t size = 16; size <= 288; size += 16)
    check(Problem({.k_size = size, .v_size = 304 - size, .cells = 48, .tokens = 3}, GGML_TYPE_F16, GGML_TYPE_F16,
                  random_));
}

TEST_P(AttentionOf, EveryFormatOfTheCache) {
  for (const ggml_type k : {GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_BF16}) {
    for (const ggml_type v : {GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_BF16})
      check(Problem({.k_size = 80, .cells = 96, .tokens = 9}, k, v, random_));
  }
}

TEST_P(AttentionOf, EveryNumberOfTokens) {
  for (int64_t tokens = 1; tokens <= 33; ++tokens)
    check(Problem({.k_size = 32, .v_size = 32, .cells = 64, .tokens = tokens, .heads = 2, .kv_heads = 2}, GGML_TYPE_F16,
                  GGML_TYPE_F16, random_));
}

TEST_P(AttentionOf, HeadsThatShareKeys) {
  for (const int64_t kv_heads : {1, 2, 3, 6}) {
    check(Problem({.k_size = 32, .v_size = 48, .cells = 64, .tokens = 5, .heads = 6, .kv_heads = kv_heads},
                  GGML_TYPE_F16, GGML_TYPE_F16, random_));
  }
}

TEST_P(AttentionOf, Streams) {
  check(Problem({.cells = 32, .tokens = 2, .heads = 4, .kv_heads = 2, .streams = 3}, GGML_TYPE_F16, GGML_TYPE_F16,
                random_));
}

TEST_P(AttentionOf, CachesOfOneToManySlabs) {
  for (const int64_t cells : {16, 240, 256, 272, 512, 1040})
    check(Problem({.k_size = 32, .v_size = 32, .cells = cells, .tokens = 6}, GGML_TYPE_F16, GGML_TYPE_F16, random_));
}

TEST_P(AttentionOf, CausalMaskOfOneSession) {
  for (const int64_t used : {1, 15, 16, 17, 250, 300}) {
    Problem p({.cells = 512, .tokens = 7}, GGML_TYPE_F16, GGML_TYPE_F16, random_, 0);
    for (int64_t t = 0; t < p.s.tokens; ++t) {
      for (int64_t c = used + t; c < p.s.cells; ++c) p.leave_out(t, c);
    }
    check(p);
  }
}

TEST_P(AttentionOf, SessionsOfDifferentCells) {
  Problem p({.cells = 512, .tokens = 12, .heads = 2, .kv_heads = 1}, GGML_TYPE_F16, GGML_TYPE_F16, random_, 0.1);
  for (int64_t t = 0; t < p.s.tokens; ++t) {
    for (int64_t c = 0; c < p.s.cells; ++c) {
      if (c / 40 % 3 != t % 3) p.leave_out(t, c);
    }
  }
  check(p);
}

TEST_P(AttentionOf, ScoresFarApart) {
  for (const float size : {30.0F, 3e3F, 1e-6F}) {
    Problem p({.k_size = 32, .v_size = 32, .cells = 512, .tokens = 4}, GGML_TYPE_F32, GGML_TYPE_F32, random_);
    for (float& x : p.q) x *= size;
    check(p);
  }
}

// What some kinds of models do to scores. Heads that share keys have slopes and sinks of their own.
TEST_P(AttentionOf, CapsBiasesAndSinks) {
  const auto problem = [&](int64_t heads, float size) {
    Problem p(
        {.k_size = 48, .v_size = 32, .cells = 528, .tokens = 5, .heads = heads, .kv_heads = heads / 2, .streams = 2},
        GGML_TYPE_F16, GGML_TYPE_F16, random_);
    for (float& x : p.q) x *= size;
    return p;
  };
  for (const int64_t heads : {2, 6, 8, 12}) {
    check(problem(heads, 1).vary(0, 8, false));
    check(problem(heads, 1).vary(0, 0, true));
    check(problem(heads, 1).vary(30, 8, true));
  }
  for (const float size : {1e-3F, 1.0F, 30.0F, 3e3F}) {
    check(problem(2, size).vary(50, 0, false));
    check(problem(2, size).vary(0, 0, true));
  }
}

TEST_P(AttentionOf, ASinkAloneIsZero) {
  Problem p({.cells = 272, .tokens = 3}, GGML_TYPE_F16, GGML_TYPE_F16, random_);
  p.sinks = {3};
  for (int64_t c = 0; c < p.s.cells; ++c) p.leave_out(1, c);
  const std::vector<float> out = p.run(table());
  for (size_t d = 0; d < 64; ++d) EXPECT_EQ(out[64 + d], 0.0F);
  p.sinks = {-kInfinity};  // as if there were none
  const std::vector<float> none = p.run(table());
  p.sinks.clear();
  EXPECT_EQ(p.run(table()), none);
}

TEST_P(AttentionOf, NothingToSeeIsZero) {
  Problem p({.cells = 272, .tokens = 3}, GGML_TYPE_F16, GGML_TYPE_F16, random_);
  for (int64_t c = 0; c < p.s.cells; ++c) p.leave_out(1, c);
  const std::vector<float> out = p.run(table());
  for (size_t d = 0; d < 64; ++d) EXPECT_EQ(out[64 + d], 0.0F);
  check(p);
}

// What is left out has no effect: another session's cells, or memory that was never written.
TEST_P(AttentionOf, CellsLeftOutMayHoldAnything) {
  for (const float bad : {kNan, kInfinity, -kInfinity}) {
    Problem p({.cells = 272, .tokens = 6}, GGML_TYPE_F32, GGML_TYPE_F32, random_);
    for (const int64_t cell : {3, 100, 255, 270}) {
      for (int64_t t = 0; t < p.s.tokens; ++t) {
        if (t != 4) p.leave_out(t, cell);
      }
    }
    for (int64_t t = 0; t < p.s.tokens; ++t) p.leave_out(t, 200);  // by nobody
    p.leave_out(4, 100);
    const std::vector<float> clean = p.run(table());
    for (const int64_t cell : {3, 100, 200, 255, 270}) {
      for (Matrix* m : {&p.k, &p.v}) std::memcpy(p.vector(*m, cell, 0) + 20, &bad, sizeof bad);
    }
    const std::vector<float> out = p.run(table());
    for (size_t i = 0; i < out.size(); ++i) {
      if (i / 64 == 4) continue;
      ASSERT_EQ(out[i], clean[i]) << "token " << i / 64;
    }
    EXPECT_FALSE(std::isfinite(out[4 * 64 + 5])) << "token 4 sees the bad cells";
  }
}

TEST_P(AttentionOf, NotANumberInAQueryStaysThere) {
  for (const float bad : {kNan, kInfinity}) {
    Problem p({.cells = 272, .tokens = 6}, GGML_TYPE_F16, GGML_TYPE_F16, random_);
    const std::vector<float> clean = p.run(table());
    p.q[2 * 64 + 7] = bad;
    const std::vector<float> out = p.run(table());
    for (size_t i = 0; i < out.size(); ++i) {
      if (i / 64 == 2) {
        ASSERT_TRUE(std::isnan(out[i]));
      } else {
        ASSERT_EQ(out[i], clean[i]);
      }
    }
  }
}

// A token alone, among others, with other cells behind those it sees, and split over any number of threads.
TEST_P(AttentionOf, BitsDoNotDependOnTheBatch) {
  for (const auto& [type, kind] : {std::pair{GGML_TYPE_F16, 0},
                                   {GGML_TYPE_BF16, 0},
                                   {GGML_TYPE_F32, 0},
                                   {GGML_TYPE_F16, 1},
                                   {GGML_TYPE_F16, 2},
                                   {GGML_TYPE_F16, 3}}) {
    Problem batch({.cells = 528, .tokens = 21, .heads = 6, .kv_heads = 2}, type, type, random_);
    batch.vary(kind == 1 ? 20 : 0, kind == 2 ? 8 : 0, kind == 3);
    for (int64_t t = 0; t < batch.s.tokens; ++t) {
      for (int64_t c = 300; c < batch.s.cells; ++c) batch.leave_out(t, c);
    }
    const std::vector<float> all = batch.run(table());
    for (const int threads : {2, 3, 40}) EXPECT_EQ(batch.run(table(), threads), all) << threads << " threads";
    const size_t q_token = Problem::index(batch.s.heads, batch.s.k_size);
    const size_t out_token = Problem::index(batch.s.heads, batch.s.v_size);
    for (int64_t t = 0; t < batch.s.tokens; ++t) {
      Problem one = batch;
      const int64_t cells = t % 2 == 0 ? 304 : 528;
      one.s.tokens = 1;
      one.s.cells = cells;
      one.q.assign(batch.q.begin() + static_cast<std::ptrdiff_t>(static_cast<size_t>(t) * q_token),
                   batch.q.begin() + static_cast<std::ptrdiff_t>(static_cast<size_t>(t + 1) * q_token));
      one.mask.assign(batch.mask_row(t), batch.mask_row(t) + cells);
      const std::vector<float> alone = one.run(table());
      ASSERT_EQ(std::memcmp(alone.data(), all.data() + static_cast<size_t>(t) * out_token, out_token * sizeof(float)),
                0)
          << "token " << t;
    }
  }
}

// The same problem as an operation of ggml on a device.
std::vector<float> on_device(const Problem& p, ggml_backend_dev_t device) {
  const ggml_context_ptr context = make_context();
  const Shape& s = p.s;
  const auto tensor = [&](ggml_type type, int64_t size, int64_t rows, int64_t heads) {
    return ggml_new_tensor_4d(context.get(), type, size, heads, rows, s.streams);
  };
  ggml_tensor* q = tensor(GGML_TYPE_F32, s.k_size, s.tokens, s.heads);
  ggml_tensor* k = tensor(p.k.type, s.k_size, s.cells, s.kv_heads);
  ggml_tensor* v = tensor(p.v.type, s.v_size, s.cells, s.kv_heads);
  ggml_tensor* mask = ggml_new_tensor_4d(context.get(), GGML_TYPE_F16, s.cells, s.tokens, 1, s.streams);
  const auto heads_apart = [&](ggml_tensor* t) { return ggml_permute(context.get(), t, 0, 2, 1, 3); };
  ggml_tensor* out = ggml_flash_attn_ext(context.get(), heads_apart(q), heads_apart(k), heads_apart(v), mask, p.scale,
                                         p.max_bias, p.cap);
  ggml_tensor* sinks = p.sinks.empty() ? nullptr : ggml_new_tensor_1d(context.get(), GGML_TYPE_F32, s.heads);
  ggml_flash_attn_ext_add_sinks(out, sinks);
  EXPECT_TRUE(ggml_backend_dev_supports_op(device, out));
  ggml_cgraph* graph = ggml_new_graph(context.get());
  ggml_build_forward_expand(graph, out);
  const ggml_backend_ptr backend(ggml_backend_dev_init(device, nullptr));
  const ggml_backend_buffer_ptr buffer(
      ggml_backend_alloc_ctx_tensors_from_buft(context.get(), ggml_backend_cpu_buffer_type()));
  ggml_backend_tensor_set(q, p.q.data(), 0, ggml_nbytes(q));
  ggml_backend_tensor_set(k, p.k.data(), 0, ggml_nbytes(k));
  ggml_backend_tensor_set(v, p.v.data(), 0, ggml_nbytes(v));
  ggml_backend_tensor_set(mask, p.mask.data(), 0, ggml_nbytes(mask));
  if (sinks != nullptr) ggml_backend_tensor_set(sinks, p.sinks.data(), 0, ggml_nbytes(sinks));
  EXPECT_EQ(ggml_backend_graph_compute(backend.get(), graph), GGML_STATUS_SUCCESS);
  std::vector<float> result(static_cast<size_t>(ggml_nelements(out)));
  ggml_backend_tensor_get(out, result.data(), 0, ggml_nbytes(out));
  return result;
}

double relative_error(const Problem& p, const std::vector<float>& out) {
  double error = 0;
  double size = 0;
  for (size_t row = 0; row < out.size() / static_cast<size_t>(p.s.v_size); ++row) {
    const auto at = static_cast<int64_t>(row);
    const Problem::Expected e =
        p.expect(at / (p.s.heads * p.s.tokens), at / p.s.heads % p.s.tokens, at % p.s.heads, 1e-6);
    for (size_t d = 0; d < e.value.size(); ++d) {
      error += std::pow(out[row * e.value.size() + d] - e.value[d], 2);
      size += e.value[d] * e.value[d];
    }
  }
  return std::sqrt(error / size);
}

TEST(AttentionAccuracy, NoWorseThanGgml) {
  if (devices().cpu == nullptr || devices().gsd == nullptr) GTEST_SKIP() << "no AVX2, or no CPU backend of ggml";
  std::mt19937 random(5);
  for (const ggml_type type : {GGML_TYPE_F16, GGML_TYPE_BF16, GGML_TYPE_F32}) {
    for (const int64_t cells : {256, 2048}) {
      for (const char* kind : {"", "cap", "ALiBi", "sinks"}) {
        Problem p({.cells = cells, .tokens = 8, .heads = 6, .kv_heads = 2, .streams = 2}, type, type, random);
        p.vary(*kind == 'c' ? 5 : 0, *kind == 'A' ? 8 : 0, *kind == 's');
        const double ours = relative_error(p, on_device(p, devices().gsd));
        const double stock = relative_error(p, on_device(p, devices().cpu));
        std::printf("%-4s %4d cells %-5s: ours %.3g, ggml %.3g\n", ggml_type_name(type), static_cast<int>(cells), kind,
                    ours, stock);
        EXPECT_LE(ours, stock * 1.02 + 1e-7) << ggml_type_name(type) << ", " << cells << " cells " << kind;
        EXPECT_LE(stock, 0.02) << "both compute the same operation";
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(, AttentionOf, testing::ValuesIn(instruction_sets()),
                         [](const auto& param) { return std::string(param.param.name); });
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(AttentionOf);

}  // namespace
}  // namespace gsd::narrow::test
