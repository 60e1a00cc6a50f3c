#include "plan.h"

#include <omp.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <optional>

#include "operations.h"
#include "plugin.h"

namespace gsd::narrow {
namespace {

bool disjoint(const ggml_tensor& a, const ggml_tensor& b) {
  const auto* a_begin = static_cast<const uint8_t*>(a.data);
  const auto* b_begin = static_cast<const uint8_t*>(b.data);
  return a_begin + ggml_nbytes(&a) <= b_begin || b_begin + ggml_nbytes(&b) <= a_begin;
}

// Rows of a tensor of activations, by number: those of a token side by side. With `heads`, all of a token are one.
struct RowsOf {
  uint8_t* data;
  int64_t of_token;
  size_t stride, token_stride;

  explicit RowsOf(const ggml_tensor& t, bool heads = false)
      : data(static_cast<uint8_t*>(t.data)), of_token(heads ? 1 : t.ne[1]), stride(t.nb[1]), token_stride(t.nb[2]) {}
  float* row(int64_t r) const {
    return reinterpret_cast<float*>(data + static_cast<size_t>(r / of_token) * token_stride +
                                    static_cast<size_t>(r % of_token) * stride);
  }
};

bool has_heads(const ggml_tensor& node) { return node.op == GGML_OP_ROPE; }
int64_t rows_of(const ggml_tensor& node) {
  return node.op == GGML_OP_SET_ROWS ? node.src[0]->ne[1] : has_heads(node) ? node.ne[2] : node.ne[1] * node.ne[2];
}

// The bytes from row to row if the tensor is cut into so many; 0 if it is not.
size_t row_stride(const ggml_tensor& t, int64_t rows) {
  if (t.ne[2] == rows && t.ne[3] == 1 && t.ne[1] > 1 && rows > 1) return t.nb[2];
  const bool evenly = t.ne[2] == 1 || t.nb[2] == static_cast<size_t>(t.ne[1]) * t.nb[1];
  return ggml_nrows(&t) == rows && evenly && t.ne[3] == 1 ? t.nb[1] : 0;
}

// Row r of one is apart from every other row of the other. What SET_ROWS writes has an order of its own.
bool row_by_row(const ggml_tensor& a, const ggml_tensor& b, int64_t rows) {
  if (disjoint(a, b)) return true;
  if (a.op == GGML_OP_SET_ROWS || b.op == GGML_OP_SET_ROWS) return false;
  const size_t stride = row_stride(a, rows);
  return stride != 0 && stride == row_stride(b, rows) && a.data == b.data;
}

template <class F>
bool all_sources(const ggml_tensor& node, F&& f) {
  for (const ggml_tensor* source : node.src) {
    if (source != nullptr && !f(*source)) return false;
  }
  return true;
}

}  // namespace

class Step {
 public:
  virtual ~Step() = default;
  virtual size_t scratch_bytes(int) const { return 0; }
  virtual void prepare(std::byte*, int) {}
  virtual void run(int thread, int present) = 0;
};

namespace {

enum class PackedBy : uint8_t {
  kStep,     // itself
  kRows,     // the step before it, each column as soon as it is computed
  kProduct,  // an earlier product of the same activations, and nothing was packed since
};

class ProductStep : public Step {
 public:
  explicit ProductStep(const ggml_tensor& activations) : x_(activations) {}

  bool takes(const ggml_tensor& node, const Product& product) const {
    return node.src[1] == &x_ && product.kernel.packing == products_.front().kernel.packing;
  }
  void add(const Product& product) { products_.push_back(product); }
  const ggml_tensor& x() const { return x_; }
  Packing packing() const { return products_.front().kernel.packing; }
  void packed_by(PackedBy by) { packed_by_ = by; }
  void pack_column(int64_t column) {
    if (!work_->packs_apart()) work_->pack_column(column);
  }
  void followed_by(const Work& next) { work_->followed_by(next); }
  const Work& work() const { return *work_; }

