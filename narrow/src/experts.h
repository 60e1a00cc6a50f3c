// Products by experts, ggml's MUL_MAT_ID: out[t][s] = weights[ids[t][s]] * x[t][s % x_slots] for tokens t and slots s.
//
// What is multiplied by one expert is brought together, so that its weights are read once for all of it. Independent of
// how threads are made, as Work is.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "work.h"

namespace gsd::narrow {

struct ExpertProduct {
  Product of;            // expert 0's; out is that of slot 0 of token 0, out_stride leads to the next slot
  size_t expert_stride;  // bytes from expert to expert
  int64_t token_stride;  // floats of out from token to token
};

// Products of the same activations by the same choice of experts. All kernels have the same packing.
struct ExpertJob {
  std::span<const ExpertProduct> products;
  const float* x;
  int64_t x_slots, x_slot, x_token;  // how many slots it has, floats from slot to slot and from token to token
  int64_t k;
  const uint8_t* ids;              // int32; what names no expert gets zeros
  size_t ids_slot, ids_token;      // bytes
  int64_t experts, slots, tokens;  // tokens * slots < 2^31
  std::byte* packed;               // packed_bytes(packing, k, slots * tokens, threads), aligned to kBlockBytes
};

// Each thread calls pack(), all wait for each other unless packs_apart(), each calls multiply().
class ExpertWork {
 public:
  // Keeps references into job, which must outlive it; reads ids when pack() is called. REQUIRES: threads >= 1,
  // job.products not empty.
  ExpertWork(const ExpertJob& job, int threads);

  // thread in [0, present): the threads really there, which may be fewer than asked for.
  void pack(int thread, int present);
  bool packs_apart() const { return packs_apart_; }
  void multiply(int thread);

  // As with Work.
  void followed_by(const Work& next) { following_ = &next; }

 private:
  struct Group {  // what one expert multiplies: order[first ..], so many columns
    int64_t expert, first, columns;
  };
  struct Segment {  // a group's tiles of one product
    int64_t first_tile;
    const Group* group;
    const ExpertProduct* product;
  };
  // Each thread makes the same for itself, which takes it less time than to wait for one that did.
  struct alignas(64) Routing {
    std::vector<int32_t> order;  // token * slots + slot, expert by expert
    std::vector<int64_t> ends;   // [experts] of each expert's part of it
    std::vector<Group> groups;
    std::vector<Segment> segments;
    std::vector<int64_t> begins;  // [threads + 1] the first tile of each thread's run
  };
  struct Place {
    const Group* group;
    const ExpertProduct* product;
    Product expert;  // of this expert
    int64_t index;   // which tile of it
  };
  struct alignas(64) Claim {
    std::atomic<int64_t> next{0};
  };

  int64_t expert_of(int64_t place) const;
  void route(Routing& r) const;
  void share(Routing& r) const;
  void clear_rest(int thread, int present) const;
  Place find(const Routing& r, int64_t tile) const;
  void multiply_tile(const Routing& r, int64_t tile, int run, const std::byte* packed) const;
  std::byte* copy_of(int thread) const;

  const ExpertJob& job_;
  Packing packing_;
  int64_t blocks_;
  size_t copy_bytes_;
  bool packs_apart_;
  int threads_;
  std::vector<Routing> routings_;  // [threads]
  std::unique_ptr<Claim[]> claims_;
  const Work* following_ = nullptr;
};

}  // namespace gsd::narrow
