"""Documents of the corpus, their kinds, and the packed token streams made from them."""

import json
import random
import re
from pathlib import Path

import numpy as np

END_OF_TEXT = 0  # stands before each document: the begin and the end of a text in one token
KINDS = ("docs", "prose", "help", "math")

_HELP_EXAMPLE = re.compile(r"\n- [^\n]+:\n\n`")
_PROSE_HEAD = re.compile(r"\s*(PEP: \d|- Feature Name|- Start Date|Project Gutenberg)|.{0,500}\nAuthor: .{0,300}\nCreated: ", re.S)


def kind_of(text: str) -> str:
    """Which of KINDS a document (or its beginning) belongs to; told by form, since the corpus carries no labels."""
    if text.startswith("Question:"):
        return "math"
    if text.startswith("# ") and "\n\n> " in text[:200] and len(text) < 6000 and _HELP_EXAMPLE.search(text):
        return "help"
    if _PROSE_HEAD.match(text[:1500]):
        return "prose"
    return "docs"


def read_documents(path: Path) -> list[str]:
    """The documents of a text file that separates them by NUL bytes."""
    return [d for d in path.read_text(encoding="utf-8").split("\0") if d.strip()]


def pack(documents: list[str], tokenizer, repeats: dict[str, int], seed: int) -> np.ndarray:
    """One stream of ids, END_OF_TEXT before each document, in shuffled order.  // [n_tokens], uint16

    `repeats` says how many times documents of a kind occur (default 1).
    """
    order = [i for i, d in enumerate(documents) for _ in range(repeats.get(kind_of(d), 1))]
    random.Random(seed).shuffle(order)
    ids: list[np.ndarray] = []
    for i in range(0, len(documents), 1000):
        ids += [np.array([END_OF_TEXT] + e.ids, dtype=np.uint16) for e in tokenizer.encode_batch(documents[i : i + 1000])]
    return np.concatenate([ids[i] for i in order])


def documents_by_kind(stream: np.ndarray, tokenizer, length: int, per_kind: int, seed: int | None = None) -> dict[str, list[np.ndarray]]:
    """Up to `per_kind` documents of each kind with `length` ids or more, END_OF_TEXT first; in the stream's order or a drawn one."""
    documents = [d for d in np.split(stream, np.flatnonzero(stream == END_OF_TEXT)) if len(d) >= length]
    if seed is not None:
        random.Random(seed).shuffle(documents)
    found: dict[str, list[np.ndarray]] = {kind: [] for kind in KINDS}
    for ids in documents:
        rows = found[kind_of(tokenizer.decode(ids[1:6000].tolist()))]
        if len(rows) < per_kind:
            rows.append(ids)
        if all(len(rows) == per_kind for rows in found.values()):
            break
    return {kind: rows for kind, rows in found.items() if rows}


def load_stream(path: Path) -> np.ndarray:
    return np.fromfile(path, dtype=np.uint16)


def load_meta(folder: Path) -> dict:
    return json.loads((folder / "meta.json").read_text())
