#include "record.h"

#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "../record/step_json.h"
#include "console.h"
#include "gsd/replay.h"

namespace gsd::app {

using nlohmann::json;

Recorder::Recorder(const std::string& path, const Pair& pair, const std::string& prompt)
    : path_(path), part_(path + ".part"), pair_(pair) {
  std::error_code ignored;
  if (std::filesystem::exists(path, ignored) && !std::filesystem::is_regular_file(path, ignored)) {
    throw Error(ErrorCode::kIo, "'" + path + "' is no ordinary file; give another name.");
  }
  out_.open(part_);
  if (!out_) throw Error(ErrorCode::kIo, "The record '" + path + "' cannot be written: " + std::strerror(errno) + ".");
  const json header{{"gsd_record", 1},
                    {"target", pair.target().description()},
                    {"draft", pair.draft() != nullptr ? pair.draft()->description() : ""},
                    {"prompt", prompt}};
  out_ << header.dump(-1, ' ', false, json::error_handler_t::replace) << '\n';
}

Recorder::~Recorder() {
  if (!closed_) std::remove(part_.c_str());
}

void Recorder::step(const StepView& v) {
  const auto line = step_json(v.hypotheses.graph(), v.hypotheses.tree(), v.acceptance, v.stats,
                              [this](Token t) { return pair_.target().piece(t, true); });
  out_ << line.dump(-1, ' ', false, json::error_handler_t::replace) << '\n';
}

void Recorder::drafts(Pair& pair, std::span<const Token> prompt, std::span<const Token> generated,
                      const SessionOptions& options) {
  Backend* draft = pair.engine().draft();
  if (draft == nullptr || generated.empty()) return;
  std::vector<Token> text(prompt.begin(), prompt.end());
  text.insert(text.end(), generated.begin(), generated.end());
  SpeculationParams wide = options.speculation;  // wider and deeper than any step is likely to look
  wide.depth = std::max(wide.depth, 12);
  wide.max_nodes = std::max(wide.max_nodes, 128);
  wide.path_threshold = std::min(wide.path_threshold, 0.02F);
  const auto n_vocab = static_cast<std::size_t>(pair.target().n_vocab());
  const auto is_eog = std::make_unique<bool[]>(n_vocab);
  for (std::size_t t = 0; t < n_vocab; ++t) is_eog[t] = pair.target().is_eog(static_cast<Token>(t));
  ProgressLine line("Recording the draft's answers");
  const Replay r =
      record_drafts(*draft, text, prompt.size(), options.sampling, wide, {is_eog.get(), n_vocab}, [&](double share) {
        line.show(static_cast<float>(share));
        return !interrupted();
      });
  if (interrupted()) return;
  const json head{{"vocabulary", r.n_vocab},     {"text", r.text},
                  {"prompt_tokens", r.n_prompt}, {"temperature", r.sampling.temperature},
                  {"seed", r.sampling.seed},     {"end_of_text", r.eog}};
  out_ << json{{"replay", head}}.dump() << '\n';
  // Nodes of a position follow each other.
  for (std::size_t i = 0, at = prompt.size() - 1; i < r.nodes.size(); ++at) {
    json nodes = json::array();
    const std::size_t first = i;
    do {
      const Replay::Node& n = r.nodes[i];
      json log_q = json::array();
      for (const float q : n.log_q) log_q.push_back(std::round(q * 1e4) / 1e4);
      nodes.push_back({n.father < 0 ? -1 : n.father - static_cast<std::int32_t>(first), n.token, n.candidates, log_q});
    } while (++i < r.nodes.size() && r.nodes[i].father >= 0);
    out_ << json{{"drafted", {{"at", at}, {"nodes", nodes}}}}.dump() << '\n';
  }
}

void Recorder::close() {
  out_.close();
  if (!out_ || std::rename(part_.c_str(), path_.c_str()) != 0) {
    throw Error(ErrorCode::kIo, "The record '" + path_ + "' cannot be written: " + std::strerror(errno) + ".");
  }
  closed_ = true;
}

}  // namespace gsd::app
