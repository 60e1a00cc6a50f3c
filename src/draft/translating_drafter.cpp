#include "translating_drafter.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>
#include <string>
#include <unordered_map>
#include <utility>

#include "gsd/error.h"
#include "translated_text.h"

namespace gsd {
namespace {

constexpr std::size_t kMostCandidates = 32;  // of a node of the draft that are looked at
constexpr std::int32_t kMostPasses = 4;      // of one call beside that of the roots
constexpr Token kNoToken = ByteVocabulary::kNone;

class TranslatingDrafter final : public Drafter {
 public:
  TranslatingDrafter(Backend& backend, std::shared_ptr<const VocabularyMap> map, std::string_view name);

  const DrafterInfo& info() const override { return info_; }
  std::int32_t n_known(std::int32_t slot) const override { return at(slot).text.n_known(backend_.n_committed(slot)); }
  double sequence_ms() const override { return backend_.sequence_ms(); }

  bool catch_up(std::int32_t slot, std::span<const Token> text, std::int32_t end) override;
  bool roots(std::span<const Root> roots) override;
  bool level(std::vector<Node>& nodes) override;
  void commit(std::int32_t slot, const Hypotheses& hypotheses, std::span<const std::int32_t> path) override;
  void truncate(std::int32_t slot, std::int32_t n) override;

 private:
  // A node of the draft's own tree; the first one is the end of the text. The backend counts from the second one.
  struct Own {
    Token token = kNoToken;
    std::int32_t parent = -1;
    std::int32_t children = 0;
    std::size_t n = 0;  // candidates; 0 = not evaluated yet
    std::array<Token, kMostCandidates> candidate{};
    std::array<float, kMostCandidates> log_q{};
  };
  // Where a node of the graph stands: after node `own`, and within a token that begins with `rest`.
  struct State {
    std::int32_t own = -1;  // -1: not known
    std::string rest;
  };
  // What leads to a node of the graph: the draft's tokens after node `own`, or none, but the beginning of one.
  struct Step {
    std::int32_t own = -1;  // -1: the draft cannot say it
    std::vector<Token> tokens;
    std::string rest;
  };
  // A token of the target that came of a second look, and how it is reached.
  struct Found {
    std::int32_t parent;  // in the graph
    Token token;
    Step step;
  };
  struct Slot {
    explicit Slot(const std::shared_ptr<const VocabularyMap>& map) : text(map) {}
    TranslatedText text;
    std::vector<Own> own;
    std::vector<State> state;  // [graph nodes seen]
    std::vector<Found> found;
  };
  // A token of the target that the draft says in several, of which the last one was only a candidate when it was found.
  struct Join {
    std::int32_t node;  // of the graph: the first of the tokens in whose place it stands
    Token token;
    float q;           // given the node's parent
    Token likely;      // the draft's last token of it
    std::string rest;  // its bytes within that
  };
  struct Guess {  // of a token of the target
    Token token;
    float q;       // of all the draft's candidates that begin with it
    Token likely;  // of these the likeliest
  };

  Slot& at(std::int32_t slot) { return slots_[static_cast<std::size_t>(slot)]; }
  const Slot& at(std::int32_t slot) const { return slots_[static_cast<std::size_t>(slot)]; }
  const ByteVocabulary& target() const { return map_->target(); }
  const ByteVocabulary& draft() const { return map_->draft(); }
  bool forward();
  bool sync(std::int32_t slot, std::span<const Token> text, TranslatedText::End end);
  bool feed(std::int32_t slot, std::int32_t left);
  void commit_fed(std::int32_t slot, std::int32_t n);
  void forget_speculation(Slot& s);
  void evaluate(Own& own, const Hypotheses& h, std::int32_t row);
  void guess(const Slot& s, const State& where, std::span<const Token> without = {});
  Token first_token(Token draft, std::size_t skip);
  Token joined(const std::string& said, Token draft);
  void find_joins(Slot& s, const Node& node);
  Step step_to(Slot& s, const Hypotheses& h, std::int32_t id);
  std::int32_t add(Slot& s, std::int32_t slot, const Step& step);
  static std::int32_t n_leaves(const Slot& s) {
    return static_cast<std::int32_t>(
        std::count_if(s.own.begin(), s.own.end(), [](const Own& o) { return o.children == 0; }));
  }
  std::int32_t child(const Slot& s, std::int32_t own, Token token) const;
  State& state(Slot& s, std::int32_t id);
  void expand(Slot& s, const Node& node, bool free);
  void expand_free(Slot& s, const Node& parent);
  void name_join(Slot& s, const Node& node, std::int32_t own, const Join& join);

