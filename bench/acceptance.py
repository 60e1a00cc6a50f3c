#!/usr/bin/env python3
"""Where plain decoding, a chain, a tree and a graph win, over what the target accepts and how many sessions are decoded together.

    bench/acceptance.py build/release/bin/gsd -m models/gsd-target-q8_0.gguf -d models/gsd-draft-q8_0.gguf \
        --prompts models/prompts/prompts.jsonl --per-kind 2 -n 96

Further arguments go to gsd bench, which scripts what the draft proposes (--acceptance). Each cell of the table names the fastest
way of those set by hand and its speed over plain decoding, then chain, tree, graph and auto.
"""
import json
import math
import os
import subprocess
import sys
import tempfile

ACCEPTANCE = ["0.3", "0.6", "0.8", "0.9", "0.95"]
SESSIONS = ["1", "4"]
WAYS = ["chain", "tree", "graph", "auto"]


def measure(gsd, arguments):
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "measurements.jsonl")
        subprocess.run([gsd, "bench", "--acceptance", ",".join(ACCEPTANCE), "--sessions", ",".join(SESSIONS), "--modes",
                        ",".join(["plain"] + WAYS), "--ignore-eos", "--out", out] + arguments, check=True, stdout=subprocess.DEVNULL)
        with open(out) as lines:
            return [json.loads(line) for line in lines][1:]


def main():
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    measurements = measure(sys.argv[1], sys.argv[2:])
    speed = {}  # of each way, relative to plain decoding of the same prompts in the same turn
    plain = {}
    for m in measurements:
        if m["config"] == "plain":
            plain[m["sessions"], m["prompt"], m["repetition"]] = m["tokens"] / m["decode_ms"]
    for m in measurements:
        if m["config"] == "plain":
            continue
        way, acceptance = m["config"].split(" acceptance=")
        ratio = m["tokens"] / m["decode_ms"] / plain[m["sessions"], m["prompt"], m["repetition"]]
        speed.setdefault((acceptance, m["sessions"], way), []).append(math.log(ratio))
    mean = {key: math.exp(sum(logs) / len(logs)) for key, logs in speed.items()}
    print("| accepted | " + " | ".join(f"{n} session{'s' if n != '1' else ''}" for n in SESSIONS) + " |")
    print("|---|" + "---|" * len(SESSIONS))
    for acceptance in ACCEPTANCE:
        cells = []
        for n in SESSIONS:
            values = {way: mean[acceptance, int(n), way] for way in WAYS}
            best = max(("plain", 1.0), *((way, values[way]) for way in WAYS[:3]), key=lambda pair: pair[1])
            cells.append(f"**{best[0]}** {best[1]:.2f} ({' '.join(f'{values[way]:.2f}' for way in WAYS)})")
        print(f"| {acceptance} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
