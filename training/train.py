"""Trains a model on the packed corpus; run again with the same arguments to continue from its checkpoint.

    python3 train.py --data data --out core.pt --preset core --steps 3000 --decay 0
    python3 train.py --data data --out target.pt --init grown.pt --steps 400 --decay 300 --context 1024

The learning rate warms up, stays, and falls linearly over the last --decay steps. A run may be extended: raise
--steps before the decay has begun. SIGTERM and SIGINT end it after the step in hand, with a checkpoint and exit status 3.
"""

import argparse
import json
import signal
import time
from pathlib import Path

import torch

import corpus
import losses
import model as models
from batches import Batches, validation_windows
from optim import Optimizer


def learning_rate_scale(step: int, steps: int, warmup: int, decay: int, final: float) -> float:
    """Fraction of the peak at `step` of `steps`: linear up, flat, linear down to `final`."""
    up = min(1.0, (step + 1) / max(warmup, 1))
    down = min(1.0, (steps - step) / decay) if decay else 1.0
    return min(up, final + (1 - final) * down)


@torch.no_grad()
def validation_loss(model: models.Llama, windows: torch.Tensor, rows: int = 8) -> float:
    """Mean cross entropy in nats a token.  // windows [n, context + 1]"""
    with torch.autocast(windows.device.type, torch.bfloat16):
        total = sum(losses.cross_entropy(model, w).item() * len(w) for w in windows.split(rows))
    return total / len(windows)