  size_t scratch_bytes(int threads) const override { return packed_bytes(packing(), x_.ne[0], x_.ne[1], threads); }
  void prepare(std::byte* scratch, int threads) override {
    job_.emplace(Job{products_, static_cast<const float*>(x_.data), static_cast<int64_t>(x_.nb[1] / sizeof(float)),
                     x_.ne[0], x_.ne[1], scratch});
    work_.emplace(*job_, threads);
    plugin().products.fetch_add(products_.size(), std::memory_order_relaxed);
    if (packed_by_ != PackedBy::kProduct) plugin().conversions.fetch_add(1, std::memory_order_relaxed);
  }
  void run(int thread, int present) override {
    if (work_->packs_apart()) {
      if (packed_by_ != PackedBy::kProduct) work_->pack(thread, present);
    } else if (packed_by_ == PackedBy::kStep) {
      work_->pack(thread, present);
#pragma omp barrier
    }
    work_->multiply(thread);
  }

 private:
  const ggml_tensor& x_;
  std::vector<Product> products_;
  std::optional<Job> job_;
  std::optional<Work> work_;
  PackedBy packed_by_ = PackedBy::kStep;
};

class ExpertStep : public Step {
 public:
  explicit ExpertStep(const ggml_tensor& node) : x_(*node.src[1]), ids_(*node.src[2]), experts_(node.src[0]->ne[2]) {}

  bool takes(const ggml_tensor& node, const ExpertProduct& product) const {
    return node.src[1] == &x_ && node.src[2] == &ids_ && node.src[0]->ne[2] == experts_ &&
           product.of.kernel.packing == packing();
  }
  void add(const ExpertProduct& product) { products_.push_back(product); }
  void followed_by(const Work& next) { work_->followed_by(next); }

  size_t scratch_bytes(int threads) const override {
    return packed_bytes(packing(), x_.ne[0], ids_.ne[0] * ids_.ne[1], threads);
  }
  void prepare(std::byte* scratch, int threads) override {
    const auto floats = [](size_t bytes) { return static_cast<int64_t>(bytes / sizeof(float)); };
    job_.emplace(ExpertJob{.products = products_,
                           .x = static_cast<const float*>(x_.data),
                           .x_slots = x_.ne[1],
                           .x_slot = floats(x_.nb[1]),
                           .x_token = floats(x_.nb[2]),
                           .k = x_.ne[0],
                           .ids = static_cast<const uint8_t*>(ids_.data),
                           .ids_slot = ids_.nb[0],
                           .ids_token = ids_.nb[1],
                           .experts = experts_,
                           .slots = ids_.ne[0],
                           .tokens = ids_.ne[1],
                           .packed = scratch});
    work_.emplace(*job_, threads);
    plugin().products.fetch_add(products_.size(), std::memory_order_relaxed);
    plugin().conversions.fetch_add(1, std::memory_order_relaxed);
  }
  void run(int thread, int present) override {
    work_->pack(thread, present);
    if (!work_->packs_apart()) {
#pragma omp barrier
    }
    work_->multiply(thread);
  }

 private:
  Packing packing() const { return products_.front().of.kernel.packing; }

  const ggml_tensor& x_;
  const ggml_tensor& ids_;
  int64_t experts_;
  std::vector<ExpertProduct> products_;
  std::optional<ExpertJob> job_;
  std::optional<ExpertWork> work_;
};

class AttentionStep : public Step {
 public:
  explicit AttentionStep(const ggml_tensor& node) : attention_(attention_of(node)) {}

  size_t scratch_bytes(int threads) const override { return each() * static_cast<size_t>(threads); }
  void prepare(std::byte* scratch, int threads) override {
    scratch_ = scratch;
    work_.emplace(attention_, threads);
    plugin().attentions.fetch_add(1, std::memory_order_relaxed);
  }
  void run(int thread, int) override { work_->attend(scratch_ + each() * static_cast<size_t>(thread)); }

 private:
  size_t each() const { return attention_scratch(attention_.k_size, attention_.v_size); }

  Attention attention_;
  std::optional<AttentionWork> work_;
  std::byte* scratch_ = nullptr;
};

class RowStep : public Step {
 public:
  explicit RowStep(int64_t rows) : rows_(rows) {}

