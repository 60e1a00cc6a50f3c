#include "report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <random>

#include "bench_html.h"
#include "gsd/error.h"

namespace gsd::bench {
namespace {

using nlohmann::json;

// What is compared prompt by prompt.
struct Setup {
  double temperature;
  int sessions;
  std::string config;
  auto operator<=>(const Setup&) const = default;
};

// The measurements in an order that finds them.
class Index {
 public:
  explicit Index(const Measurements& m) {
    for (const Measurement& x : m.list) {
      if (x.tuning) continue;
      const Setup setup{x.temperature, x.sessions, x.config};
      if (runs_.find(setup) == runs_.end()) setups_.push_back(setup);
      runs_[setup][x.prompt].push_back(&x);
      if (std::find(kinds_.begin(), kinds_.end(), x.kind) == kinds_.end()) kinds_.push_back(x.kind);
    }
    if (kinds_.size() > 1) kinds_.emplace_back();
  }
  const std::vector<Setup>& setups() const { return setups_; }
  const std::vector<std::string>& kinds() const { return kinds_; }  // an empty one, for all, last

  // [prompt] its runs; empty if there are none.
  std::map<int, std::vector<const Measurement*>> runs(const Setup& setup, const std::string& kind) const {
    std::map<int, std::vector<const Measurement*>> out;
    const auto found = runs_.find(setup);
    if (found == runs_.end()) return out;
    for (const auto& [prompt, list] : found->second) {
      if (kind.empty() || list.front()->kind == kind) out[prompt] = list;
    }
    return out;
  }
  // [prompt] median milliseconds a token.
  std::map<int, double> times(const Setup& setup, const std::string& kind) const {
    std::map<int, double> out;
    for (const auto& [prompt, list] : runs(setup, kind)) {
      std::vector<double> ms;
      for (const Measurement* x : list) ms.push_back(x->ms_per_token());
      out[prompt] = median(ms);
    }
    return out;
  }

