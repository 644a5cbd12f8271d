"""Matrix products with a weight, or with several that lie side by side; on a CPU by the library that `kernels` says.

Shapes: N rows, C columns in, K columns out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from . import kernels


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """Return x @ weight.T, (..., K), of x (..., C) and weight (K, C)."""
    return products(x, weight)[0]


def products(x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
    """Return x @ weight.T for each weight: one product, forwards and backwards, where they lie `side_by_side`."""
    learning = torch.is_grad_enabled() and (x.requires_grad or any(weight.requires_grad for weight in weights))
    # Torch's own backward would neither ask `kernels` nor join several weights' products.
    if learning and (x.device.type == "cpu" or (len(weights) > 1 and not torch.compiler.is_compiling())):
        outs: tuple[Tensor, ...] = _Products.apply(x, *weights)  # type: ignore[no-untyped-call]
        return outs
    return _products(x, weights)


def lay_side_by_side(*parameters: Tensor) -> None:
    """Move matrices of as many columns into one piece of memory, each remaining a parameter of its own.

    In DeepSpeed's flat buffers (ZeRO 1 and 2) neighbours lie so, too; at stage 3, where each comes and goes, they do not.
    """
    if any(parameter.is_meta or not parameter.numel() for parameter in parameters):
        return
    whole = torch.cat([parameter.data for parameter in parameters])
    for parameter, part in zip(parameters, torch.split(whole, [len(p) for p in parameters]), strict=True):
        parameter.data = part


def side_by_side(parts: tuple[Tensor, ...], dim: int) -> Tensor | None:
    """Return matrices as the one matrix that they are along `dim`, a view; None where they do not lie so.

    A compiler, which does not see where they lie, is given them joined.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    if torch.compiler.is_compiling():
        return torch.cat(parts, dim)
    address, strides, item = first.data_ptr(), first.stride(), first.element_size()
    for part in parts:
        if part.data_ptr() != address or part.stride() != strides:
            return None
        address += part.shape[dim] * strides[dim] * item
    storage = first.untyped_storage()
    if address > storage.data_ptr() + storage.nbytes():
        return None  # neighbours by chance, each in memory of its own
    shape = list(first.shape)
    shape[dim] = sum(part.shape[dim] for part in parts)
    return first.as_strided(shape, strides)


def _products(x: Tensor, weights: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    whole = side_by_side(weights, 0)
    if whole is None:
        return tuple(product(x, weight) for weight in weights)
    return tuple(torch.split(product(x, whole), [len(weight) for weight in weights], -1))


def packed(weight: Tensor, rows: int) -> Tensor:
    """Return a weight for `product` alone, laid out anew where that makes many products of so few rows faster."""
    n_out, n_in = weight.shape
    plain = weight.device.type != "cpu" or weight.dtype != torch.float32
    if plain or not kernels.packs(n_out, n_in, rows):
        return weight
    laid_out: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), rows)
    return laid_out


def product(x: Tensor, weight: Tensor) -> Tensor:
    """Return x @ weight.T."""
    if weight.is_mkldnn:
        return _onednn_product(x, weight)
    n_out, n_in = weight.shape
    plain = x.device.type != "cpu" or x.dtype != torch.float32 or weight.dtype != torch.float32
    if plain or not kernels.onednn(n_out, n_in, x.numel() // n_in) or x.numel() == 0:
        return F.linear(x, weight)
    return _compiled_product(x, weight) if torch.compiler.is_compiling() else _onednn_product(x, weight)


def _onednn_product(x: Tensor, weight: Tensor) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return out


# torch.compile knows oneDNN's product with constant weights only: it calls this name.
@torch.library.custom_op("llamatrain::product", mutates_args=())
def _compiled_product(x: Tensor, weight: Tensor) -> Tensor:
    return _onednn_product(x, weight)


@_compiled_product.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


class _Products(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x, *weights)
        return _products(x, weights)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        flat = tuple(grad.reshape(-1, grad.shape[-1]) for grad in grads)  # (N, K) each
        whole = side_by_side(tuple(weights), 0)
        if whole is not None:
            joined = side_by_side(flat, 1)  # attention's backward lays its gradients so; others are copied together
            pairs = [(torch.cat(flat, 1) if joined is None else joined, whole)]
        else:
            pairs = list(zip(flat, weights, strict=True))
        wanted = any(ctx.needs_input_grad[1:])
        grad_x: Tensor | None = None
        grad_weights: list[Tensor | None] = []
        for grad, weight in pairs:
            if ctx.needs_input_grad[0]:
                part = product(grad, weight.t())
                grad_x = part if grad_x is None else grad_x.add_(part)
            # Always MKL: for this product oneDNN gains nothing (`kernels.products`).
            grad_weights.append(grad.t() @ x.reshape(-1, x.shape[-1]) if wanted else None)
        if whole is not None:
            together = grad_weights[0]
            sizes = [len(weight) for weight in weights]
            grad_weights = [None] * len(sizes) if together is None else list(torch.split(together, sizes))
        return None if grad_x is None else grad_x.view(x.shape), *grad_weights
