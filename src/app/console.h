// Terminal, signals and files: what the subcommands share in talking to the outside.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "../core/stopwatch.h"
#include "gsd/engine.h"
#include "gsd/llama.h"

namespace gsd::app {

constexpr int kExitInterrupted = 130;

// Opens /dev/null where standard input, output or error is closed, so that no file or socket takes its number. Writing
// to such an output fails, as it would have; notes to such an error stream are lost. To be called first.
void open_standard_descriptors();

// Ctrl-C and SIGTERM set a flag; a second one ends the program at once. A closed pipe becomes a write error.
void catch_signals();
bool interrupted();
// Goes on as if there had been no signal.
void forget_interrupt();
// Remembers how standard input's terminal is set, and sets it so again; a second signal does so too before it ends the
// program.
void keep_terminal();
void restore_terminal();

// Writes to stdout at once. False if that fails: the reader is gone, the disk is full.
bool write_out(std::string_view text);
// The same for commands that write their result and are done. Throws Error(kIo).
void print(std::string_view text);

// A percentage and the time left on stderr while something takes longer than half a second; silent where stderr is no
// terminal.
class ProgressLine {
 public:
  explicit ProgressLine(std::string what);
  ~ProgressLine();
  void show(float share);

 private:
  std::string what_;
  Stopwatch clock_;
  int last_ = -1;
};

// Whole file, or standard input for "-". Throws Error(kIo); at most 64 MiB.
std::string read_file(const std::string& path);

// What stands between the characters `at`, without what is empty and spaces at the ends.
std::vector<std::string> split(const std::string& text, char at);

// The prompt from -p, -f or standard input. Throws Error(kUsage) if there is none.
std::string read_prompt(const std::string& text, const std::string& file);

}  // namespace gsd::app
