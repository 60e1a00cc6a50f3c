#include "members.h"

#include <algorithm>
#include <compare>
#include <deque>
#include <map>
#include <set>

namespace gsd::schema {
namespace {

const char* const kComma = R"("," ws)";

// A rule for each place in the list and all that matters there of what was written before.
class Walk {
 public:
  Walk(Rules& rules, const Members& members, Work& work) : rules_(rules), all_(members), work_(work) {
    for (std::size_t i = 0; i < all_.named.size(); ++i) {
      for (const std::size_t other : all_.named[i].needs) {
        if (other < i) last_asked_[other] = std::max(last_asked_[other], i);
      }
    }
  }

  std::uint32_t run() {
    const std::uint32_t first = rule_of({});
    while (!queue_.empty()) {
      const auto [state, rule] = std::move(queue_.front());
      queue_.pop_front();
      rules_.set(rule, state.next < all_.named.size() ? named(state) : end(state));
    }
    return first;
  }

 private:
  struct State {
    std::size_t next = 0;
    bool written = false;
    std::int64_t count = 0;
    std::set<std::size_t> owed;   // must still come
    std::set<std::size_t> there;  // came, and a later one asks for it
    auto operator<=>(const State&) const = default;
  };

  std::uint32_t rule_of(State s) {
    work_.spend(1 + s.owed.size() + s.there.size());
    if (all_.most < 0) s.count = std::min(s.count, all_.least);
    const auto [it, is_new] = known_.try_emplace(s, 0);
    if (is_new) {
      it->second = rules_.add();
      queue_.emplace_back(std::move(s), it->second);
    }
    return it->second;
  }

  Piece named(const State& s) {
    const Member& m = all_.named[s.next];
    std::vector<Piece> out;
    State without = s;
    ++without.next;
    std::erase_if(without.there, [&](std::size_t i) { return last_asked_.at(i) < without.next; });
    const bool needs_are_there =
        std::all_of(m.needs.begin(), m.needs.end(), [&](std::size_t i) { return i >= s.next || s.there.contains(i); });
    if (m.possible && needs_are_there && (all_.most < 0 || s.count < all_.most)) {
      State with = without;
      with.written = true;
      ++with.count;
      with.owed.erase(s.next);
      for (const std::size_t i : m.needs) {
        if (i > s.next) with.owed.insert(i);
      }
      if (last_asked_.contains(s.next)) with.there.insert(s.next);
      out.push_back(sequence({text(s.written ? kComma : R"("")"), m.piece, call(rule_of(std::move(with)))}));
    }
    if (!m.required && !s.owed.contains(s.next)) out.push_back(call(rule_of(std::move(without))));
    return choice(std::move(out));
  }

  Piece end(const State& s) {
    const std::int64_t least = std::max<std::int64_t>(0, all_.least - s.count);
    const std::int64_t most = all_.most < 0 ? -1 : all_.most - s.count;
    if (least > 1) return choice({});  // two may have the same name
    const Piece more = sequence({text(kComma), all_.other});
    if (s.written) return repeat(more, least, most);
    if (most == 0) return {};
    Piece some = sequence({all_.other, repeat(more, 0, most < 0 ? -1 : most - 1)});
    return least > 0 ? some : repeat(std::move(some), 0, 1);
  }

  Rules& rules_;
  const Members& all_;
  Work& work_;
  std::map<std::size_t, std::size_t> last_asked_;  // by a later member
  std::map<State, std::uint32_t> known_;
  std::deque<std::pair<State, std::uint32_t>> queue_;
};

}  // namespace

std::uint32_t add_members(Rules& rules, const Members& members, Work& work) { return Walk(rules, members, work).run(); }

}  // namespace gsd::schema
