#include "step_json.h"

#include <algorithm>
#include <cmath>

namespace gsd {
namespace {

using Json = nlohmann::ordered_json;
using Text = std::function<std::string(Token)>;

// By the drafter that is surest of it.
double best_q(const GraphEdge& e) {
  double best = 0;
  for (int d = 0; d < kMaxDrafters; ++d)
    if (contains(e.named_by, d)) best = std::max(best, std::exp(double{e.log_q[static_cast<std::size_t>(d)]}));
  return best;
}

Json graph_json(const TokenGraph& g, const Text& text) {
  Json nodes = Json::array();
  Json edges = Json::array();
  for (std::int32_t i = 0; i < g.size(); ++i) {
    const GraphNode& n = g.node(i);
    nodes.push_back({{"token", n.token},
                     {"text", text(n.token)},
                     {"parent", n.parent},
                     {"depth", n.depth},
                     {"p", n.probability},
                     {"expanded", n.expanded != 0}});
    for (std::int32_t e = n.first_edge; e >= 0; e = g.edge(e).next) {
      if (g.edge(e).child >= 0)
        edges.push_back({{"from", i}, {"to", g.edge(e).child}, {"q", best_q(g.edge(e))}, {"merged", g.edge(e).merged}});
    }
  }
  return {{"nodes", nodes}, {"edges", edges}};
}

Json tree_json(const TokenTree& t, const Stats& stats, const Text& text) {
  Json out = Json::array();
  for (std::size_t i = 0; i < t.token.size(); ++i) {
    Json drafters = Json::array();
    for (int d = 0; d < kMaxDrafters; ++d)
      if (contains(t.drafters[i], d)) drafters.push_back(stats.drafter[static_cast<std::size_t>(d)].name);
    out.push_back({{"token", t.token[i]},
                   {"text", text(t.token[i])},
                   {"parent", t.parent[i]},
                   {"depth", t.depth[i]},
                   {"p", t.probability[i]},
                   {"origin", origin_name(t.origin[i])},
                   {"drafters", std::move(drafters)},
                   {"node", t.graph_node[i]}});
  }
  return out;
}

}  // namespace

Json drafters_json(const Stats& stats) {
  Json out = Json::array();
  visit_drafters(
      [&](std::string_view name, const DraftStats& sums) {
        Json drafter{{"name", name}};
        visit_stats([&](const char* sum, const auto& value) { drafter[sum] = value; }, sums);
        out.push_back(std::move(drafter));
      },
      stats);
  return out;
}

Json step_json(const TokenGraph& graph, const TokenTree& tree, const Acceptance& a, const Stats& stats,
               const Text& text) {
  Json emitted = Json::array();
  for (std::size_t i = 0; i < a.token.size(); ++i) {
    const bool proposed = i < a.path.size();
    const char* origin = proposed ? origin_name(tree.origin[static_cast<std::size_t>(a.path[i])]) : "target";
    emitted.push_back({{"token", a.token[i]}, {"text", text(a.token[i])}, {"margin", a.margin[i]}, {"origin", origin}});
  }
  return {{"graph", graph_json(graph, text)},
          {"tree", tree_json(tree, stats, text)},
          {"path", a.path},
          {"emitted", emitted},
          {"drafters", drafters_json(stats)},
          {"draft_ms", stats.draft_ms},
          {"verify_ms", stats.verify_ms},
          {"total_ms", stats.total_ms}};
}

}  // namespace gsd
