"""Signals that ask a program to stop. Until its run begins it ends at once; from then on the run saves first. Exit code 75.

Imports nothing heavy: packages of programs call `watch` in their first line, seconds before torch is there.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

from .streams import leave_closed_terminal, open_closed, outlive_terminal

# What a terminal, Slurm or a person sends.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
EXIT_STOPPED = 75

UNHEARD = 2.0  # seconds

_once = threading.Lock()

Handler = Callable[[int, FrameType | None], object]


class Stopped(Exception):
    """A signal stopped the run after it was saved: exit code 75."""


class Interrupted(Exception):
    """A signal came while something was made that is kept whole or not at all; the ranks agree next where to stop."""


def watch(package: str) -> None:
    """Let a signal end this process with exit code 75, if it was started as a program of `package` (`python -m`).

    There is nothing to save before a run begins. A thread of its own hears the signal too, as the main one may be inside
    an import or wait for other ranks, where Python does not call handlers.
    """
    if not started_module(package):
        return
    open_closed()
    outlive_terminal()
    heard, told = os.pipe()
    os.set_blocking(told, False)
    for number in _heeded(SIGNALS):
        signal.signal(number, _end)
    signal.set_wakeup_fd(told)  # the interpreter's C handler writes the number, whatever the main thread is doing
    threading.Thread(target=lambda: _end(os.read(heard, 1)[0]), daemon=True).start()


def started_module(package: str) -> str:
    """Return the module of `package` that this process was started with (`python -m`); empty where it is none."""
    # While Python looks for the module of `-m`, that stands in the place of the script's name.
    module = sys.orig_argv[-len(sys.argv)] if sys.argv[0] == "-m" else ""
    return module if f"{module}.".startswith(f"{package}.") else ""


def _end(number: int, frame: FrameType | None = None) -> None:
    if not _once.acquire(blocking=False):  # both threads hear it
        return
    if os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0":
        _say(f"stopped: {signal.Signals(number).name}; the same command starts it again\n")
    os._exit(EXIT_STOPPED)


def _say(text: str) -> None:
    """Write to standard error from a signal handler: print fails where the signal came in the middle of a print."""
    with suppress(OSError):
        os.write(2, text.encode())


@contextmanager
def handling(handler: Handler, numbers: Sequence[signal.Signals] = SIGNALS) -> Iterator[None]:
    """Let `handler` hear the signals for a while. One that is ignored stays ignored: nohup stays nohup."""

    def hear(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            leave_closed_terminal()
        handler(number, frame)

    before = {number: signal.signal(number, hear) for number in _heeded(numbers)}
    watching = signal.set_wakeup_fd(-1)
    try:
        yield
    finally:
        signal.set_wakeup_fd(watching)
        for number, former in before.items():
            signal.signal(number, former)


@contextmanager
def heard_by_a_thread(request: StopRequest, end: Callable[[str], object]) -> Iterator[None]:
    """End the process, after `end` was told the signal, where the main thread does not hear one within UNHEARD seconds.

    It may be inside a library that works for an hour, where Python calls no handler.
    """
    heard, told = os.pipe()
    os.set_blocking(told, False)

    def listen() -> None:
        number = os.read(heard, 1)[0]
        if number and request.signal is None:
            time.sleep(UNHEARD)
        if number and request.signal is None:
            end(signal.Signals(number).name)
            _end(number)

    thread = threading.Thread(target=listen, daemon=True)
    before = signal.set_wakeup_fd(told)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.write(told, b"\0")
        thread.join()
        os.close(heard)
        os.close(told)


def _heeded(numbers: Sequence[signal.Signals]) -> list[signal.Signals]:
    return [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]


class StopRequest:
    """What a run heard: it stops at the end of its step (`patient`), or at once where nothing would be saved anyway."""

    def __init__(self, patient: bool, speaks: bool) -> None:
        self.patient, self.speaks = patient, speaks
        self.signal: str | None = None

    def hear(self, number: int, frame: FrameType | None) -> None:
        """Note a signal; raise Stopped where the run is not patient, and KeyboardInterrupt at a second Ctrl-C."""
        if number == signal.SIGINT and self.signal == "SIGINT":
            raise KeyboardInterrupt
        first, self.signal = self.signal is None, signal.Signals(number).name
        if not self.patient:
            raise Stopped(f"{self.signal}; the same command starts it again")
        if first and self.speaks:
            _say(f"\n{self.signal}: stopping as soon as what is done is saved\n")
