// Tells models apart by what is in their files.
#pragma once

#include <string>

namespace gsd {

// Sizes and samples of the files of a model (all parts of a split one), in a few letters: for files that belong to the
// model and would be read wrongly with another one. Reads some hundred KiB. Throws Error(kIo).
std::string model_content(const std::string& path);

}  // namespace gsd
