#include "work.h"

#include <algorithm>

namespace gsd::narrow {
namespace {

constexpr size_t copy_bytes(Packing packing, int64_t k, int64_t columns) {
  return static_cast<size_t>(blocks(packing, k) * columns) * kBlockBytes;
}

}  // namespace

size_t packed_bytes(Packing packing, int64_t k, int64_t columns, int threads) {
  const size_t bytes = copy_bytes(packing, k, columns);
  return each_packs_all(bytes, threads) ? bytes * static_cast<size_t>(threads) : bytes;
}

Work::Work(const Job& job, int threads)
    : job_(job),
      packing_(job.products.front().kernel.packing),
      blocks_(blocks(packing_, job.k)),
      copy_bytes_(copy_bytes(packing_, job.k, job.columns)),
      packs_apart_(each_packs_all(copy_bytes_, threads)),
      threads_(threads),
      runs_(new Run[static_cast<size_t>(threads)]) {
  int64_t total = 0;
  ends_.reserve(job.products.size());
  for (const Product& product : job.products) ends_.push_back(total += tiles(product));
  for (int t = 0; t < threads; ++t) {
    runs_[t].begin = total * t / threads;
    runs_[t].next.store(runs_[t].begin, std::memory_order_relaxed);
    runs_[t].end = total * (t + 1) / threads;
  }
}

// Columns of the group that starts with column `first`.
int Work::group_columns(int64_t first) const {
  return static_cast<int>(std::min<int64_t>(job_.columns - first, pack_columns(packing_)));
}

void Work::pack(int thread, int present) {
  const int64_t groups = (job_.columns + pack_columns(packing_) - 1) / pack_columns(packing_);
  const int64_t pieces = (blocks_ + kPackBlocks - 1) / kPackBlocks;
  const int64_t step = packs_apart_ ? 1 : present;
  for (int64_t unit = packs_apart_ ? 0 : thread; unit < groups * pieces; unit += step) {
    const int64_t column = unit / pieces * pack_columns(packing_);
    const int64_t first = unit % pieces * kPackBlocks;
    const int columns = group_columns(column);
    const float* x[kMaxColumns];
    for (int c = 0; c < columns; ++c) x[c] = job_.x + (column + c) * job_.x_stride;
    narrow::pack(packing_, x, columns, job_.k, first, std::min(first + kPackBlocks, blocks_),
                 copy_of(thread) + static_cast<size_t>(column * blocks_) * kBlockBytes,
                 static_cast<size_t>(columns) * kBlockBytes);
  }
}

std::byte* Work::copy_of(int thread) const {
  return job_.packed + (packs_apart_ ? static_cast<size_t>(thread) * copy_bytes_ : 0);
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
    const int run = (thread + i) % threads_;
    while (true) {
      const Part mine = take(runs_[run].next, runs_[run].end);
      if (mine.first >= mine.last) break;
      for (int64_t tile = mine.first; tile < mine.last; ++tile) multiply_tile(tile, run, copy_of(thread));
    }
  }
}

Work::Place Work::find(int64_t tile) const {
  size_t i = 0;
  while (tile >= ends_[i]) ++i;
  return {&job_.products[i], i == 0 ? tile : tile - ends_[i - 1], tile + 1 == ends_[i]};
}

Stretch Work::weights_after(const Place& place, int64_t tile, int run) const {
  const int64_t end = runs_[run].end;
  const auto later = [&](int64_t n) {
    if (tile + n < end) {
      const Place next = find(tile + n);
      return weights_of(*next.product, next.index);
    }
    return following_ == nullptr ? Stretch{} : following_->start_of(run, tile + n - end);
  };
  return streamed_in(*place.product, tile + 1 < end && !place.last, tile == runs_[run].begin, later);
}

Stretch Work::start_of(int thread, int64_t n) const {
  if (thread >= threads_ || runs_[thread].begin + n >= runs_[thread].end) return {};
  const Place place = find(runs_[thread].begin + n);
  return weights_of(*place.product, place.index);
}

void Work::multiply_tile(int64_t tile, int run, const std::byte* packed) {
  const Place place = find(tile);
  const Product& product = *place.product;
  const Stretch next = weights_after(place, tile, run);
  TileArgs args = tile_args(product, place.index, job_.k);
  args.next = next.first;
  args.next_bytes = next.bytes;
  float* out = product.out + place.index * rows_of_tile(product);
  for (int64_t slab = 0; slab < job_.columns; slab += kMaxColumns) {
    args.packed = packed + static_cast<size_t>(slab * blocks_) * kBlockBytes;
    args.columns = static_cast<int>(std::min<int64_t>(job_.columns - slab, kMaxColumns));
    args.out = out + slab * product.out_stride;
    product.kernel.tile(args);
    args.next_bytes = 0;
  }
}

}  // namespace gsd::narrow
