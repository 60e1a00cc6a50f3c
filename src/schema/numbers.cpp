#include "numbers.h"

#include <algorithm>
#include <charconv>
#include <map>

namespace gsd::schema {
namespace {

using Id = Languages::Id;

class Numbers {
 public:
  explicit Numbers(Languages& languages) : l_(languages) {
    digit_ = range('0', '9');
    digits_ = l_.repeated(digit_, 0);
    nonzero_ = range('1', '9');
    point_ = l_.text(".");
    minus_ = l_.text("-");
    tail_ = l_.either({l_.empty(), l_.sequence(point_, l_.repeated(digit_, 1))});
    positive_ = l_.sequence(l_.either({l_.text("0"), l_.sequence(nonzero_, digits_)}), tail_);
  }

  Id shape(std::uint32_t whole_digits, std::uint32_t fraction_digits) {
    const Id whole = l_.either({l_.text("0"), l_.sequence(nonzero_, l_.repeated(digit_, 0, whole_digits - 1))});
    const Id fraction = l_.sequence(point_, l_.repeated(digit_, 1, fraction_digits));
    return l_.sequence(
        {l_.repeated(minus_, 0, 1), whole, fraction_digits == 0 ? l_.empty() : l_.repeated(fraction, 0, 1)});
  }

  Id bound(const Bound& b) {
    // -x >= -y where x <= y.
    const Id magnitude =
        b.is_minimum != b.value.negative ? at_least(b.value, b.exclusive) : at_most(b.value, b.exclusive);
    if (b.is_minimum) return b.value.negative ? l_.either({positive_, l_.sequence(minus_, magnitude)}) : magnitude;
    if (b.value.negative) return l_.sequence(minus_, magnitude);
    const bool zero_is_out = b.exclusive && b.value.is_zero();  // and so is -0
    return l_.either({l_.sequence(minus_, zero_is_out ? at_least({}, true) : positive_), magnitude});
  }

  // Whole numbers with so many zeros at the end, or with so many digits after the point at most.
  Id multiple(const Decimal& power) {
    const Id sign = l_.repeated(minus_, 0, 1);
    if (!power.fraction.empty()) return shape(64, static_cast<std::uint32_t>(power.fraction.size()));
    return l_.sequence(sign,
                       l_.either({l_.text("0"), l_.sequence({nonzero_, digits_, l_.text(power.whole.substr(1))})}));
  }

  Id written(const Decimal& d) {
    const Id zeros = l_.repeated(l_.text("0"), 0);
    const Id fraction = d.fraction.empty() ? l_.repeated(l_.sequence({point_, l_.text("0"), zeros}), 0, 1)
                                           : l_.sequence({point_, l_.text(d.fraction), zeros});
    const Id sign = d.is_zero() ? l_.repeated(minus_, 0, 1) : d.negative ? minus_ : l_.empty();
    return l_.sequence({sign, l_.text(d.whole), fraction});
  }

 private:
  Id range(char low, char high) {
    if (high < low) return l_.none();
    return l_.chars({{static_cast<unsigned char>(low), static_cast<unsigned char>(high)}});
  }
  Id many(std::size_t n) { return l_.repeated(digit_, static_cast<std::uint32_t>(n), static_cast<std::uint32_t>(n)); }

  Id at_least(const Decimal& d, bool exclusive) {
    const std::string& w = d.whole;
    std::vector<Id> out{l_.sequence({nonzero_, many(w.size()), digits_, tail_})};
    for (std::size_t i = 0; i < w.size(); ++i) {
      const Id above = range(static_cast<char>(w[i] + 1), '9');
      out.push_back(l_.sequence({l_.text(w.substr(0, i)), above, many(w.size() - 1 - i), tail_}));
    }
    out.push_back(l_.sequence(l_.text(w), fraction_at_least(d.fraction, exclusive)));
    return l_.either(std::move(out));
  }

  Id fraction_at_least(const std::string& f, bool exclusive) {
    const Id more = l_.sequence({digits_, nonzero_, digits_});
    if (f.empty()) return exclusive ? l_.sequence(point_, more) : tail_;
    std::vector<Id> out{l_.sequence(l_.text(f), exclusive ? more : digits_)};
    for (std::size_t i = 0; i < f.size(); ++i)
      out.push_back(l_.sequence({l_.text(f.substr(0, i)), range(static_cast<char>(f[i] + 1), '9'), digits_}));
    return l_.sequence(point_, l_.either(std::move(out)));
  }

  Id at_most(const Decimal& d, bool exclusive) {
    const std::string& w = d.whole;
    std::vector<Id> out;
    if (w.size() > 1) {
      out.push_back(l_.sequence(l_.text("0"), tail_));
      out.push_back(l_.sequence({nonzero_, l_.repeated(digit_, 0, static_cast<std::uint32_t>(w.size() - 2)), tail_}));
    }
    for (std::size_t i = 0; i < w.size(); ++i) {
      const Id below = range(i == 0 && w.size() > 1 ? '1' : '0', static_cast<char>(w[i] - 1));
      out.push_back(l_.sequence({l_.text(w.substr(0, i)), below, many(w.size() - 1 - i), tail_}));
    }
    out.push_back(l_.sequence(l_.text(w), fraction_at_most(d.fraction, exclusive)));
    return l_.either(std::move(out));
  }

