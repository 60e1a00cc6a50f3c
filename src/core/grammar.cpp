#include "gsd/grammar.h"

#include <algorithm>
#include <bitset>
#include <cassert>
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
// Rules that wait for their end at the same time, 32 bytes each: a bound on memory.
constexpr std::size_t kMostFrames = 250'000;

// Three numbers to one: a hash table that forgets everything at once.
class Table {
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

// First byte of a character in UTF-8.
std::uint32_t first_byte(std::uint32_t c) {
  return c < 0x80 ? c : c < 0x800 ? 0xC0 | c >> 6 : c < 0x10000 ? 0xE0 | c >> 12 : 0xF0 | c >> 18;
}

}  // namespace

// Follows all readings of a text at once, character by character: Earley's algorithm (CACM 13(2), 1970) on a
// graph-structured stack. A *frame* is one rule that began at one position, with the places where to go on when it ends
// (returns); all who wait for it share it, so the work of a position is at most about grammar x text, however ambiguous
// both are. An *item* is a state inside a frame. Positions after the accepted text are tentative: to take one back
// shortens three arrays.
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
  bool alive() const { return path_[0].may_end || path_[0].n_items > 0; }

 private:
  struct Item {
    std::uint32_t state, frame, count;
    bool operator==(const Item&) const = default;
  };
  struct Return {
    Item to;
    std::uint32_t next;  // in the frame's list
  };
  struct Frame {
    std::uint32_t returns = kNone;  // list
    std::uint64_t ended = 0;        // the closure in which the rule was last found to end
  };
  struct Position {
    std::size_t items, frames, returns;  // where the arrays ended before it
    std::size_t n_items = 0;
    bool may_end = false;  // the text may end here
    std::uint32_t c = 0;   // the character that led here
  };

  const gbnf::State& state(std::uint32_t s) const { return rules_->automaton.states[s]; }
  std::span<const gbnf::Edge> edges(std::uint32_t from, std::uint32_t to) const {
    return std::span(rules_->automaton.edges).subspan(from, to - from);
  }
  std::span<const Item> items(const Position& p) const { return std::span(items_).subspan(p.items, p.n_items); }
  bool spend(std::size_t work);

  Item step(const Item& from, const gbnf::Edge& e) const;
  void open(std::uint32_t c);
  void add(const Item& i);
  void close();
  void visit(const Item& i);
  void call(const Item& i, const gbnf::Edge& e);
  void end(std::uint32_t frame);
  void take_back(std::size_t n_positions);

  bool scan(std::uint32_t c);
  bool follow(std::string_view bytes, Utf8Decoder& utf8);
  bool can_complete(const Utf8Decoder& utf8);
  std::vector<Item> after_token(Token t);
  void join(const std::vector<Item>& more);
  bool may_begin_with(char byte);
  void learn_first_bytes();
  void commit();
  void drop_dead_frames();

  std::shared_ptr<const Grammar::Rules> rules_;
  std::shared_ptr<const TokenTexts> vocabulary_;

  std::vector<Position> path_;  // where the accepted text ends, then tentative positions
  std::vector<Item> items_;     // of all positions, those with edges for characters or tokens
  std::vector<Frame> frames_;   // [0]: the whole text
  std::vector<Return> returns_;
  Utf8Decoder utf8_;  // of the accepted text
  std::int64_t left_ = kMostSaved;
  bool exhausted_ = false;
  bool dead_ = false;       // something that is not allowed was accepted
  unsigned questions_ = 0;  // since the last token
  std::bitset<256> first_bytes_;
  std::size_t drop_at_ = 0;  // this many frames

  // Of the closure in progress.
  std::uint64_t closure_ = 0;
  Table seen_;  // items, and the frames of the rules that begin here
  std::vector<Item> todo_;
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

void Matcher::open(std::uint32_t c) {
  path_.push_back({items_.size(), frames_.size(), returns_.size()});
  path_.back().c = c;
  ++closure_;
  seen_.clear();
  todo_.clear();
}

void Matcher::add(const Item& i) {
  std::uint32_t& known = seen_.at(i.state, i.frame, i.count);
  if (known != kNone) return;
  known = 0;
  todo_.push_back(i);
}

// Everything that can be reached without a character.
void Matcher::close() {
  while (!todo_.empty() && spend(1)) {
    const Item i = todo_.back();
    todo_.pop_back();
    visit(i);
  }
  path_.back().n_items = items_.size() - path_.back().items;
}

void Matcher::visit(const Item& i) {
  const gbnf::State& s = state(i.state);
  const gbnf::Loop* loop = s.loop == kNone ? nullptr : &rules_->automaton.loops[s.loop];
  if (loop != nullptr ? i.count >= loop->least : s.accept) end(i.frame);
  if (loop != nullptr && loop->most != kNone && i.count >= loop->most) return;
  if (s.rules > s.chars) items_.push_back(i);
  for (const gbnf::Edge& e : edges(s.rules, state(i.state + 1).chars)) call(i, e);
}

