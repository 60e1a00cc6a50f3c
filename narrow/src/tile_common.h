// What tiles share: storing; for quantised weights also prefetching, and walking over the columns.
#pragma once

#include <utility>

#include "isa.h"
#include "kernels.h"

namespace {

using gsd::narrow::kBlockBytes;
using gsd::narrow::kMaxColumns;
using gsd::narrow::kStreamedTile;
using gsd::narrow::TileArgs;

template <int kColumns>
struct Count {
  static constexpr int kCount = kColumns;
};

// Calls f with n, at most kMost, as a constant.
template <int kMost, class F>
GSD_INLINE void with_count(int n, F&& f) {
  [&]<int... i>(std::integer_sequence<int, i...>) GSD_LAMBDA_INLINE {
    if (n >= kMost) return f(Count<kMost>{});
    ((n == i + 1 ? f(Count<i + 1>{}) : void()), ...);
  }
  (std::make_integer_sequence<int, kMost - 1>{});
}

// Columns that are multiplied side by side: with that many independent sums in flight the multiplier does not wait for
// its own results. Their sums, and a piece of weights, fit into the registers.
constexpr int kSideBySide = kRows == 16 ? 8 : 4;

// Calls f(first column, constant count) over all columns; kFixed of them, or if that is 0 `columns`. How columns are
// grouped never changes what is computed for one of them.
template <int kFixed, class F>
GSD_INLINE void for_columns(int columns, F&& f) {
  if constexpr (kFixed > 0) return f(0, Count<kFixed>{});
  int c = 0;
  const auto next = [&](auto count) GSD_LAMBDA_INLINE {
    f(c, count);
    c += decltype(count)::kCount;
  };
  while (c + kSideBySide <= columns) next(Count<kSideBySide>{});
  if (kSideBySide > 4 && c + 4 <= columns) next(Count<4>{});
  if (c + 2 <= columns) next(Count<2>{});
  if (c < columns) next(Count<1>{});
}

// How often for_columns calls f.
constexpr int column_groups(int columns) {
  return columns / kSideBySide + __builtin_popcount(static_cast<unsigned>(columns % kSideBySide));
}

// Calls f with the number of columns as a constant where their sums then stay in registers, else with 0.
template <class F>
GSD_INLINE void with_fixed_columns(int columns, F&& f) {
  if (columns == 1) return f(Count<1>{});
  if (columns == 2) return f(Count<2>{});
  if (columns == 4) return f(Count<4>{});
  if (columns == kSideBySide) return f(Count<kSideBySide>{});
  f(Count<0>{});
}

// Streams weights in ahead of their use, spread evenly over a tile: one step for each block and group of columns. A
// tile reads its rows side by side, a pattern that hardware prefetchers follow badly; asked for in address order the
// bytes come at nearly full bandwidth.
//
// Up to kStreamedTile bytes, a whole later tile is fetched while this one is computed. Of larger tiles too little would
// be left in the cache by then: they are cut along their rows into pieces of kPiece bytes, each fetched while the piece
// before it is computed. All limits were measured (docs/narrow-matmul.md).
//
// The bytes are asked for into the second level only: a request into the first level occupies one of its few miss
// buffers until memory answers, and the loads of this tile's weights would wait behind it.
class Prefetcher {
 public:
  GSD_INLINE Prefetcher(const TileArgs& t, size_t rows, int64_t blocks)
      : next_(t.next), next_bytes_(t.next_bytes), rows_(rows) {
    const auto steps = static_cast<size_t>(blocks * column_groups(t.columns));
    const size_t row = t.row_stride;
    if (row * rows <= kStreamedTile) {
      at_ = t.next;
      end_ = t.next + t.next_bytes;
      lines_ = lines(t.next_bytes, steps);
      return;
    }
    stride_ = row;
    piece_ = kPiece / rows;
    column_ = piece_;
    lines_ = lines(row * rows, steps);
    base_ = t.weights;
    row_bytes_ = row;
    set_row(0);
  }

  // As many lines every time: a count that changed would be mispredicted, and cost more than it spreads.
  GSD_INLINE void step() {
    const auto bytes = static_cast<ptrdiff_t>(lines_ * kBlockBytes);
    if (end_ - at_ >= bytes) {
      for (const uint8_t* last = at_ + bytes; at_ != last; at_ += kBlockBytes) prefetch_second_level(at_);
    } else if (lines_ > 0) {
      step_over_end();
    }
  }

 private:
  static constexpr size_t kPiece = 16 << 10;

  static size_t lines(size_t bytes, size_t steps) { return bytes / (steps * kBlockBytes) + 1; }

  GSD_INLINE void set_row(size_t row) {
    row_ = row;
    const size_t stop = column_ + piece_ < row_bytes_ ? column_ + piece_ : row_bytes_;
    at_ = base_ + row * stride_ + column_;
    end_ = base_ + row * stride_ + stop;
  }

  __attribute__((noinline)) void step_over_end() {
    for (size_t i = 0; i < lines_; ++i) {
      if (at_ >= end_ && !next_row()) {
        lines_ = 0;
        return;
      }
      prefetch_second_level(at_);
      at_ += kBlockBytes;
    }
  }

  // Moves on to the same piece of the next row, to the next piece, or to the first piece of the next tile.
  bool next_row() {
    if (stride_ == 0 || base_ == nullptr) return false;
    const bool in_next = base_ == next_;
    if (row_ + 1 < (in_next ? next_bytes_ / stride_ : rows_)) {
      set_row(row_ + 1);
      return true;
    }
    if (in_next) return false;
    column_ += piece_;
    if (column_ >= row_bytes_) {
      if (next_bytes_ == 0) return false;
      base_ = next_;
      column_ = 0;
    }
    set_row(0);
    return true;
  }

  const uint8_t* next_;
  size_t next_bytes_;
  size_t rows_;
  const uint8_t* base_ = nullptr;
  size_t stride_ = 0, row_bytes_ = 0, piece_ = 0;  // stride_ == 0: one stretch, the whole next tile
  size_t column_ = 0, row_ = 0;
  size_t lines_;
  const uint8_t* at_ = nullptr;
  const uint8_t* end_ = nullptr;
};

// sums: [column][group of rows], of `columns` columns from first_column on
template <int kGroups>
GSD_INLINE void store_tile(const TileArgs& t, int first_column, int columns, const Floats* sums) {
  for (int c = 0; c < columns; ++c) {
    float* out = t.out + (first_column + c) * t.out_stride - t.first_lane;  // where lane 0 would go
    for (int g = 0; g < kGroups; ++g) {
      const int first = t.first_lane > g * kRows ? t.first_lane - g * kRows : 0;
      const int last = t.first_lane + t.lanes - g * kRows < kRows ? t.first_lane + t.lanes - g * kRows : kRows;
      if (first < last) store_lanes(out + g * kRows + first, sums[c * kGroups + g], first, last - first);
    }
  }
}

}  // namespace
