"""What a store of answers is worth: bench/store.py GSD TARGET DRAFT PROMPTS.jsonl [--repetitions N] [-- FLAGS OF GSD BATCH].

Two batches, each with and without `--store memory`, in turn: one that repeats itself as loops of agents and edits do (each of
30 prompts eight times in another order, with other words in front) and one in which no prompt comes twice. One request at a
time, greedy; speed is that of decoding alone, of the second half of the requests.
"""
import argparse
import json
import os
import random
import statistics
import subprocess
import tempfile


def request(number, prompt):
    body = {"prompt": prompt, "max_tokens": 96, "temperature": 0}
    return {"custom_id": str(number), "method": "POST", "url": "/v1/completions", "body": body}


def batches(prompts):
    chance = random.Random(1)
    chosen = chance.sample(prompts, 30)
    repeated = []
    for turn in range(8):
        chance.shuffle(chosen)
        repeated += ["Step %d of task %d.\n\n%s" % (turn + 1, chance.randrange(1000), p) for p in chosen]
    return {"repeats": repeated, "nothing repeats": chance.sample(prompts, len(prompts))}


def run(arguments, prompts, flags):
    with tempfile.TemporaryDirectory() as folder:
        source, answers = os.path.join(folder, "in.jsonl"), os.path.join(folder, "out.jsonl")
        with open(source, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(request(i, p)) + "\n" for i, p in enumerate(prompts))
        command = [arguments.gsd, "batch", source, answers, "-m", arguments.target, "-d", arguments.draft, "-np", "1"]
        subprocess.run(command + flags, check=True, stderr=subprocess.DEVNULL)
        with open(answers, encoding="utf-8") as file:
            lines = [json.loads(line)["response"]["body"] for line in file]
    half = [answer["timings"] for answer in lines[len(lines) // 2 :]]
    tokens, ms = sum(t["predicted_n"] for t in half), sum(t["predicted_ms"] for t in half)
    steps = sum(t["steps"] for t in half)
    return 1000 * tokens / ms, tokens / steps, [answer["choices"][0]["text"] for answer in lines]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("gsd", "target", "draft", "prompts"):
        parser.add_argument(name)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--only", choices=["repeats", "nothing repeats"])
    parser.add_argument("flags", nargs="*")
    arguments = parser.parse_args()
    with open(arguments.prompts, encoding="utf-8") as file:
        prompts = [json.loads(line)["prompt"] for line in file]
    for name, batch in batches(prompts).items():
        if arguments.only not in (None, name):
            continue
        speeds = {"without": [], "with": []}
        per_step, texts = {}, {}
        for _ in range(arguments.repetitions):
            for how, flags in (("without", []), ("with", ["--store", "memory"])):
                speed, per_step[how], texts[how] = run(arguments, batch, flags + arguments.flags)
                speeds[how].append(speed)
        ratios = [b / a for a, b in zip(speeds["without"], speeds["with"])]
        same = sum(a == b for a, b in zip(texts["without"], texts["with"]))
        print(
            "%s, %d requests: %.0f tokens/s without, %.0f with: %.2fx [%.2f, %.2f]; %.2f and %.2f tokens per step; %d texts equal"
            % (name, len(batch), statistics.median(speeds["without"]), statistics.median(speeds["with"]),
               statistics.median(ratios), min(ratios), max(ratios), per_step["without"], per_step["with"], same)
        )


if __name__ == "__main__":
    main()
