"""Rotary positions and grouped-query attention.

Shapes: B rows, T positions, H query heads, K key-value heads, G = H / K query heads a key-value head, D head dimension,
R positions of a block of queries, L keys to attend to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from llamatrain.model.blocks import Group, Rotary, causal_blocks, compiled_blocks
from llamatrain.model.line import BRANCH, Line, several_segments, worth_a_line
from llamatrain.model.varlen import Runs, attend_to_runs, has_varlen, segment_runs


@dataclass
class Places:
    """Where a batch's tokens stand and what they see: made once, used by every layer.

    `hidden` is what is added to the scores of each block of `rows` queries, 0 or -inf, for the last of the keys up to
    the block's end; None: plain causal attention, within `runs` where there are any. `in_blocks` says that `causal_blocks`
    serves.
    """

    rotary: Rotary
    hidden: list[Tensor] | None
    in_blocks: bool
    runs: Runs | None = None


@dataclass
class LinePlaces:
    """The same of a batch that is a line: attention takes each of its groups as a batch of its own, all `in_blocks` or none."""

    line: Line
    groups: list[Places]
    in_blocks: bool


def places(position_ids: Tensor, segment_ids: Tensor | None, head_dim: int, theta: float, dtype: torch.dtype) -> Places:
    """Return what the layers need of position and segment ids, (1 or B, T)."""
    blocks = _in_blocks(position_ids.device, dtype, position_ids.shape[1])
    return _places(position_ids, segment_ids, head_dim, theta, dtype, blocks)


def line_places(
    position_ids: Tensor, segment_ids: Tensor | None, head_dim: int, theta: float, dtype: torch.dtype
) -> LinePlaces | None:
    """Return what the layers need of a batch as a line, or None where it does not gain by that."""
    if segment_ids is None or has_varlen(segment_ids.device, dtype, head_dim) or not worth_a_line(segment_ids):
        return None
    line, blocks = Line(segment_ids), _in_blocks(position_ids.device, dtype, position_ids.shape[1])
    groups = zip(line.positions(position_ids), line.segments(segment_ids), strict=True)
    return LinePlaces(line, [_places(*ids, head_dim, theta, dtype, blocks) for ids in groups], blocks)


def _places(
    position_ids: Tensor, segment_ids: Tensor | None, head_dim: int, theta: float, dtype: torch.dtype, blocks: bool
) -> Places:
    if len(position_ids) > 1 and bool((position_ids == position_ids[:1]).all()):
        position_ids = position_ids[:1]  # rows alike: the tables of one serve all by broadcasting
    length, segments = position_ids.shape[1], several_segments(segment_ids)
    rotary = rotary_table(position_ids, head_dim, theta, dtype)
    # Of a branch the keys are not its neighbours alone, as the kernel for runs needs them.
    if segments is not None and has_varlen(segments.device, dtype, head_dim) and not bool((segments >= BRANCH).any()):
        return Places(rotary, None, False, segment_runs(segments))
    rows = _ROWS if blocks else _MASKED_ROWS
    hidden = None
    if segments is not None:
        hidden = [_hidden(segments, start, min(start + rows, length), dtype) for start in range(0, length, rows)]
    elif blocks:
        later = torch.full((rows, rows), float("-inf"), dtype=dtype).triu_(1)
        hidden = [later[: length - start, : length - start] for start in range(0, length, rows)]
    return Places(rotary, hidden, blocks)


def rotary_table(position_ids: Tensor, head_dim: int, theta: float, dtype: torch.dtype) -> Rotary:
    """Return cos and signed sin, (1 or B, T, 1, D), of the angles at these positions (HF layout: halves, not pairs)."""
    # Angles in float32: in bfloat16 neighbouring positions would fall together.
    exponents = torch.arange(0, head_dim, 2, device=position_ids.device, dtype=torch.float32) / head_dim  # (D / 2,)
    angles = position_ids[:, :, None, None].float() * (1.0 / theta**exponents)  # (1 or B, T, 1, D / 2)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    return torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)


def rotate(x: Tensor, rotary: Rotary) -> Tensor:
    """Rotate the two halves of each head of x, (B, T, H, D), by its position."""
    cos, sin = rotary
    # `roll` swaps the halves; the table's signs make of it (-second, first).
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


def attend_to_batch(queries: Tensor, keys: Tensor, values: Tensor, at: Places) -> Tensor:
    """Causal attention, not yet rotated, of queries (B, T, H, D) over keys and values (B, T, K, D) of a batch.

    Returns (B, T, H, D). A position sees its own segment alone, and what its branch branches from (`BRANCH`).
    """
    if at.in_blocks and torch.compiler.is_compiling():
        return compiled_blocks(queries, keys, values, at.rotary, at.hidden or [])
    if at.in_blocks:
        flat = queries.flatten(0, 1), keys.flatten(0, 1), values.flatten(0, 1)
        return causal_blocks(*flat, [_group(queries.shape[:2], at)], None).view(queries.shape)
    queries, keys = rotate(queries, at.rotary), rotate(keys, at.rotary)
    if at.runs is not None:
        return attend_to_runs(queries, keys, values, at.runs)
    queries, keys = queries.transpose(1, 2), keys.transpose(1, 2)
    if at.hidden is None:
        return attend(queries, keys, values.transpose(1, 2)).transpose(1, 2)
    return _by_segment(queries, *_repeated(queries, keys, values.transpose(1, 2)), at.hidden).transpose(1, 2)


def attend_to_line(queries: Tensor, keys: Tensor, values: Tensor, at: LinePlaces) -> Tensor:
    """The same of the tokens of a line: queries (N, H, D) over keys and values (N, K, D). Returns (N, H, D)."""
    line = at.line
    if at.in_blocks:
        return causal_blocks(queries, keys, values, list(map(_group, line.groups, at.groups)), line)
    spread = [line.by_group(x.index_select(0, line.slots)) for x in (queries, keys, values)]
    parts = [attend_to_batch(q, k, v, group).flatten(0, 1) for q, k, v, group in zip(*spread, at.groups, strict=True)]
    return torch.cat(parts).index_select(0, line.slot_of)


def _group(shape: Sequence[int], at: Places) -> Group:
    return tuple(shape), at.rotary, at.hidden or []


def attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Causal attention of rotated queries (B, H, T, D) over keys and values (B, K, T, D). Returns (B, H, T, D)."""
    grouped = queries.shape[1] != keys.shape[1]
    return F.scaled_dot_product_attention(queries, keys, values, is_causal=True, enable_gqa=grouped)


