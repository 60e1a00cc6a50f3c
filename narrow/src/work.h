// One parallel region: packs the activations of a job, then multiplies them by the rows of one or more matrices.
//
// Independent of how threads are made: the backend runs it in OpenMP regions, the tests under std::thread.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kernels.h"

namespace gsd::narrow {

struct Product {
  Kernel kernel;
  const uint8_t* weights;  // [rows] of row_stride bytes
  size_t row_stride;
  int64_t rows;
  float* out;  // [columns] of out_stride floats, rows of them written
  int64_t out_stride;
};

// Products of the same activations. All kernels have the same packing.
struct Job {
  std::span<const Product> products;
  const float* x;  // [columns] of x_stride floats, k of them read
  int64_t x_stride;
  int64_t k;
  int64_t columns;    // any number; more than kMaxColumns are cut into slabs
  std::byte* packed;  // packed_bytes(), aligned to kBlockBytes
};

// Whether each thread packs all activations, `bytes` of them, for itself: a cache line that other threads have just
// read costs more to write than its contents cost to compute.
constexpr bool each_packs_all(size_t bytes, int threads) { return threads <= 4 && bytes <= (512 << 10); }

// Blocks of a row packed in one go by one thread.
inline constexpr int64_t kPackBlocks = 8;

// Of all copies of the packed activations: one, or with few threads one for each.
size_t packed_bytes(Packing packing, int64_t k, int64_t columns, int threads);

// A matrix is computed in tiles of a kernel's rows; one with fewer than those row by row, every row of the kernel being
// that one.
inline int64_t rows_of_tile(const Product& product) {
  return product.rows < product.kernel.tile_rows ? 1 : product.kernel.tile_rows;
}
inline int64_t tiles(const Product& product) {
  const int64_t rows = rows_of_tile(product);
  return (product.rows + rows - 1) / rows;
}

// Weights in memory.
struct Stretch {
  const uint8_t* first = nullptr;
  size_t bytes = 0;
};
inline Stretch weights_of(const Product& product, int64_t tile) {
  const int64_t rows = rows_of_tile(product);
  const int64_t row = tile * rows;
  return {product.weights + static_cast<size_t>(row) * product.row_stride,
          static_cast<size_t>(std::min(rows, product.rows - row)) * product.row_stride};
}

// A tile without what is multiplied (packed, columns), where that goes (out) and what is streamed in (next). out_stride
// is the product's. Rows past the last one are never touched: the last tile is moved back, and only its new lanes are
// stored.
inline TileArgs tile_args(const Product& product, int64_t tile, int64_t k) {
  const int64_t rows = rows_of_tile(product);
  const int64_t row = tile * rows;
  const int64_t base = std::min(row, product.rows - rows);
  TileArgs args{};
  args.weights = product.weights + static_cast<size_t>(base) * product.row_stride;
  args.row_stride = rows < product.kernel.tile_rows ? 0 : product.row_stride;
  args.k = k;
  args.out_stride = product.out_stride;
  args.first_lane = static_cast<int>(row - base);
  args.lanes = static_cast<int>(std::min(rows, product.rows - row));
  return args;
}

// What is to be streamed in while a tile is computed. later(n): the weights of the n-th tile that the thread computes
// after it. alike: the next one is of a matrix with the same stride. first: it is the first that the thread computes.
template <class Later>
Stretch streamed_in(const Product& product, bool alike, bool first, Later&& later) {
  const size_t tile_bytes = static_cast<size_t>(product.kernel.tile_rows) * product.row_stride;
  if (!is_quantised(product.kernel.packing) || tile_bytes > kStreamedTile)  // streamed in along its rows
    return alike ? later(1) : Stretch{};
  // Such a tile takes less time than memory does to answer: it is asked for while the last but one before it is
  // computed, and the first tile asks for two.
  Stretch ahead = later(2);
  if (first) {
    const Stretch next = later(1);
    if (next.first + next.bytes == ahead.first) ahead = {next.first, next.bytes + ahead.bytes};
  }
  return ahead.bytes <= 2 * kStreamedTile ? ahead : Stretch{};
}

// A part of a run of tiles, first to last (exclusive), that is one thread's alone. Empty: all are taken.
struct Part {
  int64_t first, last;
};
// Several at a time while many are left: a claim waits until all that the thread has stored has left it.
inline Part take(std::atomic<int64_t>& next, int64_t end) {
  const int64_t left = end - next.load(std::memory_order_relaxed);
  if (left <= 0) return {end, end};
  const int64_t some = std::clamp<int64_t>(left / 4, 1, 8);
  const int64_t first = next.fetch_add(some, std::memory_order_relaxed);
  return {first, std::min(first + some, end)};
}

// How a job is shared among threads. Each thread calls pack(), all wait for each other, each calls multiply().
//
// Every thread owns a run of neighbouring tiles of equal size, which it reads in address order; one that is done takes
// over tiles of the others, so that a thread that was delayed does not hold up the rest.
class Work {
 public:
  // Keeps references into job, which must outlive it. REQUIRES: threads >= 1, job.products not empty.
  Work(const Job& job, int threads);

  // thread in [0, present): the threads really there, which may be fewer than asked for. A thread that has packed
  // multiplies under the same number.
  void pack(int thread, int present);
  // Instead of pack(): one column, by whoever has just computed it. Different columns by different threads.
  void pack_column(int64_t column);

  // Whether each thread packs all activations for itself. It need not wait then between pack() and multiply(), and
  // pack_column() is not to be called.
  bool packs_apart() const { return packs_apart_; }

  // Returns when no tile is left to take.
  void multiply(int thread);

  // The work that the same threads will do next: what they begin it with is streamed in at the end of this. It must
  // outlive multiply().
  void followed_by(const Work& next) { following_ = &next; }

  // The n-th tile that a thread will begin with.
  Stretch start_of(int thread, int64_t n) const;

 private:
  struct alignas(64) Run {
    std::atomic<int64_t> next{0};
    int64_t begin = 0, end = 0;
  };

  int group_columns(int64_t first) const;
  void multiply_tile(int64_t tile, int run, const std::byte* packed);
  std::byte* copy_of(int thread) const;  // the packed activations that it multiplies
  // Where a tile is: its product, which tile of it, and whether that is its last.
  struct Place {
    const Product* product;
    int64_t index;
    bool last;
  };
  Place find(int64_t tile) const;
  // What is to be streamed in while a tile of a run is computed.
  Stretch weights_after(const Place& place, int64_t tile, int run) const;

  const Job& job_;
  Packing packing_;
  int64_t blocks_;
  size_t copy_bytes_;
  bool packs_apart_;
  int threads_;
  std::unique_ptr<Run[]> runs_;
  std::vector<int64_t> ends_;  // by product, the tile after its last: a tile is too short for a division on the way
  const Work* following_ = nullptr;
};

}  // namespace gsd::narrow
