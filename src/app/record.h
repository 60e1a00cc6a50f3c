// Records of runs: one JSON object per line, a header and then one per step. Format: docs/guide.md, "Records".
#pragma once

#include <fstream>
#include <span>
#include <string>

#include "gsd/llama.h"

namespace gsd::app {

// Writes a record. The file appears only when it is complete: it is written beside and renamed by close().
class Recorder {
 public:
  // Throws Error(kIo) if the file cannot be made.
  Recorder(const std::string& path, const Pair& pair, const std::string& prompt);
  ~Recorder();
  void step(const StepView& view);
  // Adds what the draft answers to everything that drafting could want to know behind the tokens of the run, for gsd
  // simulate. Takes a draft pass a level and token; shows progress, and stops early at Ctrl-C.
  void drafts(Pair& pair, std::span<const Token> prompt, std::span<const Token> generated,
              const SessionOptions& options);
  // Throws Error(kIo) if not everything could be written.
  void close();

 private:
  std::string path_;
  std::string part_;  // where it is written until it is complete
  const Pair& pair_;
  std::ofstream out_;
  bool closed_ = false;
};

}  // namespace gsd::app
