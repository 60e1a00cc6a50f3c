"""Muon for the matrices inside the blocks, AdamW for embeddings and norms, behind one object."""

import torch


def orthogonalise(g: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Nearest semi-orthogonal matrices by a quintic Newton-Schulz iteration (Jordan et al., 2024).  // [n, rows, cols]"""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.bfloat16()
    wide = x.shape[1] <= x.shape[2]
    x = x if wide else x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        s = x @ x.mT
        x = a * x + (b * s + c * s @ s) @ x
    return (x if wide else x.mT).to(g.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal, scaled so that its size per entry equals AdamW's (Liu et al., 2025)."""

    def __init__(self, params, lr: float, momentum: float = 0.95, weight_decay: float = 0.1):
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            by_shape: dict[torch.Size, list] = {}
            for p in group["params"]:
                if p.grad is not None:
                    by_shape.setdefault(p.shape, []).append(p)
            for shape, params in by_shape.items():
                self._step_shape(group, shape, params)

    def _step_shape(self, group, shape, params):
        momentum = group["momentum"]
        for p in params:
            if "momentum" not in self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
            self.state[p]["momentum"].lerp_(p.grad, 1 - momentum)
        ahead = torch.stack([p.grad.lerp(self.state[p]["momentum"], momentum) for p in params])
        update = orthogonalise(ahead) * (0.2 * max(shape) ** 0.5)
        for p, u in zip(params, update):
            p.mul_(1 - group["lr"] * group["weight_decay"]).add_(u, alpha=-group["lr"])


class Optimizer:
    """Both optimizers with one learning rate; `state` makes it resumable."""

    def __init__(self, model: torch.nn.Module, lr: float, weight_decay: float = 0.1):
        matrices = [p for n, p in model.named_parameters() if p.dim() > 1 and "embed" not in n]
        rest = [p for n, p in model.named_parameters() if p.dim() < 2 or "embed" in n]
        self.lr = lr
        self.parts = [
            Muon(matrices, lr, weight_decay=weight_decay),
            torch.optim.AdamW(rest, lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
        ]
        self.params = matrices + rest

    def step(self, scale: float) -> None:
        """One update at `scale` times the peak learning rate; clears the gradients."""
        torch.nn.utils.clip_grad_norm_(self.params, 1.0)
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = self.lr * scale
            part.step()
            part.zero_grad(set_to_none=True)

    def state(self) -> list:
        return [part.state_dict() for part in self.parts]

    def load(self, state: list) -> None:
        for part, saved in zip(self.parts, state):
            part.load_state_dict(saved)
