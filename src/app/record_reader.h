// Reads records of runs. A record may come from anywhere: what does not fit is refused with its line number.
#pragma once

#include <fstream>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "../core/replay.h"

namespace gsd::app {

class RecordReader {
 public:
  // Opens a record and reads its header. "-": standard input. Throws Error(kIo) if it cannot be opened, Error(kUsage)
  // if it is no record of ours.
  explicit RecordReader(const std::string& path);

  const std::string& target() const { return target_; }
  const std::string& draft() const { return draft_; }
  const std::string& prompt() const { return prompt_; }

  // The next line behind the header; false at the end of the file. At most 16 MiB long.
  bool next(std::string& line);
  // Throws Error(kIo): the record is damaged, with `what` is wrong.
  [[noreturn]] void fail(const std::string& what) const;
  // The same about the last line.
  [[noreturn]] void fail_line(const std::string& what) const;

 private:
  std::string path_;
  std::ifstream file_;
  std::istream& in_;
  std::size_t number_ = 0;  // of the last line, from 1
  std::string target_;
  std::string draft_;
  std::string prompt_;
};

// True for a line of a record that belongs to its replay, not to its steps.
bool is_replay_line(const nlohmann::json& line);

// The replay in a record. Throws what RecordReader throws, and Error(kUsage) if there is none (the run had no draft).
Replay read_replay(const std::string& path);

}  // namespace gsd::app
