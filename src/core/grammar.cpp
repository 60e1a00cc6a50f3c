#include "gsd/grammar.h"

#include <algorithm>
#include <cassert>
#include <compare>
#include <unordered_map>
#include <utility>

#include "gbnf.h"
#include "gsd/error.h"
#include "utf8_decoder.h"

namespace gsd {

using gbnf::kNone;

void TokenTexts::add(std::string_view bytes, bool end_of_text) {
  bytes_ += bytes;
  begin_.push_back(bytes_.size());
  ends_.push_back(end_of_text);
}

struct Grammar::Rules {
  gbnf::Automaton automaton;
  bool names_tokens = false;
};

namespace {

// Work is counted in items, edges and returns looked at, 5 to 20 ns each. A text may save up kMostSaved and earns
// kPerToken with each token: one burst of some 10 ms, and 2 ms a token in the long run.
constexpr std::int64_t kMostSaved = 1'000'000;
constexpr std::int64_t kPerToken = 200'000;
// Rules that wait for their end at the same time: a bound on memory.
constexpr std::size_t kMostFrames = 250'000;
// What is remembered of earlier places: items of frames and positions, 12 bytes each, and masks of the vocabulary.
constexpr std::size_t kMostRemembered = 1'000'000;
constexpr std::size_t kMostPositions = 20'000;
constexpr std::size_t kMostMasks = 200;
// After so many questions at one place the answers for the whole vocabulary are worked out.
constexpr unsigned kMany = 16;

}  // namespace

// Three numbers to one: a hash table that forgets everything at once. A member of Matcher, hence with a linkage.
class TripleTable {
 public:
  void clear() {
    used_ = 0;
    if (++round_ == 0) {
      slots_.assign(slots_.size(), {});
      round_ = 1;
    }
  }
  // kNone if the key is new. The reference is valid until the next call.
  std::uint32_t& at(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
    if (2 * (used_ + 1) > slots_.size()) grow();
    Slot& s = find(a, b, c);
    if (s.round != round_) {
      s = {a, b, c, kNone, round_};
      ++used_;
    }
    return s.value;
  }

 private:
  struct Slot {
    std::uint32_t a = 0, b = 0, c = 0, value = 0, round = 0;
  };

  Slot& find(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
    std::uint64_t h = (std::uint64_t{a} << 32 | b) * 0x9E3779B97F4A7C15 + c;
    h = (h ^ h >> 32) * 0xD6E8FEB86659FD93;
    const std::size_t mask = slots_.size() - 1;
    std::size_t i = (h ^ h >> 32) & mask;
    while (slots_[i].round == round_ && (slots_[i].a != a || slots_[i].b != b || slots_[i].c != c)) i = (i + 1) & mask;
    return slots_[i];
  }

  void grow() {
    const std::vector<Slot> old =
        std::exchange(slots_, std::vector<Slot>(std::max<std::size_t>(64, 2 * slots_.size())));
    for (const Slot& s : old) {
      if (s.round == round_) find(s.a, s.b, s.c) = s;
    }
  }

  std::vector<Slot> slots_;  // a power of two
  std::size_t used_ = 0;
  std::uint32_t round_ = 1;
};

// The vocabulary as a tree of bytes, parents before children: tokens that begin alike are followed once.
class VocabularyTree {
 public:
  struct Node {
    std::uint32_t end;     // of the nodes below it
    std::uint32_t tokens;  // where its tokens begin; they end where those of the next node begin
    std::uint16_t depth;   // bytes before its own
    unsigned char byte;
  };

