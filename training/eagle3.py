"""An EAGLE-3 head (Li et al., arXiv 2503.01840) for a target: one layer that drafts from what the target computed.

    python3 eagle3.py texts --model target.pt --data data --out texts.pt --rows 768
    python3 eagle3.py train --model target.pt --texts texts.pt --out head.pt --minutes 40
    python3 eagle3.py export --head head.pt --tokenizer data/tokenizer.json --out gsd-eagle3-q8_0.gguf

The head sees, at the place of token t[p], the embedding of t[p] and the target's state at t[p-1]: the inputs of three of its
layers, made one vector by `fc`. It says what follows t[p]; drafting on, its own state stands for the target's. Training does
the same `--steps` times at every place ("training-time test") and asks for the target's distribution. Embedding and output
projection are the target's own and stand in no second file.
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path

import gguf
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

import corpus
import export as exports
import model as models
from cache import OwnText
from generate import continue_rows
from optim import Optimizer


class Head(nn.Module):
    def __init__(self, config: models.Config, taps: list[int]):
        super().__init__()
        width, ff = config.width, config.ff
        self.config, self.taps = config, taps
        self.fc = nn.Linear(len(taps) * width, width, bias=False)
        self.embed_norm, self.state_norm, self.ffn_norm, self.norm = (models.RMSNorm(width) for _ in range(4))
        self.q, self.k, self.v = (nn.Linear(2 * width, width, bias=False) for _ in range(3))
        self.o = nn.Linear(width, width, bias=False)
        self.gate, self.up = nn.Linear(width, ff, bias=False), nn.Linear(width, ff, bias=False)
        self.down = nn.Linear(ff, width, bias=False)
        cos, sin = models.rope_tables(config)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, 0, 0.02)

    def unrolled(self, embeds: list[torch.Tensor], state: torch.Tensor):
        """What the output projection sees after each of the steps, one after the other.

        `embeds[s]`: embeddings of the tokens s places on; `state`: of the target, through fc.  // [rows, tokens, width]
        In step s place p attends to the first step's places up to p, and to itself in the steps between, as a chain of s drafted
        tokens after the text does.
        """
        rows, tokens, width = state.shape
        heads = self.config.heads
        split = lambda x: x.view(rows, tokens, heads, -1).transpose(1, 2)  # noqa: E731
        future = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
        keys, values = [], []
        for s, embed in enumerate(embeds):
            x = torch.cat((self.embed_norm(embed), self.state_norm(state)), -1)
            cos, sin = self.cos[s : s + tokens], self.sin[s : s + tokens]
            q = models.rotate(split(self.q(x)), cos, sin) * self.config.head_dim**-0.5
            keys.append(models.rotate(split(self.k(x)), cos, sin))
            values.append(split(self.v(x)))
            scores = (q @ keys[0].mT).masked_fill(future, -torch.inf)
            own = [(q * k).sum(-1, keepdim=True) for k in keys[1:]]
            weights = torch.cat([scores, *own], -1).softmax(-1)
            y = weights[..., :tokens] @ values[0]
            for i, v in enumerate(values[1:]):
                y = y + weights[..., tokens + i, None] * v
            h = state + self.o(y.transpose(1, 2).reshape(rows, tokens, width))
            z = self.ffn_norm(h)
            state = h + self.down(F.silu(self.gate(z)) * self.up(z))
            yield self.norm(state)


@torch.no_grad()
def states(target: models.Llama, ids: torch.Tensor, taps: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs of the layers `taps` side by side, and what the output projection sees.  // [rows, tokens, taps * width], [rows, tokens, width]"""
    x = target.embed(ids)
    cos, sin = target.cos[: ids.shape[1]], target.sin[: ids.shape[1]]
    seen = []
    for i, block in enumerate(target.blocks):
        if i in taps:
            seen.append(x)
        x = block(x, cos, sin)
    return torch.cat(seen, -1), target.norm(x)


def loss_of(head: Head, target: models.Llama, ids: torch.Tensor, taps: torch.Tensor, last: torch.Tensor, steps: int):
    """Mean cross entropy with the target's distribution over the steps, and how often the first names its token.

    Place p of the tensors is token p + 1: it has the embedding of token p + 1 and the state of token p.
    """
    tokens = ids.shape[1] - steps
    embeds = [target.embed(ids[:, s + 1 : s + 1 + tokens - 1]) for s in range(steps)]
    state = head.fc(taps[:, : tokens - 1])
    total, hits = 0.0, []
    for s, seen in enumerate(head.unrolled(embeds, state)):
        want = F.linear(last[:, s + 1 : s + tokens], target.embed.weight)
        logits = F.linear(seen, target.embed.weight)
        total = total + 0.8**s * F.cross_entropy(logits.flatten(0, 1), want.flatten(0, 1).softmax(-1))
        hits.append((logits.argmax(-1) == want.argmax(-1)).float().mean().item())
    return total / sum(0.8**s for s in range(steps)), hits


