"""Long sampling as chunks on disk: what an interruption leaves is kept, and the next start makes the rest.

A chunk is a function of its number alone, so however often the work is interrupted the rows are the same.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from llamatrain import distributed, manifest
from llamatrain.data.rows import write_rows
from llamatrain.errors import UserError
from llamatrain.progress import Progress
from llamatrain.responses.prompts import prompts_fingerprint
from llamatrain.run import Run
from llamatrain.stopping import Interrupted
from llamatrain.text_files import read_lines

R = TypeVar("R", bound=Mapping[str, object])  # a kind of rows, a TypedDict


class Chunks(Generic[R]):
    """Rows of `count` items in chunks of `size`, below the run folder.

    `key` is all that the rows depend on: chunks of other keys lie beside these and are left alone. An item has
    `item_rows` rows of `kind`, a TypedDict, and each must hold what that says.
    """

    def __init__(
        self,
        run: Run,
        key: Mapping[str, Any],
        count: int,
        size: int,
        kind: type[R],
        item_rows: int = 1,
        together: bool = False,
        place: str = "chunks",
    ) -> None:
        """Look which chunks are there below `place` in the run folder.

        Those made `together` need all ranks at once: a round of one per rank is made by all or none, and a rank that has no
        chunk in it makes rows of no items meanwhile.
        """
        # With few items every rank still gets a share.
        self.size = max(1, min(size, math.ceil(count / distributed.world_size())))
        self.count, self.run, self.kind, self.item_rows, self.together = count, run, kind, item_rows, together
        text = json.dumps({**key, "count": count, "size": self.size}, sort_keys=True, default=str)
        self.folder = run.folder / place / hashlib.sha256(text.encode()).hexdigest()[:16]
        if distributed.is_main():
            self.folder.mkdir(parents=True, exist_ok=True)
        distributed.barrier()
        own = distributed.shard(range(len(self)))
        self._left = [number for number in own if not self._made(number)]
        if together:
            ranks = distributed.world_size()
            lacking = {number // ranks for left in distributed.gather_objects(self._left) for number in left}
            self._left = [number for number in own if number // ranks in lacking]

    def __len__(self) -> int:
        """Return the number of chunks."""
        return math.ceil(self.count / self.size)

    def items(self, number: int) -> range:
        """Return which items are in a chunk."""
        return range(number * self.size, min(self.count, (number + 1) * self.size))

    def path(self, number: int) -> Path:
        """Return a chunk's file."""
        return self.folder / f"{number:06d}.jsonl"

    def make(self, rows_of: Callable[[range], list[R]], bar: Progress | None = None, units: int = 1) -> bool:
        """Make the chunks that are missing, each rank every world_size-th; return whether all are there, on all ranks.

        They are not where a signal asked to stop: the ranks meet between two chunks, and `rows_of` may give up the one
        that it is at by raising Interrupted. It counts an item as `units` on `bar`, which shows all ranks' work: what
        one has done stands for the others'.
        """
        # In rounds of one chunk per rank, made or not: so all ranks meet in the same collectives.
        for first in range(0, len(self), distributed.world_size()):
            number = first + distributed.rank()
            own = len(self.items(number)) if number in self._left else 0
            all_ranks = distributed.all_reduce_sum(own)
            if bar is not None:
                bar.weight = all_ranks / own if own else 1.0
            if own:
                with suppress(Interrupted):
                    write_rows(self.path(number), rows_of(self.items(number)))
                    self._left.remove(number)
            elif self.together and all_ranks:
                rows_of(range(0))
            elif bar is not None:
                bar.update(round(all_ranks) * units)
            if self.run.stop_requested():
                return False
        distributed.barrier()
        return True

    def missing(self) -> int:
        """Return how many items all ranks have still to make."""
        return round(distributed.all_reduce_sum(sum(len(self.items(number)) for number in self._left)))

    def rows(self) -> Iterator[R]:
        """Yield all rows in order; call it after `make`."""
        for number in range(len(self)):
            yield from self._read(number)

    def gathered(self) -> list[R]:
        """Return all rows in order, on every rank: each reads those that it made. Call it after `make`."""
        own = {number: list(self._read(number)) for number in distributed.shard(range(len(self)))}
        parts = {number: rows for part in distributed.gather_objects(own) for number, rows in part.items()}
        return [row for number in range(len(self)) for row in parts[number]]

    def _read(self, number: int) -> Iterator[R]:
        return cast(Iterator[R], read_lines(self.path(number), dict))  # `_made` has checked them

    def _made(self, number: int) -> bool:
        """Tell whether a chunk is there with all of its rows; one that is not whole is said, and made again."""
        path, needed = self.path(number), len(self.items(number)) * self.item_rows
        try:
            found = sum(1 for _ in read_lines(path, self.kind))
        except FileNotFoundError:
            return False
        except UserError as error:
            fault = str(error)
        else:
            if found == needed:
                return True
            fault = f"{path} is damaged: it has {found} of {needed} rows"
        print(f"{fault}; it is regenerated", file=sys.stderr, flush=True)
        return False


def chunk_key(parents: dict[str, Path], prompts: Sequence[str], **settings: Any) -> dict[str, Any]:
    """Return all that sampled rows depend on: the models, the prompts' sources, and the program's own settings."""
    # A folder made elsewhere has no manifest, and is read as a whole for its fingerprint: by rank 0 alone.
    own = {name: manifest.fingerprint(path) for name, path in parents.items()} if distributed.is_main() else {}
    return {"models": distributed.broadcast_object(own), "prompts": prompts_fingerprint(prompts), **settings}
