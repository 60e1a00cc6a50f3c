// gsd trace: a recorded run in, one self-contained HTML page out.
//
// A record may come from anywhere. Whatever does not fit the format is refused with its line number, and nothing of it
// reaches the page but numbers and JSON strings in which no character can end the script element around them.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "../util/atomic_file.h"
#include "commands.h"
#include "console.h"
#include "record_reader.h"
#include "trace_html.h"

namespace gsd::app {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxSteps = 20000;
constexpr std::size_t kMaxPage = 256 << 20;  // bytes; browsers give up on more
constexpr std::size_t kMaxStepNodes = 4096;  // of one step's graph or tree
constexpr std::size_t kMaxStepEdges = 16 * kMaxStepNodes;
constexpr std::array<std::string_view, 8> kOrigins{"root",     "draft",  "merged", "history",
                                                   "recycled", "lookup", "hint",   "target"};

struct TraceFlags {
  std::string record;
  std::string output;
};

// What is wrong with a line; becomes an Error that names the record and the line.
struct Damage : std::runtime_error {
  using std::runtime_error::runtime_error;
};

void require(bool condition, const char* what) {
  if (!condition) throw Damage(what);
}

// The page's data, in the compact form that trace.html reads: every distinct text once, nodes and edges as flat arrays
// of numbers.
class PageData {
 public:
  void add_step(const json& step) {
    if (!steps_.empty()) steps_ += ",\n";
    steps_ += "{\"graph\":[";
    const std::size_t n_nodes = add_nodes(step.at("graph").at("nodes"), 0);
    steps_ += "],\"edges\":[";
    add_edges(step.at("graph").at("edges"), n_nodes);
    steps_ += "],\"tree\":[";
    const std::size_t n_tree = add_nodes(step.at("tree"), n_nodes);
    steps_ += "],\"path\":[";
    add_path(step.at("path"), n_tree);
    steps_ += "],\"emitted\":[";
    add_emitted(step.at("emitted"));
    steps_ += "],\"ms\":[";
    for (const char* key : {"draft_ms", "verify_ms", "total_ms"}) add_number(step.at(key));
    close_list();
    steps_ += "]}";
  }

  std::size_t bytes() const { return steps_.size() + text_bytes_; }

  // The whole of it as JSON that may stand inside a script element.
  std::string finish(const RecordReader& record) const {
    std::string out = "{\"target\":" + quote(record.target()) + ",\"draft\":" + quote(record.draft()) +
                      ",\"prompt\":" + quote(record.prompt()) + ",\n\"texts\":[";
    for (const std::string* t : texts_) out += quote(*t) + ",";
    if (!texts_.empty()) out.pop_back();
    return out + "],\n\"steps\":[\n" + steps_ + "\n]}";
  }

 private:
  static std::string quote(const json& string) {
    require(string.is_string(), "a text is not a string");
    const std::string plain = string.dump(-1, ' ', true);
    std::string out;
    for (const char c : plain) {
      if (c == '<') {
        out += "\\u003c";
      } else {
        out += c;
      }
    }
    return out;
  }

  static std::int64_t integer(const json& j, std::int64_t low, std::int64_t high, const char* what) {
    require(j.is_number_integer(), what);
    if (j.is_number_unsigned()) require(j.get<std::uint64_t>() <= static_cast<std::uint64_t>(high), what);
    const auto value = j.get<std::int64_t>();
    require(value >= low && value <= high, what);
    return value;
  }

  void add(std::int64_t value) { steps_ += fmt::format("{},", value); }

  // Recorders write null for what is not finite.
  void add_number(const json& j) {
    require(j.is_number() || j.is_null(), "a number is missing");
    const double value = j.is_null() ? NAN : j.get<double>();
    steps_ += std::isfinite(value) ? fmt::format("{:.5g},", value) : "null,";
  }

  void add_token(const json& j) {
    const json& text = j.at("text");
    require(text.is_string(), "the text of a token is not a string");
    const auto [at, is_new] = index_.try_emplace(text.get<std::string>(), index_.size());
    if (is_new) {
      texts_.push_back(&at->first);
      text_bytes_ += 6 * at->first.size() + 3;
    }
    add(static_cast<std::int64_t>(at->second));
    add(integer(j.at("token"), -1, INT32_MAX, "a token has no valid number"));
  }

  void add_origin(const json& j) {
    const auto at = std::find(kOrigins.begin(), kOrigins.end(), j.at("origin").get<std::string>());
    require(at != kOrigins.end(), "a token has an unknown origin");
    add(at - kOrigins.begin());
  }

  // Graph nodes: text, token, parent, p, expanded. Tree nodes: text, token, parent, p, origin, graph node or -1.
  // Returns how many there are. `n_graph`: nodes of the graph that tree nodes may name; 0 = these are the graph's own.
  std::size_t add_nodes(const json& nodes, std::size_t n_graph) {
    require(nodes.is_array() && !nodes.empty(), "it has no nodes");
    require(nodes.size() <= kMaxStepNodes, "it has more than 4096 nodes");
    depths_.clear();
    for (const json& n : nodes) {
      const auto i = static_cast<std::int64_t>(depths_.size());
      const std::int64_t parent = integer(n.at("parent"), i == 0 ? -1 : 0, i - 1, "a node comes before its parent");
      depths_.push_back(i == 0 ? 0 : depths_[static_cast<std::size_t>(parent)] + 1);
      require(n.at("depth") == depths_.back(), "the depth of a node does not fit its parent's");
      add_token(n);
      add(parent);
      add_number(n.at("p"));
      if (n_graph == 0) {
        add(n.at("expanded").get<bool>() ? 1 : 0);
      } else {
        add_origin(n);
        add(integer(n.at("node"), -1, static_cast<std::int64_t>(n_graph) - 1, "a tree node names no graph node"));
      }
    }
    close_list();
    return nodes.size();
  }

