"""Rotary positions and grouped-query attention.

Shapes: B rows, T positions, H query heads, K key-value heads, D head dimension, L keys to attend to.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Rotary = tuple[Tensor, Tensor]


def rotary_table(position_ids: Tensor, head_dim: int, theta: float, dtype: torch.dtype) -> Rotary:
    """Return cos and signed sin, (1 or B, 1, T, D), of the angles at these positions (HF layout: halves, not pairs)."""
    exponents = torch.arange(0, head_dim, 2, device=position_ids.device, dtype=torch.float32) / head_dim
    angles = position_ids[:, None, :, None].float() * (1.0 / theta**exponents)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    return torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)


def rotate(x: Tensor, rotary: Rotary) -> Tensor:
    """Rotate the two halves of each head of x, (B, H, T, D), by its position."""
    cos, sin = rotary
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


def several_segments(segment_ids: Tensor | None) -> Tensor | None:
    """Return the segment ids (B, T), or None where plain causal attention does without them.

    It does where every row is a single segment, alone or followed by padding.
    """
    if segment_ids is None or bool((segment_ids <= 1).all() & (segment_ids.diff(dim=1) <= 0).all()):
        return None
    return segment_ids


def attend(
    queries: Tensor, keys: Tensor, values: Tensor, segments: Tensor | None = None, visible: Tensor | None = None
) -> Tensor:
    """Causal attention of queries (B, H, T, D) over keys and values (B, K, L, D). Returns (B, H, T, D).

    With `segments` (B, T) a position sees its own segment alone, T = L; with `visible`, 0 or -inf, (B, 1, T, L), what
    that leaves, as a cache wants it.
    """
    if _in_blocks(queries, keys):
        keys, values = _repeated(queries, keys, values)
        mixed: Tensor = _CausalBlocks.apply(queries, keys, values, segments)  # type: ignore[no-untyped-call]
        return mixed
    if segments is not None:
        return _by_segment(queries, *_repeated(queries, keys, values), segments)
    batch, heads, length, width = queries.shape
    kv_heads = keys.shape[1]
    if heads == kv_heads:
        return F.scaled_dot_product_attention(queries, keys, values, visible, is_causal=visible is None and length > 1)
    if length == 1:  # one new token: the query heads that share keys become query positions, nothing is repeated
        queries = queries.view(batch, kv_heads, heads // kv_heads, width)
        return F.scaled_dot_product_attention(queries, keys, values, visible).view(batch, heads, 1, width)
    if visible is None:
        return F.scaled_dot_product_attention(queries, keys, values, is_causal=True, enable_gqa=True)
    return F.scaled_dot_product_attention(queries, *_repeated(queries, keys, values), visible)


def _repeated(queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Give every query head keys and values of its own: no memory-saving kernel takes both a mask and fewer of them."""
    times = queries.shape[1] // keys.shape[1]
    return (keys, values) if times == 1 else (keys.repeat_interleave(times, 1), values.repeat_interleave(times, 1))


def _by_segment(queries: Tensor, keys: Tensor, values: Tensor, segments: Tensor) -> Tensor:
    """Attention within segments, a block of queries at a time, so that the mask is never T x T."""
    length, mixed = queries.shape[2], []
    for start in range(0, length, _MASKED_ROWS):
        end = min(start + _MASKED_ROWS, length)
        hidden = _hidden(segments, start, end, queries.dtype)
        part = queries[:, :, start:end], keys[:, :, :end], values[:, :, :end]
        mixed.append(F.scaled_dot_product_attention(*part, hidden))
    return torch.cat(mixed, 2)


def _hidden(segments: Tensor, start: int, end: int, dtype: torch.dtype) -> Tensor:
    """Return 0 where the queries from `start` to `end` see a key before `end`, else -inf, (B, 1, end - start, end).

    Padding, segment 0, sees itself: a row of -inf would become NaN.
    """
    own = segments[:, start:end, None] == segments[:, None, :end]
    causal = torch.ones(end - start, end, dtype=torch.bool, device=segments.device).tril(start)
    return additive((own & causal)[:, None], dtype)


def additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn True (visible) into 0 and False into -inf."""
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, float("-inf"))


def _in_blocks(queries: Tensor, keys: Tensor) -> bool:
    """Tell whether `_CausalBlocks` serves: training on a CPU in float32 on rows short enough to keep probabilities."""
    length = queries.shape[2]
    learning = torch.is_grad_enabled() and queries.requires_grad
    plain = queries.device.type == "cpu" and queries.dtype == torch.float32 and length == keys.shape[2]
    return learning and plain and 1 < length <= _LONGEST


_LONGEST, _ROWS, _MASKED_ROWS = 512, 64, 512


class _CausalBlocks(torch.autograd.Function):
    """Causal attention a block of queries at a time, each over the keys up to its own end.

    Plain matrix products, which keep the probabilities, B x H x T x T / 2 numbers, for the backward pass instead of
    computing them again as torch's own CPU kernel does (benchmarks/pretraining_speed.py).
    """

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, segments: Tensor | None) -> Tensor:
        batch, heads, length, width = queries.shape
        q, k, v = (x.reshape(batch * heads, length, width) for x in (queries, keys, values))
        mixed, kept = torch.empty_like(q), []
        for start in range(0, length, _ROWS):
            end = min(start + _ROWS, length)
            if segments is None:
                hidden = q.new_full((end - start, end), float("-inf")).triu_(start + 1)
            else:
                hidden = _hidden(segments, start, end, q.dtype).repeat_interleave(heads, 0)[:, 0]
            scores = torch.baddbmm(hidden, q[:, start:end], k[:, :end].transpose(1, 2), alpha=1 / math.sqrt(width))
            probabilities = torch.softmax(scores, -1)
            mixed[:, start:end] = torch.bmm(probabilities, v[:, :end])
            kept.append(probabilities)
        ctx.save_for_backward(q, k, v, *kept)
        return mixed.view(batch, heads, length, width)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *kept = ctx.saved_tensors
        batch, heads, length, width = slope.shape
        scale, slope = 1 / math.sqrt(width), slope.reshape(batch * heads, length, width)
        by_q, by_k, by_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for start, probabilities in zip(range(0, length, _ROWS), kept, strict=True):
            end = min(start + _ROWS, length)
            part = slope[:, start:end]
            by_probabilities = torch.bmm(part, v[:, :end].transpose(1, 2))
            by_scores = torch._softmax_backward_data(by_probabilities, probabilities, -1, torch.float32).mul_(scale)
            by_q[:, start:end] = torch.bmm(by_scores, k[:, :end])
            # Not baddbmm_: into a slice it would run matrix by matrix.
            by_k[:, :end] += torch.bmm(by_scores.transpose(1, 2), q[:, start:end])
            by_v[:, :end] += torch.bmm(probabilities.transpose(1, 2), part)
        shape = (batch, heads, length, width)
        return by_q.view(shape), by_k.view(shape), by_v.view(shape), None
