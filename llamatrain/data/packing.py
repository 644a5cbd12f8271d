"""Packing: samples of many lengths into rows of one length, without cutting any.

Shapes: B rows, T tokens a row, N samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Batch = dict[str, Tensor]


@dataclass
class Sample:
    """Tokens, and for each whether it is a target of the loss (predicted from the token before it)."""

    tokens: list[int]
    loss_mask: list[bool]


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Return rows of sample indices as `fill` finds them, each a list."""
    members, ends = fill(np.asarray(lengths, dtype=np.int64), capacity)
    return [row.tolist() for row in np.split(members, ends[:-1])] if len(ends) else []


def fill(lengths: NDArray[np.int64], capacity: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Fill rows with samples whose lengths add up to `capacity` at most: first-fit decreasing.

    Returns the samples of all rows one row after the other, and where in them each row ends. Longest first (equal lengths
    in the order given), each into the first row with room for it: at most 11/9 of the fewest possible rows. Memory: some
    numbers a sample. Raises ValueError for a length outside 1..capacity.
    """
    wrong = np.flatnonzero((lengths < 1) | (lengths > capacity))
    if len(wrong):
        raise ValueError(
            f"sample {wrong[0]} has {lengths[wrong[0]]} tokens; a row of {capacity} holds samples of 1 to {capacity}"
        )
    order = np.argsort(-lengths, kind="stable")
    row = np.empty(len(lengths), dtype=np.int64)  # of each sample, in that order
    room = np.full(len(lengths), capacity, dtype=np.int64)  # of each row, those included that may come to be used
    first = used = 0
    for length, count in zip(*np.unique(-lengths, return_counts=True), strict=True):
        length, end = -int(length), first + int(count)
        # Of equal samples each row takes as many as fit, in turn: where one after the other would go.
        fitting = np.flatnonzero(room[: used - (-int(count) // (capacity // length))] >= length)
        taken = np.diff(np.minimum(np.cumsum(room[fitting] // length), count), prepend=0)
        room[fitting] -= taken * length
        row[first:end] = np.repeat(fitting, taken)
        first, used = end, max(used, int(row[end - 1]) + 1)
    return order[np.argsort(row, kind="stable")], np.cumsum(np.bincount(row))


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
