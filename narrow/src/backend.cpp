// The face that ggml sees: a device of type ACCEL that computes narrow matrix products and attention in host memory.
#include <ggml-backend.h>
#include <ggml-cpu.h>
#include <ggml.h>
#include <omp.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <vector>

#include "attention.h"
#include "config.h"
#include "dispatch.h"
#include "ggml_backend_abi.h"
#include "work.h"

namespace gsd::narrow {
namespace {

struct Plugin {
  Config config;
  Machine machine = detect_machine(std::getenv("GSD_NARROW_ISA"));
  KernelTable kernels = select_kernels(machine);
  std::string description = "narrow matrix products and attention (" + describe(machine) + ")";
  std::atomic<uint64_t> products{0};
  std::atomic<uint64_t> regions{0};
  std::atomic<uint64_t> attentions{0};
  std::atomic<uint64_t> attentions_declined{0};
};

Plugin& plugin() {
  static Plugin instance;
  return instance;
}

std::optional<Format> format_of(ggml_type type) {
  switch (type) {
    case GGML_TYPE_F32:
      return Format::kF32;
    case GGML_TYPE_F16:
      return Format::kF16;
    case GGML_TYPE_BF16:
      return Format::kBF16;
    case GGML_TYPE_Q8_0:
      return Format::kQ8_0;
    case GGML_TYPE_Q4_0:
      return Format::kQ4_0;
    case GGML_TYPE_Q4_K:
      return Format::kQ4_K;
    case GGML_TYPE_Q5_K:
      return Format::kQ5_K;
    case GGML_TYPE_Q6_K:
      return Format::kQ6_K;
    default:
      return std::nullopt;
  }
}

const Kernel* kernel_of(ggml_type type) {
  const auto format = format_of(type);
  if (!format) return nullptr;
  const Kernel& kernel = plugin().kernels.of[static_cast<int>(*format)];
  return kernel.tile == nullptr ? nullptr : &kernel;
}

// One column of floating-point weights is left to ggml, which streams them as fast as memory gives them. Quantised
// weights keep it busy unpacking, where AVX-512 VNNI is faster even at one column.
int32_t min_width(ggml_type type) {
  const bool quantised = kernel_of(type)->packing == Packing::kQ8;
  return quantised && plugin().machine.avx512vnni ? 1 : 2;
}

bool is_matrix(const ggml_tensor& t) { return t.ne[2] == 1 && t.ne[3] == 1; }

bool has_contiguous_rows(const ggml_tensor& t) {
  return t.nb[0] == ggml_type_size(t.type) && t.nb[1] >= ggml_row_size(t.type, t.ne[0]);
}

// Weights only: a product of two activations (attention without flash attention) has strides and shapes of its own.
bool supports_product(const ggml_tensor& node) {
  const ggml_tensor& weights = *node.src[0];
  const ggml_tensor& x = *node.src[1];
  return kernel_of(weights.type) != nullptr && weights.op == GGML_OP_NONE && weights.ne[0] > 0 &&
         x.type == GGML_TYPE_F32 && node.type == GGML_TYPE_F32 && is_matrix(weights) && is_matrix(x) &&
         has_contiguous_rows(weights) && has_contiguous_rows(x) && node.nb[0] == sizeof(float) &&
         x.nb[1] % sizeof(float) == 0 &&
         plugin().config.takes(x.ne[1], static_cast<int64_t>(ggml_nbytes(&weights)), min_width(weights.type));
}

bool is_work(const ggml_tensor& node) {
  return (node.op == GGML_OP_MUL_MAT || node.op == GGML_OP_FLASH_ATTN_EXT) &&
         (node.flags & GGML_TENSOR_FLAG_COMPUTE) != 0 && !ggml_is_empty(&node);
}

Product product_of(const ggml_tensor& node) {
  const ggml_tensor& weights = *node.src[0];
  return {*kernel_of(weights.type),       static_cast<const uint8_t*>(weights.data),       weights.nb[1], weights.ne[1],
          static_cast<float*>(node.data), static_cast<int64_t>(node.nb[1] / sizeof(float))};
}

// Keys and values as libllama stores them in floating-point formats, and a mask. Position biases, capped scores and
// sinks are left to ggml.
bool can_attend(const ggml_tensor& node) {
  const ggml_tensor& q = *node.src[0];
  const ggml_tensor& k = *node.src[1];
  const ggml_tensor& v = *node.src[2];
  const ggml_tensor* mask = node.src[3];
  float bias_and_cap[2];
  std::memcpy(bias_and_cap, node.op_params + 1, sizeof bias_and_cap);
  const auto is_cache = [&](const ggml_tensor& t) {
    const Kernel* kernel = kernel_of(t.type);
    return kernel != nullptr && kernel->attend != nullptr && t.ne[0] > 0 && t.ne[0] % kAttentionStep == 0 &&
           t.nb[0] == ggml_type_size(t.type) && t.ne[1] == k.ne[1] && t.ne[2] == k.ne[2] && t.ne[3] == q.ne[3];
  };
  return is_cache(k) && is_cache(v) && k.ne[1] > 0 && k.ne[1] % kAttentionStep == 0 && k.ne[2] > 0 &&
         q.type == GGML_TYPE_F32 && q.ne[0] == k.ne[0] && q.ne[2] % k.ne[2] == 0 && q.nb[0] == sizeof(float) &&
         node.type == GGML_TYPE_F32 && ggml_is_contiguous(&node) && node.src[4] == nullptr && mask != nullptr &&
         mask->type == GGML_TYPE_F16 && mask->nb[0] == sizeof(uint16_t) && mask->ne[0] >= k.ne[1] &&
         mask->ne[1] >= q.ne[1] && mask->ne[2] == 1 && (mask->ne[3] == 1 || mask->ne[3] == q.ne[3]) &&
         bias_and_cap[0] == 0 && bias_and_cap[1] == 0;
}

bool supports_attention(const ggml_tensor& node) {
  const Config& config = plugin().config;
  if (!config.takes_attention(node.src[0]->ne[1])) return false;
  const bool can = can_attend(node);
  if (!can && config.exact()) plugin().attentions_declined.fetch_add(1, std::memory_order_relaxed);
  return can;
}

Attention attention_of(const ggml_tensor& node) {
  const ggml_tensor& q = *node.src[0];
  const ggml_tensor& k = *node.src[1];
  const ggml_tensor& v = *node.src[2];
  const ggml_tensor& mask = *node.src[3];
  const auto data = [](const ggml_tensor& t) { return static_cast<const uint8_t*>(t.data); };
  float scale;
  std::memcpy(&scale, node.op_params, sizeof scale);
  return {.keys = kernel_of(k.type),
          .values = kernel_of(v.type),
          .q = data(q),
          .q_stream = q.nb[3],
          .q_head = q.nb[2],
          .q_token = q.nb[1],
          .k = data(k),
          .k_stream = k.nb[3],
          .k_head = k.nb[2],
          .k_cell = k.nb[1],
          .v = data(v),
          .v_stream = v.nb[3],
          .v_head = v.nb[2],
          .v_cell = v.nb[1],
          .mask = data(mask),
          .mask_stream = mask.ne[3] == 1 ? 0 : mask.nb[3],
          .mask_token = mask.nb[1],
          .out = static_cast<float*>(node.data),
          .k_size = k.ne[0],
          .v_size = v.ne[0],
          .cells = k.ne[1],
          .tokens = q.ne[1],
          .heads = q.ne[2],
          .kv_heads = k.ne[2],
          .streams = q.ne[3],
          .scale = scale};
}

// Memory for packed activations and scores, kept from call to call.
class Scratch {
 public:
  std::byte* reserve(size_t bytes) {
    if (bytes > size_) {
      data_.reset(static_cast<std::byte*>(::operator new[](bytes, std::align_val_t{kBlockBytes})));
      size_ = bytes;
    }
    return data_.get();
  }