 private:
  std::vector<Setup> setups_;
  std::vector<std::string> kinds_;
  std::map<Setup, std::map<int, std::vector<const Measurement*>>> runs_;
};

// Speed of `fast` over `slow` on the prompts that both have.
Ratio speed_ratio(const std::map<int, double>& fast, const std::map<int, double>& slow) {
  std::vector<double> logs;
  for (const auto& [prompt, ms] : fast) {
    if (const auto other = slow.find(prompt); other != slow.end()) logs.push_back(std::log(other->second / ms));
  }
  return geometric_mean(logs);
}

Row row(const Index& index, const Setup& setup, const std::string& kind) {
  Row r;
  r.kind = kind;
  r.config = setup.config;
  r.temperature = setup.temperature;
  r.sessions = setup.sessions;
  double tokens = 0;
  double ms = 0;
  std::vector<double> first;
  const auto times = index.times(setup, kind);
  for (const auto& [prompt, list] : index.runs(setup, kind)) {
    ++r.prompts;
    tokens += static_cast<double>(list.front()->tokens);
    ms += times.at(prompt) * static_cast<double>(list.front()->tokens);
    for (const Measurement* x : list) {
      r.stats.add(x->stats);
      r.seen.add(x->seen);
      r.differing += x->same_text ? 0 : 1;
      r.peak_mib = std::max(r.peak_mib, x->peak_mib);
      first.push_back(x->first_token_ms);
    }
  }
  r.tokens_per_second = ms > 0 ? 1000 * tokens / ms : 0;
  r.first_token_ms = median(first);
  r.speed_up = speed_ratio(times, index.times({setup.temperature, setup.sessions, "plain"}, kind));
  return r;
}

std::string kind_name(const std::string& kind) { return kind.empty() ? "**all**" : kind; }

std::string ratio_text(const Ratio& r) {
  return r.n == 0 ? "" : fmt::format("{:.2f}x [{:.2f}, {:.2f}]", r.mean, r.low, r.high);
}

std::string row_text(const Row& r) {
  const Stats& s = r.stats;
  const auto steps = static_cast<double>(s.steps);
  const auto per_step = [&](auto v) {
    return s.steps > 0 ? fmt::format("{:.2f}", static_cast<double>(v) / steps) : "";
  };
  const double rest = 1000 * (s.total_ms - s.draft_ms - s.verify_ms);
  return fmt::format("| {} | {} | {:.0f} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {:.0f} | {} |\n",
                     kind_name(r.kind), r.config, r.tokens_per_second, ratio_text(r.speed_up), per_step(s.emitted),
                     per_step(s.drafted), per_step(s.merged), per_step(s.verified), per_step(s.draft_forwards),
                     per_step(s.draft_ms), per_step(s.verify_ms),
                     s.steps > 0 ? fmt::format("{:.0f}", rest / steps) : "",
                     r.first_token_ms > 0 ? fmt::format("{:.1f}", r.first_token_ms) : "", r.peak_mib, r.differing);
}

// Of several drafters, what each did in a step; empty for one.
std::string drafters_text(const Row& r) {
  if (r.stats.drafter[1].name.empty() || r.stats.steps == 0) return "";
  std::string out;
  const auto steps = static_cast<double>(r.stats.steps);
  visit_drafters(
      [&](std::string_view name, const DraftStats& d) {
        out += fmt::format("{} {}: {:.2f} passes, {:.2f} ms, {:.2f} tokens verified, {:.2f} accepted",
                           out.empty() ? "" : ";", name, static_cast<double>(d.forwards) / steps, d.ms / steps,
                           static_cast<double>(d.verified) / steps, static_cast<double>(d.accepted) / steps);
      },
      r.stats);
  return fmt::format("- {}, {}, a step:{}\n", kind_name(r.kind), r.config, out);
}

json drafters_json(const Stats& s) {
  json out = json::array();
  const auto steps = static_cast<double>(std::max<std::int64_t>(1, s.steps));
  visit_drafters(
      [&](std::string_view name, const DraftStats& d) {
        json drafter{{"name", name}};
        visit_stats([&](const char* sum, const auto& value) { drafter[sum] = static_cast<double>(value) / steps; }, d);
        out.push_back(std::move(drafter));
      },
      s);
  return out;
}

std::string setup_title(double temperature, int sessions) {
  return fmt::format("{}, {}", temperature == 0 ? "greedy" : fmt::format("temperature {}", temperature),
                     sessions == 1 ? "one session" : fmt::format("{} sessions", sessions));
}

// The pairs of temperature and sessions, in the order of the measurements.
std::vector<std::pair<double, int>> conditions(const std::vector<Setup>& setups) {
  std::vector<std::pair<double, int>> out;
  for (const Setup& s : setups) {
    const std::pair c{s.temperature, s.sessions};
    if (std::find(out.begin(), out.end(), c) == out.end()) out.push_back(c);
  }
  return out;
}

std::string duel_table(const Measurements& m) {
  std::string out;
  for (const auto& d : duels(m, "auto")) {
    if (out.empty()) {
      out = "\nSpeed of `auto` relative to\n\n| |";
      for (const auto& [kind, ratio] : d.by_kind) out += fmt::format(" {} |", kind_name(kind));
      out += "\n|---|";
      for (std::size_t i = 0; i < d.by_kind.size(); ++i) out += "---|";
      out += "\n";
    }
    out += fmt::format("| {} ({}) |", d.other, setup_title(d.temperature, d.sessions));
    for (const auto& [kind, ratio] : d.by_kind) out += fmt::format(" {} |", ratio_text(ratio));
    out += "\n";
  }
  return out;
}

json ratio_json(const Ratio& r) { return {{"mean", r.mean}, {"low", r.low}, {"high", r.high}, {"n", r.n}}; }

json reliability_json(const Observations& seen) {
  json out = json::object();
  for (std::size_t o = 0; o < seen.by_origin.size(); ++o) {
    json bins = json::array();
    for (const auto& b : seen.by_origin[o].bin) {
      if (b.nodes > 0)
        bins.push_back({{"p", b.predicted / static_cast<double>(b.nodes)},
                        {"accepted", static_cast<double>(b.accepted) / static_cast<double>(b.nodes)},
                        {"nodes", b.nodes}});
    }
    if (!bins.empty()) out[origin_name(static_cast<Origin>(o))] = bins;
  }
  return out;
}

json row_json(const Row& r) {
  const auto steps = static_cast<double>(std::max<std::int64_t>(1, r.stats.steps));
  json depth = json::array();
  for (std::size_t d = 0; d < r.seen.tried.size() && r.seen.tried[d] > 0; ++d)
    depth.push_back(static_cast<double>(r.seen.accepted[d]) / static_cast<double>(r.seen.tried[d]));
  return {{"kind", r.kind},
          {"config", r.config},
          {"temperature", r.temperature},
          {"sessions", r.sessions},
          {"prompts", r.prompts},
          {"tokens_per_second", r.tokens_per_second},
          {"speed_up", ratio_json(r.speed_up)},
          {"first_token_ms", r.first_token_ms},
          {"peak_mib", r.peak_mib},
          {"differing", r.differing},
          {"measured_steps", r.stats.steps > 0},
          {"tokens_per_step", static_cast<double>(r.stats.emitted) / steps},
          {"drafted", static_cast<double>(r.stats.drafted) / steps},
          {"merged", static_cast<double>(r.stats.merged) / steps},
          {"verified", static_cast<double>(r.stats.verified) / steps},
          {"draft_ms", r.stats.draft_ms / steps},
          {"verify_ms", r.stats.verify_ms / steps},
          {"rest_ms", (r.stats.total_ms - r.stats.draft_ms - r.stats.verify_ms) / steps},
          {"drafters", drafters_json(r.stats)},
          {"depth", depth},
          {"reliability", reliability_json(r.seen)}};
}

}  // namespace

Ratio geometric_mean(const std::vector<double>& logs) {
  constexpr int kResamples = 2000;
  Ratio r{.n = static_cast<int>(logs.size())};
  if (logs.empty()) return r;
  const auto n = static_cast<double>(logs.size());
  double sum = 0;
  for (const double x : logs) sum += x;
  r.mean = std::exp(sum / n);
  std::mt19937_64 random(1);
  std::vector<double> means;
  for (int i = 0; i < kResamples; ++i) {
    double s = 0;
    for (std::size_t k = 0; k < logs.size(); ++k) s += logs[random() % logs.size()];
    means.push_back(std::exp(s / n));
  }
  std::sort(means.begin(), means.end());
  r.low = means[kResamples / 20];
  r.high = means[kResamples - 1 - kResamples / 20];
  return r;
}

std::vector<Row> summarise(const Measurements& m) {
  const Index index(m);
  std::vector<Row> out;
  for (const auto& [temperature, sessions] : conditions(index.setups())) {
    for (const std::string& kind : index.kinds()) {
      for (const Setup& s : index.setups()) {
        if (s.temperature != temperature || s.sessions != sessions) continue;
        Row r = row(index, s, kind);
        if (r.prompts > 0) out.push_back(std::move(r));
      }
    }
  }
  return out;
}

std::vector<Duel> duels(const Measurements& m, const std::string& config) {
  const Index index(m);
  std::vector<Duel> out;
  for (const Setup& s : index.setups()) {
    if (s.config == config) continue;
    Duel d{s.config, s.temperature, s.sessions, {}};
    for (const std::string& kind : index.kinds()) {
      d.by_kind.emplace_back(kind,
                             speed_ratio(index.times({s.temperature, s.sessions, config}, kind), index.times(s, kind)));
    }
    if (d.by_kind.back().second.n > 0) out.push_back(std::move(d));
  }
  return out;
}

EqualTime equal_time(const std::vector<Row>& rows, const std::string& config) {
  EqualTime out;
  std::vector<std::pair<double, double>> chains;  // (ms per step, tokens per step)
  bool several = false;
  for (const Row& r : rows) several |= r.kind.empty();
  for (const Row& r : rows) {
    if (r.stats.steps == 0 || r.sessions != 1 || r.temperature != 0 || (several && !r.kind.empty())) continue;
    const double ms = r.stats.total_ms / static_cast<double>(r.stats.steps);
    if (r.config == config) {
      out.ms_per_step = ms;
      out.tokens_per_step = r.stats.tokens_per_step();
    }
    if (r.config == "plain" || r.config.starts_with("chain depth=")) chains.emplace_back(ms, r.stats.tokens_per_step());
  }
  std::sort(chains.begin(), chains.end());
  for (std::size_t i = 1; i < chains.size(); ++i) {
    const auto [a, b] = std::pair(chains[i - 1], chains[i]);
    if (a.first <= out.ms_per_step && out.ms_per_step <= b.first && b.first > a.first)
      out.chain_tokens_per_step = a.second + (b.second - a.second) * (out.ms_per_step - a.first) / (b.first - a.first);
  }
  return out;
}

std::string markdown(const Measurements& m) {
  const auto rows = summarise(m);
  std::string out;
  for (const auto& [key, value] : m.conditions.items())
    out += fmt::format("{}{}: {}", out.empty() ? "" : "; ", key,
                       value.is_string() ? value.get<std::string>() : value.dump());
  out += "\n";
  std::optional<std::pair<double, int>> last;
  for (const Row& r : rows) {
    if (const std::pair now{r.temperature, r.sessions}; last != now) {
      last = now;
      out += fmt::format("\n{}\n\n", setup_title(r.temperature, r.sessions));
      out +=
          "| text | configuration | tokens/s | speed-up [90 %] | tokens per step | drafted | merged | verified | draft "
          "passes | draft ms | verify ms | rest us | first token ms | peak MiB | other text |\n"
          "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n";
    }
    out += row_text(r);
  }
  std::string drafters;
  for (const Row& r : rows) drafters += drafters_text(r);
  if (!drafters.empty()) out += "\nBy drafter:\n\n" + drafters;
  out += duel_table(m);
  if (const EqualTime e = equal_time(rows, "auto"); e.chain_tokens_per_step > 0) {
    out += fmt::format(
        "\nA step of `auto` takes {:.2f} ms and emits {:.2f} tokens; chains interpolated to the same time emit {:.2f}: "
        "{:.2f}x.\n",
        e.ms_per_step, e.tokens_per_step, e.chain_tokens_per_step, e.tokens_per_step / e.chain_tokens_per_step);
  }
  return out;
}

std::string page(const Measurements& m) {
  constexpr std::string_view kMark = "@RESULTS@";
  json data{{"conditions", m.conditions}, {"rows", json::array()}, {"duels", json::array()}};
  for (const Row& r : summarise(m)) data["rows"].push_back(row_json(r));
  for (const Duel& d : duels(m, "auto")) {
    json kinds = json::array();
    for (const auto& [kind, ratio] : d.by_kind) kinds.push_back({{"kind", kind}, {"ratio", ratio_json(ratio)}});
    data["duels"].push_back(
        {{"other", d.other}, {"temperature", d.temperature}, {"sessions", d.sessions}, {"kinds", kinds}});
  }
  std::string text = data.dump(-1, ' ', true, json::error_handler_t::replace);
  for (std::size_t at = 0; (at = text.find('<', at)) != std::string::npos;) text.replace(at, 1, "\\u003c");
  std::string out(std::begin(app::bench_html), std::end(app::bench_html));
  const std::size_t at = out.find(kMark);
  if (at == std::string::npos) throw Error(ErrorCode::kInternal, "The page template has no place for the results.");
  return out.replace(at, kMark.size(), text);
}

std::string compare(const Measurements& before, const Measurements& after, double limit, bool& slower) {
  if (before.conditions.value("prompts", Conditions()) != after.conditions.value("prompts", Conditions()))
    throw Error(ErrorCode::kUsage, "The two files were measured on other prompts; measure the same again.");
  const Index a(before);
  const Index b(after);
  std::string out =
      "| text | configuration | tokens/s before | after | after / before [90 %] | |\n|---|---|---|---|---|---|\n";
  slower = false;
  int compared = 0;
  for (const Setup& s : b.setups()) {
    for (const std::string& kind : b.kinds()) {
      const Ratio r = speed_ratio(b.times(s, kind), a.times(s, kind));
      if (r.n == 0) continue;
      ++compared;
      const bool worse = r.high < limit;
      slower |= worse;
      out += fmt::format("| {} | {} ({}) | {:.0f} | {:.0f} | {} | {} |\n", kind_name(kind), s.config,
                         setup_title(s.temperature, s.sessions), row(a, s, kind).tokens_per_second,
                         row(b, s, kind).tokens_per_second, ratio_text(r),
                         worse               ? "slower"
                         : r.low > 1 / limit ? "faster"
                                             : "");
    }
  }
  if (compared == 0)
    throw Error(ErrorCode::kUsage, "The two files have no prompt and configuration in common; measure the same again.");
  return out;
}

}  // namespace gsd::bench
