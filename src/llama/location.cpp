#include "location.h"

#include <dlfcn.h>
#include <llama.h>

namespace gsd {

namespace {

std::filesystem::path folder_of(const void* code) {
  Dl_info found{};
  if (dladdr(code, &found) == 0 || found.dli_fname == nullptr) return {};
  return std::filesystem::path(found.dli_fname).parent_path();
}

}  // namespace

std::filesystem::path program_folder() {
  std::error_code ignored;
  return std::filesystem::read_symlink("/proc/self/exe", ignored).parent_path();
}

std::filesystem::path libllama_folder() { return folder_of(reinterpret_cast<const void*>(&llama_backend_init)); }

std::filesystem::path own_folder() { return folder_of(reinterpret_cast<const void*>(&own_folder)); }

}  // namespace gsd
