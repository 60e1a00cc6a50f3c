// A backend whose distributions are known exactly: for tests and benchmarks without a model.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "gsd/backend.h"

namespace gsd {

// Fills `logits` [n_vocab] for the token that follows `context` (the last `order` tokens, oldest first).
using Script = std::function<void(std::span<const Token> context, std::span<float> logits)>;

// A random Markov model of the given order: logits are a hash of (seed, last `order` tokens, candidate), scaled by
// `sharpness`. `drift` in [0, 1] mixes in another model of seed + 1: a draft that agrees with its target only partly.
Script random_script(std::uint64_t seed, int order, float sharpness, float drift = 0);

// Keeps prefixes and trees as a libllama backend must, and throws Error(kInternal) where libllama would be silently
// wrong: equal siblings, parents after children, paths that are none, too many leaves.
class ScriptedBackend final : public Backend {
 public:
  // `order`: how many tokens the script looks at, [1, 32].
  ScriptedBackend(BackendInfo info, Script script, int order, Token eog = -1);

  const BackendInfo& info() const override { return info_; }
  bool is_eog(Token token) const override { return token == eog_; }
  void forward(std::span<const NodeInput> nodes) override;
  std::span<const float> logits(std::int32_t row) const override;
  void commit(std::int32_t seq, std::span<const std::int32_t> path) override;
  std::int32_t truncate(std::int32_t seq, std::int32_t n_tokens) override;
  std::optional<SavedPrefix> save(std::int32_t seq, std::size_t most) override;
  std::int32_t restore(std::int32_t seq, const SavedPrefix& saved, std::span<const Token> text) override;
  // Adapters turn the rows of logits. Throws Error(kInternal) in forward() for a prefix that was made with others.
  void adapt(std::span<const float> scales) override;
  std::int32_t n_committed(std::int32_t seq) const override;
  std::int32_t n_speculative(std::int32_t seq) const override;

  // Committed tokens of a sequence, for checks.
  std::span<const Token> committed(std::int32_t seq) const { return sequence(seq).prefix; }
  std::int64_t n_forwards() const { return n_forwards_; }
  // The next `count` forward passes fail with Error(kNoKvSlot), nothing changed.
  void fail_next(int count) { fail_ = count; }
  // The `nth` forward pass from now on fails with Error(kBackend).
  void break_at(std::int64_t nth) { break_in_ = nth; }
  // truncate() and a failed pass leave a multiple of `n` tokens: a model that can go back to some places only.
  void go_back_to_multiples_of(std::size_t n) { go_back_to_ = n; }
  // restore() finds no room.
  void refuse_to_restore(bool refuse) { refuse_ = refuse; }

 private:
  struct Node {
    Token token;
    std::int32_t parent;
    std::int32_t children;
    bool certain;
  };
  struct Sequence {
    std::vector<Token> prefix;
    std::vector<Node> nodes;
    std::int32_t leaves = 0;
    std::vector<float> scales;  // that the prefix was made with
  };
  Sequence& sequence(std::int32_t seq);
  const Sequence& sequence(std::int32_t seq) const;
  void add(const NodeInput& in);

  BackendInfo info_;
  Script script_;
  int order_;
  Token eog_;
  std::vector<Sequence> sequences_;
  std::vector<float> logits_;  // [max_outputs, n_vocab]
  std::vector<Token> context_;
  std::int32_t n_rows_ = 0;
  std::int64_t n_forwards_ = 0;
  int fail_ = 0;
  std::int64_t break_in_ = 0;
  std::size_t go_back_to_ = 1;
  bool refuse_ = false;
  std::vector<float> scales_;
};

}  // namespace gsd
