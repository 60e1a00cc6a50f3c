#!/usr/bin/env python3
"""How fast `auto` is from a kept profile in which a field is wrong, beside the right one, in turns.

    bench/poison.py build/release/bin/gsd models/gsd-target-q8_0.gguf models/gsd-draft-q8_0.gguf [ROUNDS] [TOKENS]

Every run starts from its own copy of the profile. Prints tokens/s of each (median over the rounds) and the ratio to the right one.
"""
import copy
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

PROMPT = "# tar\n\n> Archiving utility.\n"


def scale(points, factor, which=lambda width: True):
    return [[w, ms * (factor if which(w) else 1)] for w, ms in points]


def poisons(right):
    """Name -> profile with one wrong field."""
    out = {"right": right}
    for factor in (0.1, 10, 1000):
        for field in ("target_ms", "draft_ms"):
            for name, which in (("curve", lambda w: True), ("beyond one token", lambda w: w > 1), ("8 tokens", lambda w: w == 8)):
                p = copy.deepcopy(right)
                p[field] = scale(p[field], factor, which)
                out[f"{field} {name} x{factor}"] = p
        p = copy.deepcopy(right)
        for counts in p["acceptance"].values():
            counts[::2] = [hits * factor for hits in counts[::2]]
        out[f"acceptance x{factor}"] = p
    p = copy.deepcopy(right)  # what a run beside other work kept: one token right, more of them far too long
    p["target_ms"] = scale(p["target_ms"], 5.5, lambda w: w > 1)
    out["target_ms beyond one token x5.5"] = p
    return out


def main():
    gsd, target, draft = sys.argv[1:4]
    rounds = int(sys.argv[4]) if len(sys.argv) > 4 else 3
    tokens = sys.argv[5] if len(sys.argv) > 5 else "400"
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "gsd" / "profiles.json"
        environment = dict(os.environ, XDG_CACHE_HOME=folder)

        def run():
            command = [gsd, "generate", "-m", target, "-d", draft, "-p", PROMPT, "-n", tokens, "--ignore-eos", "--json"]
            done = subprocess.run(command, env=environment, capture_output=True, check=True)
            return json.loads(done.stdout)["tokens_per_second"]

        first = run()
        for _ in range(8):
            run()
        print(f"the first run of all: {first:.0f} tokens/s; the tenth: {run():.0f}", flush=True)
        (key, right), = json.loads(file.read_text()).items()
        variants = poisons(right)
        speed = {name: [] for name in variants}
        for _ in range(rounds):
            for name, profile in variants.items():
                file.write_text(json.dumps({key: profile}))
                speed[name].append(run())
        base = statistics.median(speed["right"])
        for name, values in speed.items():
            middle = statistics.median(values)
            print(f"{name:36} {middle:7.0f} tokens/s  {middle / base:5.2f}")


main()