 private:
  struct Free {
    void operator()(std::byte* p) const { ::operator delete[](p, std::align_val_t{kBlockBytes}); }
  };
  std::unique_ptr<std::byte, Free> data_;
  size_t size_ = 0;
};

// Moves memory into huge pages where the system can: not what is mapped from a file, and not before Linux 6.1. A tile
// reads up to 32 rows side by side and asks for the next tile's; with pages of 4 KB it waits for the page table as long
// as for memory, in a virtual machine above all (docs/narrow-matmul.md).
void use_huge_pages([[maybe_unused]] ggml_backend_buffer_t buffer) {
#if defined(__linux__)
  constexpr uintptr_t kPage = 2 << 20;
  constexpr int kCollapse = 25;  // MADV_COLLAPSE, which older headers do not name
  const auto base = reinterpret_cast<uintptr_t>(ggml_backend_buffer_get_base(buffer));
  const uintptr_t begin = (base + kPage - 1) / kPage * kPage;
  const uintptr_t end = (base + ggml_backend_buffer_get_size(buffer)) / kPage * kPage;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, kCollapse);
#endif
}

// One per llama_context; ggml calls it from one thread at a time.
class Backend {
 public:
  void set_threads(int threads) { threads_ = threads < 1 ? 1 : threads; }

