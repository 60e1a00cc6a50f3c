#include "peers.h"

#include <fmt/format.h>
#include <httplib.h>

#include <charconv>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "../core/stopwatch.h"
#include "gsd/error.h"

namespace gsd::bench {
namespace {

using nlohmann::json;

constexpr double kTimeout = 300;      // seconds for one prompt
constexpr double kStartTimeout = 60;  // … for a server to come up

const Peer::Knob kLength{"--spec-draft-n-max", {"3", "2", "4", "5", "6", "8", "12"}};
const Peer::Knob kMinimum{"--spec-draft-p-min", {"0", "0.2", "0.4", "0.6", "0.75", "0.9"}};

Peer ngram_peer(const std::string& type, std::vector<Peer::Knob> knobs) {
  return {.name = "llama-server " + type,
          .binary = "llama-server",
          .arguments = {"--spec-type", type},
          .knobs = std::move(knobs),
          .server = true,
          .has_draft = false};
}

// The n-gram types whose knobs are called alike.
Peer map_peer(const std::string& type) {
  return ngram_peer(type, {{fmt::format("--spec-{}-size-n", type), {"12", "8", "5", "3"}},
                           {fmt::format("--spec-{}-size-m", type), {"48", "24", "12", "8", "4"}}});
}

std::string seconds_error(const Peer& peer, std::string_view messages) {
  const std::size_t from = messages.size() - std::min<std::size_t>(messages.size(), 300);
  return fmt::format("{} failed; its last words: {}", peer.binary, messages.substr(from));
}

// Adds what every program gets.
void add_common(std::vector<std::string>& a, const Peer& peer, const Point& setting, const PeerOptions& o) {
  const auto add = [&](std::initializer_list<std::string> more) { a.insert(a.end(), more); };
  add({"-m", o.target, "-c", std::to_string(o.n_ctx), "-t", std::to_string(o.n_threads)});
  add({"--top-k", std::to_string(o.sampling.top_k), "--top-p", fmt::format("{}", o.sampling.top_p)});
  add({"--min-p", fmt::format("{}", o.sampling.min_p), "--seed",
       std::to_string(static_cast<std::uint32_t>(o.sampling.seed))});
  if (peer.has_draft) add({"-md", o.draft, "-td", std::to_string(o.n_threads)});
  // As gsd itself uses the backend with a model of this size.
  if (!o.plugin.empty()) add({"--no-repack", "--load-mode", "none", "-fa", "on"});
  a.insert(a.end(), peer.arguments.begin(), peer.arguments.end());
  for (std::size_t k = 0; k < setting.size(); ++k) add({peer.knobs[k].flag, peer.knobs[k].values[setting[k]]});
}

}  // namespace

std::vector<std::size_t> Peer::sizes() const {
  std::vector<std::size_t> out;
  for (const Knob& k : knobs) out.push_back(k.values.size());
  return out;
}

std::string Peer::setting(const Point& point) const {
  std::string out;
  for (std::size_t k = 0; k < point.size(); ++k) {
    std::string_view flag = knobs[k].flag;
    for (const std::string_view start :
         {"--", "spec-", "draft-", "ngram-simple-", "ngram-map-k4v-", "ngram-map-k-", "ngram-mod-"}) {
      if (flag.starts_with(start)) flag.remove_prefix(start.size());
    }
    out += fmt::format("{}{}={}", k > 0 ? " " : "", flag, knobs[k].values[point[k]]);
  }
  return out;
}

const std::vector<Peer>& peers() {
  static const std::vector<Peer> all{
      {.name = "llama-speculative-simple",
       .binary = "llama-speculative-simple",
       .arguments = {"--spec-type", "draft-simple"},
       .knobs = {kLength, kMinimum}},
      {.name = "llama-speculative",
       .binary = "llama-speculative",
       .arguments = {"-kvu"},
       .knobs = {{"--spec-draft-n-max", {"4", "3", "6", "8"}},
                 {"-np", {"2", "3", "4"}},
                 {"--spec-draft-p-split", {"0.1", "0.3"}}}},
      {.name = "llama-lookup",
       .binary = "llama-lookup",
       .arguments = {},
       .knobs = {{"--spec-draft-n-max", {"3", "2", "4", "6", "8", "12"}}},
       .has_draft = false},
      {.name = "llama-server draft-simple",
       .binary = "llama-server",
       .arguments = {"--spec-type", "draft-simple"},
       .knobs = {kLength, kMinimum},
       .server = true},
      map_peer("ngram-simple"),
      map_peer("ngram-map-k"),
      map_peer("ngram-map-k4v"),
      ngram_peer("ngram-mod", {{"--spec-ngram-mod-n-match", {"24", "12", "6"}},
                               {"--spec-ngram-mod-n-max", {"64", "16", "8"}},
                               {"--spec-ngram-mod-n-min", {"48", "8", "2"}}}),
      ngram_peer("ngram-cache", {{"--spec-draft-n-max", {"3", "2", "4", "6", "8", "12"}}}),
  };
  return all;
}

std::vector<std::string> peer_command(const Peer& peer, const Point& setting, const PeerOptions& o,
                                      const std::string& prompt_file, double temperature) {
  std::vector<std::string> a{(std::filesystem::path(o.folder) / peer.binary).string()};
  add_common(a, peer, setting, o);
  a.insert(a.end(), {"-f", prompt_file, "-n", std::to_string(o.n_predict), "--color", "off"});
  a.insert(a.end(), {"--temp", fmt::format("{}", temperature)});
  return a;
}

PeerRun parse_peer_output(std::string_view out, std::string_view messages, std::string_view prompt) {
  constexpr std::string_view kMark = "decoded";
  PeerRun r;
  const std::size_t at = messages.rfind(kMark);
  double seconds = 0;
  if (at == std::string_view::npos ||
      std::sscanf(std::string(messages.substr(at, 120)).c_str(), "decoded %ld tokens in %lf seconds", &r.tokens,
                  &seconds) != 2 ||
      r.tokens <= 0 || seconds <= 0) {
    throw Error(ErrorCode::kBackend, "A program did not say how many tokens it decoded in what time.");
  }
  r.decode_ms = 1000 * seconds;
  const std::size_t start = out.find(prompt);
  if (start != std::string_view::npos) r.text = out.substr(start + prompt.size());
  return r;
}

PeerRunner::PeerRunner(const Peer& peer, const Point& setting, const PeerOptions& options)
    : peer_(peer), setting_(setting), options_(options) {
  if (!peer.server) return;
  port_ = free_port();
  std::vector<std::string> a{(std::filesystem::path(options.folder) / peer.binary).string()};
  add_common(a, peer, setting, options);
  a.insert(a.end(), {"--host", "127.0.0.1", "--port", std::to_string(port_), "-np", "1", "--no-webui"});
  server_ = std::make_unique<Process>(a, environment());
  httplib::Client client("127.0.0.1", port_);
  const Stopwatch clock;
  while (server_->running() && clock.ms() < 1000 * kStartTimeout && !(options.cancelled && options.cancelled())) {
    const auto health = client.Get("/health");
    if (health && health->status == 200) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  throw Error(ErrorCode::kIo, seconds_error(peer, server_->errors()));
}

PeerRunner::~PeerRunner() = default;

std::vector<std::string> PeerRunner::environment() const {
  if (options_.plugin.empty()) return {};
  return {"GGML_BACKEND_PATH=" + options_.plugin, "GSD_NARROW_ATTENTION=1"};
}

PeerRun PeerRunner::run(const std::string& prompt, double temperature) {
  if (peer_.server) return ask(prompt, temperature);
  const std::filesystem::path file = std::filesystem::temp_directory_path() / fmt::format("gsd-bench-{}.txt", getpid());
  {
    std::ofstream out(file, std::ios::binary);
    if (!(out << prompt)) throw Error(ErrorCode::kIo, fmt::format("The file '{}' cannot be written.", file.string()));
  }
  Process process(peer_command(peer_, setting_, options_, file.string(), temperature), environment());
  const int status = process.wait(kTimeout, options_.cancelled);
  std::error_code ignored;
  std::filesystem::remove(file, ignored);
  if (status != 0) throw Error(ErrorCode::kBackend, seconds_error(peer_, process.errors()));
  PeerRun r = parse_peer_output(process.output(), process.errors(), prompt);
  r.peak_mib = process.peak_mib();
  return r;
}

PeerRun PeerRunner::ask(const std::string& prompt, double temperature) {
  httplib::Client client("127.0.0.1", port_);
  client.set_read_timeout(static_cast<int>(kTimeout));
  const json question{
      {"prompt", prompt}, {"n_predict", options_.n_predict}, {"temperature", temperature}, {"cache_prompt", false}};
  const auto answer =
      client.Post("/completion", question.dump(-1, ' ', false, json::error_handler_t::replace), "application/json");
  if (!answer || answer->status != 200) throw Error(ErrorCode::kBackend, seconds_error(peer_, server_->errors()));
  const json j = json::parse(answer->body);
  PeerRun r;
  r.tokens = j.at("timings").at("predicted_n").get<std::int64_t>();
  r.decode_ms = j.at("timings").at("predicted_ms").get<double>();
  r.text = j.at("content").get<std::string>();
  return r;
}

}  // namespace gsd::bench
