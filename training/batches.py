"""Which tokens a step sees: a pure function of (seed, step), so that a resumed run continues exactly."""

import numpy as np
import torch


class Batches:
    """Windows of a token stream, each once per epoch, in an order drawn anew for every epoch."""

    def __init__(self, stream: np.ndarray, context: int, rows: int, seed: int, device: str):
        if len(stream) <= context + 1:
            raise SystemExit(f"the text has {len(stream)} tokens, too few for a context of {context}")
        self.stream = torch.from_numpy(stream.astype(np.int32)).to(device)
        self.context, self.rows, self.seed = context, rows, seed
        self.windows = (len(stream) - 1) // context - 1  # one less: the epoch's first window starts anywhere in [0, context)
        self.order_key = [context, rows, seed, len(stream)]  # equal keys: step N sees the same tokens
        self.epoch, self.order = -1, None

    def at(self, step: int) -> torch.Tensor:
        """// [rows, context + 1]"""
        return torch.stack([self._window(step * self.rows + i) for i in range(self.rows)])

    def _window(self, index: int) -> torch.Tensor:
        epoch, place = divmod(index, max(self.windows, 1))
        if epoch != self.epoch:
            random = np.random.default_rng((self.seed, epoch))
            self.epoch, self.shift = epoch, int(random.integers(self.context))
            self.order = random.permutation(max(self.windows, 1))
        start = int(self.order[place]) * self.context + (self.shift if self.windows > 0 else 0)
        return self.stream[start : start + self.context + 1].long()


def validation_windows(stream: np.ndarray, context: int, count: int, device: str) -> torch.Tensor:
    """`count` windows spread evenly over the stream.  // [count, context + 1]"""
    count = min(count, (len(stream) - 1) // context)
    starts = np.linspace(0, len(stream) - context - 1, count).astype(int)
    return torch.from_numpy(np.stack([stream[s : s + context + 1] for s in starts]).astype(np.int64)).to(device)
