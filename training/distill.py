"""Trains a draft to predict the target's distribution; run again with the same arguments to continue.

    python3 distill.py --data data --teacher target.pt --preset draft --out draft.pt --steps 600 --decay 300
    python3 distill.py --data data --teacher target.pt --init core.pt --keep-layers 0,5 --out draft.pt --steps 600 --decay 300
    python3 distill.py --data data --cache own:24 --cache corpus:2 --init draft.pt --out draft2.pt --steps 3000 --decay 1500

The loss is the KL divergence from the target's distribution at every position (--mix 1) or a mixture with the text's
own next token (--mix 0 without --cache: the corpus alone, for comparison). With --teacher the target runs beside the draft
on windows of the corpus; with --cache its distributions are read from what cache.py has stored, which saves most of the cost
from the second epoch on. With both, a step sees rows of both.
"""

import argparse
import copy
import dataclasses
from pathlib import Path

import torch

import losses
import model as models
from cache import CachedBatches, Rows
from train import Run, add_run_arguments, new_model


@torch.no_grad()
def keep_layers(model: models.Llama, layers: list[int]) -> models.Llama:
    """A model of only these blocks: a far better start for a draft than random weights."""
    small = models.Llama(dataclasses.replace(model.config, layers=len(layers)))
    small.embed, small.norm = copy.deepcopy(model.embed), copy.deepcopy(model.norm)
    for i, layer in enumerate(layers):
        small.blocks[i] = copy.deepcopy(model.blocks[layer])
    return small


def cached_sources(args: argparse.Namespace) -> list[CachedBatches]:
    items = [item.rpartition(":") for item in args.cache]
    if bad := [folder or rows for folder, _, rows in items if not folder or not rows.isdigit()]:
        raise SystemExit(f"--cache {bad[0]}: want FOLDER:ROWS")
    return [CachedBatches(Path(folder), int(rows), args.seed, args.device) for folder, _, rows in items]


def loss_function(args: argparse.Namespace, student: models.Llama):
    teacher = None
    if args.teacher and args.mix > 0:
        teacher = models.load(args.teacher, args.device)[0].eval().requires_grad_(False)
        if args.compile:
            for block in teacher.blocks:
                block.compile()

    def loss(batch):
        if isinstance(batch, Rows):
            return losses.cached_distillation(student, batch)
        return losses.distillation(student, teacher, batch, args.mix) if teacher else losses.cross_entropy(student, batch)

    return loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_run_arguments(parser)
    parser.add_argument("--teacher", type=Path, help="checkpoint of the target (not needed with --mix 0)")
    parser.add_argument("--cache", action="append", default=[], metavar="FOLDER:ROWS", help="take this many rows a step from a folder that cache.py wrote")
    parser.add_argument("--mix", type=float, default=1.0, help="weight of the target's distribution against the text (default 1)")
    parser.add_argument("--keep-layers", metavar="I,J,…", default="", help="keep only these blocks of --init (default: all)")
    args = parser.parse_args()

    if args.mix > 0 and not args.teacher and not args.cache:
        raise SystemExit("give --teacher or --cache, or --mix 0 for the corpus alone")
    student = new_model(args)
    if args.keep_layers:
        student = keep_layers(student, [int(i) for i in args.keep_layers.split(",")]).to(args.device)
        print(f"kept layers {args.keep_layers}: {student.parameter_count() / 1e6:.2f}M parameters")
    run = Run(args, student, loss_function(args, student), cached_sources(args), streams=args.mix == 0 or args.teacher is not None)
    raise SystemExit(run.main())


if __name__ == "__main__":
    main()
