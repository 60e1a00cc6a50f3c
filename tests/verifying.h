// Configurations that do everything the hard way: whatever they do, texts must not change.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>
#include <random>
#include <utility>
#include <vector>

#include "../src/core/planner.h"
#include "../src/draft/lattice.h"
#include "gsd/backend.h"
#include "gsd/drafter.h"
#include "gsd/error.h"
#include "gsd/source.h"

namespace gsd::test {

// Passes everything on to another backend, which must outlive it.
class PassingBackend : public Backend {
 public:
  explicit PassingBackend(Backend& inner) : inner_(inner) {}
  const BackendInfo& info() const override { return inner_.info(); }
  bool is_eog(Token token) const override { return inner_.is_eog(token); }
  void forward(std::span<const NodeInput> nodes) override { inner_.forward(nodes); }
  std::span<const float> logits(std::int32_t row) const override { return inner_.logits(row); }
  void commit(std::int32_t seq, std::span<const std::int32_t> path) override { inner_.commit(seq, path); }
  std::int32_t truncate(std::int32_t seq, std::int32_t n) override { return inner_.truncate(seq, n); }
  std::optional<SavedPrefix> save(std::int32_t seq, std::size_t most) override { return inner_.save(seq, most); }
  std::int32_t restore(std::int32_t seq, const SavedPrefix& saved, std::span<const Token> text) override {
    return inner_.restore(seq, saved, text);
  }
  void adapt(std::span<const float> scales) override { inner_.adapt(scales); }
  std::int32_t n_committed(std::int32_t seq) const override { return inner_.n_committed(seq); }
  std::int32_t n_speculative(std::int32_t seq) const override { return inner_.n_speculative(seq); }
  std::int32_t n_extra() const override { return inner_.n_extra(); }
  double sequence_ms() const override { return inner_.sequence_ms(); }

 protected:
  Backend& inner_;
};

// Swaps the memory of two sequences before every pass, by computing both anew.
class MovingBackend final : public PassingBackend {
 public:
  MovingBackend(Backend& inner, std::uint64_t seed) : PassingBackend(inner), rng_(seed) {
    sequences_.resize(static_cast<std::size_t>(inner.info().n_seq));
    for (std::size_t i = 0; i < sequences_.size(); ++i) sequences_[i].place = static_cast<std::int32_t>(i);
  }

  void forward(std::span<const NodeInput> nodes) override {
    move();
    batch_.assign(nodes.begin(), nodes.end());
    for (NodeInput& n : batch_) n.seq = at(n.seq).place;
    inner_.forward(batch_);
    for (const NodeInput& n : nodes) at(n.seq).speculative.push_back(n.token);
  }
  void commit(std::int32_t seq, std::span<const std::int32_t> path) override {
    Sequence& s = at(seq);
    inner_.commit(s.place, path);
    for (const std::int32_t i : path) s.text.push_back(s.speculative[static_cast<std::size_t>(i)]);
    s.speculative.clear();
  }
  std::int32_t truncate(std::int32_t seq, std::int32_t n) override {
    Sequence& s = at(seq);
    const std::int32_t left = inner_.truncate(s.place, n);
    s.text.resize(static_cast<std::size_t>(left));
    s.speculative.clear();
    return left;
  }
  std::optional<SavedPrefix> save(std::int32_t seq, std::size_t most) override {
    return inner_.save(at(seq).place, most);
  }
  std::int32_t restore(std::int32_t seq, const SavedPrefix& saved, std::span<const Token> text) override {
    Sequence& s = at(seq);
    const std::int32_t n = inner_.restore(s.place, saved, text);
    s.text.assign(text.begin(), text.begin() + n);
    s.speculative.clear();
    return n;
  }
  std::int32_t n_committed(std::int32_t seq) const override { return inner_.n_committed(at(seq).place); }
  std::int32_t n_speculative(std::int32_t seq) const override { return inner_.n_speculative(at(seq).place); }
  std::int64_t n_moves() const { return n_moves_; }

 private:
  struct Sequence {
    std::int32_t place = 0;  // the inner backend's sequence
    std::vector<Token> text;
    std::vector<Token> speculative;
  };
  Sequence& at(std::int32_t seq) { return sequences_[static_cast<std::size_t>(seq)]; }
  const Sequence& at(std::int32_t seq) const { return sequences_[static_cast<std::size_t>(seq)]; }

