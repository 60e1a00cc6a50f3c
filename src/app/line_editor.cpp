#include "line_editor.h"

#include <unistd.h>

#include <cstring>
#include <iostream>

#include "console.h"

#ifdef GSD_HAS_LIBEDIT
#include <histedit.h>
#include <sys/select.h>
#include <termios.h>

#include <algorithm>
#include <cerrno>
#include <clocale>
#include <csignal>
#include <cstdio>

#include "../core/utf8_decoder.h"
#endif

namespace gsd::app {

#ifdef GSD_HAS_LIBEDIT

struct LineEditor::Terminal {
  Terminal() {
    keep_terminal();
    hold_keys();
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
    el_wset(edit, EL_GETCFN, &next_character);
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
    restore_terminal();
  }
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;

  // Between two messages keys are neither echoed nor put together to lines: they wait for the next message as they are.
  static void hold_keys() {
    termios t{};
    if (tcgetattr(STDIN_FILENO, &t) != 0) return;
    t.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO);
    t.c_cc[VMIN] = 1;
    t.c_cc[VTIME] = 0;
    tcsetattr(STDIN_FILENO, TCSANOW, &t);
  }

  // One character. A signal that comes while none is there is never missed: it can only come while pselect waits.
  static int next_character(EditLine*, wchar_t* out) {
    sigset_t ours;
    sigset_t before;
    sigemptyset(&ours);
    sigaddset(&ours, SIGINT);
    sigaddset(&ours, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &ours, &before);
    Utf8Decoder utf8;
    int result = 0;
    while (result == 0) {
      fd_set in;
      FD_ZERO(&in);
      FD_SET(STDIN_FILENO, &in);
      unsigned char byte = 0;
      if (interrupted()) {
        result = -1;
      } else if (pselect(STDIN_FILENO + 1, &in, nullptr, nullptr, nullptr, &before) == 1) {
        if (::read(STDIN_FILENO, &byte, 1) != 1) break;
        const bool good = utf8.push(byte);
        if (good && utf8.pending()) continue;
        *out = good ? static_cast<wchar_t>(utf8.value()) : L'?';
        result = 1;
      } else if (errno != EINTR) {
        result = -1;
      }
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return result;
  }

  static unsigned char paste(EditLine* e, int) {
    constexpr std::wstring_view kEnd = L"\x1b[201~";
    constexpr std::size_t kMost = 1 << 20;
    std::wstring text;
    wchar_t c = 0;
    while (text.size() < kMost && el_wgetc(e, &c) == 1) {
      text += c;
      if (!text.ends_with(kEnd)) continue;
      text.resize(text.size() - kEnd.size());
      break;
    }
    std::replace(text.begin(), text.end(), L'\r', L'\n');
    std::erase_if(text, [](wchar_t x) { return (x < L' ' && x != L'\n' && x != L'\t') || x == 0x7F; });
    return !text.empty() && el_winsertstr(e, text.c_str()) == 0 ? CC_REFRESH : CC_ERROR;
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
    Terminal::hold_keys();
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
