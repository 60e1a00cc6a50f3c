"""Trains a draft to predict the target's distribution; run again with the same arguments to continue.

    python3 distill.py --data data --teacher target.pt --preset draft --out draft.pt --steps 600 --decay 300
    python3 distill.py --data data --teacher target.pt --init core.pt --keep-layers 0,5 --out draft.pt --steps 600 --decay 300
    python3 distill.py --data data --stream samples.bin --teacher target.pt --init draft.pt --out draft2.pt --steps 300 --decay 300

The loss is the KL divergence from the target's distribution at every position (--mix 1) or a mixture with the text's
own next token (--mix 0: the corpus alone, for comparison). The target runs beside the draft: no logits are stored.
"""

import argparse
import copy
import dataclasses
from pathlib import Path

import torch

import losses
import model as models
from train import Run, add_run_arguments, new_model


@torch.no_grad()
def keep_layers(model: models.Llama, layers: list[int]) -> models.Llama:
    """A model of only these blocks: a far better start for a draft than random weights."""
    small = models.Llama(dataclasses.replace(model.config, layers=len(layers)))
    small.embed, small.norm = copy.deepcopy(model.embed), copy.deepcopy(model.norm)
    for i, layer in enumerate(layers):
        small.blocks[i] = copy.deepcopy(model.blocks[layer])
    return small


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_run_arguments(parser)
    parser.add_argument("--teacher", type=Path, help="checkpoint of the target (not needed with --mix 0)")
    parser.add_argument("--mix", type=float, default=1.0, help="weight of the target's distribution against the text (default 1)")
    parser.add_argument("--keep-layers", metavar="I,J,…", default="", help="keep only these blocks of --init (default: all)")
    args = parser.parse_args()

    student = new_model(args)
    if args.keep_layers:
        student = keep_layers(student, [int(i) for i in args.keep_layers.split(",")]).to(args.device)
        print(f"kept layers {args.keep_layers}: {student.parameter_count() / 1e6:.2f}M parameters")
    if args.mix == 0:
        run = Run(args, student, lambda ids: losses.cross_entropy(student, ids))
        raise SystemExit(0 if run.train() else 3)
    if not args.teacher:
        raise SystemExit("give --teacher, or --mix 0 for the corpus alone")
    teacher = models.load(args.teacher, args.device)[0].eval().requires_grad_(False)
    if args.compile:
        for block in teacher.blocks:
            block.compile()
    run = Run(args, student, lambda ids: losses.distillation(student, teacher, ids, args.mix))
    raise SystemExit(0 if run.train() else 3)


if __name__ == "__main__":
    main()
