// Plays one side of a replay as a backend.
#pragma once

#include <vector>

#include "gsd/backend.h"
#include "replay.h"

namespace gsd {

// What is committed is the text: only its length is kept. `replay` must outlive it.
class ReplayBackend final : public Backend {
 public:
  enum class Side { kTarget, kDraft };

  ReplayBackend(const Replay& replay, Side side);

  const BackendInfo& info() const override { return info_; }
  bool is_eog(Token token) const override;
  void forward(std::span<const NodeInput> nodes) override;
  std::span<const float> logits(std::int32_t row) const override;
  void commit(std::int32_t seq, std::span<const std::int32_t> path) override;
  std::int32_t truncate(std::int32_t seq, std::int32_t n_tokens) override;
  std::int32_t n_committed(std::int32_t) const override { return committed_; }
  std::int32_t n_speculative(std::int32_t) const override { return static_cast<std::int32_t>(nodes_.size()); }

  // Rows of the draft for which nothing was recorded.
  std::int64_t unknown() const { return unknown_; }

 private:
  static constexpr std::int32_t kOffText = -2;
  struct Place {
    std::int32_t position;  // in the text (-1: before its first token), or kOffText
    std::int32_t node;      // of the replay, or -1 where nothing was recorded
  };

  Place on_text(std::int32_t position) const;
  Place below(Place parent, Token token) const;
  void answer(const Replay::Node& n, std::vector<float>& row) const;

  const Replay& replay_;
  Side side_;
  BackendInfo info_;
  std::int32_t committed_ = 0;
  std::vector<Place> nodes_;
  std::vector<Place> rows_;
  mutable std::vector<std::vector<float>> logits_;  // of the rows asked for so far, empty otherwise
  std::int64_t unknown_ = 0;
};

}  // namespace gsd