  Id fraction_at_most(const std::string& f, bool exclusive) {
    const Id zeros = l_.repeated(l_.text("0"), 0);
    if (f.empty()) return exclusive ? l_.none() : l_.repeated(l_.sequence({point_, l_.text("0"), zeros}), 0, 1);
    std::vector<Id> out;
    for (std::size_t i = 0; i < f.size(); ++i) {
      out.push_back(l_.sequence({l_.text(f.substr(0, i)), range('0', static_cast<char>(f[i] - 1)), digits_}));
      if (i > 0) out.push_back(l_.text(f.substr(0, i)));
    }
    if (!exclusive) out.push_back(l_.sequence(l_.text(f), zeros));
    return l_.either({l_.empty(), l_.sequence(point_, l_.either(std::move(out)))});
  }

  Languages& l_;
  Id digit_, digits_, nonzero_, point_, minus_, tail_, positive_;
};

}  // namespace

std::optional<Decimal> Decimal::parse(const std::string& text) {
  const bool negative = text.starts_with('-');
  const std::size_t e = text.find_first_of("eE");
  std::string digits =
      text.substr(negative ? 1 : 0, e == std::string::npos ? std::string::npos : e - (negative ? 1 : 0));
  long long exponent = 0;
  if (e != std::string::npos) {
    const char* from = text.data() + e + (text[e + 1] == '+' ? 2 : 1);
    std::from_chars(from, text.data() + text.size(), exponent);
  }
  const std::size_t point = digits.find('.');
  long long places = point == std::string::npos ? 0 : static_cast<long long>(digits.size() - point - 1);
  if (point != std::string::npos) digits.erase(point, 1);
  places -= exponent;  // the value is digits / 10^places
  digits.erase(0, std::min(digits.find_first_not_of('0'), digits.size()));
  while (places > 0 && digits.ends_with('0')) {
    digits.pop_back();
    --places;
  }
  if (digits.empty()) return Decimal{};
  if (places > 20 || places < -40) return std::nullopt;
  if (places < 0) {
    digits.append(static_cast<std::size_t>(-places), '0');
    places = 0;
  }
  const auto n = static_cast<std::size_t>(places);
  if (digits.size() <= n) digits.insert(0, n + 1 - digits.size(), '0');
  Decimal out{negative, digits.substr(0, digits.size() - n), digits.substr(digits.size() - n)};
  if (out.whole.size() > 40) return std::nullopt;
  return out;
}

Languages::Id number_language(Languages& languages, const NumberRange& range) {
  Numbers numbers(languages);
  std::size_t whole = range.exact ? 15 : 16;
  std::size_t fraction = 15;
  std::size_t longest = 1;
  std::size_t bound_fraction = 1;
  for (const Bound& b : range.bounds) {
    whole = std::max(whole, b.value.whole.size() + 1);
    longest = std::max(longest, b.value.whole.size());
    bound_fraction = std::max(bound_fraction, b.value.fraction.size());
  }
  // More than 15 digits and a number may be rounded to an excluded bound by whoever reads it.
  if (!range.bounds.empty()) fraction = std::max(bound_fraction, 15 - std::min<std::size_t>(14, longest));
  std::vector<Id> all{
      numbers.shape(static_cast<std::uint32_t>(whole), range.integer ? 0 : static_cast<std::uint32_t>(fraction))};
  for (const Bound& b : range.bounds) all.push_back(numbers.bound(b));
  for (const Decimal& d : range.powers_of_ten) all.push_back(numbers.multiple(d));
  for (const Decimal& d : range.excluded) all.push_back(languages.negated(numbers.written(d)));
  return languages.both(std::move(all));
}

Dfa multiples(const Dfa& numbers, std::uint32_t divisor, Work& work) {
  Dfa out;
  std::map<std::pair<std::uint32_t, std::uint32_t>, std::uint32_t> place{{{0, 0}, 0}};  // state and remainder
  std::vector<std::pair<std::uint32_t, std::uint32_t>> states{{0, 0}};
  for (std::size_t s = 0; s < states.size(); ++s) {
    const auto [from, remainder] = states[s];
    out.states.emplace_back();
    out.states[s].accept = numbers.states[from].accept && remainder == 0;
    std::map<std::uint32_t, Ranges> edges;
    for (const auto& [ranges, to] : numbers.states[from].edges) {
      for (const auto& [low, high] : ranges) {
        for (std::uint32_t c = low; c <= high; ++c) {
          work.spend();
          const std::uint32_t next = c >= '0' && c <= '9' ? (10 * remainder + c - '0') % divisor : remainder;
          const auto [it, is_new] = place.try_emplace({to, next}, static_cast<std::uint32_t>(states.size()));
          if (is_new) states.push_back(it->first);
          edges[it->second].emplace_back(c, c);
        }
      }
    }
    for (auto& [to, ranges] : edges) out.states[s].edges.emplace_back(normalized(std::move(ranges)), to);
  }
  return out;
}

}  // namespace gsd::schema