  // Products that follow each other and multiply the same activations are one job: q, k and v, gate and up.
  void compute(ggml_cgraph* graph) {
    const int nodes = ggml_graph_n_nodes(graph);
    const ggml_tensor* x = nullptr;
    for (int i = 0; i < nodes; ++i) {
      const ggml_tensor* node = ggml_graph_node(graph, i);
      if (!is_work(*node)) continue;  // views and reshapes, which are done without work
      if (node->op == GGML_OP_FLASH_ATTN_EXT) {
        run(x);
        attend(attention_of(*node));
        continue;
      }
      prepare(node->src[0]->buffer);
      const Product product = product_of(*node);
      const bool joins = node->src[1] == x && product.kernel.packing == products_.front().kernel.packing;
      if (!joins) run(x);
      x = node->src[1];
      products_.push_back(product);
    }
    run(x);
  }

 private:
  void prepare(ggml_backend_buffer_t weights) {
    if (weights == nullptr || std::find(prepared_.begin(), prepared_.end(), weights) != prepared_.end()) return;
    prepared_.push_back(weights);
    if (plugin().config.huge_pages()) use_huge_pages(weights);
  }

  void run(const ggml_tensor* x) {
    if (products_.empty()) return;
    const int64_t k = x->ne[0];
    const int64_t columns = x->ne[1];
    const size_t bytes = packed_bytes(products_.front().kernel.packing, k, columns);
    const Job job{products_,
                  static_cast<const float*>(x->data),
                  static_cast<int64_t>(x->nb[1] / sizeof(float)),
                  k,
                  columns,
                  scratch_.reserve(bytes)};
    Work work(job, threads_);
#pragma omp parallel num_threads(threads_)
    {
      work.pack(omp_get_thread_num(), omp_get_num_threads());
#pragma omp barrier
      work.multiply(omp_get_thread_num());
    }
    plugin().products.fetch_add(products_.size(), std::memory_order_relaxed);
    plugin().regions.fetch_add(1, std::memory_order_relaxed);
    products_.clear();
  }

  void attend(const Attention& attention) {
    AttentionWork work(attention, threads_);
    const size_t each =
        (attention_scratch(attention.k_size, attention.v_size) + kBlockBytes - 1) / kBlockBytes * kBlockBytes;
    std::byte* scratch = scratch_.reserve(each * static_cast<size_t>(threads_));
#pragma omp parallel num_threads(threads_)
    work.attend(scratch + each * static_cast<size_t>(omp_get_thread_num()));
    plugin().attentions.fetch_add(1, std::memory_order_relaxed);
  }