class Run:
    """A training loop with checkpoints; `loss_of_batch` is what it minimises.

    A step sees windows of --stream, unless `streams` is false, and what `sources` give, which are like Batches.
    """

    def __init__(self, args: argparse.Namespace, model: models.Llama, loss_of_batch, sources=(), streams: bool = True):
        self.args, self.model, self.loss_of_batch = args, model, loss_of_batch
        self.optimizer = Optimizer(model, args.lr)
        self.step, self.tokens, self.seconds = 0, 0, 0.0
        self.stopped = False
        own = self._streams() if streams else []
        self.order = [batches.order_key for batches in own]
        self.sources = [*own, *sources]
        if args.out.exists():
            self._resume()
        self.val = validation_windows(corpus.load_stream(args.data / "val.bin"), args.context, args.val_windows, args.device)

    def _streams(self) -> list[Batches]:
        a, names = self.args, self.args.stream.split(",")
        return [Batches(corpus.load_stream(a.data / name), a.context, a.rows // len(names), a.seed, a.device) for name in names]

    def _resume(self) -> None:
        saved = torch.load(self.args.out, map_location="cpu", weights_only=True)
        if saved.get("order", self.order) != self.order:  # step N would stand elsewhere in the text
            keys = f"checkpoint {saved['order']}, now {self.order}"
            raise SystemExit(f"{self.args.out} cannot go on with another --context, --rows, --seed or text ({keys}); --init takes its weights only")
        self.model.load_state_dict(saved["model"])
        if "optimizer" in saved:
            self.optimizer.load(saved["optimizer"])
        self.step, self.tokens, self.seconds = saved["step"], saved["tokens"], saved["seconds"]
        print(f"continuing {self.args.out} at step {self.step}", flush=True)

    def train(self) -> bool:
        """True when all steps are done, False when --minutes ran out or a signal came first (call again to continue)."""
        a = self.args
        self.model.train()
        started = mark = saved = time.monotonic()
        while self.step < a.steps:
            self._one_step()
            now = time.monotonic()
            self.seconds += now - mark
            mark = now
            if self.step % a.save_every == 0 or now - saved > a.save_minutes * 60:
                self.save()
                saved = now
            if self.stopped or (a.minutes and now - started > a.minutes * 60):
                break
        self.save()
        return self.step >= a.steps

    def _one_step(self) -> None:
        a = self.args
        scale = learning_rate_scale(self.step, a.steps, a.warmup, a.decay, a.final)
        parts = [(part, len(part) * source.context) for source in self.sources for part in source.at(self.step).split(a.micro_rows)]
        tokens = sum(n for _, n in parts)
        total = torch.zeros((), device=a.device)
        for part, n in parts:
            with torch.autocast(a.device, torch.bfloat16):
                loss = self.loss_of_batch(part) * (n / tokens)
            loss.backward()
            total += loss.detach()
        self.optimizer.step(scale)
        self.step += 1
        self.tokens += tokens
        if self.step % a.log_every == 0 or self.step == a.steps:
            self._log(total.item(), scale)

    def _log(self, loss: float, scale: float) -> None:
        line = dict(step=self.step, tokens=self.tokens, loss=round(loss, 4), lr=self.args.lr * scale, seconds=round(self.seconds))
        if self.step % self.args.val_every == 0 or self.step == self.args.steps:
            line["val"] = round(validation_loss(self.model, self.val), 4)
        print(json.dumps(line), flush=True)
        with self.args.out.with_suffix(".jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")

    def save(self) -> None:
        state = dict(step=self.step, tokens=self.tokens, seconds=self.seconds, order=self.order, optimizer=self.optimizer.state())
        models.save(self.args.out, self.model, **state)

    def stop(self, *_) -> None:
        """Ends `train` after the step in hand; may be a signal's handler."""
        self.stopped = True

    def main(self) -> int:
        """`train` as a program: stops at SIGTERM and SIGINT; the exit status, 3 if unfinished."""
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, self.stop)
        return 0 if self.train() else 3


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments that training and distillation share."""
    parser.add_argument("--data", type=Path, required=True, help="folder written by tokenizer.py")
    parser.add_argument("--stream", default="train.bin", help="token streams in --data, with commas; rows are shared evenly (default train.bin)")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint to write, and to continue from if it exists")
    parser.add_argument("--init", type=Path, help="checkpoint to start from (weights only)")
    parser.add_argument("--preset", choices=models.PRESETS, help="shape of a new model")
    parser.add_argument("--steps", type=int, required=True, help="steps in all")
    parser.add_argument("--warmup", type=int, default=50, help="steps of linear warm-up (default 50)")
    parser.add_argument("--decay", type=int, default=0, help="last steps over which the rate falls (default 0)")
    parser.add_argument("--final", type=float, default=0, help="fraction of the rate that the decay ends at (default 0)")
    parser.add_argument("--lr", type=float, default=4e-3, help="peak learning rate (default 4e-3)")
    parser.add_argument("--context", type=int, default=512, help="tokens in a row (default 512)")
    parser.add_argument("--rows", type=int, default=16, help="rows in a step (default 16)")
    parser.add_argument("--micro-rows", type=int, default=16, help="rows in a forward pass (default 16)")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and order (default 0)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    parser.add_argument("--compile", action="store_true", help="torch.compile the blocks (worth it on a GPU, slower on a CPU)")
    parser.add_argument("--minutes", type=float, default=0, help="stop with a checkpoint after this long; exit status 3 if unfinished")
    parser.add_argument("--save-every", type=int, default=200, help="steps between checkpoints (default 200)")
    parser.add_argument("--save-minutes", type=float, default=10, help="a checkpoint also after this long without one (default 10)")
    parser.add_argument("--log-every", type=int, default=20, help="steps between log lines (default 20)")
    parser.add_argument("--val-every", type=int, default=200, help="steps between validations (default 200)")
    parser.add_argument("--val-windows", type=int, default=32, help="windows of a validation (default 32)")


def new_model(args: argparse.Namespace) -> models.Llama:
    """From --init, or of --preset with the context that GGUF will declare."""
    torch.manual_seed(args.seed)
    if args.init:
        model, _ = models.load(args.init, args.device)
    elif args.preset:
        vocab = corpus.load_meta(args.data)["vocab_size"]
        model = models.Llama(models.preset(args.preset, vocab, context=1024)).to(args.device)
    else:
        raise SystemExit("give --preset for a new model or --init for an existing one")
    print(f"{model.parameter_count() / 1e6:.2f}M parameters, {model.config}, on {args.device}", flush=True)
    if args.compile:
        for block in model.blocks:
            block.compile()
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_run_arguments(parser)
    args = parser.parse_args()
    model = new_model(args)
    run = Run(args, model, lambda ids: losses.cross_entropy(model, ids))
    raise SystemExit(run.main())


if __name__ == "__main__":
    main()
