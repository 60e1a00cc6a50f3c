"""Cross entropy and distillation losses fused with the output projection.

All compute the gradient while they compute the loss, a chunk of rows at a time, so that the logits of a batch never
stand in memory at once: with 4,096 ids they are larger than all other activations together.
"""

import torch
import torch.nn.functional as F

ROWS = {"cpu": 1024, "cuda": 16384}  # rows of logits at a time: 16 MiB of float32, which a CPU cache holds; 256 MiB on a GPU


class _FusedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, labels, teacher_x, teacher_weight, mix):
        """Mean over rows of (1 - mix) * cross entropy + mix * KL(teacher || student).  // x [rows, width]"""
        w = weight.to(x.dtype)
        n, chunk = x.shape[0], ROWS[x.device.type]
        loss = torch.zeros((), device=x.device)
        dx, dw = torch.empty_like(x), torch.zeros_like(weight)
        for low in range(0, n, chunk):
            rows = slice(low, low + chunk)
            logp = F.log_softmax(x[rows] @ w.T, -1, dtype=torch.float32)
            label = labels[rows, None]
            grad = logp.exp()
            if mix < 1:
                loss -= (1 - mix) * logp.gather(1, label).sum()
                grad.scatter_add_(1, label, torch.full_like(label, mix - 1, dtype=grad.dtype))
            if mix > 0:
                target = F.log_softmax(teacher_x[rows] @ teacher_weight.T.to(x.dtype), -1, dtype=torch.float32)
                p = target.exp()
                loss += mix * (p * target.sub_(logp)).sum()
                grad.sub_(p, alpha=mix)
            grad = grad.to(x.dtype)
            dx[rows] = grad @ w
            dw += grad.T @ x[rows]
        ctx.save_for_backward(dx / n, dw / n)
        return loss / n

    @staticmethod
    def backward(ctx, scale):
        dx, dw = ctx.saved_tensors
        return dx * scale, dw * scale, None, None, None, None


class _CachedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, top, logp):
        """Mean over rows of the KL divergence between distributions over the ids in `top` and "another id".

        // x [rows, width], top [rows, k] ids, logp [rows, k] the teacher's log-probabilities of them
        """
        w = weight.to(x.dtype)
        n, chunk = x.shape[0], ROWS[x.device.type]
        loss = torch.zeros((), device=x.device)
        dx, dw = torch.empty_like(x), torch.zeros_like(weight)
        for low in range(0, n, chunk):
            rows = slice(low, low + chunk)
            grad = F.softmax(x[rows] @ w.T, -1, dtype=torch.float32)
            ids, lp = top[rows], logp[rows].float()
            p, q = lp.exp(), grad.gather(1, ids)
            other_p = (1 - p.sum(1, keepdim=True)).clamp_min(1e-6)
            other_q = (1 - q.sum(1, keepdim=True)).clamp_min(1e-6)
            loss += (p * (lp - q.clamp_min(1e-30).log())).sum() + (other_p * (other_p / other_q).log()).sum()
            grad.mul_(1 - other_p / other_q).scatter_(1, ids, q - p)
            grad = grad.to(x.dtype)
            dx[rows] = grad @ w
            dw += grad.T @ x[rows]
        ctx.save_for_backward(dx / n, dw / n)
        return loss / n

    @staticmethod
    def backward(ctx, scale):
        dx, dw = ctx.saved_tensors
        return dx * scale, dw * scale, None, None


def cross_entropy(model, ids: torch.Tensor) -> torch.Tensor:
    """Mean next-token cross entropy in nats.  // ids [batch, tokens + 1]"""
    x = model.hidden(ids[:, :-1]).flatten(0, 1)
    return _FusedLoss.apply(x, model.embed.weight, ids[:, 1:].flatten(), None, None, 0.0)


def distillation(student, teacher, ids: torch.Tensor, mix: float) -> torch.Tensor:
    """Mean of (1 - mix) * cross entropy with the text + mix * KL(teacher || student), over all positions."""
    with torch.no_grad():
        target = teacher.hidden(ids[:, :-1]).flatten(0, 1)
    x = student.hidden(ids[:, :-1]).flatten(0, 1)
    return _FusedLoss.apply(x, student.embed.weight, ids[:, 1:].flatten(), target, teacher.embed.weight, mix)


def cached_distillation(student, rows) -> torch.Tensor:
    """Mean KL(teacher || student) over the teacher's likeliest ids and the rest as one.  // rows: cache.Rows"""
    x = student.hidden(rows.ids[:, :-1]).flatten(0, 1)
    return _CachedLoss.apply(x, student.embed.weight, rows.top.flatten(0, 1), rows.logp.flatten(0, 1))
