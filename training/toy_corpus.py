"""Writes a small made-up corpus, so that the recipe can be tried where the real one is not at hand.

    python3 toy_corpus.py OUT_FOLDER

Help pages and sums in the form of the real corpus: enough to see the loss fall, nothing to learn from.
"""

import argparse
import random
from pathlib import Path

VERBS = ["List", "Copy", "Move", "Remove", "Print", "Compare", "Sort", "Count", "Rename", "Archive", "Search", "Encrypt"]
THINGS = ["files", "directories", "lines", "images", "packages", "users", "processes", "branches", "tables", "logs"]
NAMES = ["Ada", "Boris", "Chen", "Dina", "Emil", "Farah", "Goro", "Hanna", "Ivan", "Jo"]
GOODS = ["apples", "books", "coins", "pencils", "stamps", "marbles", "tickets", "cards"]


def help_page(r: random.Random) -> str:
    verb, thing = r.choice(VERBS), r.choice(THINGS)
    command = (verb[:2] + thing[: r.randint(2, 5)]).lower()
    text = f"# {command}\n\n> {verb} {thing}.\n> More information: <https://example.org/{command}>.\n"
    for option in r.sample(["verbose", "recursive", "force", "quiet", "all", "output"], 3):
        text += f"\n- {verb} {thing} with the option {option}:\n\n`{command} --{option} {{{{path/to/{thing}}}}}`\n"
    return text


def problem(r: random.Random) -> str:
    name, good, a, b = r.choice(NAMES), r.choice(GOODS), r.randint(2, 60), r.randint(2, 60)
    return (
        f"Question: {name} has {a} {good} and buys {b} more. How many {good} does {name} have now?\n"
        f"Answer: {name} has {a} + {b} = {a + b} {good} now.\n#### {a + b}"
    )


def article(r: random.Random) -> str:
    thing, other = r.choice(THINGS), r.choice(GOODS)
    body = " ".join(
        f"A {r.choice(['class', 'function', 'module', 'template'])} that {r.choice(VERBS).lower()}s {r.choice(THINGS)} "
        f"{r.choice(['returns', 'throws', 'needs', 'owns'])} {r.choice(GOODS)}."
        for _ in range(r.randint(3, 9))
    )
    return f"# Working with {thing} and {other}\n\n{body}\n\n## Remarks\n\n{body.split('.')[0]}.\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write tech.train.txt and tech.val.txt to")
    parser.add_argument("--documents", type=int, default=4000, help="documents of training text (default 4000)")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    r = random.Random(0)
    for name, count in (("train", args.documents), ("val", max(args.documents // 20, 60))):
        documents = [r.choice((help_page, problem, article))(r) for _ in range(count)]
        (args.out / f"tech.{name}.txt").write_text("\0".join(documents), encoding="utf-8")


if __name__ == "__main__":
    main()
