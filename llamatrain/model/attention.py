"""Rotary positions and grouped-query attention.

Shapes: B rows, T positions, H query heads, K key-value heads, G = H / K query heads a key-value head, D head dimension,
R positions of a block of queries, L keys to attend to.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from llamatrain.linear import side_by_side
from llamatrain.model.line import BRANCH, Line, several_segments, worth_a_line
from llamatrain.model.varlen import Runs, attend_to_runs, has_varlen, segment_runs

Rotary = tuple[Tensor, Tensor]


@dataclass
class Places:
    """Where a batch's tokens stand and what they see: made once, used by every layer.

    `hidden` is what is added to the scores of each block of `rows` queries, 0 or -inf, for the last of the keys up to
    the block's end; None: plain causal attention, within `runs` where there are any. `in_blocks` says that `_CausalBlocks`
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
        return _compiled_blocks(queries, keys, values, at)
    if at.in_blocks:
        flat = queries.flatten(0, 1), keys.flatten(0, 1), values.flatten(0, 1)
        mixed: Tensor = _CausalBlocks.apply(*flat, [(queries.shape[:2], at)], None)  # type: ignore[no-untyped-call]
        return mixed.view(queries.shape)
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
        groups = list(zip(line.groups, at.groups, strict=True))
        mixed: Tensor = _CausalBlocks.apply(queries, keys, values, groups, line)  # type: ignore[no-untyped-call]
        return mixed
    spread = [line.by_group(x.index_select(0, line.slots)) for x in (queries, keys, values)]
    parts = [attend_to_batch(q, k, v, group).flatten(0, 1) for q, k, v, group in zip(*spread, at.groups, strict=True)]
    return torch.cat(parts).index_select(0, line.slot_of)


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
    """Tell whether `_CausalBlocks` serves: training on a CPU in float32 on rows short enough to keep probabilities."""
    return torch.is_grad_enabled() and device.type == "cpu" and dtype == torch.float32 and 1 < length <= _LONGEST


# The longest row whose probabilities are kept (a longer one has too many), the queries of a block there, and of a block
# of `_by_segment`.
_LONGEST, _ROWS, _MASKED_ROWS = 512, 64, 512


class _CausalBlocks(torch.autograd.Function):
    """Rotation and `_mix` of batches: queries (N, H, D), keys and values (N, K, D) to (N, H, D).

    Each of `groups` is (rows, length) with what its layers need. Their tokens follow one another, or stand in the slots
    of a line.
    """

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, groups: list[tuple[Any, Places]], line: Line | None
    ) -> Tensor:
        heads, kv_heads, width = queries.shape[1], *keys.shape[1:]
        if line is not None:
            joined = side_by_side((queries, keys, values), 1)
            joined = torch.cat((queries, keys, values), 1) if joined is None else joined
            queries, keys, values = torch.split(joined.index_select(0, line.slots), [heads, kv_heads, kv_heads], 1)
        mixed, kept, start = queries.new_empty(len(queries), heads, width), list[Tensor](), 0
        for shape, at in groups:
            rows = slice(start, start := start + shape[0] * shape[1])
            q, k, v = (_by_heads(x[rows].view(*shape, -1, width), kv_heads) for x in (queries, keys, values))
            rotary = _by_heads(at.rotary[0], 1), _by_heads(at.rotary[1], 1)
            # 1 / sqrt(D) goes into the rotation of the queries: scaling the scores would be a pass over memory of its own.
            q, k, v = _rotated(q, _scaled(*rotary)), _rotated(k, rotary), v.contiguous()
            kept += [*rotary, q, k, v, *_mix(q, k, v, at.hidden or [], mixed[rows].view(*shape, heads, width))]
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
        for shape, at in ctx.groups:
            rows = slice(start, start := start + shape[0] * shape[1])
            cos, sin, q, k, v = itertools.islice(saved, 5)
            kept = list(itertools.islice(saved, len(at.hidden)))
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


def _compiled_blocks(queries: Tensor, keys: Tensor, values: Tensor, at: Places) -> Tensor:
    """Rotation, which the compiler joins with what is around it, and `_mix` by a name that it does not look into."""
    kv_heads, half = keys.shape[2], keys.shape[-1] // 2
    cos, sin = (_by_heads(x[..., half:], 1) for x in at.rotary)  # of the second half, where sin has its plain sign
    q, k, v = (_by_heads(x, kv_heads) for x in (queries, keys, values))

    def turned(x: Tensor) -> Tensor:  # halves: the compiler would take `roll` number by number
        first, second = x[..., :half], x[..., half:]
        return torch.cat((first * cos - second * sin, second * cos + first * sin), -1).contiguous()

    scaled = turned(q) / math.sqrt(2 * half)
    mixed: Tensor = _mix_op(scaled, turned(k), v.contiguous(), at.hidden)[0]
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
