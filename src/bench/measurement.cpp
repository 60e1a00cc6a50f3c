#include "measurement.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <set>
#include <string_view>

#include "gsd/error.h"

namespace gsd::bench {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxLine = 1 << 20;

template <typename M, typename Visit>
void each_field(M& m, Visit visit) {
  visit("kind", m.kind);
  visit("config", m.config);
  visit("prompt", m.prompt);
  visit("temperature", m.temperature);
  visit("sessions", m.sessions);
  visit("repetition", m.repetition);
  visit("tuning", m.tuning);
  visit("tokens", m.tokens);
  visit("decode_ms", m.decode_ms);
  visit("prefill_ms", m.prefill_ms);
  visit("first_token_ms", m.first_token_ms);
  visit("peak_mib", m.peak_mib);
  visit("same_text", m.same_text);
  visit("tried", m.seen.tried);
  visit("accepted_at", m.seen.accepted);
}

// A name like that which lives as long as the program.
std::string_view interned(const std::string& name) {
  static std::set<std::string> names;
  return *names.insert(name).first;
}

json to_json(const Reliability& r) {
  json out = json::array();
  for (const auto& b : r.bin) out.push_back({b.nodes, b.predicted, b.accepted});
  return out;
}

Reliability reliability(const json& j) {
  Reliability r;
  for (std::size_t i = 0; i < r.bin.size(); ++i) {
    const json& b = j.at(i);
    r.bin[i] = {b.at(0).get<std::int64_t>(), b.at(1).get<double>(), b.at(2).get<std::int64_t>()};
  }
  return r;
}

Measurement measurement(const json& j) {
  Measurement m;
  const auto get = [&](const char* name, auto& value) { j.at(name).get_to(value); };
  each_field(m, get);
  visit_stats(get, m.stats);
  m.plain_ms_per_token = j.value("plain_ms_per_token", 0.0);  // older files lack it
  const json drafters = j.value("drafters", json::array());   // likewise
  for (std::size_t d = 0; d < drafters.size(); ++d) {
    DraftStats& sums = m.stats.drafter.at(d);
    sums.name = interned(drafters[d].at("name").get<std::string>());
    visit_stats([&](const char* name, auto& value) { drafters[d].at(name).get_to(value); }, sums);
  }
  for (const auto& [origin, bins] : j.at("reliability").items())
    m.seen.by_origin.at(std::stoul(origin)) = reliability(bins);
  return m;
}

}  // namespace

void Reliability::observe(double probability, bool hit) {
  Bin& b = bin[static_cast<std::size_t>(std::clamp(static_cast<int>(probability * kBins), 0, kBins - 1))];
  ++b.nodes;
  b.predicted += probability;
  b.accepted += hit ? 1 : 0;
}

void Reliability::add(const Reliability& other) {
  for (std::size_t i = 0; i < bin.size(); ++i) {
    bin[i].nodes += other.bin[i].nodes;
    bin[i].predicted += other.bin[i].predicted;
    bin[i].accepted += other.bin[i].accepted;
  }
}

void Observations::observe(const StepView& step) {
  const TokenTree& tree = step.hypotheses.tree();
  const Acceptance& walk = step.acceptance;
  for (std::size_t at = 0; at < walk.token.size(); ++at) {  // nodes at which the target drew
    const std::int32_t father = at == 0 ? 0 : walk.path[at - 1];
    const std::size_t depth = std::min<std::size_t>(at, kDepths - 1);
    bool any = false;
    for (std::int32_t i = father + 1; i < tree.size(); ++i) {
      const auto node = static_cast<std::size_t>(i);
      if (tree.parent[node] != father) continue;
      any = true;
      const double p = tree.probability[node] / std::max(1e-9F, tree.probability[static_cast<std::size_t>(father)]);
      by_origin[static_cast<std::size_t>(tree.origin[node])].observe(p, tree.token[node] == walk.token[at]);
    }
    tried[depth] += any ? 1 : 0;
    accepted[depth] += at < walk.path.size() ? 1 : 0;
  }
}

void Observations::add(const Observations& other) {
  for (std::size_t i = 0; i < tried.size(); ++i) {
    tried[i] += other.tried[i];
    accepted[i] += other.accepted[i];
  }
  for (std::size_t i = 0; i < by_origin.size(); ++i) by_origin[i].add(other.by_origin[i]);
}

std::string to_line(const Measurement& m) {
  json j;
  const auto put = [&](const char* name, const auto& value) { j[name] = value; };
  each_field(m, put);
  visit_stats(put, m.stats);
  put("plain_ms_per_token", m.plain_ms_per_token);
  visit_drafters(
      [&](std::string_view drafter, const DraftStats& sums) {
        json d{{"name", drafter}};
        visit_stats([&](const char* name, const auto& value) { d[name] = value; }, sums);
        j["drafters"].push_back(std::move(d));
      },
      m.stats);
  j["reliability"] = json::object();
  for (std::size_t i = 0; i < m.seen.by_origin.size(); ++i) {
    const Reliability& r = m.seen.by_origin[i];
    if (std::any_of(r.bin.begin(), r.bin.end(), [](const auto& b) { return b.nodes > 0; }))
      j["reliability"][std::to_string(i)] = to_json(r);
  }
  return j.dump() + "\n";
}

std::string to_line(const Conditions& c) { return Conditions{{"gsd_bench", 1}, {"conditions", c}}.dump() + "\n"; }

Measurements read_measurements(const std::string& path) {
  std::ifstream in(path);
  if (!in) throw Error(ErrorCode::kIo, fmt::format("The measurements '{}' cannot be opened.", path));
  Measurements out;
  int n = 0;
  for (std::string line; std::getline(in, line);) {
    ++n;
    try {
      if (line.size() > kMaxLine) throw std::length_error("line");
      if (n == 1) {
        const Conditions j = Conditions::parse(line);
        if (j.at("gsd_bench") != 1) throw std::invalid_argument("format");
        out.conditions = j.at("conditions");
        if (!out.conditions.is_object()) throw std::invalid_argument("conditions");
      } else {
        out.list.push_back(measurement(json::parse(line)));
      }
    } catch (const std::exception&) {
      if (n > 1 && in.peek() == std::char_traits<char>::eof()) break;
      throw Error(ErrorCode::kUsage,
                  fmt::format("Line {} of '{}' is no measurement of this gsd bench; measure again.", n, path));
    }
  }
  if (n == 0) throw Error(ErrorCode::kUsage, fmt::format("The file '{}' holds no measurements.", path));
  return out;
}

double median(std::vector<double> v) {
  if (v.empty()) return 0;
  const auto mid = v.begin() + static_cast<std::ptrdiff_t>(v.size() / 2);
  std::nth_element(v.begin(), mid, v.end());
  return *mid;
}

}  // namespace gsd::bench
