// One message from a person at a terminal: editing, history, paste, several lines.
#pragma once

#include <memory>
#include <optional>
#include <string>

namespace gsd::app {

// Enter sends; Alt+Enter, or a \ at the end of a line, starts a further line; what is pasted is taken as it is, lines
// and all. Up and down go through what was typed before. Uses the process's terminal: one at a time, one thread.
class LineEditor {
 public:
  LineEditor();
  ~LineEditor();
  LineEditor(const LineEditor&) = delete;
  LineEditor& operator=(const LineEditor&) = delete;

  // True where standard input and output are a terminal that can be edited on; otherwise lines are read as they come.
  bool at_terminal() const;
  // None at the end of the input. After Ctrl-C the text is empty and interrupted() is true.
  std::optional<std::string> read(const std::string& prompt);

 private:
  struct Terminal;
  std::unique_ptr<Terminal> terminal_;
};

}  // namespace gsd::app
