"""Checks that the prompts are 60, 15 of each kind, and not taken from the corpus.

    python3 training/check_prompts.py models/prompts/prompts.jsonl --corpus CORPUS

CORPUS holds tech.train.txt and tech.val.txt, or the same with .xz; where it does not, only the prompts' form is checked
and the exit status is 77. A prompt is taken from a text if it occurs there whole, or if one of its lines of 40 characters
or more does, unless three places or more of that text share the line: a notice does not tell where a prompt comes from.
Needs nothing beyond Python itself.
"""

import argparse
import collections
import json
import lzma
import sys
from pathlib import Path

KINDS = ("docs", "prose", "help", "math")


def read_prompts(path: Path) -> list[dict]:
    prompts = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    counts = collections.Counter(p["kind"] for p in prompts)
    if counts != {kind: 15 for kind in KINDS} or len({p["prompt"] for p in prompts}) != len(prompts):
        raise SystemExit(f"{path}: want 15 different prompts of each of {', '.join(KINDS)}, found {dict(counts)}")
    return prompts


def read_text(folder: Path, part: str) -> str | None:
    plain = folder / f"tech.{part}.txt"
    packed = folder / f"tech.{part}.txt.xz"
    if plain.exists():
        return plain.read_text(encoding="utf-8")
    return lzma.open(packed, "rt", encoding="utf-8").read() if packed.exists() else None


def taken(prompt: str, text: str) -> str | None:
    """The part of `prompt` that tells that it comes from `text`, if there is one."""
    if prompt in text:
        return prompt
    lines = [line for line in prompt.split("\n") if len(line) >= 40]
    return next((line for line in lines if line in text and text.count(line) < 3), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompts", type=Path, help="prompts.jsonl")
    parser.add_argument("--corpus", type=Path, required=True, help="folder with the training and validation text")
    args = parser.parse_args()
    prompts = read_prompts(args.prompts)
    texts = {part: read_text(args.corpus, part) for part in ("val", "train")}
    if None in texts.values():
        print(f"SKIP: {len(prompts)} prompts are well formed; no corpus in {args.corpus} to compare them with")
        sys.exit(77)
    found = [(p, part, run) for part, text in texts.items() for p in prompts if (run := taken(p["prompt"], text))]
    for prompt, part, run in found:
        print(f"{prompt['kind']} prompt {prompt['prompt']!r}: {run!r} is in the {part} text")
    print(f"{len(prompts)} prompts, {len(found)} taken from the corpus")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