void Matcher::call(const Item& i, const gbnf::Edge& e) {
  if (!spend(1)) return;
  Item to = step(i, e);
  // A rule that ends with another one returns to where the first one would: right recursion stays flat. Only frames of
  // earlier positions have all their returns.
  const gbnf::State& after = state(to.state);
  const bool is_last = after.accept && after.loop == kNone && after.chars == state(to.state + 1).chars;
  if (is_last && i.frame < path_.back().frames) {
    const std::uint32_t only = frames_[i.frame].returns;
    if (only != kNone && returns_[only].next == kNone) to = returns_[only].to;
  }
  const std::uint32_t rule = gbnf::value_of(e.symbol);
  std::uint32_t& known = seen_.at(rule, kNone, kNone);
  const bool is_new = known == kNone;
  if (is_new) {
    known = static_cast<std::uint32_t>(frames_.size());
    frames_.emplace_back();
  }
  const std::uint32_t frame = known;
  Frame& f = frames_[frame];
  if (f.returns == kNone || returns_[f.returns].to != to) {
    returns_.push_back({to, f.returns});
    f.returns = static_cast<std::uint32_t>(returns_.size() - 1);
  }
  if (f.ended == closure_) add(to);  // it needs no character, as was found before
  if (is_new) add({rules_->automaton.start[rule], frame, 0});
}

void Matcher::end(std::uint32_t frame) {
  if (frames_[frame].ended == closure_) return;
  frames_[frame].ended = closure_;
  if (frame == 0) path_.back().may_end = true;
  for (std::uint32_t r = frames_[frame].returns; r != kNone && spend(1); r = returns_[r].next) add(returns_[r].to);
}

void Matcher::take_back(std::size_t n_positions) {
  if (path_.size() <= n_positions) return;
  items_.resize(path_[n_positions].items);
  frames_.resize(path_[n_positions].frames);
  returns_.resize(path_[n_positions].returns);
  path_.resize(n_positions);
}

// --- characters and tokens
// ---------------------------------------------------------------------------------------------

// From the last position to a new one. False, and no new one, if `c` may not come.
bool Matcher::scan(std::uint32_t c) {
  const Position from = path_.back();
  open(c);
  for (std::size_t k = from.items; k < from.items + from.n_items; ++k) {
    const Item i = items_[k];
    const gbnf::State& s = state(i.state);
    if (!spend(1 + s.tokens - s.sets)) break;
    const auto chars = edges(s.chars, s.sets);
    const auto found =
        std::lower_bound(chars.begin(), chars.end(), c, [](const auto& e, auto x) { return e.symbol < x; });
    if (found != chars.end() && found->symbol == c) add(step(i, *found));
    for (const gbnf::Edge& e : edges(s.sets, s.tokens)) {
      if (rules_->automaton.sets[gbnf::value_of(e.symbol)].contains(c)) add(step(i, e));
    }
  }
  close();
  if (!exhausted_ && (path_.back().n_items > 0 || path_.back().may_end)) return true;
  take_back(path_.size() - 1);
  return false;
}

// Goes on from the accepted text; what an earlier question found of the same characters is used again.
bool Matcher::follow(std::string_view bytes, Utf8Decoder& utf8) {
  std::size_t at = 0;
  for (const char byte : bytes) {
    if (!utf8.push(static_cast<unsigned char>(byte))) return false;
    if (utf8.pending()) continue;
    if (at + 1 >= path_.size() || path_[at + 1].c != utf8.value()) {
      take_back(at + 1);
      if (!scan(utf8.value())) return false;
    }
    ++at;
  }
  take_back(at + 1);
  return !utf8.pending() || can_complete(utf8);
}

