"""Validation loss, and how well drafts predict a target: mean accepted tokens per step of a greedy chain.

    python3 evaluate.py --data data --target target.pt --draft corpus=draft_corpus.pt --draft distilled=draft.pt --json eval.json

Prompts are the first tokens of validation documents. The target continues each greedily; a draft that proposes --chain
tokens from each reached position is accepted as far as it agrees, and the target adds one token (plain decoding: 1.0).
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

import corpus
import model as models
from batches import validation_windows
from generate import continue_rows
from train import validation_loss


def prompts_by_kind(folder: Path, length: int, per_kind: int) -> dict[str, torch.Tensor]:
    """// kind -> [n, length], END_OF_TEXT first"""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    found = corpus.documents_by_kind(corpus.load_stream(folder / "val.bin"), tokenizer, length, per_kind)
    return {kind: torch.from_numpy(np.stack([r[:length] for r in rows]).astype(np.int64)) for kind, rows in found.items()}


def tokens_per_step(agrees: np.ndarray, chain: int) -> tuple[int, int]:
    """Tokens and steps of one text.  // agrees [n]: the draft's best token at this place is the target's"""
    at, steps = 0, 0
    while at < len(agrees):
        accepted = 0
        while accepted < chain and at + accepted < len(agrees) and agrees[at + accepted]:
            accepted += 1
        at += accepted + 1
        steps += 1
    return min(at, len(agrees)), steps


@torch.no_grad()
def acceptance(draft: models.Llama, texts: torch.Tensor, prompt: int, chain: int) -> tuple[int, int]:
    """Summed over texts up to their end.  // texts [n, prompt + new], greedy by the target"""
    tokens = steps = 0
    for part in texts.split(16):
        agrees = (draft(part[:, :-1]).argmax(-1) == part[:, 1:])[:, prompt - 1 :]
        for row, agree in zip(part[:, prompt:].cpu().numpy(), agrees.cpu().numpy()):
            ends = np.flatnonzero(row == corpus.END_OF_TEXT)
            t, s = tokens_per_step(agree[: ends[0] + 1] if len(ends) else agree, chain)
            tokens, steps = tokens + t, steps + s
    return tokens, steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder written by tokenizer.py")
    parser.add_argument("--target", type=Path, required=True, help="checkpoint of the target")
    parser.add_argument("--draft", action="append", default=[], metavar="NAME=CHECKPOINT", help="a draft to measure; may be repeated")
    parser.add_argument("--chain", type=int, default=4, help="drafted tokens per step (default 4)")
    parser.add_argument("--prompt", type=int, default=48, help="tokens of a prompt (default 48)")
    parser.add_argument("--new", type=int, default=128, help="tokens of a continuation (default 128)")
    parser.add_argument("--per-kind", type=int, default=25, help="prompts of each kind at most (default 25)")
    parser.add_argument("--val-windows", type=int, default=64, help="windows of 1,024 tokens for the loss (default 64)")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    args = parser.parse_args()

    target = models.load(args.target, args.device)[0].eval()
    windows = validation_windows(corpus.load_stream(args.data / "val.bin"), 1024, args.val_windows, args.device)
    report = {"target": {"parameters": target.parameter_count(), "val_loss": round(validation_loss(target, windows), 4)}, "drafts": {}}
    prompts = prompts_by_kind(args.data, args.prompt, args.per_kind)
    texts = {kind: continue_rows(target, p.to(args.device), args.new) for kind, p in prompts.items()}
    for item in args.draft:
        name, _, path = item.partition("=")
        draft = models.load(Path(path), args.device)[0].eval()
        counts = {kind: acceptance(draft, t, args.prompt, args.chain) for kind, t in texts.items()}
        row = {"parameters": draft.parameter_count(), "val_loss": round(validation_loss(draft, windows), 4)}
        row |= {kind: round(t / s, 3) for kind, (t, s) in counts.items()}
        row["all"] = round(sum(t for t, _ in counts.values()) / sum(s for _, s in counts.values()), 3)
        report["drafts"][name] = row
    print(json.dumps(report, indent=1))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
