"""Attention in blocks of queries, which keeps its probabilities: training on a CPU in float32, on short rows.

Shapes: as in attention.py; N tokens of all batches, one after the other or in the slots of a line.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor

from llamatrain.linear import side_by_side
from llamatrain.model.line import Line

Rotary = tuple[Tensor, Tensor]
Group = tuple[tuple[int, ...], Rotary, list[Tensor]]  # (rows, length) of a batch, its tables of angles, its hidden keys


def causal_blocks(queries: Tensor, keys: Tensor, values: Tensor, groups: list[Group], line: Line | None) -> Tensor:
    """Causal attention, not yet rotated, of queries (N, H, D) over keys and values (N, K, D) of batches. Returns (N, H, D).

    The tokens of the batches follow one another, or stand in the slots of a line. Hidden keys: `Places.hidden`.
    """
    mixed: Tensor = _CausalBlocks.apply(queries, keys, values, groups, line)  # type: ignore[no-untyped-call]
    return mixed


class _CausalBlocks(torch.autograd.Function):
    """Rotation and `_mix` of each batch."""

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, groups: list[Group], line: Line | None
    ) -> Tensor:
        heads, kv_heads, width = queries.shape[1], *keys.shape[1:]
        if line is not None:
            joined = side_by_side((queries, keys, values), 1)
            joined = torch.cat((queries, keys, values), 1) if joined is None else joined
            queries, keys, values = torch.split(joined.index_select(0, line.slots), [heads, kv_heads, kv_heads], 1)
        mixed, kept, start = queries.new_empty(len(queries), heads, width), list[Tensor](), 0
        for shape, tables, hidden in groups:
            rows = slice(start, start := start + shape[0] * shape[1])
            q, k, v = (_by_heads(x[rows].view(*shape, -1, width), kv_heads) for x in (queries, keys, values))
            rotary = _by_heads(tables[0], 1), _by_heads(tables[1], 1)
            # 1 / sqrt(D) goes into the rotation of the queries: scaling the scores would be a pass over memory of its own.
            q, k, v = _rotated(q, _scaled(*rotary)), _rotated(k, rotary), v.contiguous()
            kept += [*rotary, q, k, v, *_mix(q, k, v, hidden, mixed[rows].view(*shape, heads, width))]
        ctx.save_for_backward(*kept)
        ctx.groups, ctx.line, ctx.kv_heads = groups, line, kv_heads
        return mixed if line is None else mixed.index_select(0, line.slot_of)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        line, saved = ctx.line, iter(ctx.saved_tensors)
        if line is not None:  # nobody has read what empty slots gave
            grad = grad.index_select(0, line.slots).index_fill_(0, line.empty, 0)
        kv_heads, (heads, width) = ctx.kv_heads, grad.shape[1:]
        # Side by side, as `linear.products` of the joined weights wants them: one product, no copy.
        grad_all, start = grad.new_empty(len(grad), heads + 2 * kv_heads, width), 0
        for shape, _, hidden in ctx.groups:
            rows = slice(start, start := start + shape[0] * shape[1])
            cos, sin, q, k, v = itertools.islice(saved, 5)
            kept = list(itertools.islice(saved, len(hidden)))
            grad_q, grad_k, grad_v = _mix_backward(grad[rows].view(*shape, heads, width), q, k, v, kept)
            parts = torch.split(grad_all[rows].view(*shape, -1, width), [heads, kv_heads, kv_heads], 2)
            _rotate_back(grad_q, _scaled(cos, sin), _by_heads(parts[0], kv_heads))
            _rotate_back(grad_k, (cos, sin), _by_heads(parts[1], kv_heads))
            _by_heads(parts[2], kv_heads).copy_(grad_v)
        grad_all = grad_all if line is None else grad_all.index_select(0, line.slot_of)
        return *torch.split(grad_all, [heads, kv_heads, kv_heads], 1), None, None


def _mix(q: Tensor, k: Tensor, v: Tensor, hidden: list[Tensor], mixed: Tensor) -> list[Tensor]:
    """Causal attention a block of queries at a time, each over the keys up to its own end.

    Of rotated and scaled queries (B, K, T, G, D), keys and values (B, K, T, 1, D). Fills `mixed` (B, T, H, D) and returns
    the probabilities of each block, (B K, R G, L). Plain matrix products, which keep the probabilities, B x H x T x T / 2
    numbers, for the backward pass instead of computing them again as torch's own CPU kernel does
    (benchmarks/pretraining_speed.py). Query heads that share keys are rows of one product.
    """
    batch, kv_heads, _, group, _ = q.shape
    target = _by_heads(mixed, kv_heads)  # a view: what is written here lies in `mixed` in its own order
    kept, start = [], 0
    q, k, v = _stacked(q), _stacked(k), _stacked(v)  # (B K, T G, D), (B K, T, D) twice
    for mask in hidden:
        end = start + mask.shape[-2]
        scores = torch.bmm(q[:, start * group : end * group], k[:, :end].transpose(1, 2))  # (B K, R G, L)
        by_query = scores.view(batch, kv_heads, end - start, group, end)
        # A causal mask covers the block's own keys alone, one of segments all keys up to its end.
        by_query[..., end - mask.shape[-1] :].add_(mask.unsqueeze(-2))
        torch.softmax(scores, -1, out=scores)
        block = target[:, :, start:end]
        block.copy_(torch.bmm(scores, v[:, :end]).view(block.shape))
        kept.append(scores)
        start = end
    return kept


def _mix_backward(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, kept: list[Tensor]) -> list[Tensor]:
    """Return the gradients of q, k and v from that of what `_mix` mixed, and the probabilities that it kept."""
    group, end = q.shape[3], q.shape[2]
    grad = _stacked(_by_heads(grad, q.shape[1]))
    grads = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    q, k, v, grad_q, grad_k, grad_v = (_stacked(x) for x in (q, k, v, *grads))
    # From the last block, which sees all keys: it fills their gradients, the earlier ones add to the front.
    for probabilities in reversed(kept):
        start = end - probabilities.shape[1] // group
        rows = slice(start * group, end * group)
        grad_scores = torch.bmm(grad[:, rows], v[:, :end].transpose(1, 2))  # (B K, R G, L)
        torch.ops.aten._softmax_backward_data.out(grad_scores, probabilities, -1, torch.float32, grad_input=grad_scores)
        grad_q[:, rows] = torch.bmm(grad_scores, k[:, :end])
        if end == k.shape[1]:
            torch.bmm(grad_scores.transpose(1, 2), q[:, rows], out=grad_k)
            torch.bmm(probabilities.transpose(1, 2), grad[:, rows], out=grad_v)
        else:  # not baddbmm_: into a slice it would run matrix by matrix
            grad_k[:, :end] += torch.bmm(grad_scores.transpose(1, 2), q[:, rows])
            grad_v[:, :end] += torch.bmm(probabilities.transpose(1, 2), grad[:, rows])
        end = start
    return list(grads)


def compiled_blocks(queries: Tensor, keys: Tensor, values: Tensor, rotary: Rotary, hidden: list[Tensor]) -> Tensor:
    """The same of one batch (B, T, H, D) for a compiler: rotation, which the compiler joins with what is around it, and `_mix` by a name that it does not look into."""
    kv_heads, half = keys.shape[2], keys.shape[-1] // 2
    cos, sin = (_by_heads(x[..., half:], 1) for x in rotary)  # of the second half, where sin has its plain sign
    q, k, v = (_by_heads(x, kv_heads) for x in (queries, keys, values))

    def turned(x: Tensor) -> Tensor:  # halves: the compiler would take `roll` number by number
        first, second = x[..., :half], x[..., half:]
        return torch.cat((first * cos - second * sin, second * cos + first * sin), -1).contiguous()

    scaled = turned(q) / math.sqrt(2 * half)
    mixed: Tensor = _mix_op(scaled, turned(k), v.contiguous(), hidden)[0]
    return mixed


@torch.library.custom_op("llamatrain::mix", mutates_args=())
def _mix_op(q: Tensor, k: Tensor, v: Tensor, hidden: list[Tensor]) -> list[Tensor]:
    batch, kv_heads, length, group, width = q.shape
    mixed = q.new_empty(batch, length, kv_heads * group, width)
    return [mixed, *_mix(q, k, v, hidden, mixed)]


@_mix_op.register_fake  # shapes alone, for the compiler
def _(q: Tensor, k: Tensor, v: Tensor, hidden: list[Tensor]) -> list[Tensor]:
    batch, kv_heads, length, group, width = q.shape
    ends = itertools.accumulate(mask.shape[-2] for mask in hidden)
    kept = (q.new_empty(batch * kv_heads, mask.shape[-2] * group, end) for mask, end in zip(hidden, ends, strict=True))
    return [q.new_empty(batch, length, kv_heads * group, width), *kept]


@torch.library.custom_op("llamatrain::mix_backward", mutates_args=())
def _mix_backward_op(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, kept: list[Tensor]) -> list[Tensor]:
    return _mix_backward(grad, q, k, v, kept)


@_mix_backward_op.register_fake
def _(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, kept: list[Tensor]) -> list[Tensor]:
    return [torch.empty_like(x) for x in (q, k, v)]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    q, k, v, hidden = inputs
    ctx.blocks = len(hidden)
    ctx.save_for_backward(q, k, v, *output[1:])


def _mix_gradients(ctx: Any, grads: list[Tensor]) -> tuple[Any, ...]:
    q, k, v, *kept = ctx.saved_tensors
    return *_mix_backward_op(grads[0], q, k, v, kept), [None] * ctx.blocks


_mix_op.register_autograd(_mix_gradients, setup_context=_keep)


def _by_heads(x: Tensor, kv_heads: int) -> Tensor:
    """Return x, (B, T, H, D), seen as (B, K, T, G, D)."""
    return x.view(*x.shape[:2], kv_heads, -1, x.shape[-1]).transpose(1, 2)


def _stacked(x: Tensor) -> Tensor:
    """Return x, (B, K, T, G, D), as (B K, T G, D)."""
    return x.reshape(x.shape[0] * x.shape[1], -1, x.shape[-1])


def _scaled(cos: Tensor, sin: Tensor) -> Rotary:
    """Return the tables that rotate queries and divide them by the square root of D at once."""
    return cos / math.sqrt(cos.shape[-1]), sin / math.sqrt(cos.shape[-1])


def _rotated(x: Tensor, rotary: Rotary) -> Tensor:
    """Return x, (B, K, T, G, D), rotated, in memory of its own."""
    (cos, sin), half = rotary, x.shape[-1] // 2
    out = torch.mul(x, cos, out=x.new_empty(x.shape))
    out[..., :half].addcmul_(x[..., half:], sin[..., :half])
    out[..., half:].addcmul_(x[..., :half], sin[..., half:])
    return out


def _rotate_back(grad: Tensor, rotary: Rotary, out: Tensor) -> None:
    """Write into `out`, (B, K, T, G, D), the gradient of what `_rotated` took from that of what it gave."""
    (cos, sin), half = rotary, out.shape[-1] // 2
    torch.mul(grad, cos, out=out)
    out[..., :half].addcmul_(grad[..., half:], sin[..., half:])
    out[..., half:].addcmul_(grad[..., :half], sin[..., :half])
