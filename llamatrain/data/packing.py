"""Packing: samples of many lengths into rows of one length, without cutting any.

Shapes: B rows, T tokens a row, N samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Batch = dict[str, Tensor]


@dataclass
class Sample:
    """Tokens, and for each whether it is a target of the loss (predicted from the token before it)."""

    tokens: list[int]
    loss_mask: list[bool]


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Return rows of sample indices whose lengths add up to `capacity` at most: first-fit decreasing, in O(n log n).

    Longest first (equal lengths in the order given), each into the first row with room for it. At most 11/9 of the
    fewest possible rows. Raises ValueError for a length outside 1..capacity.
    """
    if any(not 1 <= length <= capacity for length in lengths):
        index = next(i for i, length in enumerate(lengths) if not 1 <= length <= capacity)
        raise ValueError(
            f"sample {index} has {lengths[index]} tokens; a row of {capacity} holds samples of 1 to {capacity}"
        )
    rows: list[list[int]] = []
    leaves = 1 << max(len(lengths) - 1, 0).bit_length()
    # A tree: room[leaves + row] is the row's room, room[node] the larger of its two children's.
    room = [capacity] * (2 * leaves)
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length, node = lengths[index], 1
        while node < leaves:  # down to the first row with room: to the left where that side has any
            node = 2 * node if room[2 * node] >= length else 2 * node + 1
        row = node - leaves
        if row == len(rows):
            rows.append([])
        rows[row].append(index)
        room[node] -= length
        while node > 1:  # and up again, until a node's larger child stays what it was
            node //= 2
            larger = max(room[2 * node], room[2 * node + 1])
            if room[node] == larger:
                break
            room[node] = larger
    return rows


def collate(
    samples: Sequence[Sample], rows: Sequence[Sequence[int]], length: int, isolate: bool = True
) -> tuple[Batch, Tensor]:
    """Lay samples into rows of `length` tokens: the batch, and (N, 2) int64 with row and column of each first token.

    Isolated samples are segments 1, 2, ... of their row and count positions from 0; otherwise a row is one segment.
    Padding has segment 0. A sample's first token is never a target. A sample in no row has location (-1, -1).
    """
    shape = (len(rows), length)
    input_ids, position_ids, segment_ids = (torch.zeros(shape, dtype=torch.int64) for _ in range(3))
    loss_mask = torch.zeros(shape, dtype=torch.bool)
    locations = torch.full((len(samples), 2), -1, dtype=torch.int64)
    for row, members in enumerate(rows):
        start = 0
        for segment, index in enumerate(members, start=1):
            sample = samples[index]
            end = start + len(sample.tokens)
            if end > length:
                raise ValueError(f"row {row} holds {end} tokens or more; it has room for {length}")
            input_ids[row, start:end] = torch.tensor(sample.tokens)
            loss_mask[row, start:end] = torch.tensor(sample.loss_mask)
            loss_mask[row, start] = False  # the token before it is another sample's
            position_ids[row, start:end] = torch.arange(len(sample.tokens)) + (0 if isolate else start)
            segment_ids[row, start:end] = segment if isolate else 1
            locations[index, 0], locations[index, 1] = row, start
            start = end
    columns = {"input_ids": input_ids, "position_ids": position_ids, "segment_ids": segment_ids, "loss_mask": loss_mask}
    return with_weight(columns), locations


def with_weight(columns: Batch) -> Batch:
    """Return the columns with `weight`, the number of targets, a float tensor of no dimensions."""
    return {**columns, "weight": columns["loss_mask"].sum().float()}
