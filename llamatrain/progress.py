"""Progress of long work: a bar with rate and time left on a terminal, plain lines now and then in a log file."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

SECONDS_BETWEEN_LINES = 10.0


def duration(seconds: float) -> str:
    """Write seconds as a person would: 45 s, 3:20 min, 2:05 h."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if seconds < 3600:
        return f"{int(seconds // 60)}:{int(seconds % 60):02d} min"
    return f"{minutes // 60}:{minutes % 60:02d} h"


def counted(number: float, noun: str, form: str = ",.0f", plural: str = "s") -> str:
    """Write how many of something there are: 1 pair, 2,500 pairs, in three digits (`.3g`) 1.25 epochs."""
    text = f"{number:{form}}"
    return f"{text} {noun}" if text == "1" else f"{text} {noun}{plural}"


class Progress:
    """A bar over `total` units of work; use as a context manager and call `update`."""

    def __init__(
        self, total: int, description: str, unit: str, done: int = 0, show: bool = True, every: int = 0
    ) -> None:
        """Begin at `done`; with `every`, a log gets a line each that many units, otherwise one about every ten seconds."""
        self.total, self.description, self.unit, self.every = total, description, unit, every
        self.done: float = done
        self.start_done: float = done
        self.weight = 1.0  # what a unit counts: above 1 where this rank's work stands for that of others
        self.started = self.last_line = time.monotonic()
        self.show = show
        self.shown: dict[str, Any] = {}
        self._bar: Any = None
        if show and sys.stderr.isatty():
            self._bar = self._make_bar()

    def _make_bar(self) -> Any:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        bar = Progress(
            TextColumn("{task.description}", style="bold", markup=False),  # a path in it may hold brackets
            BarColumn(bar_width=28),
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[rate]}", style="cyan", markup=False),
            TextColumn("left", style="dim"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[shown]}", markup=False),
            console=Console(stderr=True),
        )
        bar.add_task(self.description, total=self.total, completed=round(self.done), rate="", shown="")
        bar.start()
        return bar

    def update(self, n: int = 1, **shown: Any) -> None:
        """Count n more units; the named values are shown beside the bar."""
        before, self.done = self.done, self.done + n * self.weight
        if not self.show:  # counted all the same
            return
        self.shown.update(shown)
        if self._bar is not None:
            self._bar.update(0, completed=round(self.done), rate=self._rate(), shown=self._values())
            return
        due = self.every and (self.done // self.every > before // self.every)
        if due or (not self.every and time.monotonic() - self.last_line > SECONDS_BETWEEN_LINES):
            self.last_line = time.monotonic()
            self._line()

    def back(self, done: int) -> None:
        """Go back to fewer units done; the rate counts from here."""
        self.done = self.start_done = done
        self.started = time.monotonic()
        if self._bar is not None:
            self._bar.update(0, completed=done)

    def _rate(self) -> str:
        seconds = max(1e-6, time.monotonic() - self.started)
        rate = (self.done - self.start_done) / seconds
        return f"{rate:,.0f} {self.unit}/s" if rate >= 10 else f"{rate:.2f} {self.unit}/s"

    def _values(self) -> str:
        shown = {k.replace("_per_second", "/s"): v for k, v in self.shown.items()}
        return "  ".join(f"{k} {v:#.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in shown.items())

    def _line(self) -> None:
        elapsed = time.monotonic() - self.started
        rate = (self.done - self.start_done) / max(1e-6, elapsed)
        left = duration((self.total - self.done) / rate) if rate > 0 else "?"
        text = f"{self.description} {self.done:.0f}/{self.total}  {self._rate()}  left {left}  {self._values()}"
        print(text.rstrip(), file=sys.stderr, flush=True)

    def print(self, text: str) -> None:
        """Print a line above the bar."""
        if not self.show:
            return
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def __enter__(self) -> Progress:
        """Start the clock."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave a finished bar or a last line."""
        if self._bar is not None:
            self._bar.stop()
        elif self.show and self.done > self.start_done:
            seconds = time.monotonic() - self.started
            print(
                f"{self.description} {self.done:.0f}/{self.total} in {duration(seconds)}  {self._rate()}  {self._values()}".rstrip(),
                file=sys.stderr,
                flush=True,
            )
