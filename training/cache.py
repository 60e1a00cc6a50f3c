"""The target's distributions, stored once so that a draft can be trained on them for many epochs.

    python3 cache.py --model target.pt --data data --out own --text own --rows 8192 --context 256
    python3 cache.py --model target.pt --data data --out corpus --text corpus --rows 512 --context 1024

`own`: the target continues beginnings of training documents, a quarter of the rows from each kind of text, two batches of three
greedily and the third by sampling. `corpus`: windows of the training text. Per position the --top likeliest ids and their
log-probabilities are stored, 128 bytes. Run again with the same arguments to go on where it stopped.
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

import corpus
import model as models
from batches import Batches
from generate import continue_rows

PROMPTS = (12, 24, 32, 48, 48, 64, 96, 128)  # lengths that `own` draws from
INSIDE = 0.25  # share of `own` prompts from inside a document rather than its beginning


@dataclasses.dataclass
class Rows:
    """Some rows of a cache."""

    ids: torch.Tensor  # [n, context + 1]
    top: torch.Tensor  # [n, context, k]
    logp: torch.Tensor  # [n, context, k]

    def __len__(self) -> int:
        return len(self.ids)

    def split(self, n: int) -> list["Rows"]:
        return [Rows(*parts) for parts in zip(self.ids.split(n), self.top.split(n), self.logp.split(n))]


class Cache:
    """A folder of three files of rows; the number of rows is what all of them hold in full."""

    def __init__(self, folder: Path):
        meta = json.loads((folder / "meta.json").read_text())
        self.context, self.k = meta["context"], meta["top"]
        shapes = {"ids": ((self.context + 1,), np.uint16), "top": ((self.context, self.k), np.uint16), "logp": ((self.context, self.k), np.float16)}
        self.paths = {name: folder / f"{name}.bin" for name in shapes}
        self.row_bytes = {name: int(np.prod(shape)) * 2 for name, (shape, _) in shapes.items()}
        self.rows = min(p.stat().st_size // self.row_bytes[n] if p.exists() else 0 for n, p in self.paths.items())
        if self.rows:
            self.data = {n: np.memmap(self.paths[n], dtype, "r", shape=(self.rows, *shape)) for n, (shape, dtype) in shapes.items()}

    def read(self, rows: np.ndarray, device: str) -> Rows:
        def get(name):
            return torch.from_numpy(np.stack([self.data[name][r] for r in rows]).astype(np.float16 if name == "logp" else np.int64)).to(device)

        return Rows(get("ids"), get("top"), get("logp"))

    def append(self, rows: Rows) -> None:
        for name, path in self.paths.items():
            with path.open("r+b" if path.exists() else "wb") as out:
                out.seek(self.rows * self.row_bytes[name])
                dtype = np.float16 if name == "logp" else np.uint16
                out.write(getattr(rows, name).cpu().numpy().astype(dtype).tobytes())
                out.truncate()
        self.rows += len(rows)


class CachedBatches:
    """Rows of a cache as batches.Batches gives windows: each once per epoch, a function of seed and step."""

    def __init__(self, folder: Path, rows: int, seed: int, device: str):
        self.cache, self.rows, self.seed, self.device = Cache(folder), rows, seed, device
        if self.cache.rows == 0:
            raise SystemExit(f"{folder}: the cache holds no rows yet")
        self.context, self.epoch, self.order = self.cache.context, -1, None

    def at(self, step: int) -> Rows:
        return self.cache.read(np.array([self._row(step * self.rows + i) for i in range(self.rows)]), self.device)

    def _row(self, index: int) -> int:
        epoch, place = divmod(index, self.cache.rows)
        if epoch != self.epoch:
            self.epoch, self.order = epoch, np.random.default_rng((self.seed, epoch)).permutation(self.cache.rows)
        return int(self.order[place])


def likeliest(logits: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """// logits [.., vocab] -> ids and log-probabilities [.., k]"""
    values, ids = logits.topk(k, dim=-1)
    return ids, values - logits.logsumexp(-1, keepdim=True)