  int threads_ = omp_get_max_threads();
  std::vector<Product> products_;
  std::vector<ggml_backend_buffer_t> prepared_;  // a model has few
  Scratch scratch_;
};

// ---- backend -------------------------------------------------------------------------------------------------------

Backend& of(ggml_backend_t backend) { return *static_cast<Backend*>(backend->context); }

const char* name(ggml_backend_t) { return "GSD"; }

void free_backend(ggml_backend_t backend) {
  delete &of(backend);
  delete backend;
}

ggml_status compute(ggml_backend_t backend, ggml_cgraph* graph) {
  try {
    of(backend).compute(graph);
  } catch (const std::bad_alloc&) {
    return GGML_STATUS_ALLOC_FAILED;
  }
  return GGML_STATUS_SUCCESS;
}

ggml_guid_t guid() {
  static ggml_guid id = {'g', 's', 'd', '-', 'n', 'a', 'r', 'r', 'o', 'w', '-', 'm', 'a', 't', 0, 1};
  return &id;
}

void set_threads(ggml_backend_t backend, int threads) { of(backend).set_threads(threads); }

// ---- device --------------------------------------------------------------------------------------------------------

const char* device_name(ggml_backend_dev_t) { return "GSD"; }
const char* device_description(ggml_backend_dev_t) { return plugin().description.c_str(); }
enum ggml_backend_dev_type device_type(ggml_backend_dev_t) { return GGML_BACKEND_DEVICE_TYPE_ACCEL; }

void device_memory(ggml_backend_dev_t, size_t* free, size_t* total) {  // the host's, which the CPU device reports
  *free = 0;
  *total = 0;
}

void device_props(ggml_backend_dev_t device, ggml_backend_dev_props* props) {
  *props = {};
  props->name = device_name(device);
  props->description = device_description(device);
  props->type = device_type(device);
  props->caps.buffer_from_host_ptr = true;
}

ggml_backend_t init_backend(ggml_backend_dev_t device, const char*) {
  auto* backend = new ggml_backend{};
  backend->guid = guid();
  backend->iface.get_name = name;
  backend->iface.free = free_backend;
  backend->iface.graph_compute = compute;
  backend->device = device;
  backend->context = new Backend;
  return backend;
}

// Ordinary host memory, shared with the CPU device: nothing is ever copied between the two.
ggml_backend_buffer_type_t buffer_type(ggml_backend_dev_t) { return ggml_backend_cpu_buffer_type(); }

ggml_backend_buffer_t buffer_from_host(ggml_backend_dev_t, void* data, size_t size, size_t) {
  return ggml_backend_cpu_buffer_from_ptr(data, size);
}

bool supports_buffer(ggml_backend_dev_t, ggml_backend_buffer_type_t type) { return ggml_backend_buft_is_host(type); }

bool supports_op(ggml_backend_dev_t, const ggml_tensor* op) {
  switch (op->op) {
    case GGML_OP_NONE:
    case GGML_OP_RESHAPE:
    case GGML_OP_VIEW:
    case GGML_OP_PERMUTE:
    case GGML_OP_TRANSPOSE:
      return true;
    case GGML_OP_MUL_MAT:
      return supports_product(*op);
    case GGML_OP_FLASH_ATTN_EXT:
      return supports_attention(*op);
    default:
      return false;
  }
}

ggml_backend_device make_device(ggml_backend_reg_t reg) {
  ggml_backend_device device{};
  device.iface.get_name = device_name;
  device.iface.get_description = device_description;
  device.iface.get_memory = device_memory;
  device.iface.get_type = device_type;
  device.iface.get_props = device_props;
  device.iface.init_backend = init_backend;
  device.iface.get_buffer_type = buffer_type;
  device.iface.buffer_from_host_ptr = buffer_from_host;
  device.iface.supports_op = supports_op;
  device.iface.supports_buft = supports_buffer;
  device.reg = reg;
  return device;
}

// ---- registration --------------------------------------------------------------------------------------------------

const char* reg_name(ggml_backend_reg_t) { return "GSD"; }

// On a machine without AVX2 there is no device, and ggml goes on as if the backend had not been loaded.
size_t device_count(ggml_backend_reg_t) { return plugin().machine.avx2 ? 1 : 0; }

ggml_backend_dev_t device_at(ggml_backend_reg_t reg, size_t) {
  static ggml_backend_device device = make_device(reg);
  return &device;
}

int configure(const gsd_narrow_params* params) { return plugin().config.set(params); }
int get_params(gsd_narrow_params* params) { return plugin().config.get(params); }

int get_stats(gsd_narrow_stats* stats) {
  if (stats == nullptr || stats->size != sizeof *stats) return -1;
  stats->available = plugin().machine.avx2 ? 1 : 0;
  std::snprintf(stats->instruction_set, sizeof stats->instruction_set, "%s", describe(plugin().machine).c_str());
  stats->products = plugin().products;
  stats->regions = plugin().regions;
  stats->attentions = plugin().attentions;
  stats->attentions_declined = plugin().attentions_declined;
  return 0;
}

void* proc_address(ggml_backend_reg_t, const char* name) {
  auto is = [&](const char* known) { return std::strcmp(name, known) == 0; };
  if (is("ggml_backend_set_n_threads")) return reinterpret_cast<void*>(set_threads);
  if (is(GSD_NARROW_CONFIGURE)) return reinterpret_cast<void*>(configure);
  if (is(GSD_NARROW_GET_PARAMS)) return reinterpret_cast<void*>(get_params);
  if (is(GSD_NARROW_GET_STATS)) return reinterpret_cast<void*>(get_stats);
  return nullptr;
}

// Every registration starts with its version, whatever else changed, and those already loaded were accepted by the
// ggml that is asking.
bool ggml_speaks_our_version() {
  for (size_t i = 0; i < ggml_backend_reg_count(); ++i) {
    if (ggml_backend_reg_get(i)->api_version != GGML_BACKEND_API_VERSION) return false;
  }
  return true;
}

}  // namespace
}  // namespace gsd::narrow

extern "C" __attribute__((visibility("default"))) ggml_backend_reg_t ggml_backend_init() {
  using namespace gsd::narrow;
  if (!ggml_speaks_our_version()) {
    std::fprintf(stderr, "libggml-gsd: not used, because it was built for version %d of ggml's backend interface\n",
                 GGML_BACKEND_API_VERSION);
    return nullptr;
  }
  static ggml_backend_reg reg{};
  reg.api_version = GGML_BACKEND_API_VERSION;
  reg.iface.get_name = reg_name;
  reg.iface.get_device_count = device_count;
  reg.iface.get_device = device_at;
  reg.iface.get_proc_address = proc_address;
  return &reg;
}