def _repeated(queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Give every query head keys and values of its own: no memory-saving kernel takes both a mask and fewer of them."""
    times = queries.shape[1] // keys.shape[1]
    return (keys, values) if times == 1 else (keys.repeat_interleave(times, 1), values.repeat_interleave(times, 1))


def _by_segment(queries: Tensor, keys: Tensor, values: Tensor, hidden: list[Tensor]) -> Tensor:
    """Attention within segments, a block of queries at a time, over the keys up to the block's end."""
    mixed, start = [], 0
    for mask in hidden:
        rows, end = mask.shape[-2:]  # later keys are in no query's sight: they need not be multiplied
        block = queries[:, :, start : start + rows]
        mixed.append(F.scaled_dot_product_attention(block, keys[:, :, :end], values[:, :, :end], mask))
        start += rows
    return torch.cat(mixed, 2)


def _hidden(segments: Tensor, start: int, end: int, dtype: torch.dtype) -> Tensor:
    """Return 0 where the queries from `start` to `end` see a key before `end`, else -inf, (B, 1, end - start, end).

    Padding, segment 0, sees itself: a row of -inf would become NaN.
    """
    own, keys = segments[:, start:end, None], segments[:, None, :end]
    same_segment = (own == keys) | (own % BRANCH == keys)
    causal = torch.ones(end - start, end, dtype=torch.bool, device=segments.device).tril(start)
    return additive((same_segment & causal)[:, None], dtype)


def additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn True (visible) into 0 and False into -inf."""
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, float("-inf"))


def _in_blocks(device: torch.device, dtype: torch.dtype, length: int) -> bool:
    """Tell whether `causal_blocks` serves: training on a CPU in float32 on rows short enough to keep probabilities."""
    return torch.is_grad_enabled() and device.type == "cpu" and dtype == torch.float32 and 1 < length <= _LONGEST


# The longest row whose probabilities are kept (a longer one has too many), the queries of a block there, and of a block
# of `_by_segment`.
_LONGEST, _ROWS, _MASKED_ROWS = 512, 64, 512
