// Basic vocabulary of the library.
#pragma once

#include <cstdint>

namespace gsd {

using Token = std::int32_t;  // id in the target's vocabulary, [0, n_vocab)

}  // namespace gsd
