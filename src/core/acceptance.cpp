#include "gsd/acceptance.h"

namespace gsd {

const char* finish_reason_name(FinishReason reason) {
  switch (reason) {
    case FinishReason::kNone:
      return "none";
    case FinishReason::kEndOfText:
      return "end_of_text";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kContextFull:
      return "context_full";
    case FinishReason::kStopped:
      return "stopped";
    case FinishReason::kConstraint:
      return "constraint";
  }
  return "unknown";
}

void Acceptance::clear() {
  path.clear();
  token.clear();
  margin.clear();
  tentative.clear();
  finish = FinishReason::kNone;
}

namespace {

// Follows the target's token after a node whose bits do not count, without the constraint (its state must not move).
void walk_tentatively(const AcceptInput& in, Sampler& sampler, std::int32_t node, std::vector<Token>& tokens,
                      Acceptance& out) {
  const std::size_t emitted = tokens.size();
  const auto start = static_cast<std::uint32_t>(out.token.size());
  while (node >= 0) {
    const auto at = in.position + start + static_cast<std::uint32_t>(out.tentative.size());
    const Token t = sampler.choose(in.backend.logits(in.first_row + node), at, tokens, nullptr).token;
    if (t < 0 || in.backend.is_eog(t)) break;
    out.tentative.push_back(t);
    tokens.push_back(t);
    node = in.tree.find_child(node, t);
  }
  tokens.resize(emitted);
}

}  // namespace

void accept(const AcceptInput& in, Sampler& sampler, std::vector<Token>& tokens, Acceptance& out) {
  out.clear();
  std::int32_t node = 0;
  while (true) {
    const auto index = static_cast<std::uint32_t>(out.token.size());
    const Choice c = sampler.choose(in.backend.logits(in.first_row + node), in.position + index, tokens, in.constraint);
    if (c.token < 0) {
      out.finish = FinishReason::kConstraint;
      return;
    }
    out.token.push_back(c.token);
    out.margin.push_back(c.margin);
    tokens.push_back(c.token);
    if (in.constraint) in.constraint->advance(c.token);
    const bool go_on = !in.on_token || in.on_token(c.token);
    if (!in.ignore_eog && in.backend.is_eog(c.token)) {
      out.finish = FinishReason::kEndOfText;
    } else if (!go_on) {
      out.finish = FinishReason::kStopped;
    } else if (static_cast<std::int64_t>(out.token.size()) >= in.max_tokens) {
      out.finish = FinishReason::kLength;
    }
    if (out.finish != FinishReason::kNone) return;
    const std::int32_t child = in.tree.find_child(node, c.token);
    if (child < 0) return;
    if (in.primary_only && child > in.tree.primary) {
      walk_tentatively(in, sampler, child, tokens, out);
      return;
    }
    out.path.push_back(child);
    node = child;
  }
}

}  // namespace gsd
