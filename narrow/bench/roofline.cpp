// What this machine can do, what it leaves as the least time of a product, and how near the kernels come.
//
//   gsd_narrow_roofline [--threads 2] [--k 2048] [--megaweights 100] [--repetitions 7] [--formats Q4_0,F32]
//                       [--huge-pages 1] [--ggml 0] [--cells 1024] [--heads 12] [--kv-heads 12] [--head-size 64]
//                       [--layers 12]
//
// Per format and width: the floor, which is the larger of weights / bandwidth and products / arithmetic; the time
// measured over matrices far larger than the caches; and floor / time. Medians, in ms. With --ggml 1 also the time of
// ggml's own kernels, on weights as they stand in a file and without the backend. Then the same for attention over
// caches in half precision ("attention" among the formats).
#include <omp.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "../tests/ggml_devices.h"
#include "attention.h"
#include "dispatch.h"
#include "work.h"

namespace {

using namespace gsd::narrow;

struct Options {
  int threads = 2;
  int64_t k = 2048;
  double megaweights = 100;
  int repetitions = 7;
  int huge_pages = 1;
  int ggml = 0;
  int64_t cells = 1024, heads = 12, kv_heads = 12, head_size = 64, layers = 12;
  std::string formats;
};

struct FormatTimed {
  const char* name;
  Format format;
  ggml_type type;
  double bytes() const { return static_cast<double>(ggml_type_size(type)) / static_cast<double>(ggml_blck_size(type)); }
};

constexpr FormatTimed kTimed[] = {
    {"F32", Format::kF32, GGML_TYPE_F32},
    {"F16", Format::kF16, GGML_TYPE_F16},
    {"BF16", Format::kBF16, GGML_TYPE_BF16},
    {"Q8_0", Format::kQ8_0, GGML_TYPE_Q8_0},
    {"Q4_0", Format::kQ4_0, GGML_TYPE_Q4_0},
    {"Q4_1", Format::kQ4_1, GGML_TYPE_Q4_1},
    {"Q5_0", Format::kQ5_0, GGML_TYPE_Q5_0},
    {"Q5_1", Format::kQ5_1, GGML_TYPE_Q5_1},
    {"IQ4_NL", Format::kIQ4_NL, GGML_TYPE_IQ4_NL},
    {"MXFP4", Format::kMXFP4, GGML_TYPE_MXFP4},
    {"Q2_K", Format::kQ2_K, GGML_TYPE_Q2_K},
    {"Q3_K", Format::kQ3_K, GGML_TYPE_Q3_K},
    {"Q4_K", Format::kQ4_K, GGML_TYPE_Q4_K},
    {"Q5_K", Format::kQ5_K, GGML_TYPE_Q5_K},
    {"Q6_K", Format::kQ6_K, GGML_TYPE_Q6_K},
    {"IQ4_XS", Format::kIQ4_XS, GGML_TYPE_IQ4_XS},
    {"NVFP4", Format::kNVFP4, GGML_TYPE_NVFP4},
    {"IQ3_S", Format::kIQ3_S, GGML_TYPE_IQ3_S},
    {"IQ3_XXS", Format::kIQ3_XXS, GGML_TYPE_IQ3_XXS},
    {"IQ2_S", Format::kIQ2_S, GGML_TYPE_IQ2_S},
    {"IQ2_XS", Format::kIQ2_XS, GGML_TYPE_IQ2_XS},
    {"IQ2_XXS", Format::kIQ2_XXS, GGML_TYPE_IQ2_XXS},
    {"IQ1_M", Format::kIQ1_M, GGML_TYPE_IQ1_M},
    {"IQ1_S", Format::kIQ1_S, GGML_TYPE_IQ1_S},
};

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// The best of several runs, for what the machine can do at all; the median, for what is compared with it.
enum class Take { kBest, kMedian };

double seconds_of(Take take, int repetitions, const std::function<void()>& run) {
  run();
  std::vector<double> times;
  for (int i = 0; i < repetitions; ++i) {
    const double start = seconds();
    run();
    times.push_back(seconds() - start);
  }
  std::sort(times.begin(), times.end());
  return take == Take::kBest ? times.front() : times[times.size() / 2];
}

// Memory in huge pages, as the backend gives to weights, or in ordinary ones, as a mapped model file has.
class Memory {
 public:
  Memory(size_t bytes, bool huge_pages) : bytes_(bytes) {
    void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) throw std::runtime_error("out of memory");
    data_ = static_cast<uint8_t*>(p);
    madvise(p, bytes, huge_pages ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    fill(false);
  }
  ~Memory() { munmap(data_, bytes_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  // Ones, or any bits: where weights are looked up, equal ones would always be found in the same place.
  void fill(bool random) const {
    std::memset(data_, 1, bytes_);
    uint64_t x = 0x9e3779b97f4a7c15;
    for (size_t i = 0; random && i + sizeof x <= bytes_; i += sizeof x) {
      x ^= x << 13;
      x ^= x >> 7;
      x ^= x << 17;
      std::memcpy(data_ + i, &x, sizeof x);
    }
  }
  uint8_t* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  uint8_t* data_;
  size_t bytes_;
};

double bandwidth(const Memory& memory, int threads, int repetitions) {
  const double time = seconds_of(Take::kBest, repetitions, [&] {
#pragma omp parallel num_threads(threads)
    {
      const size_t share = memory.bytes() / static_cast<size_t>(omp_get_num_threads());
      const uint8_t* p = memory.data() + share * static_cast<size_t>(omp_get_thread_num());
      for (const uint8_t* end = p + share / 256 * 256; p < end; p += 256) {
        __asm__ volatile(
            "vmovdqu %0, %%ymm0\n\tvmovdqu 32%0, %%ymm1\n\tvmovdqu 64%0, %%ymm2\n\tvmovdqu 96%0, %%ymm3\n\t"
            "vmovdqu 128%0, %%ymm4\n\tvmovdqu 160%0, %%ymm5\n\tvmovdqu 192%0, %%ymm6\n\t"
            "vmovdqu 224%0, %%ymm7" ::"o"(*p)
            : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7");
      }
    }
  });
  return static_cast<double>(memory.bytes()) / time;
}

// Twelve independent chains of one instruction: enough to hide its latency.
#define GSD_TWELVE(op, register) \
  __asm__ volatile(op " %%" register "13, %%" register "12, %%" register "0\n\t" op " %%" register "13, %%"    \
                   register "12, %%" register "1\n\t" op " %%" register "13, %%" register "12, %%" register    \
                   "2\n\t" op " %%" register "13, %%" register "12, %%" register "3\n\t" op " %%" register     \
                   "13, %%" register "12, %%" register "4\n\t" op " %%" register "13, %%" register "12, %%"    \
                   register "5\n\t" op " %%" register "13, %%" register "12, %%" register "6\n\t" op           \
                   " %%" register "13, %%" register "12, %%" register "7\n\t" op " %%" register "13, %%"       \
                   register "12, %%" register "8\n\t" op " %%" register "13, %%" register "12, %%" register    \
                   "9\n\t" op " %%" register "13, %%" register "12, %%" register "10\n\t" op " %%" register    \
                   "13, %%" register "12, %%" register "11" ::                                                 \
                       : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",       \
                         "xmm10", "xmm11")

double multiplications(int threads, int repetitions, double per_instruction, void (*twelve)()) {
  constexpr int kRounds = 1 << 20;
  const double time = seconds_of(Take::kBest, repetitions, [&] {
#pragma omp parallel num_threads(threads)
    {
      // What happens to lie in the registers may be denormal, which many processors multiply a hundred times slower.
      __asm__ volatile("vzeroall" ::
                           : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",
                             "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
      for (int i = 0; i < kRounds; ++i) twelve();
    }
  });
  return 12.0 * kRounds * threads * per_instruction / time;
}

// Multiplications a second of the instruction that a packing's kernel is made of.
double arithmetic(Packing packing, const Machine& m, int threads, int repetitions) {
  auto run = [&](double n, void (*f)()) { return multiplications(threads, repetitions, n, f); };
  switch (packing) {
    case Packing::kF32:
      return m.avx512 ? run(16, [] { GSD_TWELVE("vfmadd231ps", "zmm"); })
                      : run(8, [] { GSD_TWELVE("vfmadd231ps", "ymm"); });
    case Packing::kBF16:
      return run(32, [] { GSD_TWELVE("vdpbf16ps", "zmm"); });
    case Packing::kQ8:
    case Packing::kQ8K:
      break;
  }
  if (m.avx512vnni) return run(64, [] { GSD_TWELVE("vpdpbusd", "zmm"); });
  if (m.avxvnni) return run(32, [] { GSD_TWELVE("%{vex%} vpdpbusd", "ymm"); });
  return run(32 / 3.0, [] { GSD_TWELVE("vpmaddubsw", "ymm"); });  // and two more instructions to add its results up
}

// Products of one large matrix with `columns` columns, as the backend runs them.
double product_seconds(const Kernel& kernel, const FormatTimed& info, const Memory& memory, const Options& o,
                       int64_t columns) {
  const size_t row_bytes = ggml_row_size(info.type, o.k);
  const auto rows = static_cast<int64_t>(o.megaweights * 1e6 / static_cast<double>(o.k));
  const std::vector<float> x(static_cast<size_t>(columns * o.k), 0.5F);
  std::vector<float> out(static_cast<size_t>(columns * rows));
  std::vector<PackedQ8> packed(packed_bytes(kernel.packing, o.k, columns, o.threads) / kBlockBytes);
  const Product product{kernel, memory.data(), row_bytes, rows, out.data(), rows};
  const Job job{{&product, 1}, x.data(), o.k, o.k, columns, reinterpret_cast<std::byte*>(packed.data())};
  return seconds_of(Take::kMedian, o.repetitions, [&] {
    Work work(job, o.threads);
#pragma omp parallel num_threads(o.threads)
    {
      work.pack(omp_get_thread_num(), omp_get_num_threads());
#pragma omp barrier
      work.multiply(omp_get_thread_num());
    }
  });
}

// The same by ggml's CPU backend.
double stock_seconds(const FormatTimed& info, const Memory& memory, const Options& o, int64_t columns) {
  const auto rows = static_cast<int64_t>(o.megaweights * 1e6 / static_cast<double>(o.k));
  const ggml_context_ptr context = test::make_context();
  ggml_tensor* weights = ggml_new_tensor_2d(context.get(), info.type, o.k, rows);
  ggml_tensor* x = ggml_new_tensor_2d(context.get(), GGML_TYPE_F32, o.k, columns);
  ggml_cgraph* graph = ggml_new_graph(context.get());
  ggml_build_forward_expand(graph, ggml_mul_mat(context.get(), weights, x));
  const ggml_backend_buffer_ptr in_place(ggml_backend_cpu_buffer_from_ptr(memory.data(), memory.bytes()));
  ggml_backend_tensor_alloc(in_place.get(), weights, memory.data());
  const ggml_backend_ptr cpu(ggml_backend_dev_init(test::devices().cpu, nullptr));
  const auto set_threads = reinterpret_cast<ggml_backend_set_n_threads_t>(ggml_backend_reg_get_proc_address(
      ggml_backend_dev_backend_reg(test::devices().cpu), "ggml_backend_set_n_threads"));
  set_threads(cpu.get(), o.threads);
  const ggml_backend_buffer_ptr buffer(ggml_backend_alloc_ctx_tensors(context.get(), cpu.get()));
  const std::vector<float> ones(static_cast<size_t>(columns * o.k), 0.5F);
  ggml_backend_tensor_set(x, ones.data(), 0, ggml_nbytes(x));
  return seconds_of(Take::kMedian, o.repetitions, [&] {
    if (ggml_backend_graph_compute(cpu.get(), graph) != GGML_STATUS_SUCCESS) throw std::runtime_error("ggml failed");
  });
}

// Attention of `tokens` tokens that see all cells, over the caches of all layers: the first half of the memory holds
// keys, the second values.
double attention_seconds(const KernelTable& kernels, const Memory& memory, const Options& o, int64_t tokens) {
  const Kernel& f16 = kernels.of[static_cast<int>(Format::kF16)];
  const auto size = [](int64_t n, size_t each) { return static_cast<size_t>(n) * each; };
  const size_t q_head = size(o.head_size, sizeof(float));
  const size_t kv_head = size(o.head_size, sizeof(uint16_t));
  const size_t cell = size(o.kv_heads, kv_head);
  const size_t layer = size(o.cells, cell);
  const std::vector<float> q(size(tokens * o.heads * o.head_size, 1), 0.5F);
  const std::vector<uint16_t> mask(size(tokens * o.cells, 1));
  std::vector<float> out(q.size());
  const size_t each = attention_scratch(o.head_size, o.head_size);
  const Memory scratch(each * size(o.threads, 1), true);
  return seconds_of(Take::kMedian, o.repetitions, [&] {
    for (size_t l = 0; l < size(o.layers, 1); ++l) {
      const Attention attention{.keys = &f16,
                                .values = &f16,
                                .q = reinterpret_cast<const uint8_t*>(q.data()),
                                .q_stream = 0,
                                .q_head = q_head,
                                .q_token = size(o.heads, q_head),
                                .k = memory.data() + l * layer,
                                .k_stream = 0,
                                .k_head = kv_head,
                                .k_cell = cell,
                                .v = memory.data() + memory.bytes() / 2 + l * layer,
                                .v_stream = 0,
                                .v_head = kv_head,
                                .v_cell = cell,
                                .mask = reinterpret_cast<const uint8_t*>(mask.data()),
                                .mask_stream = 0,
                                .mask_token = size(o.cells, sizeof(uint16_t)),
                                .out = out.data(),
                                .k_size = o.head_size,
                                .v_size = o.head_size,
                                .cells = o.cells,
                                .tokens = tokens,
                                .heads = o.heads,
                                .kv_heads = o.kv_heads,
                                .streams = 1,
                                .scale = 0.125F};
      AttentionWork work(attention, o.threads);
#pragma omp parallel num_threads(o.threads)
      work.attend(reinterpret_cast<std::byte*>(scratch.data()) + each * size(omp_get_thread_num(), 1));
    }
  });
}

bool wanted(const std::string& list, const char* name) {
  const auto between_commas = [](const std::string& text) { return std::string(1, ',').append(text).append(1, ','); };
  return list.empty() || between_commas(list).find(between_commas(name)) != std::string::npos;
}

void print_row(const char* name, double peak, int64_t width, double floor, double time, double bytes,
               double stock = 0) {
  std::printf("| %s | %.0f | %d | %.2f | %.2f | %.0f%% | %.1f |", name, peak / 1e9, static_cast<int>(width),
              floor * 1e3, time * 1e3, 100 * floor / time, bytes / time / 1e9);
  std::printf(stock > 0 ? " %.2f |\n" : "\n", stock * 1e3);
  std::fflush(stdout);
}

void report(const Options& o) {
  const Machine machine = detect_machine(std::getenv("GSD_NARROW_ISA"));
  const KernelTable kernels = select_kernels(machine);
  const Memory memory(static_cast<size_t>(o.megaweights * 4.2e6), o.huge_pages != 0);
  std::printf("instruction set %s, %d threads, rows of %d weights, %s pages\n", describe(machine).c_str(), o.threads,
              static_cast<int>(o.k), o.huge_pages != 0 ? "huge" : "small");
  for (int t = 1; t <= o.threads; ++t) {
    std::printf("streaming, %d thread%s: %.1f GB/s\n", t, t > 1 ? "s" : "", bandwidth(memory, t, o.repetitions) / 1e9);
  }
  std::printf(
      "\n| %g M weights | GMAC/s | width | floor ms | time ms | floor / time | GB/s |\n|---|---|---|---|---|---|---|\n",
      o.megaweights);
  for (const FormatTimed& info : kTimed) {
    const Kernel& kernel = kernels.of[static_cast<int>(info.format)];
    if (kernel.tile == nullptr || !wanted(o.formats, info.name)) continue;
    const double peak = arithmetic(kernel.packing, machine, o.threads, o.repetitions);
    memory.fill(is_quantised(kernel.packing));
    for (const int64_t columns : {1, 2, 4, 8, 16, 32, 64}) {
      // Both ceilings move with the machine's neighbours: measured beside each product.
      const double stream = bandwidth(memory, o.threads, 3);
      const double bytes = o.megaweights * 1e6 * info.bytes();
      const double floor = std::max(bytes / stream, o.megaweights * 1e6 * static_cast<double>(columns) / peak);
      const double time = product_seconds(kernel, info, memory, o, columns);
      const double stock = o.ggml != 0 && columns <= 16 ? stock_seconds(info, memory, o, columns) : 0;
      print_row(info.name, peak, columns, floor, time, bytes, stock);
    }
  }
  const double layer_elements = static_cast<double>(o.layers * o.cells * o.head_size * 2);  // keys and values of a head
  const double bytes = layer_elements * static_cast<double>(o.kv_heads) * sizeof(uint16_t);
  if (kernels.of[0].attend == nullptr || !wanted(o.formats, "attention")) return;
  if (bytes > static_cast<double>(memory.bytes())) throw std::runtime_error("the caches do not fit in --megaweights");
  const double peak = arithmetic(Packing::kF32, machine, o.threads, o.repetitions);
  for (const int64_t tokens : {1, 2, 4, 8, 16, 32, 64}) {
    const double multiplied = layer_elements * static_cast<double>(o.heads * tokens);
    const double floor = std::max(bytes / bandwidth(memory, o.threads, 3), multiplied / peak);
    const double time = attention_seconds(kernels, memory, o, tokens);
    print_row("attention", peak, tokens, floor, time, bytes);
  }
}

Options parse(int argc, char** argv) {
  Options o;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string name = argv[i];
    const std::string value = argv[i + 1];
    if (name == "--threads")
      o.threads = std::stoi(value);
    else if (name == "--k")
      o.k = std::stoi(value);
    else if (name == "--megaweights")
      o.megaweights = std::stod(value);
    else if (name == "--repetitions")
      o.repetitions = std::stoi(value);
    else if (name == "--huge-pages")
      o.huge_pages = std::stoi(value);
    else if (name == "--ggml")
      o.ggml = std::stoi(value);
    else if (name == "--cells")
      o.cells = std::stoi(value) / kAttentionStep * kAttentionStep;
    else if (name == "--heads")
      o.heads = std::stoi(value);
    else if (name == "--kv-heads")
      o.kv_heads = std::stoi(value);
    else if (name == "--head-size")
      o.head_size = std::stoi(value) / kAttentionStep * kAttentionStep;
    else if (name == "--layers")
      o.layers = std::stoi(value);
    else if (name == "--formats")
      o.formats = value;
    else
      throw std::runtime_error("unknown argument " + name);
  }
  if (argc % 2 == 0 || o.k % 256 != 0) throw std::runtime_error("options take a value; --k is a multiple of 256");
  if (o.cells < 1 || o.kv_heads < 1 || o.heads < 1 || o.heads % o.kv_heads != 0 || o.head_size < 1 || o.layers < 1)
    throw std::runtime_error(
        "--cells and --head-size are at least 16, --layers at least 1, --heads a multiple of --kv-heads");
  return o;
}

}  // namespace

int main(int argc, char** argv) try {
  report(parse(argc, argv));
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "gsd_narrow_roofline: %s\n", error.what());
  return 2;
}
