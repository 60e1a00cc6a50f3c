#include "record_reader.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>

#include "gsd/error.h"

namespace gsd::app {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxLine = 16 << 20;  // bytes
constexpr std::size_t kMaxNodes = 1 << 22;  // of a replay

// One position's answers: {"drafted": {"at": p, "nodes": [[parent, token, [candidates], [log q]], …]}}, parents
// numbered within the line, -1 for the first.
void read_answers(const json& j, Replay& replay) {
  const auto at = j.at("at").get<std::int64_t>();
  if (at < 0 || at >= static_cast<std::int64_t>(replay.text.size()))
    throw Error(ErrorCode::kUsage, "a position is not in the text");
  const auto first = static_cast<std::int32_t>(replay.nodes.size());
  std::int32_t n = 0;
  for (const json& node : j.at("nodes")) {
    const auto parent = node.at(0).get<std::int64_t>();
    if (parent < (n == 0 ? -1 : 0) || parent >= n || replay.nodes.size() >= kMaxNodes)
      throw Error(ErrorCode::kUsage, "an answer comes before its parent, or there are too many");
    replay.add(parent < 0 ? -1 : first + static_cast<std::int32_t>(parent), static_cast<std::int32_t>(at),
               node.at(1).get<Token>(), node.at(2).get<std::vector<Token>>(), node.at(3).get<std::vector<float>>());
    ++n;
  }
}

void read_text(const json& j, Replay& replay) {
  j.at("vocabulary").get_to(replay.n_vocab);
  j.at("text").get_to(replay.text);
  j.at("prompt_tokens").get_to(replay.n_prompt);
  j.at("temperature").get_to(replay.sampling.temperature);
  j.at("seed").get_to(replay.sampling.seed);
  j.at("end_of_text").get_to(replay.eog);
  replay.root.assign(replay.text.size(), -1);
}

}  // namespace

RecordReader::RecordReader(const std::string& path) : path_(path), in_(path == "-" ? std::cin : file_) {
  if (path != "-") {
    file_.open(path, std::ios::binary);
    if (!file_)
      throw Error(ErrorCode::kIo, fmt::format("The record '{}' cannot be opened: {}.", path, std::strerror(errno)));
    if (std::filesystem::is_directory(path))
      throw Error(ErrorCode::kIo, fmt::format("The record '{}' is a folder.", path));
  }
  std::string line;
  const bool any = next(line);
  const json header = any ? json::parse(line, nullptr, false) : json();
  if (!header.is_object() || !header.contains("gsd_record")) {
    throw Error(ErrorCode::kUsage,
                fmt::format("The file '{}' is no record; write one with gsd generate --record.", path));
  }
  if (header["gsd_record"] != 1) {
    throw Error(ErrorCode::kUsage,
                fmt::format("The record '{}' has a format this gsd does not know; use the gsd that wrote it.", path));
  }
  for (const auto& [key, value] : {std::pair{"target", &target_}, {"draft", &draft_}, {"prompt", &prompt_}}) {
    if (!header.contains(key) || !header[key].is_string()) fail(fmt::format("line 1 lacks the text '{}'", key));
    *value = header[key];
  }
}

bool RecordReader::next(std::string& line) {
  line.clear();
  for (int c = in_.get(); c != std::char_traits<char>::eof(); c = in_.get()) {
    if (c == '\n') {
      ++number_;
      return true;
    }
    if (line.size() == kMaxLine) fail(fmt::format("line {} is longer than 16 MiB", number_ + 1));
    line.push_back(static_cast<char>(c));
  }
  if (in_.bad())
    throw Error(ErrorCode::kIo, fmt::format("The record '{}' cannot be read: {}.", path_, std::strerror(errno)));
  if (line.empty()) return false;
  ++number_;
  return true;
}

void RecordReader::fail(const std::string& what) const {
  throw Error(ErrorCode::kIo, fmt::format("The record '{}' is damaged: {}; record the run again.", path_, what));
}

void RecordReader::fail_line(const std::string& what) const { fail(fmt::format("line {} {}", number_, what)); }

bool is_replay_line(const json& line) {
  return line.is_object() && (line.contains("replay") || line.contains("drafted"));
}

Replay read_replay(const std::string& path) {
  RecordReader lines(path);
  Replay replay;
  for (std::string line; lines.next(line);) {
    const json j = json::parse(line, nullptr, false);
    if (j.is_discarded()) lines.fail_line("is no valid JSON");
    if (!is_replay_line(j)) continue;
    try {
      if (j.contains("replay")) {
        read_text(j["replay"], replay);
      } else {
        read_answers(j["drafted"], replay);
      }
    } catch (const json::exception&) {
      lines.fail_line("is no part of a replay (a field is missing or of the wrong type)");
    } catch (const Error& e) {
      lines.fail_line(fmt::format("is no part of a replay ({})", e.what()));
    }
  }
  if (replay.text.empty()) {
    throw Error(ErrorCode::kUsage,
                fmt::format("The record '{}' holds no answers of a draft; record a run with one (-d).", path));
  }
  replay.check();
  return replay;
}

}  // namespace gsd::app
