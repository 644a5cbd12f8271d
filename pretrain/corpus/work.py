"""Finished work on disk, and the processes that do what is missing.

    work/key.json                what the work belongs to: settings and inputs; other work is deleted
    work/last.json               what only the last steps depend on; other work of these steps is thrown away
    work/<step>/<task>/          what a task made; the folder appears when it is whole
    work/<step>/seconds          how long the step took, over all attempts; work/seconds: how long all did

A task is a function of a folder to write into and of plain arguments. It depends on nothing but these and on the
results of earlier steps, so the result does not depend on how many processes there are, nor on how often they were
killed.
"""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from llamatrain import atomic
from llamatrain.text_files import read_json

Task = tuple[Any, ...]
LIBRARY_THREADS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}


class Bar(Protocol):
    """What a step tells of its progress."""

    def update(self, n: int = 1, **shown: Any) -> None: ...


class Unseen:
    """No bar, for a small part of a step that shows one."""

    def update(self, n: int = 1, **shown: Any) -> None:
        """Show nothing."""


class WorkerDied(RuntimeError):
    """A worker process ended without a word, most likely for want of memory."""


class Work:
    """The folder `work/` of a run and its worker processes; a context manager."""

    def __init__(self, folder: Path, key: Any, workers: int, bar: Callable[..., Any]) -> None:
        """Take over the finished tasks in `folder` if they belong to `key`; `bar(total, step, unit)` makes a progress bar."""
        self.folder, self.workers, self.bar = folder, workers, bar
        self._pool: ProcessPoolExecutor | None = None
        self._started = time.monotonic()
        text = json.dumps(key, sort_keys=True, indent=1)
        known = folder / "key.json"
        self.fresh = not known.is_file() or known.read_bytes() != text.encode()
        if self.fresh:
            discard(folder)
            folder.mkdir(parents=True)
            atomic.write_text(known, text)
        self._before = _noted(folder)

    def claim(self, steps: Sequence[str], key: Any) -> bool:
        """Tell whether the work of the last `steps` belongs to `key`, too; throw it away where it does not."""
        text = json.dumps(key, sort_keys=True, indent=1)
        known = self.folder / "last.json"
        if known.is_file() and known.read_bytes() == text.encode():
            return True
        for step in steps:
            discard(self.folder / step)
        atomic.write_text(known, text)
        return False

    def run(
        self, step: str, function: Callable[..., None], tasks: Sequence[Task], bar: Bar | None = None
    ) -> list[Path]:
        """Do the tasks of a step that are not yet done, each `function(folder, *task)`; return their folders in order.

        Without a bar of a larger whole, the step shows its own.
        """
        home = self.folder / step
        home.mkdir(parents=True, exist_ok=True)
        folders = [home / f"{number:06d}" for number in range(len(tasks))]
        done = {entry.name for entry in os.scandir(home)}
        left = [(folder, task) for folder, task in zip(folders, tasks, strict=True) if folder.name not in done]
        if bar is not None:
            bar.update(len(tasks) - len(left))
            self._finish(home, function, left, bar)
        elif left:
            with self.bar(len(tasks), step, "chunks", done=len(tasks) - len(left)) as own:
                self._finish(home, function, left, own)
        return folders

    def _finish(self, home: Path, function: Callable[..., None], left: Sequence[tuple[Path, Task]], bar: Bar) -> None:
        before, started = _noted(home), time.monotonic()
        for _ in self._results(function, left):
            _note(home, before + time.monotonic() - started)
            _note(self.folder, self.spent())
            bar.update(1)

    def _results(self, function: Callable[..., None], left: Sequence[tuple[Path, Task]]) -> Iterator[None]:
        if min(self.workers, len(left)) < 2 and self._pool is None:
            for folder, task in left:
                _publish(function, folder, task)
                yield
            return
        pool = self._pool = self._pool or _start(self.workers)
        waiting = iter(left)
        running: set[Future[None]] = set()
        try:
            while True:
                # A few ahead of the workers, so that none is idle; all at once would hold every task's arguments.
                while len(running) < 3 * self.workers and (following := next(waiting, None)):
                    running.add(pool.submit(_publish, function, *following))
                if not running:
                    return
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    yield future.result()
        except BrokenProcessPool as error:
            raise WorkerDied(
                "a worker process was killed, most likely out of memory; the same command resumes "
                "(a smaller num_workers or chunk_mb uses less)"
            ) from error

    def steps(self, kind: str) -> list[Path]:
        """Return the folders of the steps `kind/...` that were begun."""
        home = self.folder / kind
        return sorted(home.iterdir()) if home.is_dir() else []

    def seconds(self, step: str) -> float:
        """Return how long a step took, over all attempts."""
        return _noted(self.folder / step)

    def spent(self) -> float:
        """Return the seconds of this attempt and, up to the last task that each finished, of those before it."""
        return self._before + time.monotonic() - self._started

    def __enter__(self) -> Work:
        """Return the work; processes start with the first step that has more than one task."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the worker processes, at once where something went wrong."""
        if self._pool is None:
            return
        if error is not None:
            for child in multiprocessing.active_children():
                child.terminate()
        self._pool.shutdown(wait=error is None, cancel_futures=True)


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def discard(folder: Path) -> None:
    """Delete a folder of work, under another name: what a kill leaves of it is never taken for finished work."""
    doomed = folder.with_name(f".{folder.name}.doomed")
    if doomed.exists():  # a kill left it
        shutil.rmtree(doomed)
    if folder.exists():
        folder.rename(doomed)
        shutil.rmtree(doomed)


def _noted(folder: Path) -> float:
    path = folder / "seconds"
    return read_json(path, float, "delete it") if path.is_file() else 0.0


def _note(folder: Path, seconds: float) -> None:
    atomic.write_text(folder / "seconds", str(seconds))


def _publish(function: Callable[..., None], folder: Path, task: Task) -> None:
    """Do one task under a temporary name, then give its folder its own."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    function(temporary, *task)
    try:
        atomic.publish(temporary, folder)
    except OSError as error:
        shutil.rmtree(temporary)
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        # A worker of an earlier, killed run was quicker: the same task makes the same files.


def _start(workers: int) -> ProcessPoolExecutor:
    """Start fresh processes: a fork would copy this one's memory and locks held by its threads."""
    os.environ.update(LIBRARY_THREADS)  # each process has one core
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, context, initializer=_attend, initargs=(os.getpid(),))


def _attend(parent: int) -> None:
    """Leave Ctrl-C to the parent, and end with it, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:  # a parent that was killed outright tells nobody: its children get another one
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
