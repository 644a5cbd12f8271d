"""Long sampling as chunks on disk: what an interruption leaves is kept, and the next start makes the rest.

A chunk is a function of its number alone, so however often the work is interrupted the rows are the same.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from llamatrain import distributed
from llamatrain.run import Run

Row = dict[str, Any]


class Chunks:
    """Rows of `count` items in chunks of `size`, below the run folder.

    `key` is all that the rows depend on; chunks of another key are dropped, and with run.resume=never
    all of them.
    """

    def __init__(self, run: Run, key: Mapping[str, Any], count: int, size: int) -> None:
        # With few items every rank still gets a share.
        self.size = max(1, min(size, math.ceil(count / distributed.world_size())))
        self.count, self.run = count, run
        text = json.dumps({**key, "count": count, "size": self.size}, sort_keys=True, default=str)
        parent = run.folder / "chunks"
        self.folder = parent / hashlib.sha256(text.encode()).hexdigest()[:16]
        if distributed.is_main():
            for other in parent.glob("*"):
                if other != self.folder or run.config.resume == "never":
                    shutil.rmtree(other)
            self.folder.mkdir(parents=True, exist_ok=True)
        distributed.barrier()

    def __len__(self) -> int:
        """Return the number of chunks."""
        return math.ceil(self.count / self.size)

    def items(self, number: int) -> range:
        """Return which items are in a chunk."""
        return range(number * self.size, min(self.count, (number + 1) * self.size))

    def path(self, number: int) -> Path:
        """Return a chunk's file."""
        return self.folder / f"{number:06d}.jsonl"

    def make(self, rows_of: Callable[[range], list[Row]]) -> None:
        """Make the chunks that are missing, each rank every world_size-th; a signal stops the run between two of them."""
        for first in range(0, len(self), distributed.world_size()):
            number = first + distributed.rank()
            if number < len(self) and not self.path(number).exists():
                temporary = self.path(number).with_suffix(".tmp")
                lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows_of(self.items(number))]
                temporary.write_text("".join(lines), encoding="utf-8")
                temporary.replace(self.path(number))
            if self.run.stop_requested():
                self.run.stop(0)
        distributed.barrier()

    def missing(self) -> int:
        """Return how many items this rank has still to make."""
        numbers = distributed.shard(range(len(self)))
        return sum(len(self.items(number)) for number in numbers if not self.path(number).exists())

    def rows(self) -> Iterator[Row]:
        """Yield all rows in order; call it after `make`."""
        for number in range(len(self)):
            with self.path(number).open(encoding="utf-8") as lines:
                yield from map(json.loads, lines)
