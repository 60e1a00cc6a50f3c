#include "gsd/dry.h"

#include <algorithm>
#include <cmath>

namespace gsd {
namespace {

constexpr std::size_t kMaxBreakerBytes = 40;
constexpr std::size_t kMaxRest = 20;  // tokens

// Where a text may begin in a token's piece: it is in there, or the piece's end is its beginning.
void add_breaker(DryBreakers& out, Token t, const std::string& piece, const std::string& text,
                 const Vocabulary& vocabulary) {
  std::vector<std::vector<Token>> rests;
  if (piece.find(text) != std::string::npos) {
    rests.emplace_back();
  } else {
    for (std::size_t n = std::min(piece.size(), text.size() - 1); n > 0; --n) {
      if (!piece.ends_with(std::string_view(text).substr(0, n))) continue;
      rests.push_back(vocabulary.tokenize(text.substr(n), AddBegin::kNo, ParseControl::kNo));
      if (rests.back().size() > kMaxRest) rests.back().resize(kMaxRest);
    }
  }
  for (std::vector<Token>& rest : rests) {
    auto& known = out.rest[t];
    if (std::find(known.begin(), known.end(), rest) == known.end()) known.push_back(std::move(rest));
  }
}

// Tokens at the end of `text` that no repetition may reach beyond: those after the last breaker.
std::size_t unbroken(std::span<const Token> text, const DryBreakers* breakers) {
  if (breakers == nullptr) return text.size();
  for (std::size_t back = 0; back < text.size(); ++back) {
    const std::size_t at = text.size() - 1 - back;
    const auto found = breakers->rest.find(text[at]);
    if (found == breakers->rest.end()) continue;
    std::size_t longest = 0;
    bool any = false;
    for (const std::vector<Token>& rest : found->second) {
      if (rest.size() > back || (any && rest.size() <= longest) ||
          !std::equal(rest.begin(), rest.end(), text.begin() + static_cast<std::ptrdiff_t>(at) + 1))
        continue;
      any = true;
      longest = rest.size();
    }
    if (any) return back - longest;
  }
  return text.size();
}

// It breaks by itself, and may come again at any time.
bool is_breaker(Token t, const DryBreakers* breakers) {
  if (breakers == nullptr) return false;
  const auto found = breakers->rest.find(t);
  return found != breakers->rest.end() && std::any_of(found->second.begin(), found->second.end(),
                                                      [](const std::vector<Token>& rest) { return rest.empty(); });
}

}  // namespace

std::vector<std::string> default_dry_breakers() { return {"\n", ":", "\"", "*"}; }

std::shared_ptr<const DryBreakers> make_dry_breakers(const Vocabulary& vocabulary, std::span<const std::string> texts) {
  auto out = std::make_shared<DryBreakers>();
  for (Token t = 0; t < vocabulary.size; ++t) {
    const std::string piece = vocabulary.piece(t, ShowControl::kYes);
    for (const std::string& text : texts) {
      if (!text.empty()) add_breaker(*out, t, piece, text.substr(0, kMaxBreakerBytes), vocabulary);
    }
  }
  return out;
}

void Dry::penalties(const SamplingParams& p, std::span<const Token> recent, std::vector<std::pair<Token, float>>& out) {
  out.clear();
  if (!p.dry()) return;
  if (p.dry_penalty_last_n > 0)
    recent = recent.last(std::min(recent.size(), static_cast<std::size_t>(p.dry_penalty_last_n)));
  const auto allowed = static_cast<std::size_t>(p.dry_allowed_length);
  if (recent.size() <= allowed) return;
  const std::size_t most = unbroken(recent, p.dry_breakers.get());
  if (most < allowed) return;
  // Z function of the text read backwards: match_[k] tokens before the last k ones are as those at the end.
  const std::size_t n = recent.size();
  const auto back = [&](std::size_t i) { return recent[n - 1 - i]; };
  match_.assign(n, 0);
  for (std::size_t k = 1, left = 0, right = 0; k < n; ++k) {  // [left, right) is the match that reaches furthest
    std::size_t m = k < right ? std::min(right - k, match_[k - left]) : 0;
    while (k + m < n && back(m) == back(k + m)) ++m;
    match_[k] = m;
    if (k + m > right) left = k, right = k + m;
  }
  const float log_base = std::log(p.dry_base);
  const float highest = p.dry_base > 1.000001F ? 88.7228F / log_base : 1e9F;  // of a power that is finite
  for (std::size_t k = 1; k < n; ++k) {
    const std::size_t length = std::min(match_[k], most);
    if (length < allowed || is_breaker(back(k - 1), p.dry_breakers.get())) continue;
    const float penalty =
        p.dry_multiplier * std::pow(p.dry_base, std::min(static_cast<float>(length - allowed), std::floor(highest)));
    out.emplace_back(back(k - 1), penalty);
  }
  // Of each token the largest.
  std::sort(out.begin(), out.end(), [](const auto& a, const auto& b) {
    return a.first < b.first || (a.first == b.first && a.second > b.second);
  });
  out.erase(std::unique(out.begin(), out.end(), [](const auto& a, const auto& b) { return a.first == b.first; }),
            out.end());
}

}  // namespace gsd
