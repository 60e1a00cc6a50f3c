#include "tile_attention.h"

namespace gsd::narrow {

KernelTable kernels_avx512() {
  KernelTable table;
  add_float_kernels(table);
  return table;
}

}  // namespace gsd::narrow