  explicit VocabularyTree(const TokenTexts& texts) {
    std::vector<Token> order;
    for (std::size_t t = 0; t < texts.size(); ++t) {
      const auto token = static_cast<Token>(t);
      if (!texts.is_end(token) && !texts.bytes(token).empty() && texts.bytes(token).size() < 0xffff)
        order.push_back(token);
    }
    std::sort(order.begin(), order.end(), [&](Token a, Token b) { return texts.bytes(a) < texts.bytes(b); });
    std::vector<std::uint32_t> open;  // the node at each depth
    std::string_view last;
    const auto close = [&](std::size_t depth) {
      for (; open.size() > depth; open.pop_back()) nodes_[open.back()].end = static_cast<std::uint32_t>(nodes_.size());
    };
    for (const Token t : order) {
      const std::string_view bytes = texts.bytes(t);
      const auto [x, y] = std::mismatch(bytes.begin(), bytes.end(), last.begin(), last.end());
      close(static_cast<std::size_t>(x - bytes.begin()));
      for (std::size_t d = open.size(); d < bytes.size(); ++d) {
        open.push_back(static_cast<std::uint32_t>(nodes_.size()));
        nodes_.push_back({0, static_cast<std::uint32_t>(tokens_.size()), static_cast<std::uint16_t>(d),
                          static_cast<unsigned char>(bytes[d])});
      }
      tokens_.push_back(t);
      last = bytes;
    }
    close(0);
  }

  std::span<const Node> nodes() const { return nodes_; }
  std::span<const Token> tokens(std::size_t node) const {
    const std::size_t to = node + 1 < nodes_.size() ? nodes_[node + 1].tokens : tokens_.size();
    return std::span(tokens_).subspan(nodes_[node].tokens, to - nodes_[node].tokens);
  }

 private:
  std::vector<Node> nodes_;
  std::vector<Token> tokens_;
};

const VocabularyTree& TokenTexts::tree() const {
  std::call_once(tree_made_, [this] { tree_ = std::make_shared<const VocabularyTree>(*this); });
  return *tree_;
}

// Follows all readings of a text at once, character by character: Earley's algorithm (CACM 13(2), 1970) on a
// graph-structured stack. A *frame* is one rule that began, with the places where to go on when it ends (returns); all
// who wait for it share it, so the work of a position is at most about grammar x text, however ambiguous both are. An
// *item* is a state inside a frame, a *position* the items where a text may have got to. Frames and positions with the
// same content are the same number, so what was found of one place is known at each later place that is like it: inside
// of a JSON string, say, each character leads back to the same position.
class Matcher {
 public:
  Matcher(std::shared_ptr<const Grammar::Rules> rules, std::shared_ptr<const TokenTexts> vocabulary)
      : rules_(std::move(rules)), vocabulary_(std::move(vocabulary)) {
    reset();
  }

  bool allows(Token t);
  void advance(Token t);
  void reset();
  bool exhausted() const { return exhausted_; }
  // True if the text may end or something may come next.
  bool alive() const { return positions_[at_].may_end || positions_[at_].n > 0; }

 private:
  struct Item {
    std::uint32_t state, frame, count;
    auto operator<=>(const Item&) const = default;
  };
  struct Frame {
    std::uint32_t from, n;    // its returns in items_
    std::uint64_t ended = 0;  // the closure in which the rule was last found to end
  };
  struct Position {
    std::uint32_t from, n;  // its items, those with edges for characters or tokens
    bool may_end;           // the text may end here
    std::uint32_t ascii;    // where its row of next_ begins, or kNone
    std::uint32_t mask;     // index, or kNone
  };
  // A rule that began at the position in progress; as a frame's number it carries kNew.
  struct NewFrame {
    std::uint32_t returns = kNone;  // list
    std::uint64_t ended = 0;
    std::uint32_t final = kNone;  // its number once it is known
    enum : std::uint8_t { kUntouched, kOpen, kDone } visit = kUntouched;
  };
  struct Return {
    Item to;
    std::uint32_t next;  // in the frame's list
  };
  static constexpr std::uint32_t kNew = 1U << 31;
  static constexpr std::uint32_t kDead = kNone - 1;  // the position after a character that may not come