bool Matcher::can_complete(const Utf8Decoder& utf8) {
  for (const Item& i : items(path_.back())) {
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
  for (const Item& i : items(path_[0])) {
    const gbnf::State& s = state(i.state);
    if (!spend(1 + s.rules - s.tokens)) break;
    for (const gbnf::Edge& e : edges(s.tokens, s.rules)) {
      const bool is_it = gbnf::value_of(e.symbol) == static_cast<std::uint32_t>(t);
      if (is_it == (gbnf::kind_of(e.symbol) == gbnf::Kind::kToken)) out.push_back(step(i, e));
    }
  }
  return out;
}

// Adds to the last position what can be reached from `more`.
void Matcher::join(const std::vector<Item>& more) {
  const bool may_end = path_.back().may_end;
  const std::vector<Item> old(items(path_.back()).begin(), items(path_.back()).end());
  open(0);
  for (const Item& i : more) add(i);
  close();
  for (const Item& i : old) {
    if (seen_.at(i.state, i.frame, i.count) == kNone) items_.push_back(i);
  }
  path_.back().n_items = items_.size() - path_.back().items;
  path_.back().may_end |= may_end;
}

// May the accepted text go on with this byte? Worth knowing where most of a vocabulary is asked for.
bool Matcher::may_begin_with(char byte) {
  constexpr unsigned kMany = 8;
  if (utf8_.pending()) return true;
  if (++questions_ < kMany) return true;
  if (questions_ == kMany) learn_first_bytes();
  if (questions_ % 8 == 0) spend(1);
  return first_bytes_[static_cast<unsigned char>(byte)];
}

void Matcher::learn_first_bytes() {
  first_bytes_.reset();
  for (const Item& i : items(path_[0])) {
    const gbnf::State& s = state(i.state);
    if (!spend(1 + s.tokens - s.chars)) return;
    for (const gbnf::Edge& e : edges(s.chars, s.sets)) first_bytes_.set(first_byte(e.symbol));
    for (const gbnf::Edge& e : edges(s.sets, s.tokens)) {
      const gbnf::CharSet& set = rules_->automaton.sets[gbnf::value_of(e.symbol)];
      if (!spend(set.ranges.size())) return;
      for (const auto& [low, high] : set.ranges) {
        for (std::uint32_t b = first_byte(low); b <= first_byte(high); ++b) first_bytes_.set(b);
      }
    }
  }
}

bool Matcher::allows(Token t) {
  assert(t >= 0 && static_cast<std::size_t>(t) < vocabulary_->size());
  if (exhausted_ || dead_) return false;
  if (vocabulary_->is_end(t)) return path_[0].may_end && !utf8_.pending();
  if (!after_token(t).empty()) return !exhausted_;
  const std::string_view bytes = vocabulary_->bytes(t);
  if (bytes.empty() || !may_begin_with(bytes[0])) return false;
  Utf8Decoder utf8 = utf8_;
  return follow(bytes, utf8) && !exhausted_;
}

void Matcher::advance(Token t) {
  if (exhausted_ || dead_ || vocabulary_->is_end(t)) return;
  const std::vector<Item> by_name = after_token(t);
  Utf8Decoder utf8 = utf8_;
  bool by_text = follow(vocabulary_->bytes(t), utf8) && path_.size() + utf8.pending() > 1;
  if (!by_name.empty() && (!by_text || utf8.pending())) {  // half a character and none at all are no common state
    take_back(1);
    path_[0].n_items = 0;
    path_[0].may_end = false;
    utf8 = {};
    by_text = true;
  }
  dead_ = !by_text;
  if (!by_name.empty()) join(by_name);
  commit();
  utf8_ = utf8;
  questions_ = 0;
  left_ = std::min(kMostSaved, left_ + kPerToken);
}

// The tentative positions become the accepted text: only the last one's items and the frames they need are kept.
void Matcher::commit() {
  Position last = path_.back();
  items_.erase(items_.begin(), items_.begin() + static_cast<std::ptrdiff_t>(last.items));
  items_.resize(last.n_items);
  last.items = 0;
  path_.assign(1, last);
  if (frames_.size() >= drop_at_) drop_dead_frames();
  exhausted_ |= frames_.size() > kMostFrames;
}

void Matcher::drop_dead_frames() {
  constexpr std::size_t kFew = 1024;
  std::vector<std::uint32_t> place(frames_.size(), kNone);
  std::vector<std::uint32_t> todo;
  const auto mark = [&](std::uint32_t frame) {
    if (place[frame] != kNone) return;
    place[frame] = 0;
    todo.push_back(frame);
  };
  mark(0);
  for (const Item& i : items_) mark(i.frame);
  while (!todo.empty()) {
    const std::uint32_t frame = todo.back();
    todo.pop_back();
    for (std::uint32_t r = frames_[frame].returns; r != kNone; r = returns_[r].next) mark(returns_[r].to.frame);
  }
  std::uint32_t n = 0;
  for (std::uint32_t& p : place) p = p == kNone ? kNone : n++;
  std::vector<Return> returns;
  for (std::size_t f = 0; f < frames_.size(); ++f) {
    if (place[f] == kNone) continue;
    std::uint32_t list = kNone;
    for (std::uint32_t r = frames_[f].returns; r != kNone; r = returns_[r].next) {
      Item to = returns_[r].to;
      to.frame = place[to.frame];
      returns.push_back({to, std::exchange(list, static_cast<std::uint32_t>(returns.size()))});
    }
    frames_[place[f]] = {list, 0};
  }
  frames_.resize(n);
  returns_ = std::move(returns);
  for (Item& i : items_) i.frame = place[i.frame];
  drop_at_ = std::max(kFew, 2 * frames_.size());
}

void Matcher::reset() {
  path_.clear();
  items_.clear();
  returns_.clear();
  frames_.assign(1, {});
  utf8_ = {};
  left_ = kMostSaved;
  exhausted_ = dead_ = false;
  questions_ = 0;
  open(0);
  add({rules_->automaton.start[rules_->automaton.root], 0, 0});
  close();
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
