"""Processes of a stage: started on one or more ranks, their signals forwarded once, their exit code handed back."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import FrameType, TracebackType

from llamatrain.stopping import handling

from .programs import environment
from .ranks import apart

PR_SET_PDEATHSIG = 1  # of Linux's prctl
SECONDS_TO_FOLLOW = 15  # after one rank failed, the others wait for it in vain: they get this long to end by themselves


class Processes:
    """Starts commands and forwards signals to them; use as a context manager.

    Children are their own process groups, so Ctrl-C on a terminal reaches this process alone, which passes it on: once.
    """

    def __init__(self) -> None:
        self.stopped = False  # whether a signal asked us to stop
        self._children: list[subprocess.Popen[bytes]] = []
        self._told: set[int] = set()  # children that heard the signal

    def __enter__(self) -> Processes:
        self._signals = ExitStack()
        self._signals.enter_context(handling(self._forward))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in self._children:
            if child.poll() is None:
                child.kill()
        self._signals.close()

    def _forward(self, number: int, frame: FrameType | None) -> None:
        self.stopped = True
        for child in self._children:
            if child.poll() is None:
                self._told.add(child.pid)
                child.send_signal(number)

    def run(self, command: Sequence[str], ranks: int = 1, aside: bool = False) -> int:
        """Run a command on so many ranks of this machine and return its exit code (128 + n where signal n killed it).

        One `aside` is alone also where a launcher started this process, and what it says to standard output is dropped.
        """
        self._children = []
        for environ in [apart(environment())] if aside else _environments(ranks):
            child = subprocess.Popen(
                command,
                env=environ,
                process_group=0,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL if aside else None,
                preexec_fn=_end_with(os.getpid()),
            )
            self._children.append(child)
        if self.stopped:  # a signal came while they were being started: tell those that did not hear it
            for child in self._children:
                if child.pid not in self._told:
                    child.send_signal(signal.SIGTERM)
        code = _wait(self._children)
        return 128 - code if code < 0 else code


def ended(code: int) -> str:
    """Return how a process ended, by the exit code that `run` returned."""
    if code == 128 + signal.SIGKILL:
        return "killed by SIGKILL, most likely out of memory"
    names = {128 + number: number.name for number in signal.Signals}
    return f"killed by {names[code]}" if code in names else f"exit code {code}"


def _end_with(parent: int) -> Callable[[], None]:
    """Return what a child does first: ask for SIGTERM when its parent dies, be it by SIGKILL (Linux), so that it saves."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)

    def ask() -> None:
        if prctl is not None:
            prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:  # it died before
                os.kill(os.getpid(), signal.SIGTERM)

    return ask


def _wait(children: Sequence[subprocess.Popen[bytes]]) -> int:
    """Wait for all; when one fails the others soon follow, or are killed. Return the first failure's code."""
    if len(children) == 1:
        return children[0].wait()
    running, code, deadline = list(children), 0, float("inf")
    while running:
        time.sleep(0.05)
        for child in running:
            if child.poll() and not code:
                code, deadline = child.returncode, time.monotonic() + SECONDS_TO_FOLLOW
        running = [child for child in running if child.returncode is None]
        if time.monotonic() > deadline:
            for child in running:
                child.kill()
    return code


def _environments(ranks: int) -> list[dict[str, str]]:
    """Return each rank's environment, with what torch.distributed reads and its share of the processor's cores."""
    environ = environment()
    if ranks == 1:
        return [environ]
    # The system picks a free port. It is let go before rank 0 takes it, a gap in which nobody else is likely to.
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
    }
    # Ranks with all cores each would slow one another down many times over.
    environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // ranks)))
    return [environ | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]
