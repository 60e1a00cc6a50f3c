#include "reasoning_budget.h"

#include <algorithm>
#include <utility>

#include "../core/utf8.h"

namespace gsd::chat {
namespace {

bool whole_characters(const std::string& text) {
  Utf8Buffer buffer;
  buffer.push(text);
  return buffer.flush().empty();
}

class Bound {
 public:
  Bound(ReasoningBound b, std::shared_ptr<const TokenTexts> texts, std::optional<Constraint> inner)
      : bound_(std::move(b)), texts_(std::move(texts)), inner_(std::move(inner)) {
    start();
  }

  bool allows(Token t) const {
    if (ending_) return t == bound_.end[n_ended_];
    return !inner_ || inner_->allows(t);
  }

  void advance(Token t) {
    if (inner_) inner_->advance(t);
    if (ending_) {
      if (++n_ended_ == bound_.end.size()) leave();
      return;
    }
    if (texts_->is_end(t)) return;
    tail_ += texts_->bytes(t);
    inside_ ? count() : look_for_begin();
  }

  void reset() {
    if (inner_ && inner_->reset) inner_->reset();
    start();
  }
  std::string failure() const { return inner_ && inner_->failure ? inner_->failure() : ""; }

 private:
  void start() {
    leave();
    if (bound_.opened) enter();
  }
  void leave() {
    inside_ = ending_ = false;
    tail_.clear();
  }
  void enter() {
    inside_ = true;
    n_inside_ = 0;
    n_ended_ = 0;
    ending_ = bound_.budget <= 0;
  }

  // The end of the tail that may become `tag`.
  std::size_t begun(const std::string& tag) const {
    std::size_t n = std::min(tail_.size(), tag.size() - 1);
    while (n > 0 && !tail_.ends_with(std::string_view(tag).substr(0, n))) --n;
    return n;
  }

  void look_for_begin() {
    if (bound_.open.empty()) return tail_.clear();
    if (tail_.find(bound_.open) == std::string::npos) {
      tail_.erase(0, tail_.size() - begun(bound_.open));
      return;
    }
    tail_.clear();
    enter();
  }

  void count() {
    ++n_inside_;
    if (tail_.find(bound_.close) != std::string::npos) return leave();
    const bool half = begun(bound_.close) > 0 || !whole_characters(tail_);
    if (!half) tail_.clear();
    ending_ = n_inside_ >= bound_.budget && !half;
  }

  const ReasoningBound bound_;
  const std::shared_ptr<const TokenTexts> texts_;
  std::optional<Constraint> inner_;
  std::string tail_;  // what may still become a tag
  bool inside_ = false;
  bool ending_ = false;
  std::int64_t n_inside_ = 0;
  std::size_t n_ended_ = 0;
};

}  // namespace

Constraint reasoning_bound(ReasoningBound bound, std::shared_ptr<const TokenTexts> texts,
                           std::optional<Constraint> inner) {
  const auto b = std::make_shared<Bound>(std::move(bound), std::move(texts), std::move(inner));
  return {[b](Token t) { return b->allows(t); }, [b](Token t) { b->advance(t); }, [b] { b->reset(); },
          [b] { return b->failure(); }};
}

}  // namespace gsd::chat
