"""Attention within the segments of packed rows by a kernel for sequences of many lengths, where the device has one.

Such a kernel takes the rows as one line of tokens, cut where a segment ends: what lies in other segments is neither
multiplied nor masked, and query heads share their keys as they are. Shapes: as in attention.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Runs:
    """The runs of neighbouring tokens of one segment, in rows laid end to end.

    `starts`: where each begins, and where the last one ends, int32 (N + 1,); `longest`: the most tokens of one.
    """

    starts: Tensor
    longest: int


def has_varlen(device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
    """Tell whether there is a kernel: flash attention, in 16 bits, on GPUs of compute capability 8.0 (A100) and later."""
    return (
        device.type == "cuda"
        and dtype in (torch.bfloat16, torch.float16)
        and head_dim <= 256
        and head_dim % 8 == 0
        and torch.backends.cuda.is_flash_attention_available()
        and torch.cuda.get_device_capability(device) >= (8, 0)
    )


def segment_runs(segments: Tensor) -> Runs:
    """Return the runs of segment ids (B, T). Padding is one of them: it sees itself, as it does behind a mask."""
    begins = torch.ones_like(segments, dtype=torch.bool)  # a row begins one in any case
    begins[:, 1:] = segments.diff(dim=1) != 0
    starts = begins.flatten().nonzero().flatten()  # here the host waits for the device, once per batch
    starts = torch.cat((starts, starts.new_full((1,), segments.numel())))
    return Runs(starts.int(), int(starts.diff().max()))


def attend_to_runs(queries: Tensor, keys: Tensor, values: Tensor, runs: Runs) -> Tensor:
    """Causal attention within runs, of rotated queries (B, T, H, D) over keys and values (B, T, K, D)."""
    from torch.nn.attention.varlen import varlen_attn  # takes a second to import, and no CPU needs it

    longest, shared = runs.longest, queries.shape[2] > keys.shape[2]
    q, k, v = (x.flatten(0, 1) for x in (queries, keys, values))
    mixed = varlen_attn(q, k, v, runs.starts, runs.starts, longest, longest, window_size=(-1, 0), enable_gqa=shared)
    assert isinstance(mixed, Tensor)
    return mixed.view(queries.shape)
