// One parallel region: packs the activations of a job, then multiplies them by the rows of one or more matrices.
//
// Independent of how threads are made: the backend runs it in OpenMP regions, the tests under std::thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>

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

// Of all copies of the packed activations: one, or with few threads one for each.
size_t packed_bytes(Packing packing, int64_t k, int64_t columns, int threads);

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

 private:
  struct alignas(64) Run {
    std::atomic<int64_t> next{0};
    int64_t begin = 0, end = 0;
  };

  int group_columns(int64_t first) const;
  void multiply_tile(int64_t tile, int run, const std::byte* packed);
  std::byte* copy_of(int thread) const;  // the packed activations that it multiplies
  // Where a tile is: its product, and which tile of it.
  struct Place {
    const Product* product;
    int64_t index;
  };
  Place find(int64_t tile) const;

  struct Stretch {
    const uint8_t* first = nullptr;
    size_t bytes = 0;
  };
  Stretch weights_of(int64_t tile) const;
  // What is to be streamed in while a tile of a run is computed.
  Stretch weights_after(int64_t tile, int run) const;
  // Of the n-th tile of a run.
  Stretch start_of(int run, int64_t n) const;

  const Job& job_;
  Packing packing_;
  int64_t blocks_;
  size_t copy_bytes_;
  bool packs_apart_;
  int threads_;
  std::unique_ptr<Run[]> runs_;
  const Work* following_ = nullptr;
};

}  // namespace gsd::narrow
