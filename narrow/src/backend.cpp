// The face that ggml sees: a device of type ACCEL that computes narrow matrix products and attention in host memory.
#include <ggml-backend.h>
#include <ggml-cpu.h>
#include <ggml.h>
#include <omp.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>
#include <vector>

#include "ggml_backend_abi.h"
#include "operations.h"
#include "plan.h"
#include "plugin.h"

namespace gsd::narrow {

Plugin::Plugin()
    : machine(detect_machine(std::getenv("GSD_NARROW_ISA"))),
      kernels(select_kernels(machine)),
      description("narrow matrix products and attention (" + describe(machine) + ")") {}

Plugin& plugin() {
  static Plugin instance;
  return instance;
}

namespace {

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

  void compute(ggml_cgraph* graph) {
    if (plugin().config.huge_pages()) {
      for (int i = 0; i < ggml_graph_n_nodes(graph); ++i) {
        const ggml_tensor* node = ggml_graph_node(graph, i);
        if (node->op == GGML_OP_MUL_MAT || node->op == GGML_OP_MUL_MAT_ID) prepare(node->src[0]->buffer);
      }
    }
    Plan plan(graph, threads_, scratch_);
#pragma omp parallel num_threads(threads_)
    plan.run();
  }

 private:
  void prepare(ggml_backend_buffer_t weights) {
    if (weights == nullptr || std::find(prepared_.begin(), prepared_.end(), weights) != prepared_.end()) return;
    prepared_.push_back(weights);
    use_huge_pages(weights);
  }

  int threads_ = omp_get_max_threads();
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
    default:
      return supports(*op);
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
  stats->conversions = plugin().conversions;
  stats->attentions = plugin().attentions;
  stats->attentions_declined = plugin().attentions_declined;
  stats->row_operations = plugin().row_operations;
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
