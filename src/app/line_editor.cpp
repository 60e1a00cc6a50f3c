#include "line_editor.h"

#include <unistd.h>

#include <cstring>
#include <iostream>

#include "console.h"

#ifdef GSD_HAS_LIBEDIT
#include <histedit.h>

#include <clocale>
#include <cstdio>
#endif

namespace gsd::app {

#ifdef GSD_HAS_LIBEDIT

struct LineEditor::Terminal {
  Terminal() {
    // Characters of more than one byte; the numbers that we write stay as they are.
    if (std::setlocale(LC_CTYPE, "C.UTF-8") == nullptr) std::setlocale(LC_CTYPE, "");
    edit = el_init("gsd", stdin, stdout, stderr);
    if (edit == nullptr) return;
    past = history_init();
    HistEvent event;
    ::history(past, &event, H_SETSIZE, 1000);
    ::history(past, &event, H_SETUNIQUE, 1);
    el_set(edit, EL_CLIENTDATA, this);
    el_set(
        edit, EL_PROMPT, +[](EditLine* e) {  // + makes a pointer of it, which variable arguments need
          Terminal* self = nullptr;
          el_get(e, EL_CLIENTDATA, &self);
          return self->prompt.data();
        });
    el_set(edit, EL_EDITOR, "emacs");
    el_set(edit, EL_SIGNAL, 0);
    el_set(edit, EL_HIST, ::history, past);
    el_set(edit, EL_ADDFN, "gsd-paste", "Take in what the terminal says is pasted", &paste);
    el_set(edit, EL_ADDFN, "gsd-line", "Start a further line", &further_line);
    el_set(edit, EL_BIND, "\\e[200~", "gsd-paste", nullptr);
    el_set(edit, EL_BIND, "\\e\\n", "gsd-line", nullptr);
    el_set(edit, EL_BIND, "\\e\\r", "gsd-line", nullptr);
    el_set(edit, EL_BIND, "^R", "em-inc-search-prev", nullptr);
    // Ctrl-C is a signal, which console.h catches.
  }
  ~Terminal() {
    if (past != nullptr) history_end(past);
    if (edit != nullptr) el_end(edit);
  }
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;

  static unsigned char paste(EditLine* e, int) {
    constexpr std::string_view kEnd = "\x1b[201~";
    constexpr std::size_t kMost = 1 << 20;
    std::string text;
    char c = 0;
    while (el_getc(e, &c) == 1) {
      text += c;
      if (text.ends_with(kEnd)) {
        text.resize(text.size() - kEnd.size());
        break;
      }
      if (text.size() > kMost) break;
    }
    for (std::size_t i = 0; i < text.size();) {
      if (text[i] == '\r') text[i] = '\n';
      const auto byte = static_cast<unsigned char>(text[i]);
      (byte < ' ' && byte != '\n' && byte != '\t') || byte == 0x7F ? text.erase(i, 1).size() : ++i;
    }
    return !text.empty() && el_insertstr(e, text.c_str()) == 0 ? CC_REFRESH : CC_ERROR;
  }
  static unsigned char further_line(EditLine* e, int) { return el_insertstr(e, "\n") == 0 ? CC_REFRESH : CC_ERROR; }

  EditLine* edit = nullptr;
  ::History* past = nullptr;
  std::string prompt;
};

LineEditor::LineEditor() {
  if (isatty(STDIN_FILENO) == 0 || isatty(STDOUT_FILENO) == 0) return;
  terminal_ = std::make_unique<Terminal>();
  if (terminal_->edit == nullptr) terminal_.reset();
}

std::optional<std::string> LineEditor::read(const std::string& prompt) {
  std::string all;
  if (!terminal_) return std::getline(std::cin, all) ? std::optional(all) : std::nullopt;
  for (bool more = true; more;) {
    terminal_->prompt = all.empty() ? prompt : "  ";
    write_out("\x1b[?2004h");  // the terminal marks what is pasted
    int n = 0;
    const char* line = el_gets(terminal_->edit, &n);
    write_out("\x1b[?2004l");
    if (interrupted()) {
      el_reset(terminal_->edit);
      write_out("\n");
      return "";
    }
    if (line == nullptr || n <= 0) return all.empty() ? std::nullopt : std::optional(all);
    all.append(line, static_cast<std::size_t>(n));
    if (all.ends_with('\n')) all.pop_back();
    more = all.ends_with('\\');
    if (more) all.back() = '\n';
  }
  HistEvent event;
  if (!all.empty()) ::history(terminal_->past, &event, H_ENTER, all.c_str());
  return all;
}

#else

struct LineEditor::Terminal {};

LineEditor::LineEditor() {}

std::optional<std::string> LineEditor::read(const std::string& prompt) {
  if (isatty(STDIN_FILENO) != 0) write_out(prompt);
  std::string line;
  const bool got = static_cast<bool>(std::getline(std::cin, line));
  if (!got && interrupted()) {
    std::cin.clear();
    return "";
  }
  return got ? std::optional(line) : std::nullopt;
}

#endif

LineEditor::~LineEditor() = default;
bool LineEditor::at_terminal() const { return terminal_ != nullptr; }

}  // namespace gsd::app