  // From, to, q, merged.
  void add_edges(const json& edges, std::size_t n_nodes) {
    require(edges.is_array(), "its edges are no list");
    require(edges.size() <= kMaxStepEdges, "it has more than 65536 edges");
    for (const json& e : edges) {
      for (const char* key : {"from", "to"}) {
        add(integer(e.at(key), 0, static_cast<std::int64_t>(n_nodes) - 1, "an edge names no graph node"));
      }
      add_number(e.at("q"));
      add(e.at("merged").get<bool>() ? 1 : 0);
    }
    close_list();
  }

  void add_path(const json& path, std::size_t n_tree) {
    require(path.is_array() && path.size() < n_tree, "its path is no list of tree nodes");
    for (const json& node : path) {
      add(integer(node, 1, static_cast<std::int64_t>(n_tree) - 1, "its path names no tree node"));
    }
    close_list();
  }

  // Text, token, origin, margin.
  void add_emitted(const json& emitted) {
    require(emitted.is_array(), "the emitted tokens are no list");
    require(emitted.size() <= kMaxStepNodes, "it emits more than 4096 tokens");
    for (const json& token : emitted) {
      add_token(token);
      add_origin(token);
      add_number(token.at("margin"));
    }
    close_list();
  }

  void close_list() {
    if (steps_.back() == ',') steps_.pop_back();
  }

  std::string steps_;
  std::unordered_map<std::string, std::size_t> index_;
  std::vector<const std::string*> texts_;  // keys of index_
  std::size_t text_bytes_ = 0;
  std::vector<std::int64_t> depths_;
};

// True if the line was one.
bool read_step(RecordReader& lines, const std::string& line, PageData& data) {
  const json step = json::parse(line, nullptr, false);
  if (step.is_discarded()) lines.fail_line("is no valid JSON");
  if (is_replay_line(step)) return false;
  try {
    data.add_step(step);
  } catch (const Damage& e) {
    lines.fail_line(fmt::format("is not one step of a run ({})", e.what()));
  } catch (const json::exception&) {
    lines.fail_line("is not one step of a run (a field is missing or of the wrong type)");
  }
  return true;
}

// The record as the JSON of the page. An empty string if the user ended the program meanwhile.
std::string read_record(const std::string& path) {
  RecordReader lines(path);
  PageData data;
  std::string line;
  for (std::size_t n = 0; lines.next(line);) {
    if (interrupted()) return "";
    if (n == kMaxSteps) {
      throw Error(ErrorCode::kUsage,
                  fmt::format("The record '{}' has more than {} steps; record a shorter run.", path, kMaxSteps));
    }
    n += read_step(lines, line, data) ? 1 : 0;
    if (data.bytes() > kMaxPage) {
      throw Error(ErrorCode::kUsage,
                  fmt::format("The page of the record '{}' would be larger than 256 MiB; record a shorter run.", path));
    }
  }
  return data.finish(lines);
}

std::string make_page(const std::string& data) {
  constexpr std::string_view kMark = "@RECORD@";
  std::string page(std::begin(trace_html), std::end(trace_html));
  const std::size_t at = page.find(kMark);
  if (at == std::string::npos) throw Error(ErrorCode::kInternal, "The page template has no place for the record.");
  return page.replace(at, kMark.size(), data);
}

int trace(const TraceFlags& flags) {
  std::error_code none;
  if (flags.output != "-" && std::filesystem::equivalent(flags.record, flags.output, none)) {
    throw Error(ErrorCode::kUsage, "The page would replace the record; give another file with -o.");
  }
  const std::string data = read_record(flags.record);
  if (interrupted()) return kExitInterrupted;
  const std::string page = make_page(data);
  if (flags.output != "-") {
    AtomicFile out(flags.output, "page");
    out.write(page);
    out.commit();
  } else {
    print(page);
  }
  return 0;
}

}  // namespace

void add_trace(CLI::App& program, int& exit_code) {
  auto flags = std::make_shared<TraceFlags>();
  CLI::App* app = program.add_subcommand("trace", "Turn a recorded run into one HTML page");
  app->footer(R"(The page needs nothing beside itself: open it in any browser. It shows where
each part of the text came from, what each step cost, and each step's token
graph and verified tree. A record may hold up to 20,000 steps.

Examples:
  gsd generate -m target.gguf -d draft.gguf -p "# tar" --mode graph --record run.jsonl
  gsd trace run.jsonl -o run.html
  gsd trace - -o - < run.jsonl > run.html)");
  app->add_option("record", flags->record, "The record of gsd generate --record; - = standard input")
      ->type_name("RECORD")
      ->required();
  app->add_option("-o,--output", flags->output, "The page; - = standard output")->type_name("FILE")->required();
  app->callback([flags, &exit_code] { exit_code = trace(*flags); });
}

}  // namespace gsd::app
