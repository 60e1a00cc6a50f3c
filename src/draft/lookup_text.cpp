#include "gsd/lookup_text.h"

#include <algorithm>
#include <string>

#include "../core/history.h"
#include "gsd/error.h"

namespace gsd {
namespace {

class LookupText final : public Source {
 public:
  LookupText(std::span<const Token> text, int shortest)
      : shortest_(shortest),
        tokens_(static_cast<int>(std::max(text.size(), std::size_t{History::kGram})), Origin::kLookup) {
    for (const Token t : text) tokens_.push(t);
  }

  Origin origin() const override { return Origin::kLookup; }
  Match find(std::span<const Token> text) const override {
    const Match m = tokens_.find(text);
    return m.length >= shortest_ ? m : Match{};
  }
  Token next(const Match& match) const override { return tokens_.next(match); }
  Match advance(const Match& match) const override { return tokens_.advance(match); }

 private:
  int shortest_;
  History tokens_;
};

}  // namespace

std::shared_ptr<const Source> make_lookup_text(std::span<const Token> text, int shortest) {
  constexpr std::size_t kMost = 1 << 24;
  if (text.size() > kMost) {
    throw Error(ErrorCode::kUsage, "A text to look things up in may have at most " + std::to_string(kMost) +
                                       " tokens, not " + std::to_string(text.size()) + "; give a smaller one.");
  }
  if (shortest < History::kGram || shortest > Source::kMaxMatch)
    throw Error(ErrorCode::kUsage, "The shortest match of a lookup must be from 3 to 32 tokens.");
  return std::make_shared<LookupText>(text, shortest);
}

}  // namespace gsd
