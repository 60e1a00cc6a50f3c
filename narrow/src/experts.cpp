#include "experts.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace gsd::narrow {
namespace {

constexpr int kTileRows = 16;  // of any kernel, at most
// A tile with c columns takes about as long as kWeightsCost + c: its weights are streamed in and decoded once.
constexpr int64_t kWeightsCost = 4;

}  // namespace

ExpertWork::ExpertWork(const ExpertJob& job, int threads)
    : job_(job),
      packing_(job.products.front().of.kernel.packing),
      blocks_(blocks(packing_, job.k)),
      copy_bytes_(static_cast<size_t>(blocks_ * job.slots * job.tokens) * kBlockBytes),
      packs_apart_(each_packs_all(copy_bytes_, threads)),
      threads_(threads),
      routings_(static_cast<size_t>(threads)),
      claims_(new Claim[static_cast<size_t>(threads)]) {
  const auto columns = static_cast<size_t>(job.slots * job.tokens);
  const size_t groups = std::min(columns, static_cast<size_t>(job.experts));
  for (Routing& r : routings_) {
    r.order.resize(columns);
    r.ends.resize(static_cast<size_t>(job.experts));
    r.groups.reserve(groups);
    r.segments.reserve(groups * job.products.size());
    r.begins.resize(static_cast<size_t>(threads) + 1);
  }
}

// -1 if there is none.
int64_t ExpertWork::expert_of(int64_t place) const {
  int32_t id;
  std::memcpy(&id,
              job_.ids + static_cast<size_t>(place / job_.slots) * job_.ids_token +
                  static_cast<size_t>(place % job_.slots) * job_.ids_slot,
              sizeof id);
  return id >= 0 && id < job_.experts ? id : -1;
}

void ExpertWork::route(Routing& r) const {
  const auto columns = static_cast<int64_t>(r.order.size());
  std::fill(r.ends.begin(), r.ends.end(), 0);
  for (int64_t i = 0; i < columns; ++i)
    if (const int64_t e = expert_of(i); e >= 0) ++r.ends[static_cast<size_t>(e)];
  r.groups.clear();
  r.segments.clear();
  int64_t first = 0;
  int64_t tile = 0;
  for (int64_t e = 0; e < job_.experts; ++e) {
    int64_t& place = r.ends[static_cast<size_t>(e)];
    if (place == 0) continue;
    r.groups.push_back({e, first, place});
    for (const ExpertProduct& product : job_.products) {
      r.segments.push_back({tile, &r.groups.back(), &product});
      tile += tiles(product.of);
    }
    first += std::exchange(place, first);
  }
  for (int64_t i = 0; i < columns; ++i)
    if (const int64_t e = expert_of(i); e >= 0)
      r.order[static_cast<size_t>(r.ends[static_cast<size_t>(e)]++)] = static_cast<int32_t>(i);
  r.begins.back() = tile;
  share(r);
}

// Runs of neighbouring tiles that take about equally long.
void ExpertWork::share(Routing& r) const {
  const auto each = [](const Segment& s) { return kWeightsCost + s.group->columns; };
  int64_t total = 0;
  for (const Segment& s : r.segments) total += each(s) * tiles(s.product->of);
  int64_t before = 0;
  int thread = 0;
  for (const Segment& s : r.segments) {
    const int64_t cost = each(s) * tiles(s.product->of);
    for (; thread < threads_ && total * thread / threads_ <= before + cost; ++thread)
      r.begins[static_cast<size_t>(thread)] =
          s.first_tile + (total * thread / threads_ - before + each(s) - 1) / each(s);
    before += cost;
  }
  for (; thread < threads_; ++thread) r.begins[static_cast<size_t>(thread)] = r.begins.back();
}

