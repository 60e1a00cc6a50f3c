"""Grows a trained model without changing what it computes, so that further training starts from its loss.

    python3 grow.py core.pt grown.pt --double-width --layers 12

Widening doubles the residual stream, the heads and the feed-forward layers: activations come twice, and every matrix W
becomes [[W/2 + A, W/2 - A], [W/2 + B, W/2 - B]]. The noise A, B cancels on equal halves but gives them different
gradients, so training puts the new parameters to use (Net2Net, Chen et al. 2016, made exact). Deepening puts behind
a block its copy with output projections of zero, which adds nothing at first (LLaMA Pro, Wu et al. 2024).
"""

import argparse
import copy
import dataclasses
from pathlib import Path

import torch

import model as models


def doubled(w: torch.Tensor, noise: float, random: torch.Generator) -> torch.Tensor:
    """Equal output on inputs whose halves are equal, twice.  // [rows, cols] -> [2 rows, 2 cols]"""
    half = torch.cat((w, w)) / 2
    a = torch.randn(half.shape, generator=random) * (noise * w.std())
    return torch.cat((half + a, half - a), dim=1)


@torch.no_grad()
def double_width(small: models.Llama, noise: float, seed: int) -> models.Llama:
    """Twice the width, heads and ff; the same logits up to rounding."""
    c = small.config
    big = models.Llama(dataclasses.replace(c, width=2 * c.width, heads=2 * c.heads, ff=2 * c.ff))
    random = torch.Generator().manual_seed(seed)
    state = {}
    for name, w in small.state_dict().items():
        if name == "embed.weight":
            state[name] = torch.cat((w, w), dim=1)
        elif w.dim() == 1:
            # The tied embedding reads both halves of the last norm, so that one is halved.
            state[name] = torch.cat((w, w)) / (2 if name == "norm.weight" else 1)
        else:
            state[name] = doubled(w, noise, random)
    big.load_state_dict(state)
    return big


@torch.no_grad()
def deepen(small: models.Llama, layers: int) -> models.Llama:
    """More blocks, spread evenly, each a silent copy of the block before it; the same logits."""
    old = small.config.layers
    if layers < old:
        raise SystemExit(f"--layers {layers}: the model already has {old}")
    big = models.Llama(dataclasses.replace(small.config, layers=layers))
    big.embed, big.norm = copy.deepcopy(small.embed), copy.deepcopy(small.norm)
    sources = [i * old // layers for i in range(layers)]
    for i, source in enumerate(sources):
        big.blocks[i] = copy.deepcopy(small.blocks[source])
        if i > 0 and sources[i - 1] == source:
            big.blocks[i].o.weight.zero_()
            big.blocks[i].down.weight.zero_()
    return big


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="checkpoint to grow")
    parser.add_argument("out", type=Path, help="checkpoint to write")
    parser.add_argument("--double-width", action="store_true", help="double width, heads and ff")
    parser.add_argument("--layers", type=int, help="number of layers afterwards")
    parser.add_argument("--noise", type=float, default=0.25, help="deviation of the noise relative to a matrix's own (default 0.25)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise (default 0)")
    args = parser.parse_args()
    model, _ = models.load(args.source)
    before = model.parameter_count()
    if args.double_width:
        model = double_width(model, args.noise, args.seed)
    if args.layers:
        model = deepen(model, args.layers)
    models.save(args.out, model)
    print(f"{before / 1e6:.2f}M -> {model.parameter_count() / 1e6:.2f}M parameters, {model.config}")


if __name__ == "__main__":
    main()
