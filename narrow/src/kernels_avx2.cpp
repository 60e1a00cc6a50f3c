#include "tile_attention.h"
#include "tile_codebook.h"

namespace gsd::narrow {

KernelTable kernels_avx2() {
  KernelTable table;
  add_float_kernels(table);
  add_quant_kernels(table);
  add_codebook_kernels(table);
  return table;
}

}  // namespace gsd::narrow
