// A draft that costs what a real one does and is right as often as one asks: what speculation is worth at every
// acceptance.
#pragma once

#include <span>
#include <vector>

#include "gsd/backend.h"

namespace gsd::bench {

// Makes all passes by `real`, and gives other rows of logits: where a sequence's text so far is that of its script, the
// script's next token stands first with the probability `acceptance`, else second with the same, and so on; in other
// places the rows name random tokens. What is drawn is a function of the script and the position, and the logits tell
// these probabilities, so that a draft's confidence is calibrated. One thread.
class ScriptedDraft final : public Backend {
 public:
  static constexpr int kCandidates = 8;  // that a row names; it never names the script's token later than that

  explicit ScriptedDraft(Backend& real);

  // What follows from now on in sequence `seq`: the prompt and its continuation. `acceptance`: [0, 1)
  void script(std::int32_t seq, std::vector<Token> text, double acceptance);

  const BackendInfo& info() const override { return real_.info(); }
  bool is_eog(Token token) const override { return real_.is_eog(token); }
  void forward(std::span<const NodeInput> nodes) override;
  std::span<const float> logits(std::int32_t row) const override { return rows_[static_cast<std::size_t>(row)].logits; }
  void commit(std::int32_t seq, std::span<const std::int32_t> path) override;
  std::int32_t truncate(std::int32_t seq, std::int32_t n_tokens) override;
  std::int32_t n_committed(std::int32_t seq) const override { return real_.n_committed(seq); }
  std::int32_t n_speculative(std::int32_t seq) const override { return real_.n_speculative(seq); }
  std::int32_t n_extra() const override { return real_.n_extra(); }
  double sequence_ms() const override { return real_.sequence_ms(); }

 private:
  struct Row {
    std::vector<float> logits;  // [n_vocab]
    std::vector<Token> named;   // those above the others
  };
  struct Node {
    std::int32_t position;
    bool follows;  // the text up to it is the script's
  };
  struct Sequence {
    std::vector<Token> text;
    double acceptance = 0;
    std::int32_t follows = 0;  // leading committed tokens that are the script's
    std::vector<Node> nodes;   // speculative
  };
  Sequence& at(std::int32_t seq) { return sequences_[static_cast<std::size_t>(seq)]; }
  void fill(Row& row, const Sequence& s, const Node& node, Token token) const;

  Backend& real_;
  std::vector<Sequence> sequences_;
  std::vector<Row> rows_;
};

}  // namespace gsd::bench
