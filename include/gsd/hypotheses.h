// The hypotheses of one session in one step: the token graph, the history chains, and their unrolling to a tree.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "gsd/params.h"
#include "gsd/sampling.h"
#include "gsd/source.h"
#include "gsd/token_graph.h"
#include "gsd/token_tree.h"
#include "gsd/types.h"

namespace gsd {

class Calibration;
class History;

// Owns everything a step proposes for one session. The call order of a step is
//   begin, { expand }*, unroll, build, learn.
// Not thread safe. After the first steps nothing allocates.
class Hypotheses {
 public:
  static constexpr std::size_t kMaxShared = 2;

  // `sampler` ranks the draft's candidates as the target will draw; both references must outlive this object.
  // `is_eog`: [n_vocab] true for end-of-generation tokens, which are always leaves.
  // `shared`: sources beside the history of this session, at most kMaxShared.
  Hypotheses(const SpeculationParams& params, const Sampler& sampler, Calibration& calibration,
             std::span<const bool> is_eog, int history_capacity,
             std::span<const std::shared_ptr<const Source>> shared = {});
  ~Hypotheses();
  Hypotheses(const Hypotheses&) = delete;
  Hypotheses& operator=(const Hypotheses&) = delete;

  const SpeculationParams& params() const { return params_; }
  std::size_t vocabulary() const { return is_eog_.size(); }
  // Takes effect with the next begin().
  void set_params(const SpeculationParams& params);

  // A token was committed: it becomes part of the history.
  void remember(Token token);
  void forget();  // the committed text was replaced
  // Tokens that the last step verified off the exact order; proposed first in the next step.
  void hint(std::span<const Token> tokens) { hint_.assign(tokens.begin(), tokens.end()); }

  // Starts a step. `tokens`: everything committed, its last one the root; must stay valid until learn().
  // `position`: index of the next generated token (it keys the sampling noise).
  void begin(std::span<const Token> tokens, std::uint32_t position);

  // Names the candidates of graph node `node` from a drafter's logits [n_vocab] there and gives nodes to those that
  // pass the thresholds. What several drafters name is one candidate. REQUIRES: not expanded by that drafter.
  void expand(std::int32_t node, std::span<const float> logits, int drafter = 0);
  // The same where the candidates are known: tokens [k], distinct, and log_q [k], falling; both as likeliest() gives
  // them, of which the first n_candidates() count.
  void expand(std::int32_t node, std::span<const Token> tokens, std::span<const float> log_q, int drafter);
  // The same for a node that takes no pass: the drafter's level stays what it was.
  void expand_free(std::int32_t node, std::span<const Token> tokens, std::span<const float> log_q, int drafter);
  // Names the candidates of a node that the drafter has expanded, by what it has learned since: as expand() does, but
  // what it had named must be among them, in any order. What is new is due in the drafter's next level.
  void revise(std::int32_t node, std::span<const Token> tokens, std::span<const float> log_q, int drafter);
  // The likeliest tokens by such logits, best first, and the logarithms of their probabilities at the temperature that
  // is drawn with. tokens, log_q: [k]; returns how many there are.
  std::size_t likeliest(std::span<const float> logits, std::span<Token> tokens, std::span<float> log_q) const;
  std::size_t n_candidates() const;
  // Nodes that the drafter's next level may evaluate, most probable first, at most params().frontier: it has expanded
  // their parents. Valid until the next call on this object.
  std::span<const std::int32_t> frontier(int drafter = 0);
  // The most probable node less than `depth` tokens below the root that the drafter has not expanded, though it has
  // expanded its parent; -1 if there is none.
  std::int32_t next_to_expand(int drafter, int depth) const;

