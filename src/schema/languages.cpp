#include "languages.h"

#include <algorithm>

#include "../core/utf8_decoder.h"

namespace gsd::schema {

Ranges normalized(Ranges ranges) {
  std::sort(ranges.begin(), ranges.end());
  Ranges out;
  for (const auto& [low, high] : ranges) {
    if (!out.empty() && low <= out.back().second + 1) {
      out.back().second = std::max(out.back().second, high);
    } else {
      out.emplace_back(low, high);
    }
  }
  return out;
}

Ranges complement(const Ranges& ranges) {
  Ranges taken = ranges;
  taken.emplace_back(0xD800, 0xDFFF);
  Ranges out;
  std::uint32_t from = 0;
  for (const auto& [low, high] : normalized(std::move(taken))) {
    if (low > from) out.emplace_back(from, low - 1);
    from = high + 1;
  }
  if (from <= kMaxCodePoint) out.emplace_back(from, kMaxCodePoint);
  return out;
}

std::vector<std::uint32_t> code_points(std::string_view utf8) {
  std::vector<std::uint32_t> out;
  Utf8Decoder decoder;
  for (const char c : utf8) {
    if (!decoder.push(static_cast<unsigned char>(c)))
      throw Error(ErrorCode::kGrammar, "A text of the JSON schema is no UTF-8.");
    if (!decoder.pending()) out.push_back(decoder.value());
  }
  return out;
}

bool Dfa::empty() const {
  return std::none_of(states.begin(), states.end(), [](const State& s) { return s.accept; });
}

Languages::Languages(Work& work) : work_(work) {
  none_ = make({Kind::kNone, false, 0, 0, {}, {}});
  empty_ = make({Kind::kEmpty, true, 0, 0, {}, {}});
  any_ = chars(complement({}));
  all_ = repeated(any_, 0);
}

Languages::Id Languages::make(Node node) {
  work_.spend(1 + node.parts.size() + node.ranges.size());
  Key key{node.kind, node.least, node.most, node.parts, node.ranges};
  const auto [it, is_new] = known_.try_emplace(std::move(key), static_cast<Id>(nodes_.size()));
  if (is_new) nodes_.push_back(std::move(node));
  return it->second;
}

Languages::Id Languages::chars(Ranges ranges) {
  ranges = normalized(std::move(ranges));
  return ranges.empty() ? none_ : make({Kind::kChars, false, 0, 0, {}, std::move(ranges)});
}

Languages::Id Languages::text(std::string_view utf8) {
  const std::vector<std::uint32_t> points = code_points(utf8);
  Id out = empty_;
  for (auto it = points.rbegin(); it != points.rend(); ++it) out = sequence(chars({{*it, *it}}), out);
  return out;
}

// Leans to the right.
Languages::Id Languages::sequence(Id a, Id b) {
  if (a == none_ || b == none_) return none_;
  if (a == empty_) return b;
  if (b == empty_) return a;
  std::vector<Id> before;
  while (nodes_[a].kind == Kind::kSequence) {
    before.push_back(nodes_[a].parts[0]);
    a = nodes_[a].parts[1];
  }
  before.push_back(a);
  for (auto it = before.rbegin(); it != before.rend(); ++it)
    b = make({Kind::kSequence, nodes_[*it].nullable && nodes_[b].nullable, 0, 0, {*it, b}, {}});
  return b;
}

Languages::Id Languages::sequence(std::initializer_list<Id> parts) {
  Id out = empty_;
  for (auto it = std::rbegin(parts); it != std::rend(parts); ++it) out = sequence(*it, out);
  return out;
}

Languages::Id Languages::either(std::vector<Id> parts) {
  std::vector<Id> flat;
  Ranges ranges;
  for (const Id p : parts) {
    const Node& n = nodes_[p];
    if (p == all_) return all_;
    if (n.kind == Kind::kEither) {
      for (const Id q : n.parts) {
        if (nodes_[q].kind == Kind::kChars) {
          ranges.insert(ranges.end(), nodes_[q].ranges.begin(), nodes_[q].ranges.end());
        } else {
          flat.push_back(q);
        }
      }
    } else if (n.kind == Kind::kChars) {
      ranges.insert(ranges.end(), n.ranges.begin(), n.ranges.end());
    } else if (p != none_) {
      flat.push_back(p);
    }
  }
  if (!ranges.empty()) flat.push_back(chars(std::move(ranges)));
  std::sort(flat.begin(), flat.end());
  flat.erase(std::unique(flat.begin(), flat.end()), flat.end());
  if (flat.empty()) return none_;
  if (flat.size() == 1) return flat[0];
  const bool nullable = std::any_of(flat.begin(), flat.end(), [&](Id p) { return nodes_[p].nullable; });
  return make({Kind::kEither, nullable, 0, 0, std::move(flat), {}});
}

Languages::Id Languages::both(std::vector<Id> parts) {
  std::vector<Id> flat;
  for (const Id p : parts) {
    if (p == none_) return none_;
    if (nodes_[p].kind == Kind::kBoth) {
      flat.insert(flat.end(), nodes_[p].parts.begin(), nodes_[p].parts.end());
    } else if (p != all_) {
      flat.push_back(p);
    }
  }
  std::sort(flat.begin(), flat.end());
  flat.erase(std::unique(flat.begin(), flat.end()), flat.end());
  if (flat.empty()) return all_;
  if (flat.size() == 1) return flat[0];
  const bool nullable = std::all_of(flat.begin(), flat.end(), [&](Id p) { return nodes_[p].nullable; });
  if (!nullable && std::find(flat.begin(), flat.end(), empty_) != flat.end()) return none_;
  return make({Kind::kBoth, nullable, 0, 0, std::move(flat), {}});
}

Languages::Id Languages::negated(Id a) {
  if (a == none_) return all_;
  if (a == all_) return none_;
  if (nodes_[a].kind == Kind::kNegated) return nodes_[a].parts[0];
  return make({Kind::kNegated, !nodes_[a].nullable, 0, 0, {a}, {}});
}

Languages::Id Languages::repeated(Id a, std::uint32_t least, std::uint32_t most) {
  if (nodes_[a].nullable) least = 0;
  if (most == 0 || a == empty_) return empty_;
  if (a == none_) return least == 0 ? empty_ : none_;
  if (least == 1 && most == 1) return a;
  if (nodes_[a].kind == Kind::kRepeated && nodes_[a].least == 0 && nodes_[a].most == kNoLimit) return a;
  return make({Kind::kRepeated, least == 0, least, most, {a}, {}});
}

Languages::Id Languages::derivative(Id a, std::uint32_t c) {
  const std::uint64_t key = std::uint64_t{a} << 32 | c;
  if (const auto it = derivatives_.find(key); it != derivatives_.end()) return it->second;
  work_.spend();
  const Id out = derived(a, c);
  derivatives_[key] = out;
  return out;
}

// What may follow `c` at the beginning of a text of `a`.
Languages::Id Languages::derived(Id a, std::uint32_t c) {
  const Node n = nodes_[a];  // a copy: nodes_ grows
  std::vector<Id> parts;
  switch (n.kind) {
    case Kind::kNone:
    case Kind::kEmpty:
      return none_;
    case Kind::kChars:
      return std::any_of(n.ranges.begin(), n.ranges.end(), [&](const auto& r) { return r.first <= c && c <= r.second; })
                 ? empty_
                 : none_;
    case Kind::kSequence: {
      const Id first = sequence(derivative(n.parts[0], c), n.parts[1]);
      return nodes_[n.parts[0]].nullable ? either({first, derivative(n.parts[1], c)}) : first;
    }
    case Kind::kEither:
      for (const Id p : n.parts) parts.push_back(derivative(p, c));
      return either(std::move(parts));
    case Kind::kBoth:
      for (const Id p : n.parts) parts.push_back(derivative(p, c));
      return both(std::move(parts));
    case Kind::kNegated:
      return negated(derivative(n.parts[0], c));
    case Kind::kRepeated:
      break;
  }
  return sequence(derivative(n.parts[0], c),
                  repeated(n.parts[0], n.least > 0 ? n.least - 1 : 0, n.most == kNoLimit ? kNoLimit : n.most - 1));
}

// The sets that decide about the first character.
void Languages::first(Id a, std::vector<const Ranges*>& out) {
  work_.spend();
  const Node& n = nodes_[a];
  if (n.kind == Kind::kChars) {
    out.push_back(&n.ranges);
    return;
  }
  for (std::size_t i = 0; i < n.parts.size(); ++i) {
    first(n.parts[i], out);
    if (n.kind == Kind::kSequence && !nodes_[n.parts[0]].nullable) break;
  }
}

// Sets of characters after each of which the same follows, with one of each.
std::vector<std::pair<Ranges, std::uint32_t>> Languages::classes(Id a) {
  std::vector<const Ranges*> sets;
  first(a, sets);
  std::sort(sets.begin(), sets.end());
  sets.erase(std::unique(sets.begin(), sets.end()), sets.end());
  std::vector<std::pair<std::uint32_t, std::uint32_t>> cuts{{0, 0}};  // where, and of which set + 1 the border is
  for (std::size_t s = 0; s < sets.size(); ++s) {
    for (const auto& [low, high] : *sets[s]) {
      cuts.emplace_back(low, s + 1);
      cuts.emplace_back(high + 1, s + 1);
    }
  }
  for (const std::uint32_t edge : {0xD800U, 0xE000U, kMaxCodePoint + 1}) cuts.emplace_back(edge, 0);
  std::sort(cuts.begin(), cuts.end());
  work_.spend(cuts.size());
  std::map<std::vector<std::uint32_t>, Ranges> by_sets;  // sets that are on
  std::vector<std::uint32_t> on;
  for (std::size_t i = 0; i < cuts.size();) {
    const std::uint32_t from = cuts[i].first;
    for (; i < cuts.size() && cuts[i].first == from; ++i) {
      if (cuts[i].second == 0) continue;
      const auto it = std::lower_bound(on.begin(), on.end(), cuts[i].second);
      if (it != on.end() && *it == cuts[i].second) {
        on.erase(it);
      } else {
        on.insert(it, cuts[i].second);
      }
    }
    if (from > kMaxCodePoint || from == 0xD800) continue;
    work_.spend(1 + on.size());
    by_sets[on].emplace_back(from, cuts[i].first - 1);
  }
  std::vector<std::pair<Ranges, std::uint32_t>> out;
  for (auto& [key, ranges] : by_sets) {
    const std::uint32_t one = ranges[0].first;
    out.emplace_back(std::move(ranges), one);
  }
  return out;
}

bool Languages::contains(Id a, std::string_view utf8) {
  for (const std::uint32_t c : code_points(utf8)) a = derivative(a, c);
  return nodes_[a].nullable;
}

std::optional<Dfa> Languages::automaton(Id a, std::size_t most_states) {
  Dfa out;
  std::unordered_map<Id, std::uint32_t> place{{a, 0}};
  std::vector<Id> states{a};
  for (std::size_t s = 0; s < states.size(); ++s) {
    out.states.emplace_back();
    out.states[s].accept = nodes_[states[s]].nullable;
    std::map<std::uint32_t, Ranges> edges;
    for (const auto& [ranges, one] : classes(states[s])) {
      const Id next = derivative(states[s], one);
      if (next == none_) continue;
      const auto [it, is_new] = place.try_emplace(next, static_cast<std::uint32_t>(states.size()));
      if (is_new) states.push_back(next);
      Ranges& all = edges[it->second];
      all.insert(all.end(), ranges.begin(), ranges.end());
    }
    if (states.size() > most_states) return std::nullopt;
    for (auto& [to, ranges] : edges) out.states[s].edges.emplace_back(normalized(std::move(ranges)), to);
  }
  return out;
}

}  // namespace gsd::schema
