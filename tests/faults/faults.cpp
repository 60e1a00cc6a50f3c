// Linked with the program's own objects it makes gsd_faults: gsd of which the Nth allocation, decode or write fails.
//   GSD_FAIL=KIND:N[:CODE]   KIND is allocation, decode (CODE: what llama_decode returns) or write; without :N none
//   fails GSD_FAIL_REPORT=FILE     at the end: how many there were, and for allocations the first N of every place in
//   the code
// Only what our own code asks for counts, not what libllama does inside: nobody can promise for that.
#include <dlfcn.h>
#include <fcntl.h>
#include <link.h>
#include <llama.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>
#include <unwind.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

namespace {

struct Range {
  std::uintptr_t begin = 0, end = 0;
  bool holds(std::uintptr_t p) const { return p >= begin && p < end; }
};

constexpr std::size_t kMaxPlaces = 1 << 16;
constexpr int kDepth = 24;

struct Plan {
  char kind[16] = "";
  std::int64_t nth = -1;  // counted from 0
  int code = -3;
  const char* report = nullptr;
};

Plan plan;
Range program, library;  // the program's code, libstdc++'s
std::atomic<bool> ready{false};
std::atomic<std::int64_t> n_seen{0};
std::atomic<bool> failed{false};
std::atomic<std::uint64_t> places[kMaxPlaces];  // hashes of call stacks
std::int64_t first_of_place[kMaxPlaces];
std::atomic<std::size_t> n_places{0};
thread_local bool inside = false;

template <typename F>
F real(F, const char* name) {
  return reinterpret_cast<F>(dlsym(RTLD_NEXT, name));
}
#define GSD_REAL(name)                                                              \
  ([] {                                                                             \
    static const auto found = real(static_cast<decltype(&::name)>(&::name), #name); \
    return found;                                                                   \
  }())

int find_ranges(dl_phdr_info* info, std::size_t, void*) {
  Range* const out = info->dlpi_name[0] == '\0'                             ? &program
                     : std::strstr(info->dlpi_name, "libstdc++") != nullptr ? &library
                                                                            : nullptr;
  if (out == nullptr || out->end != 0) return 0;
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const auto& h = info->dlpi_phdr[i];
    if (h.p_type == PT_LOAD && (h.p_flags & PF_X) != 0)
      *out = {info->dlpi_addr + h.p_vaddr, info->dlpi_addr + h.p_vaddr + h.p_memsz};
  }
  return 0;
}

void write_report() {
  if (plan.report == nullptr) return;
  std::FILE* const f = std::fopen(plan.report, "w");
  if (f == nullptr) return;
  std::fprintf(f, "%lld %d\n", static_cast<long long>(n_seen.load()), failed ? 1 : 0);
  for (std::size_t i = 0; i < n_places; ++i) std::fprintf(f, "%lld\n", static_cast<long long>(first_of_place[i]));
  GSD_REAL(fclose)(f);
}

__attribute__((constructor)) void start() {
  if (const char* text = std::getenv("GSD_FAIL"))
    std::sscanf(text, "%15[a-z]:%lld:%d", plan.kind, reinterpret_cast<long long*>(&plan.nth), &plan.code);
  plan.report = std::getenv("GSD_FAIL_REPORT");
  dl_iterate_phdr(find_ranges, nullptr);
  std::atexit(write_report);
}

struct Stack {
  std::uintptr_t frame[kDepth] = {};
  int n = 0;
};
_Unwind_Reason_Code add_frame(_Unwind_Context* context, void* stack) {
  auto& s = *static_cast<Stack*>(stack);
  if (s.n == kDepth) return _URC_END_OF_STACK;
  s.frame[s.n++] = _Unwind_GetIP(context);
  return _URC_NO_REASON;
}

// nlohmann-json's destructor is noexcept and allocates: nobody can answer for a failure there.
bool destroys_json(const Stack& s) {
  for (int i = 0; i < s.n; ++i) {
    Dl_info info;
    if (program.holds(s.frame[i]) && dladdr(reinterpret_cast<void*>(s.frame[i]), &info) != 0 &&
        info.dli_sname != nullptr && std::strstr(info.dli_sname, "json_value7destroyE") != nullptr)
      return true;
  }
  return false;
}

// The first N of a call stack as it was not seen before.
void note_place(const Stack& s, std::int64_t n) {
  static std::atomic_flag noting;
  while (noting.test_and_set()) {
  }
  const struct Done {
    ~Done() { noting.clear(); }
  } done;
  std::uint64_t h = 0xcbf29ce484222325U;
  for (int i = 0; i < s.n; ++i) {
    if (program.holds(s.frame[i])) h = (h ^ s.frame[i]) * 0x100000001b3U;
  }
  for (std::size_t i = 0; i < n_places; ++i) {
    if (places[i] == h) return;
  }
  const std::size_t at = n_places;
  if (at == kMaxPlaces) return;
  places[at] = h;
  first_of_place[at] = n;
  n_places = at + 1;
}

// True once: at the Nth of its kind.
bool fails(const char* kind, const Stack* stack = nullptr) {
  if (!ready || std::strcmp(kind, plan.kind) != 0 || failed) return false;
  const std::int64_t n = n_seen++;
  if (stack != nullptr && plan.nth < 0 && plan.report != nullptr) note_place(*stack, n);
  if (plan.nth < 0 || n < plan.nth || (stack != nullptr && destroys_json(*stack))) return false;
  return !failed.exchange(true);
}

bool allocation_fails(void* caller) {
  if (!ready || inside || plan.kind[0] != 'a') return false;
  const auto from = reinterpret_cast<std::uintptr_t>(caller);
  if (!program.holds(from) && !library.holds(from)) return false;
  inside = true;
  bool out = false;
  Stack s;
  const bool look = !program.holds(from) || plan.nth < 0 || n_seen >= plan.nth;
  if (look) _Unwind_Backtrace(add_frame, &s);
  bool ours = program.holds(from);
  const std::uintptr_t* const end = s.frame + s.n;
  for (const std::uintptr_t* at = std::find(s.frame + 0, s.frame + s.n, from); at != end && !ours;
       ++at) {  // libstdc++ asks for somebody
    if (library.holds(*at)) continue;
    ours = program.holds(*at);
    break;
  }
  if (ours) out = fails("allocation", &s);
  inside = false;
  return out;
}

void* allocate(std::size_t size, void* caller) {
  void* const p = allocation_fails(caller) ? nullptr : std::malloc(size == 0 ? 1 : size);
  if (p == nullptr) throw std::bad_alloc();
  return p;
}

bool is_ours(void* caller) {
  const auto p = reinterpret_cast<std::uintptr_t>(caller);
  return program.holds(p) || library.holds(p);
}

bool write_fails(void* caller, int fd = -1) {
  return ready && fd != STDERR_FILENO && is_ours(caller) && fails("write") && (errno = ENOSPC, true);
}

}  // namespace

