"""Pairs of responses to a prompt, of which one was chosen: packed into rows, and scored by a reward model.

Both responses of a pair stand in the same micro-batch and see their prompt and themselves, nothing else; a response's
score is read at its last token, its end. Shapes: m pairs a micro-batch, B rows, T tokens.
"""

from __future__ import annotations

import bisect
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llamatrain import distributed, heartbeat
from llamatrain.data.encoding import LABELS, NONE
from llamatrain.data.kinds import RATINGS
from llamatrain.data.packing import Batch, Sample, collate, pack
from llamatrain.data.tokenized import Rows
from llamatrain.model.line import BRANCH

Tokens = np.ndarray[Any, np.dtype[np.int32]]
LABELLED = {number: label for label, number in LABELS.items()}
WIDTHS = 4  # of rows that are tried above that of the longest sequence
# Of a pair's tokens, the share from which on what both sides begin with is computed once. Below it the wider rows cost
# more than is saved (benchmarks/shared_prompts.py).
WORTH_SHARING = 0.1


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
    nth: int = 0  # among the pairs that its row makes (`adapters`)
    prompt: int = 0  # tokens with which both sides begin

    def __len__(self) -> int:
        return len(self.chosen) + len(self.rejected)

    @property
    def longest(self) -> int:
        """Return the tokens of the longer side."""
        return max(len(self.chosen), len(self.rejected))


class Made(Sequence[Pair], ABC):
    """Pairs that are made when they are asked for."""

    @abstractmethod
    def at(self, place: int) -> Pair:
        """Return a pair by its place, from 0."""

    @overload
    def __getitem__(self, number: int) -> Pair: ...
    @overload
    def __getitem__(self, number: slice) -> list[Pair]: ...
    def __getitem__(self, number: int | slice) -> Pair | list[Pair]:
        """Return a pair by its place, or some of them."""
        if isinstance(number, slice):
            return [self[place] for place in range(*number.indices(len(self)))]
        if not -len(self) <= number < len(self):
            raise IndexError(number)
        return self.at(number % len(self))


class Pairs(Made):
    """The pairs of a source, made from its tokenized rows when they are asked for."""

    def __init__(self, rows: Rows, nth: NDArray[np.int64], source: str) -> None:
        self.rows, self.nth, self.source = rows, nth, source

    def __len__(self) -> int:
        return len(self.rows)

    def at(self, place: int) -> Pair:
        """Return a pair by its place."""
        table, span = self.rows.span(place)
        row, ids = self.rows.row[place], table["ids"][span]
        chosen, rating = int(table["chosen"][row]), int(table["rating"][row])
        return Pair(
            chosen=ids[:chosen],
            rejected=ids[chosen:],
            rating=None if rating == NONE else RATINGS[rating],
            chosen_safe=LABELLED[int(table["chosen_safe"][row])],
            rejected_safe=LABELLED[int(table["rejected_safe"][row])],
            is_adversarial=bool(table["is_adversarial"][row]),
            source=self.source,
            row=int(table["number"][row]) - 1,
            nth=int(self.nth[place]),
            prompt=int(table["prompt"][row]),
        )


class Picked(Made):
    """Pairs of several sequences one after the other, or those of them with the given numbers; none is copied."""

    def __init__(self, parts: Sequence[Sequence[Pair]], numbers: NDArray[np.int64] | None = None) -> None:
        self.parts, self.numbers = parts, numbers
        self.ends = list(itertools.accumulate(map(len, parts)))

    def __len__(self) -> int:
        return len(self.numbers) if self.numbers is not None else (self.ends or [0])[-1]

    def at(self, place: int) -> Pair:
        """Return a pair by its place."""
        place = place if self.numbers is None else int(self.numbers[place])
        part = bisect.bisect_right(self.ends, place)
        return self.parts[part][place - (self.ends[part - 1] if part else 0)]


def shared_tokens(pair: Pair) -> int:
    """Return how many tokens both sides begin with: the prompt, and where the answers begin alike; each keeps one of its own."""
    count = min(len(pair.chosen), len(pair.rejected)) - 1
    apart = np.flatnonzero(pair.chosen[:count] != pair.rejected[:count])
    return int(apart[0]) if len(apart) else count