  Backend& backend_;
  std::shared_ptr<const VocabularyMap> map_;
  DrafterInfo info_;
  std::vector<Slot> slots_;
  std::vector<NodeInput> batch_;
  std::vector<std::int32_t> path_;
  std::vector<Guess> guesses_;
  std::vector<Token> tokens_;
  std::vector<float> log_q_;
  std::unordered_map<std::uint64_t, Token> first_;  // of what a token of the draft says after some bytes
  std::unordered_map<std::string, Token> joined_;   // what the target makes of bytes
  std::vector<Join> joins_;
  std::vector<Token> joining_;
};

TranslatingDrafter::TranslatingDrafter(Backend& backend, std::shared_ptr<const VocabularyMap> map,
                                       std::string_view name)
    : backend_(backend),
      map_(std::move(map)),
      info_{.n_seq = backend.info().n_seq,
            .n_ctx = backend.info().n_ctx,
            .max_batch = backend.info().max_batch,
            .max_nodes = std::min(backend.info().max_batch, backend.info().max_outputs),
            .name = name} {
  for (std::int32_t i = 0; i < info_.n_seq; ++i) slots_.emplace_back(map_);
}

// False if the memory has no room for the batch.
bool TranslatingDrafter::forward() {
  try {
    backend_.forward(batch_);
  } catch (const Error& e) {
    if (e.code() != ErrorCode::kNoKvSlot) throw;
    return false;
  }
  return true;
}

void TranslatingDrafter::forget_speculation(Slot& s) {
  s.own.clear();
  s.state.clear();
  s.found.clear();
}

void TranslatingDrafter::commit_fed(std::int32_t slot, std::int32_t n) {
  path_.clear();
  for (std::int32_t i = 0; i < n; ++i) path_.push_back(i);
  backend_.commit(slot, path_);
}

// Brings the slot's tokens in step with the text, and drops from the memory what is no longer said so; the last one is
// always lacking. False if the memory has not as many positions.
bool TranslatingDrafter::sync(std::int32_t slot, std::span<const Token> text, TranslatedText::End end) {
  Slot& s = at(slot);
  const std::int32_t same = s.text.go_on(text, backend_.n_committed(slot), end);
  const std::int32_t keep = std::min(same, s.text.size() - (end == TranslatedText::End::kRoot ? 1 : 0));
  if (keep < backend_.n_committed(slot)) backend_.truncate(slot, keep);
  return s.text.size() < info_.n_ctx;
}

// Feeds what the memory lacks of the slot's tokens but for the last `left`, in some passes at most.
bool TranslatingDrafter::feed(std::int32_t slot, std::int32_t left) {
  for (int pass = 0; pass < kMostPasses; ++pass) {
    const std::int32_t from = backend_.n_committed(slot);
    const std::int32_t n = std::min(at(slot).text.size() - left - from, info_.max_batch);
    if (n <= 0) return true;
    batch_.clear();
    for (std::int32_t i = 0; i < n; ++i) batch_.push_back({slot, at(slot).text.token(from + i), i - 1, false, true});
    if (!forward()) return false;
    commit_fed(slot, n);
  }
  return true;
}

bool TranslatingDrafter::catch_up(std::int32_t slot, std::span<const Token> text, std::int32_t end) {
  forget_speculation(at(slot));
  end = std::min(end, n_known(slot) + info_.max_batch);
  if (end <= n_known(slot)) return true;
  return sync(slot, text.first(static_cast<std::size_t>(end)), TranslatedText::End::kText) && feed(slot, 0);
}

bool TranslatingDrafter::roots(std::span<const Root> roots) {
  const auto share = std::max(1, info_.max_batch / static_cast<std::int32_t>(std::max<std::size_t>(1, roots.size())));
  std::vector<const Root*> fed;
  for (const Root& r : roots) {
    forget_speculation(at(r.slot));
    if (!sync(r.slot, r.text, TranslatedText::End::kRoot)) continue;
    // More is lacking where a memory could not go back a little and has lost much: the next steps go on.
    if (!feed(r.slot, share) || at(r.slot).text.size() - backend_.n_committed(r.slot) > share) return false;
    fed.push_back(&r);
  }
  batch_.clear();
  for (const Root* root : fed) {
    const Root& r = *root;
    const TranslatedText& text = at(r.slot).text;
    const std::int32_t from = backend_.n_committed(r.slot);
    for (std::int32_t i = from; i < text.size(); ++i)
      batch_.push_back({r.slot, text.token(i), i - from - 1, i + 1 == text.size(), true});
  }
  if (batch_.empty() || !forward()) return false;
  std::int32_t row = 0;
  for (const Root* root : fed) {
    const Root& r = *root;
    Slot& s = at(r.slot);
    evaluate(s.own.emplace_back(), *r.hypotheses, row++);
    commit_fed(r.slot, s.text.size() - backend_.n_committed(r.slot));
    state(s, 0) = {0, std::string(s.text.rest())};
  }
  for (const Root& r : roots) {
    if (at(r.slot).own.empty()) {
      r.hypotheses->expand(0, {}, {}, r.drafter);  // the draft has no position left for its text
    } else {
      expand(at(r.slot), {r.slot, 0, r.hypotheses, r.drafter}, false);
    }
  }
  return true;
}

void TranslatingDrafter::evaluate(Own& own, const Hypotheses& h, std::int32_t row) {
  const std::size_t k = map_->complete() ? std::min(h.n_candidates(), kMostCandidates) : kMostCandidates;
  own.n = h.likeliest(backend_.logits(row), std::span(own.candidate).first(k), std::span(own.log_q).first(k));
}

// Of what the draft's token says after the first `skip` bytes, the target's first token; kNoToken where it has none.
Token TranslatingDrafter::first_token(Token d, std::size_t skip) {
  if (skip == 0 && map_->to_target(d) >= 0) return map_->to_target(d);
  if (draft().bytes(d).size() <= skip) return kNoToken;
  constexpr std::size_t kMost = 1 << 16;
  if (first_.size() > kMost) first_.clear();
  const auto [known, added] = first_.try_emplace(static_cast<std::uint64_t>(d) << 32 | skip, kNoToken);
  if (added) {
    const auto pieces = target().encode(draft().bytes(d).substr(skip), ByteVocabulary::Place::kMiddle);
    if (!pieces.empty()) known->second = pieces.front().token;
  }
  return known->second;
}

// The target's token that the target alone has and with which its tokenizer would begin the bytes of `said` and, at
// least in part, those of the draft's token `d` after them; kNoToken where there is none.
Token TranslatingDrafter::joined(const std::string& said, Token d) {
  const std::string both = said + std::string(draft().bytes(d));
  bool some = false;
  for (std::size_t n = said.size() + 1; n <= std::min(both.size(), target().longest()) && !some; ++n) {
    const Token longer = target().find(std::string_view(both).substr(0, n));
    some = longer >= 0 && map_->to_draft(longer) < 0;
  }
  if (!some) return kNoToken;
  constexpr std::size_t kMost = 1 << 16;
  if (joined_.size() > kMost) joined_.clear();
  const auto [known, added] = joined_.try_emplace(both, kNoToken);
  if (!added) return known->second;
  const auto pieces = target().encode(both, ByteVocabulary::Place::kMiddle);
  const bool longer = !pieces.empty() && pieces.front().bytes > static_cast<std::int32_t>(said.size());
  if (longer && map_->to_draft(pieces.front().token) < 0) known->second = pieces.front().token;
  return known->second;
}

// Fills joins_ with the candidates after a node that, with its token or several up to it, are one of the target's, and
// joining_ with what the draft calls them.
void TranslatingDrafter::find_joins(Slot& s, const Node& node) {
  constexpr int kMostJoined = 4;   // tokens of the path
  constexpr float kLeast = 0.02F;  // less probable ones are not worth the look
  joins_.clear();
  joining_.clear();
  if (map_->complete() || node.id == 0 || !state(s, node.id).rest.empty()) return;
  const TokenGraph& graph = node.hypotheses->graph();
  const Own& own = s.own[static_cast<std::size_t>(state(s, node.id).own)];
  for (std::size_t i = 0; i < own.n; ++i) {
    const float q = std::exp(own.log_q[i]);
    if (q < kLeast) break;
    std::string said;
    float path = q;  // probability of the candidate given the parent of `at_node`
    for (std::int32_t at_node = node.id, n = 0; at_node > 0 && n < kMostJoined; ++n) {
      const GraphNode& g = graph.node(at_node);
      const std::int32_t edge = graph.find_edge(g.parent, g.token);
      if (edge < 0 || !contains(graph.edge(edge).named_by, node.drafter) || target().bytes(g.token).empty()) break;
      path *= std::exp(graph.edge(edge).log_q[static_cast<std::size_t>(node.drafter)]);
      said.insert(0, target().bytes(g.token));
      const Token t = joined(said, own.candidate[i]);
      if (t != kNoToken) {
        joining_.push_back(own.candidate[i]);
        joins_.push_back({at_node, t, path, own.candidate[i], std::string(target().bytes(t).substr(said.size()))});
        break;
      }
      at_node = g.parent;
    }
  }
}

// Fills guesses_, the likeliest first, by the draft's candidates but for `without`.
void TranslatingDrafter::guess(const Slot& s, const State& where, std::span<const Token> without) {
  guesses_.clear();
  const Own& own = s.own[static_cast<std::size_t>(where.own)];
  float sum = 0;
  for (std::size_t i = 0; i < own.n; ++i) {
    const Token d = own.candidate[i];
    const std::string_view bytes = draft().bytes(d);
    if (std::find(without.begin(), without.end(), d) != without.end()) continue;
    if (!where.rest.empty() && (bytes.size() <= where.rest.size() || !bytes.starts_with(where.rest))) continue;
    const float q = std::exp(own.log_q[i]);
    sum += q;
    const Token t = first_token(d, where.rest.size());
    if (t == kNoToken) continue;
    const auto old = std::find_if(guesses_.begin(), guesses_.end(), [t](const Guess& g) { return g.token == t; });
    if (old == guesses_.end()) {
      guesses_.push_back({t, q, d});
    } else {
      old->q += q;
    }
  }
  if (!where.rest.empty())
    for (Guess& g : guesses_) g.q /= sum;
  if (!without.empty()) {  // given that none of those comes
    float left = 1;
    for (std::size_t i = 0; i < own.n; ++i)
      if (std::find(without.begin(), without.end(), own.candidate[i]) != without.end()) left -= std::exp(own.log_q[i]);
    for (Guess& g : guesses_) g.q = std::min(1.0F, g.q / std::max(left, 1e-3F));
  }
  std::stable_sort(guesses_.begin(), guesses_.end(), [](const Guess& a, const Guess& b) { return a.q > b.q; });
}

TranslatingDrafter::State& TranslatingDrafter::state(Slot& s, std::int32_t id) {
  if (id >= static_cast<std::int32_t>(s.state.size())) s.state.resize(static_cast<std::size_t>(id) + 1);
  return s.state[static_cast<std::size_t>(id)];
}

std::int32_t TranslatingDrafter::child(const Slot& s, std::int32_t own, Token token) const {
  for (std::size_t i = static_cast<std::size_t>(own) + 1; i < s.own.size(); ++i)
    if (s.own[i].parent == own && s.own[i].token == token) return static_cast<std::int32_t>(i);
  return -1;
}

// What the draft must take in to stand at graph node `id`, whose parent it has expanded.
TranslatingDrafter::Step TranslatingDrafter::step_to(Slot& s, const Hypotheses& h, std::int32_t id) {
  const GraphNode& n = h.graph().node(id);
  for (const Found& f : s.found)
    if (f.parent == n.parent && f.token == n.token) return f.step;
  const State& from = state(s, n.parent);
  const std::string rest = from.rest + std::string(target().bytes(n.token));
  guess(s, from);
  const auto g = std::find_if(guesses_.begin(), guesses_.end(), [&](const Guess& x) { return x.token == n.token; });
  if (g != guesses_.end() && draft().bytes(g->likely).size() > rest.size()) return {from.own, {}, rest};
  if (g != guesses_.end()) return {from.own, {g->likely}, ""};
  if (from.rest.empty() && map_->to_draft(n.token) >= 0) return {from.own, {map_->to_draft(n.token)}, ""};
  Step step{from.own, {}, ""};
  for (const auto& piece : draft().encode(rest, ByteVocabulary::Place::kMiddle)) {
    if (piece.token == kNoToken) return {};
    step.tokens.push_back(piece.token);
  }
  return step.tokens.empty() ? Step{} : step;
}

// Adds what the draft's tree lacks of the step to it and to the batch. Returns where it ends; -1, with nothing added,
// if there is no room.
std::int32_t TranslatingDrafter::add(Slot& s, std::int32_t slot, const Step& step) {
  std::int32_t at_own = step.own;
  std::size_t first = 0;
  for (; first < step.tokens.size(); ++first) {
    const std::int32_t next = child(s, at_own, step.tokens[first]);
    if (next < 0) break;
    at_own = next;
  }
  const std::size_t lacking = step.tokens.size() - first;
  if (lacking == 0) return at_own;
  const auto positions = static_cast<std::int32_t>(s.own.size() + lacking);  // a bound: the tree may be narrower
  const bool branches = s.own[static_cast<std::size_t>(at_own)].children > 0;
  if (batch_.size() + lacking > static_cast<std::size_t>(info_.max_nodes) || s.text.size() + positions > info_.n_ctx ||
      (branches && n_leaves(s) == backend_.info().max_leaves))
    return -1;
  for (; first < step.tokens.size(); ++first) {
    ++s.own[static_cast<std::size_t>(at_own)].children;
    batch_.push_back({slot, step.tokens[first], at_own - 1, true});
    s.own.push_back({.token = step.tokens[first], .parent = at_own});
    at_own = static_cast<std::int32_t>(s.own.size()) - 1;
  }
  return at_own;
}

bool TranslatingDrafter::level(std::vector<Node>& nodes) {
  batch_.clear();
  std::vector<std::pair<std::int32_t, std::int32_t>> fed;  // slot and own node of each in the batch
  std::erase_if(nodes, [&](const Node& n) {
    Slot& s = at(n.slot);
    const Step step = step_to(s, *n.hypotheses, n.id);
    const std::size_t before = s.own.size();
    const std::int32_t own = step.own < 0 ? -1 : add(s, n.slot, step);
    for (std::size_t i = before; i < s.own.size(); ++i) fed.emplace_back(n.slot, static_cast<std::int32_t>(i));
    if (own >= 0) state(s, n.id) = {own, step.rest};
    return own < 0;
  });
  if (nodes.empty()) return false;
  if (!batch_.empty() && !forward()) {
    for (const auto& [slot, own] : fed) {
      Slot& s = at(slot);
      --s.own[static_cast<std::size_t>(s.own[static_cast<std::size_t>(own)].parent)].children;
    }
    for (auto it = fed.rbegin(); it != fed.rend(); ++it) at(it->first).own.pop_back();
    for (const Node& n : nodes) state(at(n.slot), n.id) = {};
    return false;
  }
  for (std::size_t i = 0; i < fed.size(); ++i) {
    const auto slot = fed[i].first;  // named, since clang 14 captures no structured binding
    const auto own = fed[i].second;
    const auto node = std::find_if(nodes.begin(), nodes.end(), [&](const Node& n) { return n.slot == slot; });
    evaluate(at(slot).own[static_cast<std::size_t>(own)], *node->hypotheses, static_cast<std::int32_t>(i));
  }
  for (const Node& n : nodes) {
    // A node may have been expanded on the way of another one.
    if (!contains(n.hypotheses->graph().node(n.id).expanded, n.drafter)) expand(at(n.slot), n, false);
  }
  return true;
}

// Names the candidates of a node whose state is known, and those of what follows from it without a pass.
void TranslatingDrafter::expand(Slot& s, const Node& node, bool free) {
  find_joins(s, node);
  guess(s, state(s, node.id), joining_);
  tokens_.clear();
  log_q_.clear();
  for (const Guess& g : guesses_) {
    tokens_.push_back(g.token);
    log_q_.push_back(std::log(std::max(g.q, 1e-30F)));
  }
  if (free) {
    node.hypotheses->expand_free(node.id, tokens_, log_q_, node.drafter);
  } else {
    node.hypotheses->expand(node.id, tokens_, log_q_, node.drafter);
  }
  const std::vector<Join> joins = joins_;  // what follows fills it anew
  const std::int32_t own = state(s, node.id).own;
  for (const Join& j : joins) name_join(s, node, own, j);
  for (const Join& j : joins)
    expand_free(s, {node.slot, node.hypotheses->graph().node(j.node).parent, node.hypotheses, node.drafter});
  expand_free(s, node);
}

// Children of an expanded node that stand within one of the draft's tokens, or where it has been.
void TranslatingDrafter::expand_free(Slot& s, const Node& parent) {
  const TokenGraph& graph = parent.hypotheses->graph();
  if (graph.node(parent.id).depth + 1 >= parent.hypotheses->params().depth) return;
  for (std::int32_t e = graph.node(parent.id).first_edge; e >= 0; e = graph.edge(e).next) {
    const std::int32_t id = graph.edge(e).child;
    if (id < 0 || graph.node(id).parent != parent.id || contains(graph.node(id).expanded, parent.drafter)) continue;
    const Step step = step_to(s, *parent.hypotheses, id);
    std::int32_t own = step.own;
    for (const Token t : step.tokens) own = own < 0 ? -1 : child(s, own, t);
    if (own < 0 || s.own[static_cast<std::size_t>(own)].n == 0) continue;
    state(s, id) = {own, step.rest};
    expand(s, {parent.slot, id, parent.hypotheses, parent.drafter}, true);
  }
}

// Makes the join a candidate beside the token with which it begins, and takes its probability from that one. `own`:
// the draft's node after which it was found.
void TranslatingDrafter::name_join(Slot& s, const Node& node, std::int32_t own, const Join& join) {
  const TokenGraph& graph = node.hypotheses->graph();
  const GraphNode n = graph.node(join.node);
  tokens_.clear();
  log_q_.clear();
  float* joined = nullptr;
  for (std::int32_t e = graph.node(n.parent).first_edge; e >= 0; e = graph.edge(e).next) {
    if (!contains(graph.edge(e).named_by, node.drafter)) continue;
    float log_q = graph.edge(e).log_q[static_cast<std::size_t>(node.drafter)];
    if (graph.edge(e).token == n.token) {
      const float q = std::exp(log_q);
      log_q = std::log(std::max(q - join.q, 1e-3F * q));
    }
    tokens_.push_back(graph.edge(e).token);
    log_q_.push_back(log_q);
  }
  for (std::size_t i = 0; i < tokens_.size(); ++i)
    if (tokens_[i] == join.token) joined = &log_q_[i];
  if (joined != nullptr) {
    *joined = std::log(std::min(1.0F, std::exp(*joined) + join.q));
  } else {
    tokens_.push_back(join.token);
    log_q_.push_back(std::log(std::max(join.q, 1e-30F)));
    Step step{own, {}, join.rest};
    if (draft().bytes(join.likely) == join.rest) step = {own, {join.likely}, ""};
    s.found.push_back({n.parent, join.token, std::move(step)});
  }
  node.hypotheses->revise(n.parent, tokens_, log_q_, node.drafter);
}

void TranslatingDrafter::commit(std::int32_t slot, const Hypotheses& hypotheses, std::span<const std::int32_t> path) {
  Slot& s = at(slot);
  std::int32_t parent = 0;
  std::int32_t last = 0;    // of the draft's nodes that were accepted
  std::size_t n_known = 0;  // tokens of the path up to there
  if (backend_.info().tentative) path = {};
  for (std::size_t i = 0; i < path.size(); ++i) {
    const std::int32_t g = hypotheses.tree().graph_node[static_cast<std::size_t>(path[i])];
    if (g < 0 || hypotheses.graph().node(g).parent != parent || g >= static_cast<std::int32_t>(s.state.size())) break;
    const State& where = s.state[static_cast<std::size_t>(g)];
    if (where.own < 0 || target().bytes(hypotheses.graph().node(g).token).empty()) break;
    if (where.rest.empty() && where.own > 0) {
      last = where.own;
      n_known = i + 1;
    }
    parent = g;
  }
  path_.clear();
  for (std::int32_t own = last; own > 0; own = s.own[static_cast<std::size_t>(own)].parent) path_.push_back(own - 1);
  std::reverse(path_.begin(), path_.end());
  backend_.commit(slot, path_);
  if (!path_.empty()) {
    std::vector<Token> said;
    for (std::size_t i = 0; i < n_known; ++i)
      said.push_back(hypotheses.tree().token[static_cast<std::size_t>(path[i])]);
    std::vector<Token> own;
    for (const std::int32_t i : path_) own.push_back(s.own[static_cast<std::size_t>(i) + 1].token);
    s.text.accept(said, own);
  }
  forget_speculation(s);
}

void TranslatingDrafter::truncate(std::int32_t slot, std::int32_t n) {
  Slot& s = at(slot);
  forget_speculation(s);
  if (backend_.n_speculative(slot) > 0) backend_.commit(slot, {});
  if (n >= n_known(slot)) return;
  const std::int32_t keep = s.text.cut(n);
  if (keep < backend_.n_committed(slot)) backend_.truncate(slot, keep);
}

}  // namespace

std::unique_ptr<Drafter> make_translating_drafter(Backend& backend, std::shared_ptr<const VocabularyMap> map,
                                                  std::string_view name) {
  return std::make_unique<TranslatingDrafter>(backend, std::move(map), name);
}

}  // namespace gsd
