"""RMSNorm (paper 2.2): normalise in float32, cast back, then scale, in the released order.

Shapes: C model dimension.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class RMSNorm(nn.Module):
    """Divide the last dimension by its root mean square and multiply by a learnt weight (C,)."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Return x, (..., C), normalised and scaled."""
        in_float32 = x.dtype == self.weight.dtype == torch.float32
        if x.device.type == "cpu" and in_float32 and not torch.compiler.is_compiling():
            out: Tensor = _RMSNorm.apply(x, self.weight, self.eps)  # type: ignore[no-untyped-call]
            return out
        return rms_norm(x, self.weight, self.eps)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return x, (..., C), normalised and scaled."""
    return F.rms_norm(x, (x.shape[-1],), None, eps) * weight


class _RMSNorm(torch.autograd.Function):
    """The same in few passes over memory: on a CPU torch has no kernel of its own for it, and each pass costs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        scale = torch.linalg.vecdot(x, x).div_(x.shape[-1]).add_(eps).rsqrt_().unsqueeze(-1)
        ctx.save_for_backward(x, weight, scale)
        out: Tensor = (x * scale).mul_(weight)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        product = grad * x
        grad_weight = product.flatten(0, -2).t() @ scale.flatten()
        along = (product @ weight).unsqueeze(-1).mul_(scale**3).div_(-x.shape[-1])
        return (grad * weight).mul_(scale).addcmul_(x, along), grad_weight, None
