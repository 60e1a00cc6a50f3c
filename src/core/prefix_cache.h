// States of texts that slots had to give up, kept in main memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <span>
#include <vector>

#include "gsd/backend.h"
#include "gsd/engine.h"

namespace gsd {

// Bounded in bytes: what was used longest ago goes first. A text is found by its own client with its own adapters only.
// One thread owns it.
class PrefixCache {
 public:
  // Fewer tokens than that are computed again sooner than they are looked for.
  static constexpr std::int32_t kLeast = 16;

  explicit PrefixCache(std::size_t most_bytes) : most_(most_bytes) {}

  bool on() const { return most_ > 0; }
  std::size_t most_bytes() const { return most_; }
  std::size_t n_bytes() const { return bytes_; }
  std::size_t size() const { return entries_.size(); }

  // Whether it gives all of the text but a few tokens. It counts as used then.
  bool holds(std::uint64_t client, std::span<const float> adapters, std::span<const Token> text);
  // REQUIRES: kept.text has kept.state.n tokens. What the new one gives too is dropped.
  void add(Engine::Kept kept);

  struct Found {
    const Engine::Kept* kept = nullptr;  // null: nothing is worth the copy
    std::int32_t n = 0;                  // of its tokens that are wanted and can be had
  };
  // The best for a text of which `have` tokens are there already. `use`: counts as used; valid until the next add().
  Found find(std::uint64_t client, std::span<const float> adapters, std::span<const Token> text,
             std::int32_t have) const;
  void use(const Found& found);
  void drop(const Found& found);

 private:
  using Entries = std::list<Engine::Kept>;
  static std::size_t n_bytes(const Engine::Kept& kept);
  Entries::iterator at(const Engine::Kept* kept);
  void erase(Entries::iterator entry);

  std::size_t most_;
  std::size_t bytes_ = 0;
  Entries entries_;  // the one used last at the end
};

// Tokens that both texts begin with.
std::int32_t n_common(std::span<const Token> a, std::span<const Token> b);

}  // namespace gsd
