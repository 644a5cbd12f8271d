"""Rotary positions and grouped-query attention.

Shapes: B rows, T positions, H query heads, K key-value heads, G = H / K query heads a key-value head, D head dimension,
R positions of a block of queries, L keys to attend to.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Rotary = tuple[Tensor, Tensor]


@dataclass
class Places:
    """Where a batch's tokens stand and what they see: made once, used by every layer.

    `hidden` is what is added to the scores of each block of `rows` queries, 0 or -inf, for the last of the keys up to
    the block's end; None: plain causal attention. `in_blocks` says that `_CausalBlocks` serves.
    """

    rotary: Rotary
    hidden: list[Tensor] | None
    in_blocks: bool


def places(
    position_ids: Tensor, segment_ids: Tensor | None, head_dim: int, theta: float, dtype: torch.dtype, cached: bool
) -> Places:
    """Return what the layers need of position and segment ids, (1 or B, T); `cached`: a cache says what is seen."""
    if len(position_ids) > 1 and bool((position_ids == position_ids[:1]).all()):
        position_ids = position_ids[:1]
    length, segments = position_ids.shape[1], several_segments(segment_ids)
    blocks = not cached and _in_blocks(position_ids.device, dtype, length)
    rows = _ROWS if blocks else _MASKED_ROWS
    hidden = None
    if segments is not None:
        hidden = [_hidden(segments, start, min(start + rows, length), dtype) for start in range(0, length, rows)]
    elif blocks:
        later = torch.full((rows, rows), float("-inf"), dtype=dtype).triu_(1)
        hidden = [later[: length - start, : length - start] for start in range(0, length, rows)]
    return Places(rotary_table(position_ids, head_dim, theta, dtype), hidden, blocks)


def rotary_table(position_ids: Tensor, head_dim: int, theta: float, dtype: torch.dtype) -> Rotary:
    """Return cos and signed sin, (1 or B, T, 1, D), of the angles at these positions (HF layout: halves, not pairs)."""
    exponents = torch.arange(0, head_dim, 2, device=position_ids.device, dtype=torch.float32) / head_dim
    angles = position_ids[:, :, None, None].float() * (1.0 / theta**exponents)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    return torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)


def rotate(x: Tensor, rotary: Rotary) -> Tensor:
    """Rotate the two halves of each head of x, (B, T, H, D), by its position."""
    cos, sin = rotary
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


def several_segments(segment_ids: Tensor | None) -> Tensor | None:
    """Return the segment ids (B, T), or None where plain causal attention does without them.

    It does where every row is a single segment, alone or followed by padding.
    """
    if segment_ids is None or bool((segment_ids <= 1).all() & (segment_ids.diff(dim=1) <= 0).all()):
        return None
    return segment_ids


def attend_to_batch(queries: Tensor, keys: Tensor, values: Tensor, at: Places) -> Tensor:
    """Causal attention, not yet rotated, of queries (B, T, H, D) over keys and values (B, T, K, D) of a batch.

    Returns (B, T, H, D). A position sees its own segment alone.
    """
    if at.in_blocks:
        mixed: Tensor = _CausalBlocks.apply(queries, keys, values, at.rotary, at.hidden)  # type: ignore[no-untyped-call]
        return mixed
    queries, keys = rotate(queries, at.rotary).transpose(1, 2), rotate(keys, at.rotary).transpose(1, 2)
    if at.hidden is None:
        return attend(queries, keys, values.transpose(1, 2)).transpose(1, 2)
    return _by_segment(queries, *_repeated(queries, keys, values.transpose(1, 2)), at.hidden).transpose(1, 2)


def attend(queries: Tensor, keys: Tensor, values: Tensor, visible: Tensor | None = None) -> Tensor:
    """Causal attention of rotated queries (B, H, T, D) over keys and values (B, K, L, D). Returns (B, H, T, D).

    With `visible`, 0 or -inf, (B, 1, T, L), a position sees what that leaves, as a cache wants it.
    """
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


def _by_segment(queries: Tensor, keys: Tensor, values: Tensor, hidden: list[Tensor]) -> Tensor:
    """Attention within segments, a block of queries at a time, over the keys up to the block's end."""
    mixed, start = [], 0
    for mask in hidden:
        rows, end = mask.shape[-2:]
        part = queries[:, :, start : start + rows], keys[:, :, :end], values[:, :, :end]
        mixed.append(F.scaled_dot_product_attention(*part, mask))
        start += rows
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


def _in_blocks(device: torch.device, dtype: torch.dtype, length: int) -> bool:
    """Tell whether `_CausalBlocks` serves: training on a CPU in float32 on rows short enough to keep probabilities."""
    return torch.is_grad_enabled() and device.type == "cpu" and dtype == torch.float32 and 1 < length <= _LONGEST


_LONGEST, _ROWS, _MASKED_ROWS = 512, 64, 512


