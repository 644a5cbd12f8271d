"""Matrix products with a weight, by the fastest kernel at hand.

On a CPU, torch's float32 products go to MKL, which leaves the wide vector units of some processors idle; oneDNN, which
torch also carries, uses them: a step is a third faster there (benchmarks/pretraining_speed.py). Both compute in float32.

Shapes: N rows, C columns in, K columns out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_ONEDNN = torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """Return x @ weight.T, (..., K), of x (..., C) and weight (K, C)."""
    plain = x.device.type != "cpu" or x.dtype != torch.float32 or weight.dtype != torch.float32
    if plain or not _ONEDNN or x.numel() == 0:
        return F.linear(x, weight)
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        out: Tensor = _Linear.apply(x, weight)  # type: ignore[no-untyped-call]
        return out
    return _compiled_product(x, weight) if torch.compiler.is_compiling() else _product(x, weight)


def _product(x: Tensor, weight: Tensor) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return out


def _weight_product(slope: Tensor, x: Tensor) -> Tensor:
    """Return slope.T @ x, (K, C), of slope (N, K) and x (N, C): the gradient of a weight."""
    shaped = slope.new_empty(slope.shape[1], x.shape[1])
    slope, x = slope.contiguous(), x.contiguous()
    out: Tensor = torch.ops.aten.mkldnn_linear_backward_weights(slope.to_mkldnn(), x.to_mkldnn(), shaped, False)[0]
    return out.to_dense()


# torch.compile knows oneDNN's product with constant weights only, and none of its own tensors: it calls these names.
@torch.library.custom_op("llamatrain::product", mutates_args=())
def _compiled_product(x: Tensor, weight: Tensor) -> Tensor:
    return _product(x, weight)


@_compiled_product.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


@torch.library.custom_op("llamatrain::weight_product", mutates_args=())
def _compiled_weight_product(slope: Tensor, x: Tensor) -> Tensor:
    return _weight_product(slope, x)


@_compiled_weight_product.register_fake
def _(slope: Tensor, x: Tensor) -> Tensor:
    return x.new_empty((slope.shape[1], x.shape[1]))


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _compiled_product(x, weight) if torch.compiler.is_compiling() else _product(x, weight)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        compiling = torch.compiler.is_compiling()
        product = _compiled_product if compiling else _product
        weight_product = _compiled_weight_product if compiling else _weight_product
        by_x = product(slope, weight.t()) if ctx.needs_input_grad[0] else None
        by_weight = None
        if ctx.needs_input_grad[1]:
            by_weight = weight_product(slope.reshape(-1, slope.shape[-1]), x.reshape(-1, x.shape[-1]))
        return by_x, by_weight