  // Unrolls the graph best-first into at most `max_nodes` nodes beside the root, none deeper than `max_depth`, with at
  // most `max_leaves` leaves, and returns how many there are.
  int unroll(int max_nodes, int max_depth, int max_leaves);
  // Calibrated path probability of unrolled node `i`, [0, unroll()): non-increasing in i.
  float unrolled_probability(int i) const;
  // Makes the tree of the root and the first n unrolled nodes, the most probable path first. REQUIRES: n <= unroll().
  const TokenTree& build(int n);
  const TokenTree& tree() const { return tree_; }

  // Updates the calibration and the recycled chains. `path`: accepted tree nodes below the root, in order; `emitted`:
  // the target's token at the root and at each node of the path, [path.size() + 1].
  void learn(std::span<const std::int32_t> path, std::span<const Token> emitted);

  const TokenGraph& graph() const { return graph_; }
  TokenGraph& graph() { return graph_; }
  // Calibrated probability that sources alone name the target's next token; 0 without a match. After begin().
  float source_probability();
  // True if acceptance turned out not to be what an earlier run had learned, since the last call.
  bool take_surprise();
  // Probability that an expansion by the drafter `depth` levels below the root names the target's token as a likely
  // one.
  float expansion_gain(int depth, int drafter = 0) const;
  // The same for one of graph node `node`, which others may have expanded: that it names what they did not.
  float expansion_gain_of(std::int32_t node, int drafter) const;

 private:
  struct Item;    // a candidate of the unrolling
  struct Popped;  // an item that was unrolled
  struct Ranked;  // a candidate of a node, in the order in which the target would draw
  struct Named;   // a candidate of a node as the drafters see it

  const Item& popped(int i) const;
  void grow(std::int32_t node);
  void rank_edges(std::int32_t node, int depth, int drafter);
  float gap(std::size_t rank) const;
  bool admitted(std::size_t rank) const;
  std::size_t name_candidates(std::int32_t node, int depth);
  void name_candidate(std::size_t first, const Named& candidate);
  void hear_all(std::size_t first, DrafterSet expanded);
  bool may_expand(std::int32_t id, int drafter) const;
  void learn_candidate(const Item& c, bool hit, std::array<bool, kMaxDrafters>& named);
  void learn_expansions(const Item& x, const std::array<bool, kMaxDrafters>& named);
  void enumerate(int popped_index);
  void enumerate_draft(std::int32_t parent, const Item& f);
  void enumerate_sources(std::int32_t parent, const Item& f, std::size_t first);
  void offer(std::size_t first, Item candidate);
  Item source_item(std::int32_t parent, const Item& f, Origin origin, int match_length, Token token) const;
  Item root_item() const;
  Source::Match find(const Source& source, int popped_index);
  std::size_t first_source() const { return params_.history ? 0 : 2; }
  void recycle(std::span<const std::int32_t> path);
  Token hint_at(std::int32_t i) const {
    return i >= 0 && i < static_cast<std::int32_t>(hint_.size()) ? hint_[static_cast<std::size_t>(i)] : -1;
  }

  SpeculationParams params_;
  const Sampler& sampler_;
  Calibration& calibration_;
  std::span<const bool> is_eog_;
  TokenGraph graph_;
  std::unique_ptr<History> main_;       // prompt and generated text
  std::unique_ptr<History> recycled_;   // drafted, not accepted
  std::vector<const Source*> sources_;  // main_, recycled_, then the shared ones
  std::vector<Token> hint_;
  std::span<const Token> tokens_;
  std::uint32_t position_ = 0;
  std::array<int, kMaxDrafters> level_{};  // of each drafter
  int max_depth_ = 0;

  TokenTree tree_;
  std::vector<Item> items_;
  std::vector<std::int32_t> heap_;
  std::vector<Popped> order_;
  std::vector<std::int32_t> frontier_;
  std::vector<Ranked> ranked_;
  std::vector<Named> named_;  // of the nodes enumerated so far
  std::vector<Token> scratch_tokens_;
  std::vector<float> scratch_log_q_;
  std::vector<float> scratch_p_;
  std::vector<bool> scratch_flags_;
  std::vector<Token> path_tokens_;
};

}  // namespace gsd