  void move() {
    Sequence& a = sequences_[rng_() % sequences_.size()];
    Sequence& b = sequences_[rng_() % sequences_.size()];
    if (&a == &b || !a.speculative.empty() || !b.speculative.empty()) return;
    std::swap(a.place, b.place);
    for (Sequence* s : {&a, &b}) inner_.truncate(s->place, 0);
    for (Sequence* s : {&a, &b}) feed(*s);
    n_moves_ += a.text != b.text ? 1 : 0;
  }
  void feed(const Sequence& s) {
    for (std::size_t from = 0; from < s.text.size();) {
      const auto n = std::min(s.text.size() - from, static_cast<std::size_t>(info().max_batch));
      batch_.clear();
      path_.clear();
      for (std::size_t i = 0; i < n; ++i) {
        batch_.push_back({s.place, s.text[from + i], static_cast<std::int32_t>(i) - 1, false, true});
        path_.push_back(static_cast<std::int32_t>(i));
      }
      inner_.forward(batch_);
      inner_.commit(s.place, path_);
      from += n;
    }
  }

  std::mt19937_64 rng_;
  std::vector<Sequence> sequences_;
  std::vector<NodeInput> batch_;
  std::vector<std::int32_t> path_;
  std::int64_t n_moves_ = 0;
};

// Asks before every pass what shall become of it.
class FaultyBackend final : public PassingBackend {
 public:
  enum class Fate : std::uint8_t { kWorks, kNoRoom, kBreaks };
  using Decide = std::function<Fate(std::span<const NodeInput>)>;

  FaultyBackend(Backend& inner, std::uint64_t seed, Decide decide)
      : PassingBackend(inner), rng_(seed), decide_(std::move(decide)) {}

  void forward(std::span<const NodeInput> nodes) override {
    const Fate fate = decide_(nodes);
    if (fate == Fate::kNoRoom) throw Error(ErrorCode::kNoKvSlot, "There is no room, as was decided.");
    inner_.forward(nodes);
    if (fate == Fate::kWorks) return;
    for (const NodeInput& n : nodes) {
      const std::int32_t held = inner_.n_committed(n.seq);
      inner_.truncate(
          n.seq, rng_() % 2 == 0 ? held : static_cast<std::int32_t>(rng_() % (static_cast<std::uint64_t>(held) + 1)));
    }
    throw Error(ErrorCode::kBackend, "The pass failed, as was decided.");
  }

 private:
  std::mt19937_64 rng_;
  Decide decide_;
};

// Names whatever comes, for one position or a block of them, and nothing at times; forgets what it likes.
class RubbishDrafter final : public Drafter {
 public:
  RubbishDrafter(const BackendInfo& target, std::uint64_t seed)
      : rng_(seed),
        info_{.n_seq = target.n_seq,
              .n_ctx = target.n_ctx,
              .max_batch = 1 + static_cast<std::int32_t>(rng_() % 40),
              .max_nodes = 1 + static_cast<std::int32_t>(rng_() % 8),
              .levels = rng_() % 2 == 0 ? 1 : 1 + static_cast<std::int32_t>(rng_() % 8),
              .name = "rubbish"},
        known_(static_cast<std::size_t>(target.n_seq)) {}

  const DrafterInfo& info() const override { return info_; }
  std::int32_t n_known(std::int32_t slot) const override { return known_[static_cast<std::size_t>(slot)]; }
  bool catch_up(std::int32_t slot, std::span<const Token>, std::int32_t end) override {
    if (rng_() % 4 == 0) return false;
    known_[static_cast<std::size_t>(slot)] = std::min(end, n_known(slot) + info_.max_batch);
    return true;
  }
  bool roots(std::span<const Root> roots) override {
    if (rng_() % 4 == 0) return false;
    for (const Root& r : roots) {
      known_[static_cast<std::size_t>(r.slot)] = static_cast<std::int32_t>(r.text.size());
      if (info_.levels == 1) {
        r.hypotheses->expand(0, row(*r.hypotheses), r.drafter);
        continue;
      }
      lattice_.clear();
      for (std::int32_t i = 0; i < info_.levels; ++i) lattice_.add(*r.hypotheses, row(*r.hypotheses));
      lattice_.expand(*r.hypotheses, pairs_, r.drafter);
      for (std::size_t i = 1; i < r.text.size(); ++i) pairs_.learn(r.text[i - 1], r.text[i]);
    }
    return true;
  }
  bool level(std::vector<Node>& nodes) override {
    std::erase_if(nodes, [this](const Node&) { return rng_() % 4 == 0; });
    for (const Node& n : nodes) n.hypotheses->expand(n.id, row(*n.hypotheses), n.drafter);
    return !nodes.empty();
  }
  void commit(std::int32_t, const Hypotheses&, std::span<const std::int32_t>) override {}
  void truncate(std::int32_t slot, std::int32_t n) override {
    std::int32_t& known = known_[static_cast<std::size_t>(slot)];
    known = std::min(known, n);
    if (rng_() % 8 == 0) known = static_cast<std::int32_t>(rng_() % (static_cast<std::uint64_t>(known) + 1));
  }

