// Records of runs: one JSON object per line, a header and then one per step. Format: docs/guide.md, "Records".
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>

#include "../util/atomic_file.h"
#include "gsd/runtime.h"

namespace gsd::app {

// Writes a record. The file appears only when it is complete: close() puts it in its place.
class Recorder {
 public:
  // Throws Error(kIo) if the file cannot be made.
  Recorder(const std::string& path, const Runtime& pair, const std::string& prompt);
  void step(const StepView& view);
  // Adds what the draft answers to everything that drafting could want to know behind the tokens of the run, for gsd
  // simulate. Takes a draft pass a level and token; shows progress, and stops early at Ctrl-C.
  void drafts(Runtime& pair, std::span<const Token> prompt, std::span<const Token> generated,
              const SessionOptions& options);
  // Throws Error(kIo) if not everything could be written.
  void close() { out_.commit(); }

 private:
  void write(const nlohmann::json& line);

  AtomicFile out_;
  const Runtime& pair_;
};

}  // namespace gsd::app
