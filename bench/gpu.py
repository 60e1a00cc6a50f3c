#!/usr/bin/env python3
"""What passes cost on a graphics processor by width, and what speculation gains there: one command, all figures in one JSON.

Usage: gpu.py BUILD_FOLDER OUT.json [--shapes 1b,7b,13b,70b] [--format Q4_0] [--budget SECONDS] [-- FLAGS OF GSD]

Models of these shapes with random weights are written to the folder of OUT.json, as far as the devices have room for them,
measured (`gsd inspect`) and deleted, and the bundled pair is run in the modes (`gsd bench`). What would go beyond the budget, 540 s
unless it is given, is left out and named in the JSON. FLAGS, say `--device CUDA0`, go to every command beside `-ngl 99 -ngld 99`."""
import argparse
import json
import os
import re
import subprocess
import sys
import time

own, flags = sys.argv[1:], []
if "--" in own:
    own, flags = own[: own.index("--")], own[own.index("--") + 1:]
parser = argparse.ArgumentParser(usage=__doc__)
parser.add_argument("build")
parser.add_argument("out")
parser.add_argument("--shapes", default="1b,7b,13b,70b")
parser.add_argument("--format", default="Q4_0")
parser.add_argument("--budget", type=float, default=540)
args = parser.parse_args(own)
began = time.monotonic()
root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
tool = lambda name: os.path.join(args.build, "bin", name)
flags = ["-ngl", "99", "-ngld", "99", *flags]
# Billions of weights, and seconds that writing and measuring one took by weight on a slow machine.
billions = {"5m": 0.005, "100m": 0.12, "1b": 1.1, "7b": 6.7, "13b": 13, "70b": 69}
seconds_per_billion = 12


def left():
    return args.budget - (time.monotonic() - began)


def gsd(*words):
    return subprocess.run([tool("gsd"), *words], check=True, capture_output=True, text=True, timeout=max(1, left())).stdout


def say(text):
    print(f"{time.monotonic() - began:4.0f} s: {text}", file=sys.stderr, flush=True)


devices = re.findall(r"^  (\S+): (.*) \((\d+) MiB, (\d+) MiB free\)$", gsd("generate", *flags, "--list-devices"), re.M)
result = {"version": gsd("--version").splitlines(), "flags": flags, "left_out": [],
          "devices": [{"name": n, "description": d, "mib": int(m), "mib_free": int(f)} for n, d, m, f in devices], "passes": []}
room = sum(d["mib_free"] for d in result["devices"])
if not devices:
    say("gsd finds no device; everything is measured on the CPU")

say("the bundled pair")
lines = os.path.splitext(args.out)[0] + ".pair.jsonl"
gsd("bench", "-m", f"{root}/models/gsd-target-q8_0.gguf", "-d", f"{root}/models/gsd-draft-q8_0.gguf", "--prompts", f"{root}/models/prompts/prompts.jsonl",
    "--per-kind", "2", "--modes", "plain,chain,tree,graph,auto", "-n", "96", "--repetitions", "1", "--out", lines, *flags)
result["pair"] = [json.loads(line) for line in open(lines)]
os.remove(lines)

for shape in args.shapes.split(","):
    mib = billions[shape] * 1e9 * (0.6 if args.format.startswith("Q4") else 1.1) / 2**20
    why = "memory" if devices and mib * 1.15 + 512 > room else "time" if billions[shape] * seconds_per_billion > left() else ""
    if why:
        result["left_out"].append({"shape": shape, "why": why})
        continue
    say(shape)
    path = os.path.join(os.path.dirname(os.path.abspath(args.out)), f"gsd-{shape}.gguf")
    try:
        subprocess.run([tool("gsd_make_model"), path, shape, args.format], check=True, timeout=max(1, left()), stdout=subprocess.DEVNULL)
        seen = json.loads(gsd("inspect", "-m", path, "--json", *flags))
        result["passes"].append({"shape": shape, "format": args.format, "bytes": seen["target"]["bytes"], "devices": seen["target"]["devices"],
                                 "ms": seen["target_ms"]})
    except subprocess.TimeoutExpired:
        result["left_out"].append({"shape": shape, "why": "time"})
    finally:
        if os.path.exists(path):
            os.remove(path)

result["seconds"] = round(time.monotonic() - began, 1)
with open(args.out, "w") as f:
    json.dump(result, f, indent=1)
say(f"done: {args.out}")