class OwnText:
    """Batches of the target's own texts with what it thought while it wrote them."""

    def __init__(self, model: models.Llama, data: Path, args: argparse.Namespace):
        self.model, self.args = model, args
        tokenizer = Tokenizer.from_file(str(data / "tokenizer.json"))
        stream = corpus.load_stream(data / "train.bin")
        self.documents = corpus.documents_by_kind(stream, tokenizer, min(PROMPTS), args.rows // 4 + 1, args.seed)

    def prompts(self, index: int, rows: int) -> torch.Tensor:
        """// [rows, length], END_OF_TEXT first; kinds take turns"""
        random = np.random.default_rng((self.args.seed, index))
        longest = min(max(len(d) for d in documents) for documents in self.documents.values())
        length = min(int(random.choice(PROMPTS)), longest, self.args.context // 2)
        usable = [[d for d in documents if len(d) >= length] for documents in self.documents.values()]
        out = np.full((rows, length), corpus.END_OF_TEXT, dtype=np.int64)
        for i in range(rows):
            documents = usable[i % len(usable)]
            document = documents[random.integers(len(documents))]
            start = random.integers(len(document) - length + 1) if random.random() < INSIDE else 0
            out[i, 1:] = document[start + 1 : start + length]
        return torch.from_numpy(out)

    def batch(self, index: int, rows: int) -> Rows:
        seen: list[tuple[torch.Tensor, torch.Tensor]] = []
        prompts = self.prompts(index, rows).to(self.args.device)
        torch.manual_seed(self.args.seed * 1_000_003 + index)
        temperature = self.args.temperature if index % 3 == 2 else 0.0
        ids = continue_rows(
            self.model, prompts, self.args.context + 1 - prompts.shape[1], temperature, lambda _, logits: seen.append(likeliest(logits, self.args.top))
        )
        return Rows(ids, torch.cat([t for t, _ in seen], 1), torch.cat([p for _, p in seen], 1))


class CorpusText:
    """Windows of the training text with the target's distributions."""

    def __init__(self, model: models.Llama, data: Path, args: argparse.Namespace):
        self.model, self.args = model, args
        self.windows = Batches(corpus.load_stream(data / "train.bin"), args.context, 1, args.seed, args.device)

    @torch.no_grad()
    def batch(self, index: int, rows: int) -> Rows:
        ids = torch.cat([self.windows.at(index * self.args.batch + i) for i in range(rows)])
        project = self.model.embed.weight.float()
        seen = [likeliest(self.model.hidden(row[None, :-1]).float() @ project.T, self.args.top) for row in ids]
        return Rows(ids, torch.cat([t for t, _ in seen]), torch.cat([p for _, p in seen]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="checkpoint of the target")
    parser.add_argument("--data", type=Path, required=True, help="folder written by tokenizer.py")
    parser.add_argument("--out", type=Path, required=True, help="folder to write, and to go on with if it exists")
    parser.add_argument("--text", choices=("own", "corpus"), required=True, help="what the rows are")
    parser.add_argument("--rows", type=int, required=True, help="rows in all")
    parser.add_argument("--context", type=int, default=256, help="tokens in a row (default 256)")
    parser.add_argument("--batch", type=int, default=192, help="rows at a time (default 192)")
    parser.add_argument("--top", type=int, default=32, help="ids stored per position (default 32)")
    parser.add_argument("--temperature", type=float, default=0.8, help="of every third batch of `own` (default 0.8)")
    parser.add_argument("--seed", type=int, default=0, help="seed of prompts, windows and sampling (default 0)")
    parser.add_argument("--minutes", type=float, default=0, help="stop after this long; exit status 3 if unfinished")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    args = parser.parse_args()

    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "meta.json").write_text(json.dumps({"context": args.context, "top": args.top}) + "\n")
    model = models.load(args.model, args.device)[0].eval().to(torch.bfloat16)
    text = (OwnText if args.text == "own" else CorpusText)(model, args.data, args)
    cache = Cache(args.out)
    cache.rows -= cache.rows % args.batch  # a batch that was cut off is written again
    started = time.monotonic()
    while cache.rows < args.rows:
        if args.minutes and time.monotonic() - started > args.minutes * 60:
            raise SystemExit(3)
        cache.append(text.batch(cache.rows // args.batch, min(args.batch, args.rows - cache.rows)))
        print(f"{cache.rows} of {args.rows} rows", flush=True)


if __name__ == "__main__":
    main()
