"""Fails the Nth allocation, decode and write of gsd generate, serve and bench in turn.

  fail_nth.py GSD_FAULTS MODELS [--all] [--command NAME] [--kind NAME]

Whatever fails, the program ends by itself, with a documented exit code and a sentence, or does what it was to do; what it
has written is the beginning of what it writes otherwise; files are there whole or not at all; and the server answers the
next request. Without --all a sample is taken; with it every one, and of the allocations the first one of every place in
the code. Exit code 1: something of that is not so.
"""
import argparse
import http.client
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

parser = argparse.ArgumentParser()
parser.add_argument("gsd")
parser.add_argument("models", type=pathlib.Path)
parser.add_argument("--all", action="store_true")
parser.add_argument("--command")
parser.add_argument("--kind")
flags = parser.parse_args()
flags.gsd, flags.models = os.path.abspath(flags.gsd), flags.models.resolve()

PAIR = ["-m", flags.models / "toy-target.gguf", "-d", flags.models / "toy-draft.gguf", "-t", "1"]
# What a failure may be called. Memory that cannot be had may also fail a pass, or a file's reading or writing.
CODES = {"allocation": {1, 7, 9, 11}, "decode": {7, 8, 9}, "write": {11}}
TIMES = re.compile(r'"(?!text|tokens"|finish|prompt)[a-z_]+": ?[-0-9.e+]+|[0-9.]+')
failures = []


class Run:
    """One run of a command in a folder of its own."""

    def __init__(self, command, fail):
        self.folder = tempfile.TemporaryDirectory()
        self.dir = pathlib.Path(self.folder.name)
        (self.dir / "prompts.jsonl").write_text('{"kind": "help", "prompt": "# tar"}\n')
        self.environment = {**os.environ, "XDG_CACHE_HOME": str(self.dir / "cache"), "GSD_FAIL": fail,
                            "GSD_FAIL_REPORT": str(self.dir / "report")}
        self.answers = []
        self.out = self.error = ""
        self.code = None
        COMMANDS[command](self)
        self.n, self.failed, self.places = 0, False, []
        if (self.dir / "report").exists():
            first, *rest = (self.dir / "report").read_text().splitlines()
            self.n, self.failed = int(first.split()[0]), first.split()[1] == "1"
            self.places = [int(line) for line in rest]

    def start(self, *arguments):
        return subprocess.Popen([flags.gsd, *map(str, arguments)], cwd=self.dir, env=self.environment, text=True,
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def end(self, process):
        try:
            self.out, error = process.communicate(timeout=60)
            self.error += error
            self.code = process.returncode
        except subprocess.TimeoutExpired:
            process.kill()
            self.code = "none: it hangs"

    def files(self):
        found = {}
        for path in self.dir.rglob("*"):
            name = path.relative_to(self.dir).as_posix()
            if path.is_file() and name not in ("report", "prompts.jsonl") and not name.endswith(".lock"):
                found[name] = path.read_text()
        return found


def generate(run):
    run.end(run.start("generate", *PAIR, "-p", "# tar", "-n", "8", "--exact", "--mode", "graph", "--record", "run.jsonl"))


def bench(run):
    run.end(run.start("bench", *PAIR, "--prompts", "prompts.jsonl", "-n", "4", "--repetitions", "1", "--modes", "plain", "graph",
                      "--exact", "--out", "bench.jsonl", "--html", "bench.html"))


def ask(run, port, stream):
    """The text that comes back, or the status; None where the connection ends."""
    body = json.dumps({"prompt": "# tar", "max_tokens": 8, "temperature": 0, "stream": stream, "speculative": {"mode": "graph"}})
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", "/v1/completions", body)
        answer = connection.getresponse()
        text = answer.read().decode()
        if answer.status != 200:
            json.loads(text)
            return answer.status
        if not stream:
            return json.loads(text)["choices"][0]["text"]
        events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
        if any("error" in e for e in events):
            return 500
        return "".join(e["choices"][0]["text"] for e in events) if text.endswith("data: [DONE]\n\n") else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def serve(run):
    process = run.start("serve", *PAIR, "--port", "0", "-np", "2", "-c", "512", "--exact")
    for line in process.stderr:
        run.error += line
        if at := re.search(r"serving \S+ at http://127.0.0.1:(\d+)", line):
            run.answers = [ask(run, int(at[1]), stream) for stream in (False, True, False, True)]
            process.terminate()
            break
    run.end(process)


COMMANDS = {"generate": generate, "serve": serve, "bench": bench}


def check(command, kind, fail, run, good):
    def wrong(what):
        failures.append(what)
        print(f"WRONG: GSD_FAIL={fail}, {command}: {what}\n  stderr: {run.error[-600:]}", flush=True)

    if run.code not in {0} | CODES[kind]:
        return wrong(f"exit code {run.code}")
    if run.code != 0 and not re.search(r"^gsd: .+[.?]$", run.error, re.M):
        wrong("no sentence says why")
    if command == "generate":
        if not good.out.startswith(run.out) or (run.code == 0 and run.out != good.out):
            wrong(f"it wrote {run.out!r}")
        if run.code == 0 and "run.jsonl" not in run.files():
            wrong("there is no record, and nothing was said")
    if command == "bench" and run.code == 0:
        for name in ("bench.jsonl", "bench.html"):
            if run.files().get(name, "").count("\n") != good.files()[name].count("\n"):
                wrong(f"{name} is not whole, and nothing was said")
    if command == "serve":
        expected = good.answers[0]
        for answer in run.answers:
            if answer not in (expected, 500, 503, None):
                wrong(f"it answered {answer!r}")
        if run.code == 0 and sum(a != expected for a in run.answers) > 1:
            wrong(f"one failure cost {run.answers}")
    for name, text in run.files().items():
        if ".part" in name:
            wrong(f"{name} is left")
        elif name.endswith((".json", ".jsonl")):
            lines = [text] if name.endswith(".json") else text.splitlines()
            try:
                [json.loads(line) for line in lines]
            except ValueError:
                wrong(f"{name} is broken: {text[-200:]!r}")


def chosen(kind, good):
    """The numbers to fail, until the run passes."""
    every = good.places if kind == "allocation" else range(good.n + 1)
    return every if flags.all or len(every) < 20 else every[7 :: len(every) // 12]


for command in COMMANDS:
    for kind in CODES:
        if flags.command not in (None, command) or flags.kind not in (None, kind):
            continue
        if (command, kind) == ("serve", "allocation") and not flags.all:
            continue  # threads make the numbers differ from run to run; the simulation does this from a seed
        good = Run(command, kind)
        if good.code != 0:
            sys.exit(f"{command} fails by itself: {good.error}")
        done = passed = 0
        for n in chosen(kind, good):
            for code in ([1, -2, -3] if flags.all else [[1, -2, -3][n % 3]]) if kind == "decode" else [0]:
                fail = f"{kind}:{n}:{code}"
                run = Run(command, fail)
                check(command, kind, fail, run, good)
                done += 1
                passed += run.code == 0
        places = f" in {len(good.places)} places" if good.places else ""
        print(f"{command}, {kind}: {good.n} seen{places}, {done} made to fail, {passed} times it did what it was to do", flush=True)
        if done < 4:
            failures.append("too little was made to fail")
sys.exit(1 if failures else 0)
