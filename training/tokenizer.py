"""Trains the byte-level BPE and packs the corpus into token streams.

    python3 tokenizer.py --train tech.train.txt --val tech.val.txt --out data
    python3 tokenizer.py --train tech.train.txt --val tech.val.txt --out data --repeat help=3 --repeat math=3
    python3 tokenizer.py --train tech.train.txt --val tech.val.txt --out data --tokenizer tokenizer.json

Writes tokenizer.json, train.bin, val.bin (uint16 ids) and meta.json into --out. Id 0 is <|endoftext|>.
"""

import argparse
import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import corpus


def train_bpe(documents: list[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE whose splits equal GGUF's `gpt-2` pre-tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return tokenizer


def parse_repeats(items: list[str]) -> dict[str, int]:
    repeats = {}
    for item in items:
        kind, _, times = item.partition("=")
        if kind not in corpus.KINDS or not times.isdigit():
            raise SystemExit(f"--repeat {item}: want KIND=N with KIND one of {', '.join(corpus.KINDS)}")
        repeats[kind] = int(times)
    return repeats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True, help="training text, documents separated by NUL bytes")
    parser.add_argument("--val", type=Path, required=True, help="validation text, same form")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--vocab", type=int, default=4096, help="vocabulary size (default 4096)")
    parser.add_argument("--tokenizer", type=Path, help="use this tokenizer.json (import_gguf.py writes one) and train none")
    parser.add_argument("--repeat", action="append", default=[], metavar="KIND=N", help="how often documents of a kind occur in train.bin")
    parser.add_argument("--seed", type=int, default=0, help="seed of the shuffle (default 0)")
    args = parser.parse_args()

    args.out.mkdir(parents=True, exist_ok=True)
    train, val = corpus.read_documents(args.train), corpus.read_documents(args.val)
    tokenizer = Tokenizer.from_file(str(args.tokenizer)) if args.tokenizer else train_bpe(train, args.vocab)
    tokenizer.save(str(args.out / "tokenizer.json"))
    repeats = parse_repeats(args.repeat)
    meta = {"vocab_size": tokenizer.get_vocab_size(), "repeats": repeats, "seed": args.seed}
    for name, documents, times in (("train", train, repeats), ("val", val, {})):
        stream = corpus.pack(documents, tokenizer, times, args.seed)
        stream.tofile(args.out / f"{name}.bin")
        meta[f"{name}_tokens"] = len(stream)
        print(f"{name}: {len(documents)} documents, {len(stream)} tokens")
    (args.out / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")


if __name__ == "__main__":
    main()
