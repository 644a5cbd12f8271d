"""One process at a time in a folder: `.lock` in it is held for the process's life and names the holder.

On one machine flock decides: the kernel lets go however a process ends, so a kill leaves nothing to clear away. Between
machines a shared disk may not pass flock on. There the holder's sign of life counts, a number in the file that rises
every BEAT seconds: a newcomer watches it, gives way as soon as it rises, and takes over from a holder that gave no sign
for STALE seconds. No clocks are compared. A holder that comes back after that finds another's name and stops (`held`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import sys
import threading
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType

from .errors import UserError

NAME = ".lock"
BEAT, STALE = 15.0, 120.0  # seconds
SETTLE = 1.0  # seconds that two newcomers on different machines, taking over at the same moment, need to see each other
NO_FLOCK = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)  # the file system knows none


@dataclass
class Holder:
    """Who holds a folder, as written in its `.lock`."""

    pid: int
    host: str
    kernel: str  # of this start of this machine: flock is proof within it, in all of its containers
    job: str | None
    since: str
    beats: int = 0

    @staticmethod
    def here() -> Holder:
        """Return this process as a holder."""
        try:
            kernel = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        except OSError:
            kernel = socket.gethostname()
        job, since = os.environ.get("SLURM_JOB_ID"), time.strftime("%Y-%m-%d %H:%M:%S")
        return Holder(os.getpid(), socket.gethostname(), kernel, job, since)

    @staticmethod
    def read(path: Path) -> Holder | None:
        """Return who is named in the file; None where nobody is. A network disk shows what is new to a fresh `open`."""
        try:
            return Holder(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def __str__(self) -> str:
        """Name the process for people."""
        job = f" of job {self.job}" if self.job else ""
        return f"pid {self.pid}{job} on host {self.host}, since {self.since}"


def at_work(folder: Path) -> bool:
    """Tell whether a process is at work in a folder, as far as can be seen without touching its lock.

    A sign of life is young enough; of a process of this machine that was killed, its number is gone at once.
    """
    path = folder / NAME
    holder = Holder.read(path)
    if holder is None:
        return False
    here = Holder.here()
    if (holder.kernel, holder.host) == (here.kernel, here.host):
        try:
            os.kill(holder.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # another user's
            pass
    try:
        return time.time() - path.stat().st_mtime < STALE
    except OSError:
        return False


class Lock:
    """A folder held by this process; use as a context manager, or `release` it."""

    def __init__(self, folder: Path) -> None:
        """Hold a folder that is there; UserError where another process holds it. Nothing else in it is touched."""
        self.folder, self.path = folder, folder / NAME
        self._me = Holder.here()
        self._released = threading.Event()
        self._file = os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)
        try:
            self._take()
        except BaseException:
            self._file.close()
            raise
        self._beating = threading.Thread(target=self._beat, name="lock", daemon=True)
        self._beating.start()

    def _take(self) -> None:
        proof = self._flock()
        if not self._in_place():  # taken away by who held it until now
            raise self._refusal(None)
        holder = Holder.read(self.path)
        # On this machine flock has proved that whoever is named is gone; of another machine's holder it knows nothing.
        if holder is None or (proof and holder.kernel == self._me.kernel):
            self._write()
            return
        self._watch(holder)
        self._write()
        time.sleep(SETTLE)
        if not self.held():
            raise self._refusal(Holder.read(self.path))

    def _flock(self) -> bool:
        """Take the kernel's lock; return False where the file system has none."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise self._refusal(Holder.read(self.path)) from None
        except OSError as error:
            if error.errno not in NO_FLOCK:
                raise
            return False
        return True

    def _watch(self, holder: Holder) -> None:
        """Wait until the holder has let go or counts as dead; UserError as soon as it, or another one, shows up."""
        _say(f"{self.folder} is held by {holder}: waiting up to {STALE:g} s for a heartbeat")
        end = time.monotonic() + STALE
        while time.monotonic() < end:
            time.sleep(min(1.0, STALE / 4))
            now = Holder.read(self.path)
            if now is None:
                return
            if now != holder:
                raise self._refusal(now)
        _say(f"{self.folder} is taken over: its holder gave no heartbeat")

    def _refusal(self, holder: Holder | None) -> UserError:
        who = f" ({holder})" if holder is not None else ""
        return UserError(f"another process{who} is running in {self.folder}: wait for it, or choose another run.name")

    def _write(self) -> None:
        """Write all of the file at once: a reader never finds it empty or in two parts."""
        os.pwrite(self._file.fileno(), f"{json.dumps(asdict(self._me)):<511}\n".encode(), 0)

    def _beat(self) -> None:
        while not self._released.wait(BEAT):
            with contextlib.suppress(OSError):  # a disk out of reach: the next beat tries again
                if self.held():
                    self._me.beats += 1
                    self._write()

    def _in_place(self) -> bool:
        try:
            return os.path.samestat(self.path.stat(), os.fstat(self._file.fileno()))
        except OSError:
            return False

    def held(self) -> bool:
        """Tell whether the folder is still this process's: there, not replaced, and not taken over from elsewhere."""
        same, found = self._in_place(), Holder.read(self.path)
        return same and found is not None and replace(found, beats=0) == replace(self._me, beats=0)

    def release(self, remove: bool = False) -> None:
        """Let go; the file stays, empty, unless it is to be removed: of a folder in which nothing was done."""
        if self._released.is_set():
            return
        self._released.set()
        self._beating.join()
        if self.held():
            self._file.truncate(0)
            if remove:
                self.path.unlink()
        self._file.close()

    def __enter__(self) -> Lock:
        """Return the lock, which is held already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go."""
        self.release()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
