#include "tile_quant.h"

namespace gsd::narrow {
namespace {

void set(KernelTable& table, Format format, void (*tile)(const TileArgs&), int rows, Packing packing) {
  table.of[static_cast<int>(format)] = {tile, rows, packing};
}

}  // namespace

KernelTable kernels_avx512vnni() {
  KernelTable table;
  set(table, Format::kQ8_0, quant_tile<TileQ8_0>, kGroups * kRows, Packing::kQ8);
  set(table, Format::kQ4_0, quant_tile<TileQ4_0>, kGroups * kRows, Packing::kQ8);
  set(table, Format::kQ4_K, quant_tile<TileQ4_K>, kGroups * kRows, Packing::kQ8);
  set(table, Format::kQ5_K, quant_tile<TileQ5_K>, kGroups * kRows, Packing::kQ8);
  set(table, Format::kQ6_K, quant_tile<TileQ6_K>, kGroups * kRows, Packing::kQ8);
  return table;
}

}  // namespace gsd::narrow