  // Whether a thread can do all of a row before others have done theirs.
  bool takes(const ggml_tensor& node) const {
    if (rows_of(node) != rows_) return false;
    if (rows_ == 1) return true;
    for (const ggml_tensor* before : nodes_) {
      const auto apart = [&](const ggml_tensor& t) { return row_by_row(node, t, rows_); };
      const auto reads_apart = [&](const ggml_tensor& t) { return row_by_row(t, *before, rows_); };
      if (!apart(*before) || !all_sources(*before, apart) || !all_sources(node, reads_apart)) return false;
    }
    return true;
  }
  // Whether the step neither reads nor writes what the node is written to.
  bool is_apart_from(const ggml_tensor& node) const {
    const auto apart = [&](const ggml_tensor& t) { return disjoint(node, t); };
    return std::all_of(nodes_.begin(), nodes_.end(),
                       [&](const ggml_tensor* n) { return apart(*n) && all_sources(*n, apart); });
  }
  // Whether the rows of x are those that the step has computed.
  bool computes(const ggml_tensor& x) const {
    return x.op != GGML_OP_SET_ROWS && row_stride(x, rows_) != 0 &&
           std::find(nodes_.begin(), nodes_.end(), &x) != nodes_.end();
  }
  void add(const ggml_tensor& node, std::function<void(int64_t)> operation) {
    if (nodes_.empty() || nodes_.back() != &node) nodes_.push_back(&node);
    operations_.push_back(std::move(operation));
  }
  void pack(ProductStep& product) { packed_ = &product; }

  void prepare(std::byte*, int) override {
    plugin().row_operations.fetch_add(nodes_.size(), std::memory_order_relaxed);
  }
  void run(int thread, int present) override {
    for (int64_t row = thread; row < rows_; row += present) {
      for (const auto& operation : operations_) operation(row);
      if (packed_ != nullptr) packed_->pack_column(row);
    }
  }

