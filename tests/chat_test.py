"""gsd chat as a person uses it: on a pseudo-terminal, with keys, a paste, commands and Ctrl-C.

Usage: chat_test.py GSD MODELS_DIR FOLDER_FOR_FILES"""
import json
import os
import pty
import re
import select
import shutil
import sys
import time

gsd, models, folder = sys.argv[1:4]
shutil.rmtree(folder, ignore_errors=True)
os.makedirs(folder)
files = [os.path.join(models, "toy-target.gguf"), os.path.join(models, "toy-draft.gguf")]


class Terminal:
    def __init__(self, *arguments, **environment):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM="xterm", XDG_CACHE_HOME=os.path.join(folder, "cache"), **environment)
            os.execv(gsd, [gsd, "chat", "-m", files[0], "-d", files[1], "-t", "1", *arguments])
        self.seen = ""
        self.wait("/help lists commands")
        self.wait("> ")

    def read(self, seconds):
        if not select.select([self.fd], [], [], seconds)[0]:
            return False
        try:
            self.seen += os.read(self.fd, 1 << 16).decode("utf-8", "replace")
        except OSError:  # the other side is closed
            return False
        return True

    def wait(self, pattern, seconds=60):
        """Waits for `pattern` after what was waited for before, and returns the text up to its end."""
        end = time.monotonic() + seconds
        while not (found := re.search(pattern, self.seen)):
            if not self.read(max(0, end - time.monotonic())) and time.monotonic() >= end:
                sys.exit(f"FAILED: no {pattern!r} in {self.seen[-2000:]!r}")
        text, self.seen = self.seen[: found.end()], self.seen[found.end():]
        return text

    def keys(self, text):
        os.write(self.fd, text.encode())

    def ask(self, text, pattern=r"\[\d+ tokens[^\]]*\]", prompt="> "):
        """Sends `text`, waits for `pattern` and then for the prompt: keys that come before it are the terminal's own."""
        self.keys(text + "\r")
        return self.wait(pattern) + self.wait(prompt)

    def conversation(self):
        path = os.path.join(folder, "saved.json")
        self.ask(f"/save {path}", "Saved")
        with open(path) as file:
            return [(m["role"], m["content"]) for m in json.load(file)]

    def end(self, keys="\x04"):
        for _ in range(30):  # a key that comes while the terminal changes its mode is lost
            try:
                self.keys(keys)
            except OSError:
                pass
            while self.read(1):
                pass
            time.sleep(0.3)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
        sys.exit(f"FAILED: it does not end: {self.seen[-500:]!r}")


def check(condition, what):
    if not condition:
        sys.exit(f"FAILED: {what}")


t = Terminal("-n", "12")
t.ask("", "")  # an empty line does nothing
t.ask("hello")
check([r for r, _ in t.conversation()] == ["user", "assistant"], "an empty line was a turn")
t.ask("wrold\x1b[D\x1b[D\x1b[D\x1b[D\x7f\x1b[3~wor\x05!")  # arrows, Backspace, Delete, End
text = t.conversation()[2][1]
check(text.endswith("!") and "\x1b" not in text, f"editing gave {text!r}")
t.ask("\x1b[A" * 4)  # history: /save, wrold, /save, hello
check([c for r, c in t.conversation() if r == "user"][-1] == "hello", f"history: {t.conversation()}")
t.ask("/clear", "\r\n")
t.ask("\x1b[200~first liné\rsecond line\r\r/clear\rrm -rf x\x1b[201~")  # one message
check(t.conversation()[0] == ("user", "first liné\nsecond line\n\n/clear\nrm -rf x"), f"a paste gave {t.conversation()}")
t.ask("one\x1b\rtwo")
check(t.conversation()[2] == ("user", "one\ntwo"), "Alt+Enter")
t.ask("three\\", "\r\n", "  ")
t.ask("four")
check(t.conversation()[4] == ("user", "three\nfour"), "a \\ at the end")

t.ask("/undo", "Taken back")
check(len(t.conversation()) == 4, "/undo")
t.ask("/regen")
check(len(t.conversation()) == 4, "/regen")
t.ask("/system Be brief.", "\r\n")
check(t.conversation()[0] == ("system", "Be brief."), "/system")
with open(os.path.join(folder, "note"), "w") as file:
    file.write("from a file")
t.ask(f"/read {folder}/note", "before the next message")
t.ask("what?")
check(t.conversation()[-2] == ("user", "from a file\n\nwhat?"), "/read")
saved = t.conversation()
t.ask("/clear", "\r\n")
check(t.conversation() == [("system", "Be brief.")], "/clear")
with open(os.path.join(folder, "old.json"), "w") as file:
    json.dump([{"role": r, "content": c} for r, c in saved], file)
t.ask(f"/load {folder}/old.json", "messages")
check(t.conversation() == saved, "/load")
t.ask("/set", "temperature 0, ")
t.ask("/set temperature 0.7", "\r\n")
t.ask("/set", "temperature 0.7")
t.ask("/set temperature x", "is no number")
t.ask("/set top_p 7", "top")
t.ask("/set nothing 1", "There is no parameter nothing")
t.ask("/nothing", "There is no command /nothing")
t.ask("/load /nowhere", "cannot be opened")
t.ask("/stats", r"messages; \d+ tokens in \d+ steps")
t.ask("/help", "/regen")
check(t.end() == 0, "Ctrl-D")

# Ctrl-C stops an answer, and the chat goes on; at the prompt it empties the line, twice it ends.
t = Terminal("-n", "100000", "--ignore-eos", "-c", "4096")
t.keys("go on\r")
t.wait("go on\r\n")
time.sleep(0.5)
t.keys("\x03")
t.wait("stopped")
t.wait("> ")
check(len(t.conversation()) == 2, "after Ctrl-C")
t.keys("half a li\x03")
t.wait("once more")
t.wait("> ")
check(len(t.conversation()) == 2, "a line was sent by Ctrl-C")
t.keys("\x03")
t.wait("once more")
t.wait("> ")
check(t.end("\x03") == 0, "Ctrl-C twice")

# A full context is said, and what is oldest may go.
t = Terminal("-n", "60", "--ignore-eos", "-c", "256")
for reply, then in (("n", "make room"), ("y", r"\[\d+ tokens[^\]]*\]")):
    for _ in range(6):
        if "Drop" in t.ask("word " * 12, "", r"go on\? \[Y/n\] |tokens[^\]]*\](.|\n)*> "):
            t.ask(reply, then)
            break
    else:
        sys.exit("FAILED: the context was never full")
check(t.end() == 0, "after a full context")

# Colours, and none of them with NO_COLOR.
for environment, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
    t = Terminal("-n", "40", "--grammar", 'root ::= "# Head\\n**bold** `code`\\n"', **environment)
    text = t.ask("x")
    check(("\x1b[1m# Head" in text) == coloured and ("\x1b[36m`code`" in text) == coloured, f"colours: {text!r}")
    check(t.end() == 0, "colours")
print("ok")