class _CausalBlocks(torch.autograd.Function):
    """Rotation and causal attention a block of queries at a time, each over the keys up to its own end.

    Plain matrix products, which keep the probabilities, B x H x T x T / 2 numbers, for the backward pass instead of
    computing them again as torch's own CPU kernel does (benchmarks/pretraining_speed.py). Query heads that share keys
    are rows of one product. Positions are the last dimension throughout, as `products` gives them.
    """

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, rotary: Rotary, hidden: list[Tensor]
    ) -> Tensor:
        batch, length, heads, width = queries.shape
        kv_heads = keys.shape[2]
        rotary = _positions_last(rotary[0], 1).contiguous(), _positions_last(rotary[1], 1).contiguous()
        q = _rotated(_positions_last(queries, kv_heads), _scaled(*rotary))
        k = _rotated(_positions_last(keys, kv_heads), rotary).view(-1, width, length)
        v = _positions_last(values, kv_heads).reshape(-1, width, length)
        mixed = queries.new_empty(heads, width, batch, length).permute(2, 3, 0, 1)
        place, kept, start = _positions_last(mixed, kv_heads), [], 0
        for mask in hidden:
            end = start + mask.shape[-2]
            rows = q[..., start:end].reshape(len(k), width, -1).transpose(1, 2)
            scores = torch.bmm(rows, k[..., :end])
            scores.view(batch, heads, end - start, end)[..., end - mask.shape[-1] :].add_(mask)
            torch.softmax(scores, -1, out=scores)
            part = place[..., start:end]
            part.copy_(torch.bmm(v[..., :end], scores.transpose(1, 2)).view(part.shape))
            kept.append(scores)
            start = end
        ctx.save_for_backward(*rotary, q, k, v, *kept)
        return mixed

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin, q, k, v, *kept = ctx.saved_tensors
        batch, length, heads, width = slope.shape
        kv_heads = len(k) // batch
        # Side by side, as the joined product of the weights wants them.
        by_all = slope.new_empty(heads + 2 * kv_heads, width, batch, length).permute(2, 3, 0, 1)
        by_queries, by_keys, by_values = torch.split(by_all, [heads, kv_heads, kv_heads], 2)
        slope = _positions_last(slope, kv_heads)
        by_q, by_k, by_v, end = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v), length
        for probabilities in reversed(kept):
            start = end - probabilities.shape[1] * kv_heads // heads
            rows, part = (x[..., start:end].reshape(len(k), width, -1) for x in (q, slope))
            by_scores = torch.bmm(part.transpose(1, 2), v[..., :end])
            torch.ops.aten._softmax_backward_data.out(by_scores, probabilities, -1, torch.float32, grad_input=by_scores)
            place = by_q[..., start:end]
            place.copy_(torch.bmm(k[..., :end], by_scores.transpose(1, 2)).view(place.shape))
            if end == length:
                torch.bmm(rows, by_scores, out=by_k)
                torch.bmm(part, probabilities, out=by_v)
            else:  # not baddbmm_: into a slice it would run matrix by matrix
                by_k[..., :end] += torch.bmm(rows, by_scores)
                by_v[..., :end] += torch.bmm(part, probabilities)
            end = start
        _rotate_back(by_q, _scaled(cos, sin), _positions_last(by_queries, kv_heads))
        _rotate_back(by_k, (cos, sin), _positions_last(by_keys, kv_heads))
        place = _positions_last(by_values, kv_heads)
        place.copy_(by_v.view(place.shape))
        return by_queries, by_keys, by_values, None, None


def _positions_last(x: Tensor, kv_heads: int) -> Tensor:
    """Return x, (B, T, H, D), seen as (B, K, D, G, T)."""
    return x.view(*x.shape[:2], kv_heads, -1, x.shape[-1]).permute(0, 2, 4, 3, 1)


def _scaled(cos: Tensor, sin: Tensor) -> Rotary:
    """Return the tables that rotate queries and divide them by the square root of D at once."""
    return cos / math.sqrt(cos.shape[2]), sin / math.sqrt(cos.shape[2])


def _rotated(x: Tensor, rotary: Rotary) -> Tensor:
    """Return x, (B, K, D, G, T), rotated, in memory of its own."""
    (cos, sin), half = rotary, x.shape[2] // 2
    out = torch.mul(x, cos, out=x.new_empty(x.shape))
    out[:, :, :half].addcmul_(x[:, :, half:], sin[:, :, :half])
    out[:, :, half:].addcmul_(x[:, :, :half], sin[:, :, half:])
    return out


def _rotate_back(slope: Tensor, rotary: Rotary, out: Tensor) -> None:
    """Write into `out`, (B, K, D, G, T), the gradient of what `_rotated` took from that of what it gave."""
    (cos, sin), half = rotary, out.shape[2] // 2
    slope = slope.view(out.shape)
    torch.mul(slope, cos, out=out)
    out[:, :, :half].addcmul_(slope[:, :, half:], sin[:, :, half:])
    out[:, :, half:].addcmul_(slope[:, :, :half], sin[:, :, :half])