def make_texts(args: argparse.Namespace) -> None:
    """The target's own texts, two thirds of them greedy, the beginnings from training documents of all kinds."""
    torch.set_grad_enabled(False)
    target = models.load(args.model)[0].eval()
    own = OwnText(target, args.data, args)
    rows = []
    for index in range(0, -(-args.rows // args.batch)):
        prompts = own.prompts(index, args.batch)
        torch.manual_seed(args.seed * 1_000_003 + index)
        rows.append(continue_rows(target, prompts, args.context - prompts.shape[1], args.temperature if index % 3 == 2 else 0.0).to(torch.int16))
        torch.save(torch.cat(rows), args.out)
        print(f"{len(rows) * args.batch} rows", flush=True)


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    target = models.load(args.model)[0].eval().requires_grad_(False)
    texts = torch.load(args.texts, weights_only=True).long()
    stream = torch.from_numpy(corpus.load_stream(args.data / "train.bin").astype(np.int64)) if args.data else None
    head = Head(dataclasses.replace(target.config, layers=1, ff=args.ff, context=max(target.config.context, 64)), args.taps)
    if args.init:
        head.load_state_dict(torch.load(args.init, weights_only=True)["model"])
    optimizer = Optimizer(head, args.lr)
    end = time.time() + 60 * args.minutes
    step, done = 0, 0.0
    average = None
    while done < 1:
        started = time.time()
        random = np.random.default_rng((args.seed, step))
        if stream is not None and step % 4 == 3:
            n = texts.shape[1]
            ids = torch.stack([stream[a : a + n] for a in random.integers(len(stream) - n, size=args.batch)])
        else:
            ids = texts[random.integers(len(texts), size=args.batch)]
        loss, hits = loss_of(head, target, ids, *states(target, ids, args.taps), args.steps)
        loss.backward()
        done = 1 - max(0.0, end - time.time()) / (60 * args.minutes)
        optimizer.step(min(1, (step + 1) / 20, (1 - done) / 0.4 + 0.02))
        average = hits if average is None else [0.95 * a + 0.05 * h for a, h in zip(average, hits)]
        if step % 10 == 0 or done >= 1:
            named = " ".join(f"{a:.3f}" for a in average)
            print(json.dumps({"step": step, "loss": round(loss.item(), 4), "named": named, "seconds": round(time.time() - started, 2)}), flush=True)
        if step % 50 == 0 or done >= 1:
            torch.save({"config": dataclasses.asdict(head.config), "taps": args.taps, "model": head.state_dict()}, args.out)
        step += 1


NAMES = {
    "fc": "fc", "embed_norm": "blk.0.attn_norm", "state_norm": "blk.0.attn_norm_2", "q": "blk.0.attn_q", "k": "blk.0.attn_k",
    "v": "blk.0.attn_v", "o": "blk.0.attn_output", "ffn_norm": "blk.0.ffn_norm", "gate": "blk.0.ffn_gate", "up": "blk.0.ffn_up",
    "down": "blk.0.ffn_down", "norm": "output_norm",
}  # fmt: skip


def export(args: argparse.Namespace) -> None:
    saved = torch.load(args.head, weights_only=True)
    config = models.Config(**saved["config"])
    kind, file_type = exports.FORMATS[args.format]
    writer = gguf.GGUFWriter(args.out, "eagle3")
    parameters = sum(w.numel() for w in saved["model"].values())
    exports.write_header(writer, config, "gsd-eagle3", parameters, file_type)
    exports.write_tokenizer(writer, args.tokenizer, config.vocab)
    writer.add_array("eagle3.target_layers", saved["taps"])
    writer.add_uint32("eagle3.target_hidden_size", config.width)
    exports.write_weights(writer, saved["model"], lambda key: NAMES[key.removesuffix(".weight")] + ".weight", kind)
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.2f} MB, {parameters / 1e6:.2f}M parameters")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    t = commands.add_parser("texts", help="let the target write texts")
    t.add_argument("--data", type=Path, required=True, help="folder written by tokenizer.py")
    t.add_argument("--rows", type=int, default=768, help="texts (default 768)")
    t.add_argument("--context", type=int, default=192, help="tokens of each (default 192)")
    t.add_argument("--batch", type=int, default=96, help="texts at a time (default 96)")
    t.add_argument("--temperature", type=float, default=0.8, help="of every third batch (default 0.8)")
    t.add_argument("--device", default="cpu", help=argparse.SUPPRESS)
    r = commands.add_parser("train", help="train a head")
    r.add_argument("--texts", type=Path, required=True, help="written by `texts`")
    r.add_argument("--data", type=Path, help="folder written by tokenizer.py: every fourth batch from the corpus")
    r.add_argument("--taps", type=int, nargs=3, default=[3, 7, 11], help="layers whose inputs it sees (default 3 7 11)")
    r.add_argument("--ff", type=int, default=608, help="width of its feed-forward layer (default 608)")
    r.add_argument("--steps", type=int, default=3, help="tokens drafted in training (default 3)")
    r.add_argument("--batch", type=int, default=8, help="texts in a step (default 8)")
    r.add_argument("--lr", type=float, default=3e-3, help="peak learning rate (default 3e-3)")
    r.add_argument("--init", type=Path, help="a head to go on from, of the same shape")
    r.add_argument("--minutes", type=float, default=40, help="how long; the rate falls over the last 40 %% (default 40)")
    for p in (t, r):
        p.add_argument("--model", type=Path, required=True, help="checkpoint of the target")
        p.add_argument("--out", type=Path, required=True, help="file to write")
        p.add_argument("--seed", type=int, default=0, help="of prompts and order (default 0)")
    e = commands.add_parser("export", help="write GGUF")
    e.add_argument("--head", type=Path, required=True, help="written by `train`")
    e.add_argument("--tokenizer", type=Path, required=True, help="tokenizer.json written by tokenizer.py")
    e.add_argument("--format", choices=exports.FORMATS, default="q8_0", help="of matrices (default q8_0)")
    e.add_argument("--out", type=Path, required=True, help="GGUF file to write")
    args = parser.parse_args()
    {"texts": make_texts, "train": train, "export": export}[args.command](args)


if __name__ == "__main__":
    main()
