#include "tile_float.h"

namespace gsd::narrow {

KernelTable kernels_avx512bf16() {
  KernelTable table;
  table[Format::kBF16] = {float_tile<TileBF16>, kRows, Packing::kBF16};
  return table;
}

}  // namespace gsd::narrow
