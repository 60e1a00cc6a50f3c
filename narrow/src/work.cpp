#include "work.h"

#include <algorithm>

namespace gsd::narrow {
namespace {

constexpr int64_t kPackBlocks = 8;  // of a row, packed in one go by one thread

}  // namespace

size_t packed_bytes(Packing packing, int64_t k, int64_t columns) {
  return static_cast<size_t>(blocks(packing, k) * columns) * kBlockBytes;
}

Work::Work(const Job& job, int threads)
    : job_(job),
      packing_(job.products.front().kernel.packing),
      blocks_(blocks(packing_, job.k)),
      threads_(threads),
      runs_(new Run[static_cast<size_t>(threads)]) {
  int64_t total = 0;
  for (const Product& product : job.products) total += tiles(product);
  for (int t = 0; t < threads; ++t) {
    runs_[t].next.store(total * t / threads, std::memory_order_relaxed);
    runs_[t].end = total * (t + 1) / threads;
  }
}

// Columns of the group that starts with column `first`.
int Work::group_columns(int64_t first) const {
  return static_cast<int>(std::min<int64_t>(job_.columns - first, pack_columns(packing_)));
}

// A matrix with fewer rows than a tile is done row by row, every row of the tile being that one.
int64_t Work::tiles(const Product& product) const {
  const int64_t tile_rows = product.kernel.tile_rows;
  return product.rows < tile_rows ? product.rows : (product.rows + tile_rows - 1) / tile_rows;
}

void Work::pack(int thread, int present) {
  const int64_t groups = (job_.columns + pack_columns(packing_) - 1) / pack_columns(packing_);
  const int64_t pieces = (blocks_ + kPackBlocks - 1) / kPackBlocks;
  for (int64_t unit = thread; unit < groups * pieces; unit += present) {
    const int64_t column = unit / pieces * pack_columns(packing_);
    const int64_t first = unit % pieces * kPackBlocks;
    const int columns = group_columns(column);
    const float* x[kMaxColumns];
    for (int c = 0; c < columns; ++c) x[c] = job_.x + (column + c) * job_.x_stride;
    narrow::pack(packing_, x, columns, job_.k, first, std::min(first + kPackBlocks, blocks_),
                 job_.packed + static_cast<size_t>(column * blocks_) * kBlockBytes,
                 static_cast<size_t>(columns) * kBlockBytes);
  }
}

void Work::pack_column(int64_t column) {
  const int64_t group = column - column % pack_columns(packing_);
  const float* x = job_.x + column * job_.x_stride;
  narrow::pack(packing_, &x, 1, job_.k, 0, blocks_,
               job_.packed + static_cast<size_t>(group * blocks_ + column - group) * kBlockBytes,
               static_cast<size_t>(group_columns(group)) * kBlockBytes);
}

void Work::multiply(int thread) {
  for (int i = 0; i < threads_; ++i) {
    Run& run = runs_[(thread + i) % threads_];
    while (true) {
      const int64_t tile = run.next.fetch_add(1, std::memory_order_relaxed);
      if (tile >= run.end) break;
      multiply_tile(tile, run.end);
    }
  }
}

void Work::multiply_tile(int64_t tile, int64_t run_end) {
  const Product* product = job_.products.data();
  int64_t first = 0;  // tile that the product starts with
  for (; tile - first >= tiles(*product); ++product) first += tiles(*product);
  const int64_t index = tile - first;
  if (product->rows < product->kernel.tile_rows) {
    multiply_slabs(*product, index, 1, 0);
    return;
  }
  // Rows past the last one are never touched: the last tile is moved back, and only its new lanes are stored.
  const int64_t row = index * product->kernel.tile_rows;
  const int lanes = static_cast<int>(std::min<int64_t>(product->kernel.tile_rows, product->rows - row));
  const int64_t ahead = std::min<int64_t>(product->rows - row - lanes, product->kernel.tile_rows);
  const bool ours = tile + 1 < run_end;
  multiply_slabs(*product, row, lanes, ours ? static_cast<size_t>(ahead) * product->row_stride : 0);
}

void Work::multiply_slabs(const Product& product, int64_t row, int lanes, size_t next_bytes) {
  const int tile_rows = product.kernel.tile_rows;
  const bool single = product.rows < tile_rows;
  const int64_t base = single ? row : std::min(row, product.rows - tile_rows);
  const uint8_t* weights = product.weights + static_cast<size_t>(base) * product.row_stride;
  TileArgs args{};
  args.weights = weights;
  args.row_stride = single ? 0 : product.row_stride;
  args.k = job_.k;
  args.out_stride = product.out_stride;
  args.first_lane = static_cast<int>(row - base);
  args.lanes = lanes;
  args.next = product.weights + static_cast<size_t>(row + lanes) * product.row_stride;
  args.next_bytes = next_bytes;
  for (int64_t slab = 0; slab < job_.columns; slab += kMaxColumns) {
    args.packed = job_.packed + static_cast<size_t>(slab * blocks_) * kBlockBytes;
    args.columns = static_cast<int>(std::min<int64_t>(job_.columns - slab, kMaxColumns));
    args.out = product.out + slab * product.out_stride + row;
    product.kernel.tile(args);
    args.next_bytes = 0;
  }
}

}  // namespace gsd::narrow
