#include "tile_float.h"

namespace gsd::narrow {
namespace {

void set(KernelTable& table, Format format, void (*tile)(const TileArgs&), int rows, Packing packing) {
  table.of[static_cast<int>(format)] = {tile, rows, packing};
}

}  // namespace

KernelTable kernels_avx512() {
  KernelTable table;
  set(table, Format::kF32, float_tile<TileF32>, kRows, Packing::kF32);
  set(table, Format::kF16, float_tile<TileF16>, kRows, Packing::kF32);
  set(table, Format::kBF16, float_tile<TileBF16Widened>, kRows, Packing::kF32);
  return table;
}

}  // namespace gsd::narrow