def _shares(pair: Pair, max_length: int) -> int:
    """Return how many tokens of a pair stand once in a row: all that both sides begin with where that pays, or 0."""
    count = shared_tokens(pair)
    return count if count >= WORTH_SHARING * len(pair) and len(pair) - count <= max_length else 0


def collate_pairs(pairs: Sequence[Pair], max_length: int) -> Batch:
    """Lay the 2m sequences into rows of at most `max_length` tokens.

    What both sides of a pair begin with stands there once where that pays, followed by the rest of each as a branch of its
    own (`line.BRANCH`): the scores are those of two sequences. Other pairs are laid out as two.

    Adds to the usual columns: `ends` (m, 2, 2), the (row, column) of the last token of chosen and rejected; `safe`
    (m, 2), 1, 0 or NaN where there is no label; `weight`, the number of pairs. `loss_mask` marks the ends. Without pairs
    it is a row of padding.
    """
    shared = [_shares(pair, max_length) for pair in pairs]
    samples: list[Sample] = []
    places: list[tuple[int, int]] = []  # of each side's last token: sample, and where in it
    for pair, count in zip(pairs, shared, strict=True):
        sides = [pair.chosen.tolist(), pair.rejected.tolist()]
        joined = [sides[0] + sides[1][count:]] if count else sides
        places += [(len(samples), len(sides[0]) - 1), (len(samples) + len(joined) - 1, len(joined[-1]) - 1)]
        samples += [Sample(tokens, [False] * len(tokens)) for tokens in joined]
    lengths = [len(sample.tokens) for sample in samples]
    rows = narrow_rows(lengths, max_length)
    batch, starts = collate(samples, rows, max(1, *(sum(lengths[i] for i in row) for row in rows)))
    ends = torch.tensor([starts[sample].tolist() for sample, _ in places], dtype=torch.int64).view(-1, 2)
    ends[:, 1] += torch.tensor([place for _, place in places], dtype=torch.int64)
    batch["loss_mask"][ends[:, 0], ends[:, 1]] = True
    for pair, count, (row, last), (_, end) in zip(pairs, shared, ends[::2].tolist(), ends[1::2].tolist(), strict=True):
        if count:
            _branch(batch, row, last + 1 - len(pair.chosen) + count, last + 1, end + 1, count)
    labels = [[_label(pair.chosen_safe), _label(pair.rejected_safe)] for pair in pairs]
    return {
        **batch,
        "ends": ends.view(-1, 2, 2),
        "safe": torch.tensor(labels).view(-1, 2),
        "weight": torch.tensor(float(len(pairs))),
    }


def _branch(batch: Batch, row: int, first: int, second: int, end: int, shared: int) -> None:
    """Make the columns from `first` to `second` and from there to `end` two branches of what comes before, `shared` tokens."""
    batch["segment_ids"][row, first:second] += BRANCH
    batch["segment_ids"][row, second:end] += 2 * BRANCH
    batch["position_ids"][row, second:end] = torch.arange(shared, shared + end - second)


def narrow_rows(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Pack into rows of at most `most` tokens, of the widths tried that which leaves the least padding, the narrowest first."""
    if not lengths:
        return [[]]
    least = max(lengths)
    tried = [pack(lengths, least + (most - least) * step // WIDTHS) for step in range(WIDTHS + 1)]
    return min(tried, key=lambda rows: len(rows) * max(sum(lengths[i] for i in row) for row in rows))


def _label(safe: bool | None) -> float:
    return math.nan if safe is None else float(safe)


def scores_at_ends(model: Callable[..., Tensor], batch: Batch) -> Tensor:
    """Return the scores (m, 2) of chosen and rejected, read at their last tokens."""
    inputs = {key: batch[key] for key in ("input_ids", "position_ids", "segment_ids")}
    rows, columns = batch["ends"].flatten(0, 1).unbind(-1)  # (2m,) each
    return model(**inputs, select=rows * inputs["input_ids"].shape[1] + columns).view(-1, 2)


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
