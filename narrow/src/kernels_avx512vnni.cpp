#include "tile_codebook.h"

namespace gsd::narrow {

KernelTable kernels_avx512vnni() {
  KernelTable table;
  add_quant_kernels(table);
  add_codebook_kernels(table);
  return table;
}

}  // namespace gsd::narrow
