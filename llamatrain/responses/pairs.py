"""Pairs of responses to a prompt, of which one was chosen: packed into rows, and scored by a reward model.

Both responses of a pair stand in the same micro-batch, each a segment of its own (prompt included) that sees nothing
else; its score is read at its last token, the end of the response. Shapes: m pairs a micro-batch, B rows, T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llamatrain import distributed, heartbeat
from llamatrain.data.packing import Batch, Sample, collate, pack

Tokens = np.ndarray[Any, np.dtype[np.int32]]


@dataclass(frozen=True, eq=False)
class Pair:
    """One comparison: the prompt with each of its two responses as tokens, ending in EOS, and what annotators said."""

    chosen: Tokens
    rejected: Tokens
    rating: str | None
    chosen_safe: bool | None
    rejected_safe: bool | None
    is_adversarial: bool  # the prompt
    source: str  # the file it comes from, with the share of it that is meant
    row: int  # its place in that file, from 0

    def __len__(self) -> int:
        return len(self.chosen) + len(self.rejected)

    @property
    def longest(self) -> int:
        """Return the tokens of the longer side."""
        return max(len(self.chosen), len(self.rejected))


def collate_pairs(pairs: Sequence[Pair], max_length: int) -> Batch:
    """Pack the 2m sequences into rows of at most `max_length` tokens.

    Adds to the usual columns: `ends` (m, 2, 2), the (row, column) of the last token of chosen and rejected; `safe`
    (m, 2), 1, 0 or NaN where there is no label; `weight`, the number of pairs. `loss_mask` marks the ends. Without pairs
    it is a row of padding.
    """
    samples = [_sample(tokens) for pair in pairs for tokens in (pair.chosen, pair.rejected)]
    lengths = [len(sample.tokens) for sample in samples]
    rows = pack(lengths, max_length) or [[]]
    batch, starts = collate(samples, rows, max(1, *(sum(lengths[i] for i in row) for row in rows)))
    ends = starts + torch.tensor([[0, length - 1] for length in lengths], dtype=torch.int64).view(-1, 2)  # row, column
    labels = [[_label(pair.chosen_safe), _label(pair.rejected_safe)] for pair in pairs]
    return {
        **batch,
        "ends": ends.view(-1, 2, 2),
        "safe": torch.tensor(labels).view(-1, 2),
        "weight": torch.tensor(float(len(pairs))),
    }


def _sample(tokens: Tokens) -> Sample:
    return Sample(tokens.tolist(), [False] * (len(tokens) - 1) + [True])


def _label(safe: bool | None) -> float:
    return math.nan if safe is None else float(safe)


def scores_at_ends(model: Callable[..., Tensor], batch: Batch) -> Tensor:
    """Return the scores (m, 2) of chosen and rejected, read at their last tokens."""
    scores = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], segment_ids=batch["segment_ids"])
    ends = batch["ends"]  # (m, 2, 2)
    return scores[ends[..., 0], ends[..., 1]]  # (B, T) to (m, 2)


@torch.no_grad()
def score_pairs(
    model: Callable[..., Tensor],
    pairs: Sequence[Pair],
    max_length: int,
    micro_batch_size: int,
    on_done: Callable[[int], None] | None = None,
) -> list[tuple[float, float]]:
    """Return (chosen, rejected) scores of every pair, in order, on every rank.

    All ranks call this together and make the same number of forward passes (a partitioned model needs all of them in
    each), so a rank without pairs left repeats its last ones. Pairs of like length share a pass.
    """
    order = sorted(range(len(pairs)), key=lambda i: len(pairs[i]))  # alike in length: little padding
    groups = [order[i : i + micro_batch_size] for i in range(0, len(order), micro_batch_size)]
    passes = math.ceil(len(groups) / distributed.world_size())
    mine: dict[int, tuple[float, float]] = {}
    for number in range(passes):
        heartbeat.beat("score")
        group = groups[min(number * distributed.world_size() + distributed.rank(), len(groups) - 1)]
        batch = collate_pairs([pairs[i] for i in group], max_length)
        scores = scores_at_ends(model, {key: value.to(distributed.device()) for key, value in batch.items()})
        mine.update(zip(group, [(float(c), float(r)) for c, r in scores.tolist()], strict=True))
        if on_done is not None:
            on_done(len(group))
    found = {index: score for part in distributed.gather_objects(mine) for index, score in part.items()}
    return [found[i] for i in range(len(pairs))]
