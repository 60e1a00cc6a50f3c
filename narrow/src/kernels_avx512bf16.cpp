#include "tile_float.h"

namespace gsd::narrow {
namespace {

void set(KernelTable& table, Format format, void (*tile)(const TileArgs&), int rows, Packing packing) {
  table.of[static_cast<int>(format)] = {tile, rows, packing};
}

}  // namespace

KernelTable kernels_avx512bf16() {
  KernelTable table;
  set(table, Format::kBF16, float_tile<TileBF16>, kRows, Packing::kBF16);
  return table;
}

}  // namespace gsd::narrow
