"""Batches addressed by step: what a step trains on follows from seed, data and step, never from ranks or history.

Rows stand in one endless series of places: epoch after epoch, each in its own pseudo-random order (`permuted`). Step
s takes places s * batch_size and on; an epoch's end may fall within a batch. A resumed run, on any number of ranks,
asks for the step it is at. What the rows are: `sequences` of a corpus, packed `dialogues`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from llamatrain.data.order import Places
from llamatrain.data.packing import Batch
from llamatrain.errors import UserError
from llamatrain.shares import passes


class Batches:
    """Global batches of rows, split over micro-batches and ranks. A subclass makes the rows at given places."""

    fingerprint: str
    steps_per_epoch: float

    def __init__(
        self, batch_size: int, micro_batch_size: int, seed: int, rank: int, world_size: int, skip: Sequence[int]
    ) -> None:
        self.batch_size, self.micro_batch_size = batch_size, micro_batch_size
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.skip = list(skip)

    @property
    def skip(self) -> list[int]:
        """The global places that are skipped, in order. A longer list leaves the places before its new ones alone."""
        return [int(place) for place in self._skip]

    @skip.setter
    def skip(self, places: list[int]) -> None:
        if min(places, default=0) < 0:
            raise UserError(f"skip_samples={places}: need numbers of 0 or more")
        self._skip = np.unique(np.asarray(places, dtype=np.int64))
        self._skip_after = self._skip - np.arange(len(self._skip))  # how many samples are taken before each skipped one

    def sample_ids(self, step: int) -> list[int]:
        """Return the global places of a step's rows. Those in `skip` are left out: the next ones move up."""
        return [int(place) for place in self._places(step)]

    def batch_at(self, step: int) -> list[Batch]:
        """Return this rank's micro-batches of the global batch of `step` (counted from 0)."""
        first, end = (rank * self.batch_size // self.world_size for rank in (self.rank, self.rank + 1))
        own, size = self._places(step)[first:end], self.micro_batch_size
        count = passes(self.batch_size, size, self.world_size)
        return [self._rows_at(own[number * size : (number + 1) * size]) for number in range(count)]

    def eval_batches(self, limit: int | None = None) -> Iterator[Batch]:
        """Yield this rank's share of all rows (or the first `limit`), in order and once: as many batches on every rank.

        What is missing from the last ones is padding (rows without a target, weight 0).
        """
        return self._in_order(0, self._count(), limit)

    def _in_order(self, first: int, count: int, limit: int | None) -> Iterator[Batch]:
        rows = count if limit is None else min(limit, count)
        size = self.micro_batch_size
        rounds = -(-rows // (size * self.world_size))
        for number in range(rounds):
            start = (number * self.world_size + self.rank) * size
            yield self._eval_rows(range(first + min(start, rows), first + min(start + size, rows)))

    def _places(self, step: int) -> Places:
        wanted = np.arange(step * self.batch_size, (step + 1) * self.batch_size, dtype=np.int64)
        # The sample taken as number w stands behind every skipped one before which at most w are taken.
        return wanted + np.searchsorted(self._skip_after, wanted, side="right")

    def _count(self) -> int:
        raise NotImplementedError

    def _rows_at(self, places: Places) -> Batch:
        """Return the rows at these places, filled up to a micro-batch with rows that have no target."""
        raise NotImplementedError

    def _eval_rows(self, rows: range) -> Batch:
        raise NotImplementedError
