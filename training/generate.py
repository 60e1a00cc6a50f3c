"""Continuations of prompts: many rows at once, with a key-value cache."""

import torch

import model as models


@torch.no_grad()
def continue_rows(model: models.Llama, prompts: torch.Tensor, new: int, temperature: float = 0.0, observe=None) -> torch.Tensor:
    """Prompts and `new` more tokens; greedy at temperature 0.  // [rows, n] -> [rows, n + new]

    `observe(start, logits)` sees the float32 logits [rows, m, vocab] that predict the tokens from start + 1 on.
    The model may be bf16: logits are float32 nevertheless, since bf16 ones are often equal, and so are keys and values on a
    CPU, whose bf16 products of one query each are slow (half the tokens per second).
    """
    rows, known = prompts.shape
    c, device = model.config, prompts.device
    if known + new > c.context:
        raise ValueError(f"{known} + {new} tokens exceed the context of {c.context}")
    project = model.embed.weight.float()
    dtype = torch.float32 if device.type == "cpu" else model.embed.weight.dtype
    shape = (rows, c.heads, known + new, c.head_dim)
    cache = [(torch.zeros(shape, dtype=dtype, device=device), torch.zeros(shape, dtype=dtype, device=device)) for _ in range(c.layers)]
    out = torch.empty(rows, known + new, dtype=torch.long, device=device)
    out[:, :known] = prompts
    start = 0
    for end in range(known, known + new):
        x = model.hidden(out[:, start:end], cache, start).float()
        logits = torch.nn.functional.linear(x if observe else x[:, -1:], project)
        if observe:
            observe(start, logits)
        last = logits[:, -1]
        if temperature > 0:
            out[:, end] = torch.multinomial((last / temperature).softmax(-1), 1)[:, 0]
        else:
            out[:, end] = last.argmax(-1)
        start = end
    return out
