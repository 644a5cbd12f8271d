"""A run's checkpoints on their way to the disk: written by a thread of each rank while training goes on, one at a time.

Within the step's boundary each rank copies its parts into host memory, no more. The threads write, hash and publish over a
group of ranks of their own (saving.py). Where the host's memory does not suffice for the copies, training waits instead.
Imports no torch.
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import distributed, heartbeat
from .errors import UserError
from .memory import free_memory
from .replaced import size

if TYPE_CHECKING:
    from .saving import Saving

USED = 0.8  # of a host's free memory: the rest is for what training takes next


class Saver:
    """Writes checkpoints one after the other.

    On rank 0 `saved` is called once one is published, `say` told how they are written, and where one cannot be, `gone` asked
    whether the run's folder is there no more. `measured` gets the mean seconds for which training stands still
    (save_seconds) and until a checkpoint is published (publish_seconds).
    """

    def __init__(
        self, saved: Callable[[], None], say: Callable[[str], None], gone: Callable[[], str], measured: dict[str, float]
    ) -> None:
        self._saved, self._say, self._gone, self._measured = saved, say, gone, measured
        self._count = 0
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._group: Any = None
        self._grouped, self._said = False, ""

    def save(self, saving: Saving) -> None:
        """Begin to write a checkpoint, after the one before; called by all ranks together, as all of these."""
        started = time.perf_counter()
        self.wait()
        behind, why = _fits(saving.snapshot_bytes())
        if why != self._said:  # once; where training goes on there is nothing to say
            self._say(why)
            self._said = why
        saving.prepare()
        self._count += 1
        if not behind:
            self._write(saving, None, started)
            self._end()
            self._took("save_seconds", started)
            return
        if not self._grouped:
            self._group, self._grouped = distributed.new_group(), True
        saving.snapshot()
        self._thread = threading.Thread(
            target=self._write, args=(saving, self._group, started), name="checkpoint", daemon=True
        )
        self._thread.start()
        self._took("save_seconds", started)

    def check(self) -> None:
        """Raise what went wrong with a checkpoint that is written no more; called by all ranks together."""
        if self._thread is None:
            return
        if not self._thread.is_alive() and not isinstance(self._error, UserError | None):
            self._end()  # at once: the other ranks' threads wait for this one until it has left
        if not distributed.any_rank(self._thread.is_alive()):
            self._end()

    def wait(self) -> None:
        """Wait until all is written; DiskError where it cannot be. A rank may do so alone."""
        if self._thread is not None:
            heartbeat.follow(self._thread)
            self._end()

    def close(self, error: BaseException | None) -> Exception | None:
        """Wait as a run ends, in an `error` or without; return what went wrong, which is printed beside another error."""
        if isinstance(error, KeyboardInterrupt):  # a second Ctrl-C
            return None
        try:
            self.wait()
        except Exception as found:
            if error is not None and distributed.is_main() and not distributed.lost_peer(found):
                print(f"error: {found}", file=sys.stderr, flush=True)
            return found
        return None

    def _took(self, key: str, started: float) -> None:
        """Take the seconds since `started` into a mean."""
        mean = self._measured.get(key, 0.0)
        self._measured[key] = mean + (time.perf_counter() - started - mean) / self._count

    def _write(self, saving: Saving, group: Any, started: float) -> None:
        self._error = None
        try:
            try:
                saving.write(group)
            except UserError:  # on all ranks
                distributed.fail_together(self._gone(), group)
                raise
            if distributed.is_main():
                self._saved()
            self._took("publish_seconds", started)
        except BaseException as error:
            self._error = error

    def _end(self) -> None:
        if self._thread is not None:
            self._thread.join()
        error, self._thread, self._error = self._error, None, None
        if error is not None:
            raise error


def _fits(need: int) -> tuple[bool, str]:
    """Tell whether every host has memory for what its ranks copy, `need` on this one; and in words what it means if not."""
    host, free = socket.gethostname(), free_memory()
    told = distributed.gather_objects((host, need, free))
    needs = {name: sum(n for other, n, _ in told if other == name) for name, *_ in told}
    frees = {name: min(f for other, _, f in told if other == name) for name, *_ in told}
    tightest = max(needs, key=lambda name: needs[name] / max(1, frees[name]))
    figures = f"{size(needs[tightest])} of host memory, {size(frees[tightest])} are free"
    if needs[tightest] <= USED * frees[tightest]:
        return True, ""
    return False, f"training waits for checkpoints: to copy the state takes {figures} on {tightest}"
