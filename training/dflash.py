"""A DFlash head (arXiv 2602.06036) for a target: candidates for a block of positions in one pass.

    python3 eagle3.py texts --model target.pt --data data --out texts.pt --rows 768
    python3 dflash.py train --model target.pt --texts texts.pt --data data --out head.pt --minutes 40
    python3 dflash.py export --head head.pt --tokenizer data/tokenizer.json --out gsd-dflash-q8_0.gguf

What the head remembers of the text are keys and values made of the target's states alone: the inputs of some of its layers, made one
vector by `fc`. A block is the last token and masks in the places after it, computed together: each sees the text before the block
and the whole block, none sees what the others will say. Training takes blocks at random places of texts and asks for the target's
distribution at each mask, given the text up to it. Embedding and output projection are the target's own and stand in no second file.
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
from eagle3 import states
from optim import Optimizer

HEAD_DIM = 64
MASK = 0  # the end of text, which stands in no block otherwise


def rotate_halves(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """RoPE over pairs (i, i + head_dim / 2), as libllama computes it for this architecture."""
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), -1)


class Layer(nn.Module):
    def __init__(self, width: int, heads: int, kv_heads: int, ff: int):
        super().__init__()
        self.heads, self.kv_heads = heads, kv_heads
        self.attn_norm, self.ffn_norm = models.RMSNorm(width), models.RMSNorm(width)
        self.q_norm, self.k_norm = models.RMSNorm(HEAD_DIM), models.RMSNorm(HEAD_DIM)
        self.q, self.o = nn.Linear(width, heads * HEAD_DIM, bias=False), nn.Linear(heads * HEAD_DIM, width, bias=False)
        self.k, self.v = (nn.Linear(width, kv_heads * HEAD_DIM, bias=False) for _ in range(2))
        self.gate, self.up = nn.Linear(width, ff, bias=False), nn.Linear(width, ff, bias=False)
        self.down = nn.Linear(ff, width, bias=False)

    def memory(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values.  // x [rows, n, width] -> [rows, heads, n, HEAD_DIM] each"""
        split = lambda y: y.view(*y.shape[:2], self.kv_heads, HEAD_DIM).transpose(1, 2)  # noqa: E731
        k = rotate_halves(self.k_norm(split(self.k(x))), cos, sin)
        repeat = self.heads // self.kv_heads
        return k.repeat_interleave(repeat, 1), split(self.v(x)).repeat_interleave(repeat, 1)

    def forward(self, x, text, cos, sin, text_cos, text_sin, hidden):
        """`x`: blocks; `text`: what is known of the target; `hidden`: [rows, 1, block tokens, text + block tokens] true where not seen."""
        y = self.attn_norm(x)
        q = self.q(y).view(*y.shape[:2], self.heads, HEAD_DIM).transpose(1, 2)
        q = rotate_halves(self.q_norm(q), cos, sin) * HEAD_DIM**-0.5
        k, v = self.memory(y, cos, sin)
        text_k, text_v = self.memory(text, text_cos, text_sin)
        scores = (q @ torch.cat((text_k, k), 2).mT).masked_fill(hidden, -torch.inf)
        y = scores.softmax(-1) @ torch.cat((text_v, v), 2)
        x = x + self.o(y.transpose(1, 2).flatten(2))
        y = self.ffn_norm(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Head(nn.Module):
    def __init__(self, config: models.Config, taps: list[int], kv_heads: int, block: int):
        super().__init__()
        self.config, self.taps, self.kv_heads, self.block = config, taps, kv_heads, block
        width = config.width
        self.fc, self.fc_norm, self.norm = nn.Linear(len(taps) * width, width, bias=False), models.RMSNorm(width), models.RMSNorm(width)
        self.layers = nn.ModuleList(Layer(width, config.heads, kv_heads, config.ff) for _ in range(config.layers))
        half = torch.arange(0, HEAD_DIM, 2).float() / HEAD_DIM
        angle = torch.outer(torch.arange(config.context).float(), models.ROPE_BASE**-half)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, 0, 0.02)

    def forward(self, embed: torch.Tensor, ids: torch.Tensor, taps: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """What the output projection sees at the masks of blocks whose first token is ids[places].

        ids [rows, n], taps [rows, n, taps * width], places [rows, blocks] -> [rows, blocks, block - 1, width]
        """
        rows, blocks = places.shape
        n, size = ids.shape[1], self.block
        tokens = torch.full((rows, blocks, size), MASK)
        tokens[:, :, 0] = ids.gather(1, places)
        position = (places[:, :, None] + torch.arange(size)).flatten(1)
        owner = torch.arange(blocks).repeat_interleave(size)
        later = torch.arange(n)[None, None] >= places.repeat_interleave(size, 1)[:, :, None]
        others = (owner[:, None] != owner[None])[None].expand(rows, -1, -1)
        hidden = torch.cat((later, others), -1)[:, None]
        cos, sin = self.cos[position][:, None], self.sin[position][:, None]
        text = self.fc_norm(self.fc(taps))
        x = embed[tokens.flatten(1)]
        for layer in self.layers:
            x = layer(x, text, cos, sin, self.cos[:n], self.sin[:n], hidden)
        return self.norm(x).view(rows, blocks, size, -1)[:, :, 1:]


class Store:
    """Texts with what the target computes for them, in half precision."""

    def __init__(self, target: models.Llama, texts: torch.Tensor, taps: list[int]):
        half = models.Llama(target.config)
        half.load_state_dict(target.state_dict())
        half = half.half().eval()
        seen, last = [], []
        for low in range(0, len(texts), 16):
            a, b = states(half, texts[low : low + 16], taps)
            seen.append(a)
            last.append(b)
            if low % 256 == 0:
                print(f"{low} of {len(texts)} texts", flush=True)
        self.ids, self.taps, self.last = texts, torch.cat(seen), torch.cat(last)

    def batch(self, random: np.random.Generator, rows: int):
        at = torch.from_numpy(random.integers(len(self.ids), size=rows))
        return self.ids[at], self.taps[at].float(), self.last[at].float()


def loss_of(head: Head, embed: torch.Tensor, batch, places: torch.Tensor, fade: float):
    """Mean cross entropy with the target's distribution over the masks, earlier ones first, and how often each names its token."""
    ids, taps, last = batch
    seen = head(embed, ids, taps, places)
    at = places[:, :, None] + torch.arange(head.block - 1)  # the state that the token at the mask is drawn from
    state = last.gather(1, at.flatten(1)[:, :, None].expand(-1, -1, last.shape[-1])).view_as(seen)
    want = F.linear(state, embed)
    logits = F.linear(seen, embed)
    losses = F.cross_entropy(logits.flatten(0, 2), want.flatten(0, 2).softmax(-1), reduction="none").view(want.shape[:3])
    weights = fade ** torch.arange(head.block - 1)
    hits = (logits.argmax(-1) == want.argmax(-1)).float()
    return (losses.mean((0, 1)) * weights).sum() / weights.sum(), hits.mean((0, 1)), hits.cumprod(-1).sum(-1).mean()


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    target = models.load(args.model)[0].eval().requires_grad_(False)
    texts = torch.load(args.texts, weights_only=True).long()
    if args.data:
        stream = torch.from_numpy(corpus.load_stream(args.data / "train.bin").astype(np.int64))
        random = np.random.default_rng(args.seed)
        n = texts.shape[1]
        texts = torch.cat([texts] + [stream[a : a + n][None] for a in random.integers(len(stream) - n, size=len(texts) // 3)])
    store = Store(target, texts, args.taps)
    config = dataclasses.replace(target.config, layers=args.layers, ff=args.ff, context=max(target.config.context, 64))
    head = Head(config, args.taps, args.kv_heads, args.block)
    if args.init:
        head.load_state_dict(torch.load(args.init, weights_only=True)["model"])
    optimizer = Optimizer(head, args.lr)
    embed = target.embed.weight
    end = time.time() + 60 * args.minutes
    step, done, average = 0, 0.0, None
    while done < 1:
        started = time.time()
        random = np.random.default_rng((args.seed, step))
        places = torch.from_numpy(random.integers(1, texts.shape[1] - args.block, size=(args.batch, args.blocks)))
        loss, hits, accepted = loss_of(head, embed, store.batch(random, args.batch), places, args.fade)
        loss.backward()
        done = 1 - max(0.0, end - time.time()) / (60 * args.minutes)
        optimizer.step(min(1, (step + 1) / 20, (1 - done) / 0.4 + 0.02))
        now = [*hits.tolist(), accepted.item()]
        average = now if average is None else [0.95 * a + 0.05 * h for a, h in zip(average, now)]
        if step % 20 == 0 or done >= 1:
            named = " ".join(f"{a:.3f}" for a in average[:-1])
            print(json.dumps({"step": step, "loss": round(loss.item(), 4), "named": named, "accepted": round(average[-1], 3),
                              "seconds": round(time.time() - started, 2)}), flush=True)  # fmt: skip
        if step % 100 == 0 or done >= 1:
            torch.save({"config": dataclasses.asdict(config), "taps": args.taps, "kv_heads": args.kv_heads, "block": args.block,
                        "model": head.state_dict()}, args.out)  # fmt: skip
        step += 1


NAMES = {"fc": "fc", "fc_norm": "enc.output_norm", "norm": "output_norm"}
LAYER_NAMES = {
    "attn_norm": "attn_norm", "q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output", "q_norm": "attn_q_norm",
    "k_norm": "attn_k_norm", "ffn_norm": "ffn_norm", "gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down",
}  # fmt: skip


def gguf_name(key: str) -> str:
    """`layers.1.q.weight` -> `blk.1.attn_q.weight`"""
    parts = key.split(".")
    return f"blk.{parts[1]}.{LAYER_NAMES[parts[2]]}.weight" if parts[0] == "layers" else f"{NAMES[parts[0]]}.weight"


def export(args: argparse.Namespace) -> None:
    saved = torch.load(args.head, weights_only=True)
    config = models.Config(**saved["config"])
    kind, file_type = exports.FORMATS[args.format]
    writer = gguf.GGUFWriter(args.out, "dflash")
    parameters = sum(w.numel() for w in saved["model"].values())
    exports.write_header(writer, config, "gsd-dflash", parameters, file_type)
    exports.write_tokenizer(writer, args.tokenizer, config.vocab)
    writer.add_head_count_kv(saved["kv_heads"])
    writer.add_key_length(HEAD_DIM)
    writer.add_value_length(HEAD_DIM)
    writer.add_mask_token_id(MASK)
    writer.add_array("dflash.target_layers", saved["taps"])
    writer.add_uint32("dflash.target_hidden_size", config.width)
    writer.add_uint32("dflash.block_size", saved["block"])
    exports.write_weights(writer, saved["model"], gguf_name, kind)
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.2f} MB, {parameters / 1e6:.2f}M parameters")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    r = commands.add_parser("train", help="train a head")
    r.add_argument("--model", type=Path, required=True, help="checkpoint of the target")
    r.add_argument("--texts", type=Path, required=True, help="the target's own, written by `eagle3.py texts`")
    r.add_argument("--data", type=Path, help="folder written by tokenizer.py: every fourth text from the corpus")
    r.add_argument("--out", type=Path, required=True, help="file to write")
    r.add_argument("--taps", type=int, nargs="+", default=[3, 7, 11], help="layers whose inputs it sees (default 3 7 11)")
    r.add_argument("--layers", type=int, default=2, help="its own layers (default 2)")
    r.add_argument("--ff", type=int, default=480, help="width of its feed-forward layers (default 480)")
    r.add_argument("--kv-heads", type=int, default=2, help="heads of keys and values (default 2)")
    r.add_argument("--block", type=int, default=8, help="tokens of a block, the last one of the text among them (default 8)")
    r.add_argument("--blocks", type=int, default=12, help="blocks of a text in a step (default 12)")
    r.add_argument("--batch", type=int, default=8, help="texts in a step (default 8)")
    r.add_argument("--fade", type=float, default=0.8, help="weight of each place against the one before (default 0.8)")
    r.add_argument("--lr", type=float, default=3e-3, help="peak learning rate (default 3e-3)")
    r.add_argument("--init", type=Path, help="a head to go on from, of the same shape")
    r.add_argument("--minutes", type=float, default=40, help="how long; the rate falls over the last 40 %% (default 40)")
    r.add_argument("--seed", type=int, default=0, help="of texts and places (default 0)")
    e = commands.add_parser("export", help="write GGUF")
    e.add_argument("--head", type=Path, required=True, help="written by `train`")
    e.add_argument("--tokenizer", type=Path, required=True, help="tokenizer.json written by tokenizer.py")
    e.add_argument("--format", choices=exports.FORMATS, default="q8_0", help="of matrices (default q8_0)")
    e.add_argument("--out", type=Path, required=True, help="GGUF file to write")
    args = parser.parse_args()
    {"train": train, "export": export}[args.command](args)


if __name__ == "__main__":
    main()