  const gbnf::State& state(std::uint32_t s) const { return rules_->automaton.states[s]; }
  std::span<const gbnf::Edge> edges(std::uint32_t from, std::uint32_t to) const {
    return std::span(rules_->automaton.edges).subspan(from, to - from);
  }
  std::span<const Item> items(const Position& p) const { return std::span(items_).subspan(p.from, p.n); }
  bool spend(std::size_t work);

  Item step(const Item& from, const gbnf::Edge& e) const;
  void open();
  void add(const Item& i);
  std::uint32_t close();
  void visit(const Item& i);
  void call(const Item& i, const gbnf::Edge& e);
  void end(std::uint32_t frame);
  void finish(std::uint32_t new_frame);
  std::uint32_t intern_frame(std::vector<Item>& returns, std::uint32_t number);
  std::uint32_t intern_position(std::vector<Item>& items, bool may_end);

  std::uint32_t next(std::uint32_t position, std::uint32_t c);
  std::uint32_t scan(std::uint32_t position, std::uint32_t c);
  std::uint32_t follow(std::string_view bytes, Utf8Decoder& utf8);
  bool can_complete(std::uint32_t position, const Utf8Decoder& utf8);
  std::vector<Item> after_token(Token t);
  bool has_mask();
  void fill(std::vector<bool>& mask);
  void forget();

  std::shared_ptr<const Grammar::Rules> rules_;
  std::shared_ptr<const TokenTexts> vocabulary_;

  std::uint32_t at_ = 0;  // the position of the accepted text
  Utf8Decoder utf8_;      // of the accepted text
  std::int64_t left_ = kMostSaved;
  bool exhausted_ = false;
  bool dead_ = false;       // something that is not allowed was accepted
  unsigned questions_ = 0;  // since the last token

  // What is remembered; frames_[0] is the whole text.
  std::vector<Item> items_;
  std::vector<Frame> frames_;
  std::vector<Position> positions_;
  std::unordered_multimap<std::uint64_t, std::uint32_t> frames_by_hash_, positions_by_hash_;
  std::vector<std::uint32_t> next_;  // rows of 128 positions
  TripleTable others_;               // position, character to position
  std::vector<std::vector<bool>> masks_;
  const std::vector<bool>* mask_ = nullptr;  // of the accepted text's position, once it was asked for
  std::uint32_t start_ = kNone;              // the position before any text, unless it was forgotten

