"""Continuations of prompts: many rows at once, with a key-value cache.

As a program it writes a stream of the target's own texts for distillation:

    python3 generate.py --model target.pt --data data --out data/samples.bin --rows 2000 --new 208
"""

import argparse
from pathlib import Path

import numpy as np
import torch

import corpus
import model as models


@torch.no_grad()
def continue_rows(model: models.Llama, prompts: torch.Tensor, new: int, temperature: float = 0.0) -> torch.Tensor:
    """Prompts and `new` more tokens; greedy at temperature 0.  // [rows, n] -> [rows, n + new]"""
    rows, known = prompts.shape
    c, device = model.config, prompts.device
    if known + new > c.context:
        raise ValueError(f"{known} + {new} tokens exceed the context of {c.context}")
    dtype = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else torch.float32
    shape = (rows, c.heads, known + new, c.head_dim)
    cache = [(torch.zeros(shape, dtype=dtype, device=device), torch.zeros(shape, dtype=dtype, device=device)) for _ in range(c.layers)]
    out = torch.empty(rows, known + new, dtype=torch.long, device=device)
    out[:, :known] = prompts
    start = 0
    for end in range(known, known + new):
        x = model.hidden(out[:, start:end], cache, start)[:, -1]
        logits = torch.nn.functional.linear(x, model.embed.weight).float()
        if temperature > 0:
            out[:, end] = torch.multinomial((logits / temperature).softmax(-1), 1)[:, 0]
        else:
            out[:, end] = logits.argmax(-1)
        start = end
    return out


def draw_prompts(stream: np.ndarray, rows: int, length: int, seed: int) -> np.ndarray:
    """END_OF_TEXT and length - 1 ids: every other row a document's beginning, the others from anywhere.  // [rows, length]"""
    random = np.random.default_rng(seed)
    heads = np.flatnonzero(stream[:-length] == corpus.END_OF_TEXT)
    starts = np.where(np.arange(rows) % 2, random.choice(heads, rows), random.integers(0, len(stream) - length, rows))
    prompts = np.stack([stream[s : s + length] for s in starts])
    prompts[:, 0] = corpus.END_OF_TEXT
    return prompts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="checkpoint of the target")
    parser.add_argument("--data", type=Path, required=True, help="folder written by tokenizer.py; prompts come from its train.bin")
    parser.add_argument("--out", type=Path, required=True, help="token stream to write (uint16)")
    parser.add_argument("--rows", type=int, default=2000, help="texts to write (default 2000)")
    parser.add_argument("--prompt", type=int, default=48, help="tokens of a prompt (default 48)")
    parser.add_argument("--new", type=int, default=208, help="tokens of a continuation (default 208)")
    parser.add_argument("--batch", type=int, default=256, help="rows at a time (default 256)")
    parser.add_argument("--temperature", type=float, default=0.7, help="of every other batch; the rest is greedy (default 0.7)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    model, _ = models.load(args.model, args.device)
    prompts = draw_prompts(corpus.load_stream(args.data / "train.bin"), args.rows, args.prompt, args.seed)
    with args.out.open("wb") as out:
        for i, part in enumerate(torch.from_numpy(prompts.astype(np.int64)).split(args.batch)):
            with torch.autocast(args.device, torch.bfloat16):
                texts = continue_rows(model, part.to(args.device), args.new, args.temperature if i % 2 else 0.0)
            out.write(texts.cpu().numpy().astype(np.uint16).tobytes())
            out.flush()
            print(f"{min((i + 1) * args.batch, args.rows)} of {args.rows} texts", flush=True)


if __name__ == "__main__":
    main()
