#include "tile_attention.h"

namespace gsd::narrow {

KernelTable kernels_avx512bf16() {
  KernelTable table;
  table[Format::kBF16] = float_kernel<TileBF16, TileBF16Widened>();
  return table;
}

}  // namespace gsd::narrow
