"""The watch of a rank: it shows where the rank stands, and ends a run that hangs long before a collective times out.

    runs/<name>/.beats/rank_00001.json   step, phase, what the rank is doing and since when, every few seconds
    runs/<name>/hangs/rank_00001.txt     who hangs and where all ranks stand, with the stacks of this one's threads

A thread of its own writes the first file and counts how often; the beats in it are the training thread's (heartbeat.py).
So a rank whose count stands still is asleep or gone, and one whose beats stand still does not get on. A rank that has not
moved for a while looks at the others' files, on a shared disk those of other machines too; for how long they stand still
goes by its own clock. Waiting for a rank that moves is no hang, nor is the sleep of a whole job (`scontrol suspend`).

It begins with the program (`early`), before the ranks have met. What they do until the run begins has no beats everywhere:
so long only a rank that is asleep or gone counts as one that hangs. The folder may still turn out to be that of a run at
work, whose files are of the same names: until then a rank's file has its host and process in its name.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from . import distributed, heartbeat
from .errors import LostRankError
from .heartbeat import Place
from .run_files import BEATS, HANGS
from .text_files import read_json

EXIT_HUNG = 128 + signal.SIGABRT  # to launchers a crash, after which a job is started again
MOST_SECONDS = 15.0  # between two looks


@dataclass
class Sign(Place):
    """A rank's file."""

    rank: int = 0
    host: str = ""
    pid: int = 0
    launch: str = ""  # an earlier one that was killed left its files
    count: int = 0  # how often it was written
    hang: str = ""  # what this rank found, as it ends

    def __str__(self) -> str:
        return f"rank {self.rank} (pid {self.pid} on host {self.host}), last seen at {super().__str__()}"


@dataclass
class Seen:
    """What a rank has seen of another, and when by its own clock the count and the beats were last new."""

    sign: Sign
    counted: float
    moved: float


def _launch() -> str:
    """Return what the ranks that were started together have in common, and those of another start do not."""
    names = ("MASTER_ADDR", "MASTER_PORT", "SLURM_JOB_ID", "SLURM_RESTART_COUNT")
    return " ".join(os.environ.get(name, "") for name in names)


def read_signs(folder: Path, launch: str) -> list[Sign]:
    """Return where the ranks of a launch stand, or stood as they were killed; a file that cannot be read now is left out.

    Of several files of a rank the newest counts: a launch may bear the name of one that was killed.
    """
    found: dict[int, tuple[float, Sign]] = {}
    for path in (folder / BEATS).glob("rank_*.json"):
        with contextlib.suppress(OSError, ValueError):
            sign, shown = read_json(path, Sign), path.stat().st_mtime
            if sign.launch == launch and (sign.rank not in found or shown > found[sign.rank][0]):
                found[sign.rank] = shown, sign
    return [found[rank][1] for rank in sorted(found)]


