// Records of runs: one JSON object per line, a header and then one per step. Format: docs/guide.md, "Records".
#pragma once

#include <fstream>
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
  // Throws Error(kIo) if not everything could be written.
  void close();

 private:
  std::string path_;
  const Pair& pair_;
  std::ofstream out_;
  bool closed_ = false;
};

}  // namespace gsd::app