void* operator new(std::size_t size) { return allocate(size, __builtin_return_address(0)); }
void* operator new[](std::size_t size) { return allocate(size, __builtin_return_address(0)); }
void operator delete(void* p) noexcept { std::free(p); }
void operator delete[](void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }
void operator delete[](void* p, std::size_t) noexcept { std::free(p); }

extern "C" {

// The program's first steps: what is made before main, nobody can answer for.
int sigaction(int signal, const struct sigaction* action, struct sigaction* before) noexcept {
  ready = true;
  return GSD_REAL(sigaction)(signal, action, before);
}

int32_t llama_decode(llama_context* context, llama_batch batch) {
  return fails("decode") ? plan.code : GSD_REAL(llama_decode)(context, batch);
}

ssize_t write(int fd, const void* bytes, size_t size) {
  return write_fails(__builtin_return_address(0), fd) ? -1 : GSD_REAL(write)(fd, bytes, size);
}
ssize_t pwrite(int fd, const void* bytes, size_t size, off_t at) {
  return write_fails(__builtin_return_address(0)) ? -1 : GSD_REAL(pwrite)(fd, bytes, size, at);
}
size_t fwrite(const void* bytes, size_t size, size_t n, FILE* file) {
  return file != stderr && write_fails(__builtin_return_address(0)) ? 0 : GSD_REAL(fwrite)(bytes, size, n, file);
}
// libstdc++'s files.
ssize_t writev(int fd, const iovec* parts, int n) {
  return write_fails(__builtin_return_address(0)) ? -1 : GSD_REAL(writev)(fd, parts, n);
}
int fflush(FILE* file) {
  return file != stderr && write_fails(__builtin_return_address(0)) ? EOF : GSD_REAL(fflush)(file);
}
int fclose(FILE* file) {
  const bool fails_now = write_fails(__builtin_return_address(0));
  const int out = GSD_REAL(fclose)(file);
  return fails_now ? (errno = ENOSPC, EOF) : out;
}
int fsync(int fd) { return write_fails(__builtin_return_address(0)) ? -1 : GSD_REAL(fsync)(fd); }
int rename(const char* from, const char* to) noexcept {
  return write_fails(__builtin_return_address(0)) ? -1 : GSD_REAL(rename)(from, to);
}
int ftruncate(int fd, off_t size) noexcept {
  return write_fails(__builtin_return_address(0)) ? -1 : GSD_REAL(ftruncate)(fd, size);
}
int open(const char* path, int flags, ...) {
  mode_t mode = 0;
  if ((flags & O_CREAT) != 0) {
    va_list rest;
    va_start(rest, flags);
    mode = va_arg(rest, mode_t);
    va_end(rest);
    if (write_fails(__builtin_return_address(0))) return -1;
  }
  return GSD_REAL(open)(path, flags, mode);
}
}