 private:
  std::span<const float> row(const Hypotheses& h) {
    row_.resize(h.vocabulary());
    const std::uint64_t kind = rng_() % 8;
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    for (float& x : row_) {
      x = static_cast<float>(static_cast<double>(rng_() % 2000) - 1000) / (kind % 2 == 0 ? 10 : 200);
      if (kind == 0 || (kind == 1 && rng_() % 2 == 0)) x = std::numeric_limits<float>::quiet_NaN();
      if (kind == 2 && rng_() % 2 == 0) x = rng_() % 2 == 0 ? kInfinity : -kInfinity;
      if (kind == 3) x = 3.0e38F;
    }
    return row_;
  }

  std::mt19937_64 rng_;
  DrafterInfo info_;
  std::vector<std::int32_t> known_;
  std::vector<float> row_;
  Lattice lattice_;
  PairTable pairs_;
};

// A store in which every text is found somewhere, and anything follows.
class RubbishSource final : public Source {
 public:
  RubbishSource(std::int32_t n_vocab, std::uint64_t seed)
      : n_vocab_(static_cast<std::uint64_t>(n_vocab)), seed_(seed) {}
  Origin origin() const override { return Origin::kLookup; }
  Match find(std::span<const Token> text) const override {
    std::uint64_t h = seed_;
    for (const Token t : text) h = mix(h + static_cast<std::uint64_t>(t));
    if (h % 8 == 0) return {};
    return {static_cast<std::int64_t>(h % 1000000), 1 + static_cast<std::int32_t>(h / 8 % kMaxMatch)};
  }
  Token next(const Match& m) const override {
    const std::uint64_t h = mix(seed_ ^ static_cast<std::uint64_t>(m.position));
    return h % 16 == 0 ? -1 : static_cast<Token>(h % n_vocab_);
  }
  Match advance(const Match& m) const override { return {m.position + 1, std::min(m.length + 1, kMaxMatch)}; }

 private:
  static std::uint64_t mix(std::uint64_t x) {
    x = (x ^ (x >> 31)) * 0x9e3779b97f4a7c15ULL;
    return x ^ (x >> 29);
  }
  std::uint64_t n_vocab_;
  std::uint64_t seed_;
};

// Makes the planner believe something else: what passes cost, what was reached lately, what is due.
inline void confuse(Planner& planner, std::mt19937_64& rng) {
  const auto any = [&rng](double most) { return most * static_cast<double>(rng() % 1000 + 1) / 1000; };
  std::vector<CostModel*> costs{&planner.target_cost()};
  for (CostModel& draft : planner.draft_costs()) costs.push_back(&draft);
  for (CostModel* cost : costs) {
    std::vector<CostModel::Point> points;
    double ms = any(10);
    for (int width = 1; width <= std::min(32, cost->max_width()); width *= 2) {
      points.push_back({width, ms});
      ms += any(rng() % 2 == 0 ? 0.1 : 20);
    }
    cost->freeze(false);
    cost->load(points);
    cost->freeze(rng() % 2 == 0);
  }
  Planner::Recent recent;
  recent.tokens = any(100);
  recent.ms = any(1000);
  recent.savings_ms = any(20) - 10;
  recent.urgent = static_cast<int>(rng() % 3);
  for (auto& w : recent.watch) w = {static_cast<int>(rng() % 600), static_cast<int>(rng() % 64)};
  planner.set_recent(recent);
}

}  // namespace gsd::test
