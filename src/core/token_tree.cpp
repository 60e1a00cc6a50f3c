#include "gsd/token_tree.h"

#include <string>

#include "gsd/error.h"

namespace gsd {

const char* origin_name(Origin origin) {
  switch (origin) {
    case Origin::kRoot:
      return "root";
    case Origin::kDraft:
      return "draft";
    case Origin::kMerged:
      return "merged";
    case Origin::kHistory:
      return "history";
    case Origin::kRecycled:
      return "recycled";
    case Origin::kLookup:
      return "lookup";
    case Origin::kHint:
      return "hint";
  }
  return "unknown";
}

void TokenTree::clear() {
  token.clear();
  parent.clear();
  depth.clear();
  probability.clear();
  origin.clear();
  graph_node.clear();
  drafters.clear();
  primary = 0;
}

void TokenTree::reserve(int n) {
  const auto count = static_cast<std::size_t>(n);
  token.reserve(count);
  parent.reserve(count);
  depth.reserve(count);
  probability.reserve(count);
  origin.reserve(count);
  graph_node.reserve(count);
  drafters.reserve(count);
}

std::int32_t TokenTree::add(Token t, std::int32_t below, float p, Origin o, std::int32_t graph_id, DrafterSet by) {
  token.push_back(t);
  parent.push_back(below);
  depth.push_back(below < 0 ? 0 : depth[static_cast<std::size_t>(below)] + 1);
  probability.push_back(p);
  origin.push_back(o);
  graph_node.push_back(graph_id);
  drafters.push_back(by);
  return size() - 1;
}

std::int32_t TokenTree::find_child(std::int32_t node, Token t) const {
  for (std::int32_t i = node + 1; i < size(); ++i) {
    const auto at = static_cast<std::size_t>(i);
    if (parent[at] == node && token[at] == t) return i;
  }
  return -1;
}

void TokenTree::check_integrity() const {
  const auto require = [](bool ok, const char* invariant) {
    if (!ok) throw Error(ErrorCode::kInternal, std::string("token tree: ") + invariant);
  };
  require(size() > 0 && parent[0] == -1, "element 0 is not the root");
  for (std::int32_t i = 1; i < size(); ++i) {
    const auto at = static_cast<std::size_t>(i);
    require(parent[at] >= 0 && parent[at] < i, "a parent does not stand before its child");
    require(depth[at] == depth[static_cast<std::size_t>(parent[at])] + 1, "a depth is wrong");
    require(find_child(parent[at], token[at]) == i, "two siblings have the same token");
    require(i > primary || parent[at] == i - 1, "the primary path does not stand first");
    require(probability[at] <= probability[static_cast<std::size_t>(parent[at])] + 1e-5F,
            "a child is more probable than its parent");
  }
}

}  // namespace gsd
