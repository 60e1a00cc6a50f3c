#include "tile_codebook.h"

namespace gsd::narrow {

KernelTable kernels_avxvnni() {
  KernelTable table;
  add_quant_kernels(table);
  add_codebook_kernels(table);
  return table;
}

}  // namespace gsd::narrow
