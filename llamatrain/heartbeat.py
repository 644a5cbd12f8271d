"""What this rank is at, by word of its training thread: `beat` notes that it moves on. A watch (watch.py) shows it to others.

A beat costs a few assignments, so that it may stand in every loop that can take long. One of another thread, which writes a
checkpoint, counts when the training thread waits for that (`follow`). Imports no torch.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

COLLECTIVE = "collective "  # begins the name of what needs all ranks


@dataclass
class Place:
    """Where a rank stands."""

    step: int = 0
    phase: str = "start"  # train, evaluate, save; act, judge, credit, learn
    doing: str = "start"  # read, forward, backward, update, generate, write; or a collective
    since: float = field(default_factory=time.time)  # seconds since the epoch, by its own clock: for people
    beats: int = 0

    @property
    def waits(self) -> bool:
        """Tell whether it is in a collective, where others may be what it waits for."""
        return self.doing.startswith(COLLECTIVE)

    def __str__(self) -> str:
        return f"step {self.step}, {self.phase}, in {self.doing} since {time.strftime('%H:%M:%S', time.localtime(self.since))}"


here = Place()
_beside = Place()  # of the other thread
_moved = time.monotonic()


def beat(doing: str) -> None:
    """Note that this thread moves on, and to what."""
    global _moved
    place = _own()
    place.doing, place.beats, place.since = doing, place.beats + 1, time.time()
    if place is here:
        _moved = time.monotonic()


def _own() -> Place:
    return here if threading.current_thread() is threading.main_thread() else _beside


def follow(thread: threading.Thread) -> None:
    """Wait for the other thread; this one stands where that does, and moves on with it."""
    seen = -1
    while thread.is_alive():
        if _beside.beats != seen:
            seen = _beside.beats
            beat(_beside.doing)
        thread.join(0.1)


def quiet() -> float:
    """Return for how many seconds the training thread has not moved."""
    return time.monotonic() - _moved


def at_step(step: int) -> None:
    """Note the number of steps that are done."""
    here.step = step


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Name what runs inside."""
    before, here.phase = here.phase, name
    try:
        yield
    finally:
        here.phase = before


@contextmanager
def collective(name: str) -> Iterator[None]:
    """Note that this rank waits for all others inside, and then that it has met them."""
    before = _own().doing
    beat(COLLECTIVE + name)
    try:
        yield
    finally:
        beat(before)
