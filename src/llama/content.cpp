#include "content.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>

#include "../util/fnv.h"
#include "gguf_file.h"
#include "gsd/error.h"

namespace gsd {

std::string model_content(const std::string& path) {
  constexpr std::streamoff kSamples = 64;
  constexpr std::streamoff kBytes = 4096;
  Fnv hash;
  for (const std::string& part : model_parts(path)) {
    std::ifstream file(part, std::ios::binary | std::ios::ate);
    const std::streamoff size = file.tellg();
    hash.add(std::to_string(size));
    for (std::streamoff i = 0; i < kSamples && file; ++i) {
      std::string sample(static_cast<std::size_t>(std::min(size, kBytes)), '\0');
      file.seekg((size - std::ssize(sample)) / (kSamples - 1) * i);
      file.read(sample.data(), std::ssize(sample));
      hash.add(sample);
    }
    if (!file) throw Error(ErrorCode::kIo, "The file '" + part + "' cannot be read.");
  }
  return fmt::format("{:016x}", hash.value());
}

}  // namespace gsd