class Watch:
    """Watches over the ranks of a run until it is closed; no move for `minutes` is a hang, 0 watches nothing."""

    def __init__(self, folder: Path, minutes: float) -> None:
        self.folder, self.limit = folder, 60 * minutes
        self.interval = min(MOST_SECONDS, self.limit / 16)
        self._failed: Callable[[str], None] | None = None  # the run's, once it has begun
        self._sign = Sign(rank=distributed.rank(), host=socket.gethostname(), pid=os.getpid(), launch=_launch())
        name = f"rank_{self._sign.rank:05d}"
        self._own = folder / BEATS / f"{name}.json"
        self.path = self._own.with_name(f"{name}.{self._sign.host}.{self._sign.pid}.json")  # until the run begins
        self._showing = threading.Lock()
        self._seen: dict[int, Seen] = {}
        self._closed = threading.Event()
        self._stays = False  # its sign
        self._woke = 0.0  # when, by its own clock, this process was last found to have stood still as a whole
        self._thread: threading.Thread | None = None
        heartbeat.beat("start")
        if minutes and distributed.world_size() > 1:
            with contextlib.suppress(OSError):  # the run says what is wrong with its folder
                self.path.parent.mkdir(parents=True, exist_ok=True)
            self._show()  # at once: a rank that falls asleep right away is to be named, too
            self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)
            self._thread.start()

    def begin(self, failed: Callable[[str], None]) -> None:
        """Let the run begin, in its folder alone: it is told the reason, on a rank that found a hang, before the process ends."""
        heartbeat.beat("start")
        self._failed = failed
        with self._showing:
            self.path = self._own
        if self._thread is not None:
            self._show()
            with contextlib.suppress(OSError):
                for pattern in (f"{self.path.stem}.*.json", f".{self.path.stem}.*.json.tmp"):
                    for early in self.path.parent.glob(pattern):  # that of a start that was killed, too
                        early.unlink(missing_ok=True)

    def close(self) -> None:
        """End the watch, and take this rank's sign away; the last one's folders, too, where nothing else is in them."""
        if self._thread is not None:
            self._closed.set()
            self._thread.join()
            self._thread = None
            if not self._stays:
                self.path.unlink(missing_ok=True)
                with contextlib.suppress(OSError):
                    self.path.parent.rmdir()
                    self.folder.rmdir()

    def lost_rank(self, error: BaseException | None) -> LostRankError | None:
        """Return what to raise instead where a run ends by a collective's error because another rank was torn away.

        One that ended by itself, and tells why, took its sign away before its connections closed. This rank's then stays
        for the others, which see the same.
        """
        if error is None or self._thread is None or not distributed.lost_peer(error):
            return None
        self._stays = len(read_signs(self.folder, self._sign.launch)) == distributed.world_size()
        gone = "another rank is gone without a word: it was killed, or its host is out of reach"
        return LostRankError(gone) if self._stays else None

    def _watch(self) -> None:
        lay_down = time.monotonic()
        while not self._closed.wait(self.interval):
            self._turn(time.monotonic() - lay_down)
            lay_down = time.monotonic()

    def _turn(self, slept: float) -> None:
        """Show where this rank stands and look at the others, after so many seconds of sleep."""
        if slept > self.interval + self.limit / 4:
            # All of this process stood still, and maybe all ranks: a suspended job. Time begins when it wakes.
            self._woke = time.monotonic()
            self._seen.clear()
        self._show()
        quiet = min(heartbeat.quiet(), time.monotonic() - self._woke)
        if quiet < self.limit / 4:
            self._seen.clear()
            return
        self._look()
        told = next((seen.sign.hang for seen in self._seen.values() if seen.sign.hang), "")
        why, hung = self._hung() if quiet >= self.limit else ("", [])
        if told or hung:
            own = "" if self._sign in hung else f"; rank {self._sign.rank} at {heartbeat.here}"
            self._end(told or f"{'; '.join(map(str, hung))}: {why}{own}", found=not told)

    def _show(self) -> None:
        with self._showing, contextlib.suppress(OSError):  # of a disk out of reach: the others see nothing new
            self._sign = Sign(**{**asdict(self._sign), **asdict(heartbeat.here), "count": self._sign.count + 1})
            self.path.parent.mkdir(exist_ok=True)  # another rank that left may have taken it away
            temporary = self.path.with_name(f".{self.path.name}.tmp")
            temporary.write_text(json.dumps(asdict(self._sign)), encoding="utf-8")
            os.replace(temporary, self.path)

    def _look(self) -> None:
        now, signs = time.monotonic(), read_signs(self.folder, self._sign.launch)
        # Who has taken its sign away is done.
        self._seen = {sign.rank: self._seen.get(sign.rank, Seen(sign, now, now)) for sign in signs}
        self._seen.pop(self._sign.rank, None)
        for sign in signs:
            if (seen := self._seen.get(sign.rank)) is not None:
                seen.counted = now if sign.count != seen.sign.count else seen.counted
                seen.moved = now if sign.beats != seen.sign.beats else seen.moved
                seen.sign = sign

    def _hung(self) -> tuple[str, list[Sign]]:
        """Return what is wrong with which ranks; none where one that this rank waits for moves, or may have moved."""
        now, others = time.monotonic(), self._seen.values()
        if asleep := [seen.sign for seen in others if now - seen.counted >= self.limit / 2]:
            return "no sign of life since then", asleep
        if self._failed is None:
            return "", []
        if not self._sign.waits:
            return "no progress since then", [self._sign]
        if stuck := [seen.sign for seen in others if not seen.sign.waits and now - seen.moved >= self.limit]:
            return "no progress since then", stuck
        if all(seen.sign.waits and now - seen.moved >= self.limit / 2 for seen in others):
            return "all ranks wait for one another", [self._sign, *(seen.sign for seen in others)]
        return "", []

    def _end(self, hang: str, found: bool) -> None:
        """Write down what hangs and this rank's stacks, let the other ranks do the same, and end the process."""
        self._sign.hang = hang
        self._show()
        path = self.folder / HANGS / f"rank_{self._sign.rank:05d}.txt"
        signs = sorted([self._sign, *(seen.sign for seen in self._seen.values())], key=lambda sign: sign.rank)
        with contextlib.suppress(OSError):
            path.parent.mkdir(exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                file.write(f"=== {time.strftime('%F %T')}\nhang: {hang}\n\n")
                file.write("".join(f"{sign}\n" for sign in signs) + "\n")
                file.flush()
                faulthandler.dump_traceback(file, all_threads=True)
        print(f"error: hang: {hang}; stacks in {path}", file=sys.stderr, flush=True)
        if found and self._failed is not None:
            with contextlib.suppress(OSError):
                self._failed(f"hang: {hang}; stacks in {path.parent}")
        time.sleep(3 * self.interval)
        os._exit(EXIT_HUNG)


_early: Watch | None = None  # of this process, until a run takes it over


@contextlib.contextmanager
def early(folder: Path, minutes: float) -> Iterator[None]:
    """Watch over the ranks of a program from its start on; LostRankError where one was torn away before its run began."""
    global _early
    _early = watch = Watch(folder, minutes)
    try:
        yield
    except RuntimeError as error:
        lost = watch.lost_rank(error)
        if lost is None:
            raise
        raise lost from None
    finally:
        _early = None
        watch.close()


def begin(folder: Path, minutes: float, failed: Callable[[str], None]) -> Watch:
    """Return the watch of a run that begins in the folder: the program's, where it has one; `failed` as in `Watch.begin`."""
    global _early
    watch = _early if _early is not None and _early.folder == folder else Watch(folder, minutes)
    _early = None
    watch.begin(failed)
    return watch