void ExpertWork::pack(int thread, int present) {
  Routing& r = routings_[static_cast<size_t>(thread)];
  route(r);
  clear_rest(thread, present);
  const int64_t pieces = (blocks_ + kPackBlocks - 1) / kPackBlocks;
  int64_t unit = 0;
  for (const Group& group : r.groups) {
    for (int64_t column = 0; column < group.columns; column += pack_columns(packing_)) {
      const auto columns = static_cast<int>(std::min<int64_t>(group.columns - column, pack_columns(packing_)));
      const int64_t first = group.first + column;
      const float* x[kMaxColumns];
      for (int c = 0; c < columns; ++c) {
        const int64_t place = r.order[static_cast<size_t>(first + c)];
        x[c] = job_.x + place / job_.slots * job_.x_token + place % job_.slots % job_.x_slots * job_.x_slot;
      }
      for (int64_t piece = 0; piece < pieces; ++piece, ++unit) {
        if (!packs_apart_ && unit % present != thread) continue;
        narrow::pack(packing_, x, columns, job_.k, piece * kPackBlocks, std::min((piece + 1) * kPackBlocks, blocks_),
                     copy_of(thread) + static_cast<size_t>(first * blocks_) * kBlockBytes,
                     static_cast<size_t>(columns) * kBlockBytes);
      }
    }
  }
}

void ExpertWork::clear_rest(int thread, int present) const {
  for (int64_t i = thread; i < job_.slots * job_.tokens; i += present) {
    if (expert_of(i) >= 0) continue;
    for (const ExpertProduct& p : job_.products)
      std::fill_n(p.of.out + i / job_.slots * p.token_stride + i % job_.slots * p.of.out_stride, p.of.rows, 0.0F);
  }
}

std::byte* ExpertWork::copy_of(int thread) const {
  return job_.packed + (packs_apart_ ? static_cast<size_t>(thread) * copy_bytes_ : 0);
}

void ExpertWork::multiply(int thread) {
  const Routing& r = routings_[static_cast<size_t>(thread)];
  for (int i = 0; i < threads_; ++i) {
    const int run = (thread + i) % threads_;
    const int64_t begin = r.begins[static_cast<size_t>(run)];
    const int64_t end = r.begins[static_cast<size_t>(run) + 1];
    while (true) {
      const Part mine = take(claims_[static_cast<size_t>(run)].next, end - begin);
      if (mine.first >= mine.last) break;
      for (int64_t n = mine.first; n < mine.last; ++n) multiply_tile(r, begin + n, run, copy_of(thread));
    }
  }
}

ExpertWork::Place ExpertWork::find(const Routing& r, int64_t tile) const {
  const auto after = std::upper_bound(r.segments.begin(), r.segments.end(), tile,
                                      [](int64_t t, const Segment& s) { return t < s.first_tile; });
  const Segment& s = *(after - 1);
  Place place{s.group, s.product, s.product->of, tile - s.first_tile};
  place.expert.weights += static_cast<size_t>(s.group->expert) * s.product->expert_stride;
  return place;
}

void ExpertWork::multiply_tile(const Routing& r, int64_t tile, int run, const std::byte* packed) const {
  const Place place = find(r, tile);
  const int64_t end = r.begins[static_cast<size_t>(run) + 1];
  const auto later = [&](int64_t n) {
    if (tile + n >= end) return following_ == nullptr ? Stretch{} : following_->start_of(run, tile + n - end);
    const Place next = find(r, tile + n);
    return weights_of(next.expert, next.index);
  };
  const bool alike = tile + 1 < end && find(r, tile + 1).expert.row_stride == place.expert.row_stride;
  const Stretch next = streamed_in(place.expert, alike, tile == r.begins[static_cast<size_t>(run)], later);
  TileArgs args = tile_args(place.expert, place.index, job_.k);
  float results[kMaxColumns][kTileRows];
  args.out = results[0];
  args.out_stride = kTileRows;
  args.next = next.first;
  args.next_bytes = next.bytes;
  const int64_t row = place.index * rows_of_tile(place.expert);
  for (int64_t slab = 0; slab < place.group->columns; slab += kMaxColumns) {
    const int64_t first = place.group->first + slab;
    args.packed = packed + static_cast<size_t>(first * blocks_) * kBlockBytes;
    args.columns = static_cast<int>(std::min<int64_t>(place.group->columns - slab, kMaxColumns));
    place.expert.kernel.tile(args);
    for (int c = 0; c < args.columns; ++c) {
      const int64_t i = r.order[static_cast<size_t>(first + c)];
      std::memcpy(place.expert.out + i / job_.slots * place.product->token_stride +
                      i % job_.slots * place.expert.out_stride + row,
                  results[c], static_cast<size_t>(args.lanes) * sizeof(float));
    }
    args.next_bytes = 0;
  }
}

}  // namespace gsd::narrow
