#!/usr/bin/env python3
"""What a store of answers is worth.

    bench/store.py build/release/bin/gsd models/prompts/prompts.jsonl -m models/gsd-target-q8_0.gguf -d models/gsd-draft-q8_0.gguf

Two servers, one with --store memory, get the same requests in turn, one at a time and greedy: first 240 that repeat each other as
loops of agents, edits and reports do (30 prompts eight times, in another order and with other words in front each time), then each
prompt of the files once. Speed is that of decoding alone; of requests that repeat, those of the second half. Servers are started
anew for each repetition and learn in folders of their own. What follows the files, from -m on, goes to gsd serve.
"""
import argparse
import http.client
import json
import math
import os
import random
import re
import statistics
import subprocess
import tempfile


class Server:
    def __init__(self, gsd, arguments, folder):
        command = [gsd, "serve", "--port", "0", "-np", "1"] + arguments
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=dict(os.environ, XDG_CACHE_HOME=folder))
        for line in self.process.stderr:
            address = re.search(r"http://127\.0\.0\.1:(\d+)", line)
            if address:
                self.connection = http.client.HTTPConnection("127.0.0.1", int(address.group(1)))
                return
        raise SystemExit("gsd serve did not start: " + " ".join(command))

    def ask(self, prompt, n):
        body = json.dumps({"prompt": prompt, "max_tokens": n, "temperature": 0})
        self.connection.request("POST", "/v1/completions", body)
        answer = json.loads(self.connection.getresponse().read())
        return answer["timings"], answer["choices"][0]["text"]

    def end(self):
        self.process.terminate()
        self.process.communicate()


def repeated(prompts, chance):
    chosen = chance.sample(prompts, 30)
    out = []
    for turn in range(8):
        chance.shuffle(chosen)
        out += ["Step %d of task %d.\n\n%s" % (turn + 1, chance.randrange(1000), p) for p in chosen]
    return out


def measure(options, arguments, folders, prompts, first, n):
    """Pairs of timings, without and with, of the requests from `first` on; and how many of all answers were equal."""
    servers = [Server(options.gsd, arguments + flags, folder) for flags, folder in zip(([], ["--store", "memory"]), folders)]
    pairs, equal = [], 0
    for i, prompt in enumerate(prompts):
        answers = {who: servers[who].ask(prompt, n) for who in ((0, 1) if i % 2 else (1, 0))}
        equal += answers[0][1] == answers[1][1]
        if i >= first and all(answers[who][0]["predicted_n"] > 1 for who in (0, 1)):
            pairs.append((answers[0][0], answers[1][0]))
    for server in servers:
        server.end()
    return pairs, equal


def report(name, pairs, equal, n):
    def total(who, key):
        return sum(p[who][key] for p in pairs)

    def speed(t):
        return t["predicted_n"] / t["predicted_ms"]

    logs = [math.log(speed(b) / speed(a)) for a, b in pairs]
    means = sorted(statistics.fmean(random.choices(logs, k=len(logs))) for _ in range(1000))
    each = ["%.0f tokens/s (%.2f a step)" % (1000 * total(w, "predicted_n") / total(w, "predicted_ms"), total(w, "predicted_n") / total(w, "steps"))
            for w in (0, 1)]
    print("%s, %d requests: %s without, %s with: %.3fx [%.3f, %.3f]; %d texts equal"
          % (name, n, each[0], each[1], math.exp(statistics.fmean(logs)), math.exp(means[50]), math.exp(means[949]), equal), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gsd")
    parser.add_argument("prompts", nargs="+")
    parser.add_argument("--repetitions", type=int, default=2)
    parser.add_argument("--only", choices=["repeats", "nothing repeats"])
    options, arguments = parser.parse_known_args()
    prompts = [json.loads(line)["prompt"] for path in options.prompts for line in open(path, encoding="utf-8")]
    chance = random.Random(1)
    batches = {"repeats": (repeated(prompts, chance), 120, 96), "nothing repeats": (chance.sample(prompts, len(prompts)), 0, 192)}
    for name, (batch, first, n) in batches.items():
        if options.only not in (None, name):
            continue
        pairs, equal = [], 0
        with tempfile.TemporaryDirectory() as a, tempfile.TemporaryDirectory() as b:
            for _ in range(options.repetitions):
                more = measure(options, arguments, (a, b), batch, first, n)
                pairs, equal = pairs + more[0], equal + more[1]
        report(name, pairs, equal, options.repetitions * len(batch))


if __name__ == "__main__":
    main()