 private:
  int64_t rows_;
  std::vector<const ggml_tensor*> nodes_;
  std::vector<std::function<void(int64_t)>> operations_;
  ProductStep* packed_ = nullptr;
};

std::function<void(int64_t)> two_sources(const ggml_tensor& node,
                                         void (*f)(const float*, const float*, float*, int64_t)) {
  const RowsOf a(*node.src[0]);
  const RowsOf b(*node.src[1]);
  const RowsOf out(node);
  const int64_t n = node.ne[0];
  const bool one = ggml_nrows(node.src[1]) == 1;
  return [=](int64_t r) { f(a.row(r), b.row(one ? 0 : r), out.row(r), n); };
}

std::function<void(int64_t)> gate(const ggml_tensor& node) {
  if (ggml_get_glu_op(&node) == GGML_GLU_OP_SWIGLU) return two_sources(node, swiglu_row);
  const RowsOf a(*node.src[0]);
  const RowsOf b(*node.src[1]);
  const RowsOf out(node);
  const int64_t n = node.ne[0];
  float alpha_and_limit[2];
  std::memcpy(alpha_and_limit, node.op_params + 2, sizeof alpha_and_limit);
  const auto [alpha, limit] = alpha_and_limit;
  return
      [=, alpha = alpha, limit = limit](int64_t r) { swiglu_oai_row(a.row(r), b.row(r), alpha, limit, out.row(r), n); };
}

std::function<void(int64_t)> scale(const ggml_tensor& node) {
  const RowsOf x(*node.src[0]);
  const RowsOf factor(*node.src[1]);
  const RowsOf out(node);
  const int64_t n = node.ne[0];
  return [=](int64_t r) { scale_row(x.row(r), *factor.row(r), out.row(r), n); };
}

// The row of an expert. What names none adds nothing.
std::function<void(int64_t)> add_chosen(const ggml_tensor& node) {
  const RowsOf x(*node.src[0]);
  const RowsOf rows(*node.src[1]);
  const RowsOf out(node);
  const int64_t n = node.ne[0];
  const int64_t limit = node.src[1]->ne[1];
  const ggml_tensor& ids = *node.src[2];
  const int64_t slots = ids.ne[0];
  return [=, &ids](int64_t r) {
    const auto* id = static_cast<const uint8_t*>(ids.data) + static_cast<size_t>(r / slots) * ids.nb[1] +
                     static_cast<size_t>(r % slots) * ids.nb[0];
    const auto chosen = *reinterpret_cast<const int32_t*>(id);
    if (chosen >= 0 && chosen < limit)
      add_row(x.row(r), rows.row(chosen), out.row(r), n);
    else
      scale_row(x.row(r), 1, out.row(r), n);
  };
}

std::function<void(int64_t)> norm(const ggml_tensor& node) {
  const RowsOf x(*node.src[0]);
  const RowsOf out(node);
  const int64_t n = node.ne[0];
  float epsilon;
  std::memcpy(&epsilon, node.op_params, sizeof epsilon);
  return [=](int64_t r) { rms_norm_row(x.row(r), epsilon, out.row(r), n); };
}

std::function<void(int64_t)> rotate(const ggml_tensor& node, const RotationTable& table) {
  const RowsOf x(*node.src[0], true);
  const RowsOf out(node, true);
  const size_t x_head = node.src[0]->nb[1];
  const size_t out_head = node.nb[1];
  const int64_t heads = node.ne[1];
  const int64_t n = node.ne[0];
  return [=, &table](int64_t r) {
    const float* angles = table.values.data() + r * 2 * table.rotation.dims;
    for (int64_t h = 0; h < heads; ++h) {
      const auto head = static_cast<size_t>(h);
      rotate_row(table.rotation, angles, x.row(r) + head * x_head / sizeof(float),
                 out.row(r) + head * out_head / sizeof(float), n);
    }
  };
}

// Indices are libllama's and in range; what is not is left out, as nothing may be written there.
std::function<void(int64_t)> store(const ggml_tensor& node) {
  const RowsOf x(*node.src[0]);
  const RowsOf out(node);
  const auto* index = static_cast<const int64_t*>(node.src[1]->data);
  const int64_t n = node.ne[0];
  const int64_t limit = node.ne[1];
  const bool half = node.type == GGML_TYPE_F16;
  return [=](int64_t r) {
    if (index[r] < 0 || index[r] >= limit) return;
    if (half)
      half_row(x.row(r), reinterpret_cast<uint16_t*>(out.row(index[r])), n);
    else
      std::memcpy(out.row(index[r]), x.row(r), static_cast<size_t>(n) * sizeof(float));
  };
}

bool is_work(const ggml_tensor& node) {
  const bool known = node.op == GGML_OP_MUL_MAT || node.op == GGML_OP_MUL_MAT_ID || node.op == GGML_OP_FLASH_ATTN_EXT ||
                     is_row_operation(node);
  return known && (node.flags & GGML_TENSOR_FLAG_COMPUTE) != 0 && !ggml_is_empty(&node);
}

}  // namespace

Plan::Plan(ggml_cgraph* graph, int threads, Scratch& scratch) {
  for (int i = 0; i < ggml_graph_n_nodes(graph); ++i) {
    const ggml_tensor& node = *ggml_graph_node(graph, i);
    if (is_work(node)) add(node);  // the others are views
  }
  size_t bytes = 0;
  for (const auto& step : steps_) bytes = std::max(bytes, step->scratch_bytes(threads));
  std::byte* memory = scratch.reserve(bytes);
  std::function<void(const Work&)> follow;
  for (const auto& step : steps_) {
    step->prepare(memory, threads);
    if (auto* product = dynamic_cast<ProductStep*>(step.get())) {
      if (follow) follow(product->work());
      follow = [product](const Work& next) { product->followed_by(next); };
    } else if (auto* experts = dynamic_cast<ExpertStep*>(step.get())) {
      follow = [experts](const Work& next) { experts->followed_by(next); };
    }
  }
}

Plan::~Plan() = default;

void Plan::run() {
  const int thread = omp_get_thread_num();
  const int present = omp_get_num_threads();
  for (const auto& step : steps_) {
    step->run(thread, present);
#pragma omp barrier
  }
}

void Plan::add(const ggml_tensor& node) {
  if (is_row_operation(node)) {
    add_rows(node);
  } else if (node.op == GGML_OP_FLASH_ATTN_EXT) {
    steps_.push_back(std::make_unique<AttentionStep>(node));
  } else if (node.op == GGML_OP_MUL_MAT_ID) {
    add_experts(node);
  } else {
    add_product(node);
  }
}

void Plan::add_product(const ggml_tensor& node) {
  const Product product = product_of(node);
  // An earlier product of the same activations takes it along, past rows that it has nothing to do with: libllama puts
  // the rotation of q between q and k.
  for (auto s = steps_.rbegin(); s != steps_.rend(); ++s) {
    if (auto* before = dynamic_cast<ProductStep*>(s->get())) {
      if (before->takes(node, product)) return before->add(product);
      break;
    }
    const auto* rows = dynamic_cast<RowStep*>(s->get());
    if (rows == nullptr || !rows->is_apart_from(node)) break;
  }
  auto* last = steps_.empty() ? nullptr : steps_.back().get();
  auto step = std::make_unique<ProductStep>(*node.src[1]);
  step->add(product);
  // Steps on rows leave the memory for packed activations alone.
  const auto user = std::find_if(steps_.rbegin(), steps_.rend(),
                                 [](const auto& s) { return dynamic_cast<RowStep*>(s.get()) == nullptr; });
  auto* shared = user == steps_.rend() ? nullptr : dynamic_cast<ProductStep*>(user->get());
  auto* rows = dynamic_cast<RowStep*>(last);
  if (shared != nullptr && shared->takes(node, product)) {
    step->packed_by(PackedBy::kProduct);
  } else if (rows != nullptr && rows->computes(step->x())) {
    rows->pack(*step);
    step->packed_by(PackedBy::kRows);
  }
  steps_.push_back(std::move(step));
}

void Plan::add_experts(const ggml_tensor& node) {
  const ExpertProduct product = expert_product_of(node);
  auto* step = steps_.empty() ? nullptr : dynamic_cast<ExpertStep*>(steps_.back().get());
  if (step == nullptr || !step->takes(node, product)) {
    steps_.push_back(std::make_unique<ExpertStep>(node));
    step = static_cast<ExpertStep*>(steps_.back().get());
  }
  step->add(product);
}

void Plan::add_rows(const ggml_tensor& node) {
  auto* step = steps_.empty() ? nullptr : dynamic_cast<RowStep*>(steps_.back().get());
  if (step == nullptr || !step->takes(node)) {
    steps_.push_back(std::make_unique<RowStep>(rows_of(node)));
    step = static_cast<RowStep*>(steps_.back().get());
  }
  switch (node.op) {
    case GGML_OP_ADD:
      return step->add(node, two_sources(node, add_row));
    case GGML_OP_ADD_ID:
      return step->add(node, add_chosen(node));
    case GGML_OP_MUL:
      return step->add(node, is_scaling(node) ? scale(node) : two_sources(node, multiply_row));
    case GGML_OP_GLU:
      return step->add(node, gate(node));
    case GGML_OP_RMS_NORM:
      return step->add(node, norm(node));
    case GGML_OP_SET_ROWS:
      return step->add(node, store(node));
    default:
      break;
  }
  bool fresh = false;
  RotationTable& table = rotation_of(node, fresh);
  if (fresh) {
    const auto* positions = static_cast<const int32_t*>(node.src[1]->data);
    step->add(node, [&table, positions](int64_t r) {
      fill_rotation(table.rotation, positions[r], table.values.data() + r * 2 * table.rotation.dims);
    });
  }
  step->add(node, rotate(node, table));
}

RotationTable& Plan::rotation_of(const ggml_tensor& node, bool& fresh) {
  for (RotationTable& table : rotations_) {
    if (table.node->src[1] == node.src[1] && table.node->src[2] == node.src[2] &&
        std::memcmp(table.node->op_params, node.op_params, sizeof node.op_params) == 0)
      return table;
  }
  fresh = true;
  float numbers[4];  // base, scale, correction, magnitude
  std::memcpy(numbers, node.op_params + 5, sizeof numbers);
  const Rotation rotation{.dims = node.op_params[1],
                          .halves = node.op_params[2] == GGML_ROPE_TYPE_NEOX,
                          .base = numbers[0],
                          .scale = numbers[1],
                          .magnitude = numbers[3],
                          .factors = node.src[2] == nullptr ? nullptr : static_cast<const float*>(node.src[2]->data)};
  rotations_.push_back({&node, rotation, std::vector<float>(static_cast<size_t>(node.ne[2] * 2 * rotation.dims))});
  return rotations_.back();
}

}  // namespace gsd::narrow