  // Of the closure in progress.
  std::uint64_t closure_ = 0;
  TripleTable seen_;  // items, and the frames of the rules that begin here
  std::vector<Item> todo_, found_;
  bool may_end_ = false;
  std::vector<NewFrame> new_frames_;
  std::vector<Return> returns_;
};

// False, from then on, when nothing is left.
bool Matcher::spend(std::size_t work) {
  left_ -= static_cast<std::int64_t>(work);
  exhausted_ |= left_ < 0;
  return !exhausted_;
}

Matcher::Item Matcher::step(const Item& from, const gbnf::Edge& e) const {
  const std::uint32_t loop = state(from.state).loop;
  if (loop == kNone) return {e.next, from.frame, 0};
  const gbnf::Loop& l = rules_->automaton.loops[loop];
  return {e.next, from.frame, std::min(from.count + 1, l.most == kNone ? l.least : l.most)};
}

// --- one position
// ------------------------------------------------------------------------------------------------------

void Matcher::open() {
  ++closure_;
  seen_.clear();
  todo_.clear();
  found_.clear();
  may_end_ = false;
  new_frames_.clear();
  returns_.clear();
}

void Matcher::add(const Item& i) {
  std::uint32_t& known = seen_.at(i.state, i.frame, i.count);
  if (known != kNone) return;
  known = 0;
  todo_.push_back(i);
}

// Everything that can be reached without a character.
std::uint32_t Matcher::close() {
  while (!todo_.empty() && spend(1)) {
    const Item i = todo_.back();
    todo_.pop_back();
    visit(i);
  }
  if (exhausted_) return kDead;
  for (Item& i : found_) {
    if (i.frame < kNew) continue;
    finish(i.frame & ~kNew);
    i.frame = new_frames_[i.frame & ~kNew].final;
  }
  return found_.empty() && !may_end_ ? kDead : intern_position(found_, may_end_);
}

void Matcher::visit(const Item& i) {
  const gbnf::State& s = state(i.state);
  const gbnf::Loop* loop = s.loop == kNone ? nullptr : &rules_->automaton.loops[s.loop];
  if (loop != nullptr ? i.count >= loop->least : s.accept) end(i.frame);
  if (loop != nullptr && loop->most != kNone && i.count >= loop->most) return;
  if (s.rules > s.chars) found_.push_back(i);
  for (const gbnf::Edge& e : edges(s.rules, state(i.state + 1).chars)) call(i, e);
}

void Matcher::call(const Item& i, const gbnf::Edge& e) {
  if (!spend(1)) return;
  Item to = step(i, e);
  // A rule that ends with another one returns to where the first one would: right recursion stays flat. Only frames of
  // earlier positions have all their returns.
  const gbnf::State& after = state(to.state);
  const bool is_last = after.accept && after.loop == kNone && after.chars == state(to.state + 1).chars;
  if (is_last && i.frame < kNew && frames_[i.frame].n == 1) to = items_[frames_[i.frame].from];
  const std::uint32_t rule = gbnf::value_of(e.symbol);
  std::uint32_t& known = seen_.at(rule, kNone, kNone);
  const bool is_new = known == kNone;
  if (is_new) {
    known = static_cast<std::uint32_t>(new_frames_.size());
    new_frames_.emplace_back();
  }
  const std::uint32_t frame = known;
  NewFrame& f = new_frames_[frame];
  if (f.returns == kNone || returns_[f.returns].to != to) {
    returns_.push_back({to, f.returns});
    f.returns = static_cast<std::uint32_t>(returns_.size() - 1);
  }
  if (f.ended == closure_) add(to);  // it needs no character, as was found before
  if (is_new) add({rules_->automaton.start[rule], frame | kNew, 0});
}

void Matcher::end(std::uint32_t frame) {
  std::uint64_t& ended = frame < kNew ? frames_[frame].ended : new_frames_[frame & ~kNew].ended;
  if (std::exchange(ended, closure_) == closure_) return;
  if (frame == 0) may_end_ = true;
  if (frame >= kNew) {
    for (std::uint32_t r = new_frames_[frame & ~kNew].returns; r != kNone && spend(1); r = returns_[r].next)
      add(returns_[r].to);
    return;
  }
  const Frame f = frames_[frame];
  for (std::uint32_t k = f.from; k < f.from + f.n && spend(1); ++k) add(items_[k]);
}

// Gives a new frame its number, those that it returns to first. A frame on a circle (left recursion) gets a number
// before its content is known, and so one that no other shares.
void Matcher::finish(std::uint32_t new_frame) {
  std::vector<std::uint32_t> path{new_frame};
  std::vector<Item> returns;
  while (!path.empty()) {
    const std::uint32_t now = path.back();
    if (new_frames_[now].visit == NewFrame::kUntouched) {
      new_frames_[now].visit = NewFrame::kOpen;
      for (std::uint32_t r = new_frames_[now].returns; r != kNone; r = returns_[r].next) {
        spend(1);
        const std::uint32_t frame = returns_[r].to.frame;
        if (frame < kNew) continue;
        NewFrame& f = new_frames_[frame & ~kNew];
        if (f.visit == NewFrame::kUntouched) path.push_back(frame & ~kNew);
      }
      continue;
    }
    path.pop_back();
    if (new_frames_[now].visit == NewFrame::kDone) continue;
    new_frames_[now].visit = NewFrame::kDone;
    returns.clear();
    for (std::uint32_t r = new_frames_[now].returns; r != kNone; r = returns_[r].next) {
      Item to = returns_[r].to;
      if (to.frame >= kNew) {
        NewFrame& f = new_frames_[to.frame & ~kNew];
        if (f.final == kNone) {
          f.final = static_cast<std::uint32_t>(frames_.size());
          frames_.push_back({0, 0});
        }
        to.frame = f.final;
      }
      returns.push_back(to);
    }
    new_frames_[now].final = intern_frame(returns, new_frames_[now].final);
  }
}

namespace {

template <class Items>
std::uint64_t hash_of(const Items& items, std::uint64_t seed) {
  std::uint64_t h = seed;
  for (const auto& i : items) {
    h = (h ^ (std::uint64_t{i.state} << 32 | i.frame)) * 0x9E3779B97F4A7C15;
    h = (h ^ h >> 29 ^ i.count) * 0xD6E8FEB86659FD93;
  }
  return h ^ h >> 32;
}

}  // namespace

std::uint32_t Matcher::intern_frame(std::vector<Item>& returns, std::uint32_t number) {
  std::sort(returns.begin(), returns.end());
  returns.erase(std::unique(returns.begin(), returns.end()), returns.end());
  const auto from = static_cast<std::uint32_t>(items_.size());
  const auto n = static_cast<std::uint32_t>(returns.size());
  if (number == kNone) {
    const std::uint64_t hash = hash_of(returns, 1);
    const auto [begin, end] = frames_by_hash_.equal_range(hash);
    for (auto it = begin; it != end; ++it) {
      const Frame& f = frames_[it->second];
      if (f.n == n && std::equal(returns.begin(), returns.end(), items_.begin() + f.from)) return it->second;
    }
    number = static_cast<std::uint32_t>(frames_.size());
    frames_.push_back({});
    frames_by_hash_.emplace(hash, number);
  }
  frames_[number] = {from, n};
  items_.insert(items_.end(), returns.begin(), returns.end());
  return number;
}

std::uint32_t Matcher::intern_position(std::vector<Item>& items, bool may_end) {
  std::sort(items.begin(), items.end());
  items.erase(std::unique(items.begin(), items.end()), items.end());
  const std::uint64_t hash = hash_of(items, may_end ? 3 : 2);
  const auto [begin, end] = positions_by_hash_.equal_range(hash);
  const auto n = static_cast<std::uint32_t>(items.size());
  for (auto it = begin; it != end; ++it) {
    const Position& p = positions_[it->second];
    if (p.n == n && p.may_end == may_end && std::equal(items.begin(), items.end(), items_.begin() + p.from))
      return it->second;
  }
  const auto number = static_cast<std::uint32_t>(positions_.size());
  positions_.push_back({static_cast<std::uint32_t>(items_.size()), n, may_end, kNone, kNone});
  items_.insert(items_.end(), items.begin(), items.end());
  positions_by_hash_.emplace(hash, number);
  return number;
}

// --- characters and tokens
// ---------------------------------------------------------------------------------------------

// The position after `c`, or kDead.
std::uint32_t Matcher::next(std::uint32_t position, std::uint32_t c) {
  constexpr std::uint32_t kAscii = 128;
  if (c >= kAscii) {
    const std::uint32_t known = others_.at(position, c, 0);
    if (known != kNone) return known;
    const std::uint32_t to = scan(position, c);
    if (!exhausted_) others_.at(position, c, 0) = to;
    return to;
  }
  if (positions_[position].ascii == kNone) {
    positions_[position].ascii = static_cast<std::uint32_t>(next_.size());
    next_.resize(next_.size() + kAscii, kNone);
  }
  const std::size_t place = positions_[position].ascii + c;
  if (next_[place] == kNone) {
    const std::uint32_t to = scan(position, c);
    if (exhausted_) return kDead;
    next_[place] = to;
  }
  return next_[place];
}

std::uint32_t Matcher::scan(std::uint32_t position, std::uint32_t c) {
  const Position from = positions_[position];
  open();
  for (std::uint32_t k = from.from; k < from.from + from.n; ++k) {
    const Item i = items_[k];
    const gbnf::State& s = state(i.state);
    if (!spend(1 + s.tokens - s.sets)) return kDead;
    const auto chars = edges(s.chars, s.sets);
    const auto found =
        std::lower_bound(chars.begin(), chars.end(), c, [](const auto& e, auto x) { return e.symbol < x; });
    if (found != chars.end() && found->symbol == c) add(step(i, *found));
    for (const gbnf::Edge& e : edges(s.sets, s.tokens)) {
      if (rules_->automaton.sets[gbnf::value_of(e.symbol)].contains(c)) add(step(i, e));
    }
  }
  return todo_.empty() ? kDead : close();
}

// The position after `bytes`, or kDead; an unfinished character at the end is left in `utf8`.
std::uint32_t Matcher::follow(std::string_view bytes, Utf8Decoder& utf8) {
  std::uint32_t p = at_;
  for (const char byte : bytes) {
    if (!utf8.push(static_cast<unsigned char>(byte))) return kDead;
    if (utf8.pending()) continue;
    p = next(p, utf8.value());
    if (p == kDead) return kDead;
  }
  return !utf8.pending() || can_complete(p, utf8) ? p : kDead;
}

bool Matcher::can_complete(std::uint32_t position, const Utf8Decoder& utf8) {
  for (const Item& i : items(positions_[position])) {
    const gbnf::State& s = state(i.state);
    if (!spend(1 + s.tokens - s.sets)) return false;
    const auto chars = edges(s.chars, s.sets);
    const auto found =
        std::lower_bound(chars.begin(), chars.end(), utf8.lowest(), [](const auto& e, auto x) { return e.symbol < x; });
    if (found != chars.end() && found->symbol <= utf8.highest()) return true;
    for (const gbnf::Edge& e : edges(s.sets, s.tokens)) {
      if (rules_->automaton.sets[gbnf::value_of(e.symbol)].meets(utf8.lowest(), utf8.highest())) return true;
    }
  }
  return false;
}

// Where the accepted text leads if `t` comes as a whole token that the grammar names.
std::vector<Matcher::Item> Matcher::after_token(Token t) {
  std::vector<Item> out;
  if (!rules_->names_tokens || utf8_.pending()) return out;
  for (const Item& i : items(positions_[at_])) {
    const gbnf::State& s = state(i.state);
    if (!spend(1 + s.rules - s.tokens)) break;
    for (const gbnf::Edge& e : edges(s.tokens, s.rules)) {
      const bool is_it = gbnf::value_of(e.symbol) == static_cast<std::uint32_t>(t);
      if (is_it == (gbnf::kind_of(e.symbol) == gbnf::Kind::kToken)) out.push_back(step(i, e));
    }
  }
  return out;
}

// Whether the answers for all tokens stand in mask_: not where they are not worth working out, or took too much work.
bool Matcher::has_mask() {
  if (utf8_.pending() || (positions_[at_].mask == kNone && ++questions_ < kMany)) return false;
  if (positions_[at_].mask == kNone) {
    if (masks_.size() >= kMostMasks) {
      masks_.clear();
      for (Position& p : positions_) p.mask = kNone;
    }
    std::vector<bool> all(vocabulary_->size());
    fill(all);
    if (exhausted_) return false;
    positions_[at_].mask = static_cast<std::uint32_t>(masks_.size());
    masks_.push_back(std::move(all));
  }
  mask_ = &masks_[positions_[at_].mask];
  return true;
}

void Matcher::fill(std::vector<bool>& mask) {
  struct Place {
    std::uint32_t position;
    Utf8Decoder utf8;
  };
  constexpr std::size_t kNodesPerUnit = 16;
  const VocabularyTree& tree = vocabulary_->tree();
  const auto nodes = tree.nodes();
  std::vector<Place> path{{at_, {}}};
  std::size_t looked_at = 0;
  for (std::size_t k = 0; k < nodes.size();) {
    if (++looked_at % kNodesPerUnit == 0 && !spend(1)) return;
    path.resize(nodes[k].depth + 1U);
    Place now = path.back();
    bool lives = now.utf8.push(nodes[k].byte);
    if (lives && !now.utf8.pending()) {
      now.position = next(now.position, now.utf8.value());
      lives = now.position != kDead;
    }
    if (exhausted_) return;
    const auto tokens = tree.tokens(k);
    if (lives && !tokens.empty() && (!now.utf8.pending() || can_complete(now.position, now.utf8))) {
      for (const Token t : tokens) mask[static_cast<std::size_t>(t)] = true;
    }
    path.push_back(now);
    k = lives ? k + 1 : nodes[k].end;
  }
  for (const Item& i : items(positions_[at_])) {
    for (const gbnf::Edge& e : edges(state(i.state).tokens, state(i.state).rules)) {
      const std::uint32_t token = gbnf::value_of(e.symbol);
      if (gbnf::kind_of(e.symbol) == gbnf::Kind::kToken) {
        if (token < mask.size()) mask[token] = true;
      } else if (spend(mask.size() / kNodesPerUnit)) {
        for (std::size_t t = 0; t < mask.size(); ++t) mask[t] = mask[t] || t != token;
      }
    }
  }
  for (std::size_t t = 0; t < mask.size(); ++t) {
    if (vocabulary_->is_end(static_cast<Token>(t))) mask[t] = positions_[at_].may_end;
  }
}

bool Matcher::allows(Token t) {
  assert(t >= 0 && static_cast<std::size_t>(t) < vocabulary_->size());
  if (mask_ != nullptr) return (*mask_)[static_cast<std::size_t>(t)];
  if (exhausted_ || dead_) return false;
  if (has_mask()) return (*mask_)[static_cast<std::size_t>(t)];
  if (vocabulary_->is_end(t)) return positions_[at_].may_end && !utf8_.pending();
  if (!after_token(t).empty()) return !exhausted_;
  const std::string_view bytes = vocabulary_->bytes(t);
  if (bytes.empty() || !spend(1)) return false;
  Utf8Decoder utf8 = utf8_;
  return follow(bytes, utf8) != kDead && !exhausted_;
}

void Matcher::advance(Token t) {
  if (exhausted_ || dead_ || vocabulary_->is_end(t)) return;
  mask_ = nullptr;
  const std::vector<Item> by_name = after_token(t);
  Utf8Decoder utf8 = utf8_;
  std::uint32_t to = follow(vocabulary_->bytes(t), utf8);
  if (vocabulary_->bytes(t).empty()) to = kDead;
  if (!by_name.empty()) {
    // What the token leads to as a whole, and what its characters do; half a character and none at all are no common
    // place.
    const Position by_text = to == kDead || utf8.pending() ? Position{0, 0, false, kNone, kNone} : positions_[to];
    open();
    for (const Item& i : by_name) add(i);
    while (!todo_.empty() && spend(1)) {
      const Item i = todo_.back();
      todo_.pop_back();
      visit(i);
    }
    found_.insert(found_.end(), items_.begin() + by_text.from, items_.begin() + by_text.from + by_text.n);
    may_end_ |= by_text.may_end;
    to = close();
    utf8 = {};
  }
  dead_ = to == kDead;
  if (!dead_) {
    at_ = to;
    utf8_ = utf8;
  }
  questions_ = 0;
  left_ = std::min(kMostSaved, left_ + kPerToken);
  if (items_.size() > kMostRemembered || positions_.size() > kMostPositions) forget();
}

// Keeps the accepted text's position and the frames that it needs.
void Matcher::forget() {
  std::vector<std::uint32_t> number(frames_.size(), kNone);
  std::vector<std::uint32_t> todo{0};
  number[0] = 0;
  const auto mark = [&](std::uint32_t frame) {
    if (number[frame] != kNone) return;
    number[frame] = 0;
    todo.push_back(frame);
  };
  std::vector<Item> here(items_.begin() + positions_[at_].from,
                         items_.begin() + positions_[at_].from + positions_[at_].n);
  const bool may_end = positions_[at_].may_end;
  for (const Item& i : here) mark(i.frame);
  while (!todo.empty()) {
    const Frame f = frames_[todo.back()];
    todo.pop_back();
    for (std::uint32_t k = f.from; k < f.from + f.n; ++k) mark(items_[k].frame);
  }
  std::uint32_t n = 0;
  for (std::uint32_t& x : number) x = x == kNone ? kNone : n++;
  exhausted_ |= n > kMostFrames;
  const std::vector<Frame> frames = std::exchange(frames_, {});
  const std::vector<Item> items = std::exchange(items_, {});
  frames_by_hash_.clear();
  positions_by_hash_.clear();
  positions_.clear();
  next_.clear();
  others_.clear();
  masks_.clear();
  std::vector<Item> returns;
  for (std::size_t f = 0; f < frames.size(); ++f) {
    if (number[f] == kNone) continue;
    returns.assign(items.begin() + frames[f].from, items.begin() + frames[f].from + frames[f].n);
    for (Item& i : returns) i.frame = number[i.frame];
    if (f > 0) frames_by_hash_.emplace(hash_of(returns, 1), number[f]);
    frames_.push_back({static_cast<std::uint32_t>(items_.size()), static_cast<std::uint32_t>(returns.size())});
    items_.insert(items_.end(), returns.begin(), returns.end());
  }
  for (Item& i : here) i.frame = number[i.frame];
  at_ = intern_position(here, may_end);
  start_ = kNone;
}

void Matcher::reset() {
  utf8_ = {};
  left_ = kMostSaved;
  exhausted_ = dead_ = false;
  questions_ = 0;
  mask_ = nullptr;
  at_ = start_;
  if (start_ != kNone) return;
  items_.clear();
  frames_.assign(1, {});
  frames_by_hash_.clear();
  positions_.clear();
  positions_by_hash_.clear();
  next_.clear();
  others_.clear();
  masks_.clear();
  open();
  add({rules_->automaton.start[rules_->automaton.root], 0, 0});
  at_ = close();
  if (at_ == kDead) {
    found_.clear();
    at_ = intern_position(found_, false);
  }
  start_ = at_;
}

// --- Grammar
// -----------------------------------------------------------------------------------------------------------

namespace {

std::string too_much_work() {
  return "The grammar takes too much work to follow: too many of its parts may come at the same place. Let "
         "alternatives "
         "differ in their first characters, and set fewer optional parts side by side.";
}

}  // namespace

Grammar::Grammar(std::string_view gbnf, std::shared_ptr<const TokenTexts> vocabulary, const TokenByName& token_by_name)
    : vocabulary_(std::move(vocabulary)) {
  auto rules = std::make_shared<Rules>();
  rules->automaton = gbnf::parse(gbnf, token_by_name);
  for (const gbnf::State& s : rules->automaton.states) rules->names_tokens |= s.rules > s.tokens;
  rules_ = std::move(rules);
  const Matcher start(rules_, vocabulary_);
  if (start.exhausted()) throw Error(ErrorCode::kGrammar, too_much_work());
  if (!start.alive()) {
    throw Error(
        ErrorCode::kGrammar,
        "The grammar allows no text at all: every way through the rule root calls itself before any character.");
  }
}

Constraint Grammar::constraint() const {
  const auto m = std::make_shared<Matcher>(rules_, vocabulary_);
  return {[m](Token t) { return m->allows(t); }, [m](Token t) { m->advance(t); }, [m] { m->reset(); },
          [m] { return m->exhausted() ? too_much_work() : std::string(); }};
}

}  // namespace gsd
