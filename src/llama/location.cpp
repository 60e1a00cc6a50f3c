#include "location.h"

#include <dlfcn.h>
#include <llama.h>

namespace gsd {

std::filesystem::path program_folder() {
  std::error_code ignored;
  return std::filesystem::read_symlink("/proc/self/exe", ignored).parent_path();
}

std::filesystem::path libllama_folder() {
  Dl_info found{};
  if (dladdr(reinterpret_cast<const void*>(&llama_backend_init), &found) == 0 || found.dli_fname == nullptr) return {};
  return std::filesystem::path(found.dli_fname).parent_path();
}

}  // namespace gsd
