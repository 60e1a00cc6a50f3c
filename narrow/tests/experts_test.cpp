// Products by experts: bit for bit those of each token and slot alone, whoever else is there, on any number of threads.
#include "experts.h"

#include <gtest/gtest.h>

#include <barrier>
#include <climits>
#include <cstring>
#include <memory>
#include <new>
#include <thread>

#include "matrices.h"

namespace gsd::narrow::test {
namespace {

constexpr float kUntouched = -777.0F;

struct AlignedFree {
  void operator()(std::byte* p) const { ::operator delete[](p, std::align_val_t{kBlockBytes}); }
};

class Experts : public testing::TestWithParam<Case> {
 protected:
  static constexpr int64_t kExperts = 6, kSlots = 3;

  // Two products of the same activations, the second with fewer rows than a tile has.
  void SetUp() override {
    for (const int64_t rows : {37, 5})
      weights_.push_back(make_matrix(info().type, normal(random_, kExperts * rows * k()), k()));
  }

  const FormatInfo& info() const { return GetParam().info; }
  const Kernel& kernel() const { return GetParam().kernel; }
  int64_t k() const { return info().block == 1 ? 75 : info().block * 2; }
  int64_t rows(size_t product) const { return weights_[product].rows / kExperts; }

  Matrix expert(size_t product, int64_t e) const {
    Matrix m = weights_[product];
    m.rows = rows(product);
    const auto first = m.bytes.begin() + static_cast<ptrdiff_t>(e * m.rows) * static_cast<ptrdiff_t>(m.row_bytes());
    m.bytes = {first, first + static_cast<ptrdiff_t>(m.rows) * static_cast<ptrdiff_t>(m.row_bytes())};
    return m;
  }

  // The results of both products, [token][slot][row and one more that must stay as it was].
  using Results = std::vector<std::vector<float>>;

  // x: [token][x_slots][k]. ids: [token][slot].
  Results run(const std::vector<float>& x, int64_t x_slots, const std::vector<int32_t>& ids, int threads, int present) {
    const auto tokens = static_cast<int64_t>(ids.size()) / kSlots;
    Results out;
    std::vector<ExpertProduct> products;
    for (size_t i = 0; i < weights_.size(); ++i) {
      out.emplace_back(static_cast<size_t>(tokens * kSlots * (rows(i) + 1)), kUntouched);
      const Matrix& m = weights_[i];
      products.push_back({{kernel(), m.data(), m.row_bytes(), rows(i), out[i].data(), rows(i) + 1},
                          m.row_bytes() * static_cast<size_t>(rows(i)),
                          kSlots * (rows(i) + 1)});
    }
    const size_t bytes = packed_bytes(kernel().packing, k(), tokens * kSlots, threads);
    const std::unique_ptr<std::byte, AlignedFree> packed(
        static_cast<std::byte*>(::operator new[](bytes, std::align_val_t{kBlockBytes})));
    const ExpertJob job{.products = products,
                        .x = x.data(),
                        .x_slots = x_slots,
                        .x_slot = k(),
                        .x_token = x_slots * k(),
                        .k = k(),
                        .ids = reinterpret_cast<const uint8_t*>(ids.data()),
                        .ids_slot = sizeof(int32_t),
                        .ids_token = kSlots * sizeof(int32_t),
                        .experts = kExperts,
                        .slots = kSlots,
                        .tokens = tokens,
                        .packed = packed.get()};
    ExpertWork work(job, threads);
    std::barrier barrier(present);
    std::vector<std::thread> pool;
    for (int t = 0; t < present; ++t) {
      pool.emplace_back([&, t] {
        work.pack(t, present);
        if (!work.packs_apart()) barrier.arrive_and_wait();
        work.multiply(t);
      });
    }
    for (std::thread& t : pool) t.join();
    return out;
  }

  // The same, one token and slot after the other.
  Results one_by_one(const std::vector<float>& x, int64_t x_slots, const std::vector<int32_t>& ids) {
    Results out(weights_.size());
    for (size_t i = 0; i < ids.size(); ++i) {
      const auto token = static_cast<int64_t>(i) / kSlots;
      const int64_t slot = static_cast<int64_t>(i) % kSlots % x_slots;
      const auto from = x.begin() + static_cast<ptrdiff_t>((token * x_slots + slot) * k());
      for (size_t p = 0; p < weights_.size(); ++p) {
        std::vector<float> column(static_cast<size_t>(rows(p)));
        if (ids[i] >= 0 && ids[i] < kExperts)
          column = multiply(kernel(), expert(p, ids[i]), {from, from + static_cast<ptrdiff_t>(k())}, 1);
        out[p].insert(out[p].end(), column.begin(), column.end());
        out[p].push_back(kUntouched);
      }
    }
    return out;
  }

  std::vector<int32_t> random_ids(int64_t tokens) {
    std::vector<int32_t> ids(static_cast<size_t>(tokens * kSlots));
    for (int32_t& id : ids) id = static_cast<int32_t>(random_() % (kExperts - 1));  // nobody takes the last one
    return ids;
  }

  void check(const std::vector<int32_t>& ids, int64_t x_slots, int threads, int present) {
    const auto tokens = static_cast<int64_t>(ids.size()) / kSlots;
    const std::vector<float> x = normal(random_, tokens * x_slots * k());
    ASSERT_EQ(run(x, x_slots, ids, threads, present), one_by_one(x, x_slots, ids))
        << tokens << " tokens, " << threads << " threads, " << present << " present";
  }

  std::mt19937 random_{31};
  std::vector<Matrix> weights_;
};

TEST_P(Experts, EveryWidthHasTheBitsOfEachTokenAlone) {
  for (int64_t tokens = 1; tokens <= 64; ++tokens) {
    const int threads = 1 + static_cast<int>(tokens % 3);
    check(random_ids(tokens), tokens % 2 == 0 ? kSlots : 1, threads, threads);
  }
}

TEST_P(Experts, AnyNumberOfThreads) {
  for (const int threads : {1, 2, 4, 7, 40}) check(random_ids(9), 1, threads, threads);
  check(random_ids(9), kSlots, 8, 3);
  check(random_ids(9), kSlots, 2, 1);
}

TEST_P(Experts, OneExpertMayTakeAllOrNobodyAny) {
  check(std::vector<int32_t>(size_t{50} * kSlots, 2), 1, 3, 3);  // more columns than a slab has
  check(std::vector<int32_t>(size_t{2} * kSlots, kExperts), 1, 2, 2);
}

TEST_P(Experts, WhatNamesNoExpertGivesZeros) {
  std::vector<int32_t> ids = random_ids(8);
  size_t i = 1;
  for (const int32_t bad : {-1, static_cast<int32_t>(kExperts), INT_MAX, INT_MIN}) ids[i += 4] = bad;
  check(ids, 1, 2, 2);
  check(ids, kSlots, 1, 1);
}

TEST_P(Experts, ManyTokensShareTheirPackedActivations) {
  weights_.clear();  // with rows long enough that the threads no longer pack all of them each
  const int64_t tokens = (600 << 10) / (k() * kSlots) + 1;
  for (const int64_t rows : {17, 1})
    weights_.push_back(make_matrix(info().type, normal(random_, kExperts * rows * k()), k()));
  check(random_ids(tokens), 1, 3, 3);
}

INSTANTIATE_TEST_SUITE_P(All, Experts, testing::ValuesIn(all_cases()),
                         [](const auto& param_info) { return param_info.param.name; });
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(Experts);

}  // namespace
}  // namespace gsd::narrow::test
