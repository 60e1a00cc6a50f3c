#include "tile_quant.h"

namespace gsd::narrow {

KernelTable kernels_avxvnni() {
  KernelTable table;
  add_quant_kernels(table);
  return table;
}

}  // namespace gsd::narrow
