#include "tile_float.h"

namespace gsd::narrow {

KernelTable kernels_avx512bf16() {
  KernelTable table;
  table[Format::kBF16] = float_kernel<TileBF16>();
  return table;
}

}  // namespace gsd::narrow
