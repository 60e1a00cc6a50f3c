"""A llama: RMSNorm, interleaved RoPE, SwiGLU, tied embeddings; the layout that GGUF's `llama` architecture reads as it is."""

import dataclasses
import math
import os
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

NORM_EPS = 1e-5
ROPE_BASE = 10000.0


@dataclasses.dataclass(frozen=True)
class Config:
    vocab: int
    width: int
    layers: int
    heads: int
    ff: int
    context: int = 1024

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    def check(self) -> None:
        """Q8_0 stores rows in blocks of 32, so each row length must be a multiple of 32."""
        if self.width % self.heads or self.head_dim % 2:
            raise ValueError(f"{self.heads} heads do not divide a width of {self.width} into even parts")
        if self.width % 32 or self.ff % 32:
            raise ValueError(f"width {self.width} and ff {self.ff} must be multiples of 32")


# Names that the command line accepts. `core` is what a CPU trains before it is grown to `target`.
PRESETS = {
    "tiny-core": dict(width=64, layers=2, heads=2, ff=160),
    "tiny-target": dict(width=128, layers=3, heads=4, ff=256),
    "tiny-draft": dict(width=64, layers=1, heads=2, ff=96),
    "core": dict(width=256, layers=6, heads=4, ff=704),
    "target": dict(width=512, layers=12, heads=8, ff=1408),
    "draft": dict(width=256, layers=2, heads=4, ff=704),
}


def preset(name: str, vocab: int, context: int) -> Config:
    config = Config(vocab=vocab, context=context, **PRESETS[name])
    config.check()
    return config


def rope_tables(config: Config) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin of position times frequency.  // [context, head_dim / 2] each"""
    half = torch.arange(0, config.head_dim, 2).float() / config.head_dim
    angle = torch.outer(torch.arange(config.context).float(), ROPE_BASE**-half)
    return angle.cos(), angle.sin()


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """RoPE over neighbouring pairs (2i, 2i+1).  // x [batch, heads, tokens, head_dim]"""
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2).to(x.dtype)


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, start: int = 0, chunk: int = 256) -> torch.Tensor:
    """Causal attention; query i stands at position start + i.  // q [batch, heads, tokens, head_dim], k and v [.., start + tokens, ..]

    On a CPU PyTorch's fused attention runs bf16 without its fast matrix kernels (measured here: 20 times slower than
    plain products), so there queries are taken in chunks, each with the keys it may see.
    """
    if q.device.type != "cpu" and start == 0:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    q = q * q.shape[-1] ** -0.5
    out = []
    for low in range(0, q.shape[2], chunk):
        part = q[:, :, low : low + chunk]
        first, seen = start + low, start + low + part.shape[2]
        scores = part @ k[:, :, :seen].mT
        future = torch.ones(part.shape[2], part.shape[2], dtype=torch.bool, device=q.device).triu(1)
        scores[..., first:].masked_fill_(future, -torch.inf)
        with torch.autocast(q.device.type, enabled=False):  # autocast would make the softmax float32
            out.append(scores.softmax(-1) @ v[:, :, :seen])
    return torch.cat(out, 2)


class RMSNorm(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x.float()
        return (y * torch.rsqrt(y.square().mean(-1, keepdim=True) + NORM_EPS) * self.weight).to(x.dtype)


class Block(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        width, ff = config.width, config.ff
        self.heads = config.heads
        self.attn_norm, self.ffn_norm = RMSNorm(width), RMSNorm(width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.gate, self.up = nn.Linear(width, ff, bias=False), nn.Linear(width, ff, bias=False)
        self.down = nn.Linear(ff, width, bias=False)

    def forward(self, x, cos, sin, cache=None):
        """`cache`: (keys, values, start) of this layer, filled in place; without it attention is causal within x."""
        batch, tokens, width = x.shape
        y = self.attn_norm(x)
        q, k, v = (z.view(batch, tokens, self.heads, -1).transpose(1, 2) for z in (self.q(y), self.k(y), self.v(y)))
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        start = 0
        if cache is not None:
            keys, values, start = cache
            keys[:, :, start : start + tokens], values[:, :, start : start + tokens] = k, v
            k, v = keys[:, :, : start + tokens], values[:, :, : start + tokens]
        y = attend(q.to(k.dtype), k, v, start).to(x.dtype)
        x = x + self.o(y.transpose(1, 2).reshape(batch, tokens, width))
        y = self.ffn_norm(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Llama(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.width)
        cos, sin = rope_tables(config)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        deep = 0.02 / math.sqrt(2 * config.layers)
        for name, p in self.named_parameters():
            if p.dim() > 1:
                nn.init.normal_(p, 0, deep if name.endswith(("o.weight", "down.weight")) else 0.02)

    def hidden(self, ids: torch.Tensor, cache: list | None = None, start: int = 0) -> torch.Tensor:
        """What the output projection sees.  // ids [batch, tokens] -> [batch, tokens, width]"""
        x = self.embed(ids)
        if torch.is_autocast_enabled(ids.device.type):
            x = x.to(torch.get_autocast_dtype(ids.device.type))
        tokens = ids.shape[1]
        cos, sin = self.cos[start : start + tokens], self.sin[start : start + tokens]
        for i, block in enumerate(self.blocks):
            x = block(x, cos, sin, None if cache is None else (*cache[i], start))
        return self.norm(x)

    def forward(self, ids: torch.Tensor, cache: list | None = None, start: int = 0) -> torch.Tensor:
        """Logits.  // ids [batch, tokens] -> [batch, tokens, vocab]"""
        return F.linear(self.hidden(ids, cache, start), self.embed.weight)

    def parameter_count(self) -> int:
        return sum(p.numel() for p in self.parameters())


def save(path: Path, model: Llama, **extra) -> None:
    """Writes to a temporary name first, so that a checkpoint is whole or absent, also after a power cut."""
    part = path.with_suffix(".part")
    with part.open("wb") as out:
        torch.save({"config": dataclasses.asdict(model.config), "model": model.state_dict(), **extra}, out)
        out.flush()
        os.fsync(out.fileno())
    part.replace(path)


def load(path: Path, device: str = "cpu") -> tuple[Llama, dict]:
    """The model and the whole checkpoint it came from."""
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    model = Llama(Config(**checkpoint["config"]))
    model.load_state_dict(checkpoint["model"])
    return model.to(device), checkpoint
