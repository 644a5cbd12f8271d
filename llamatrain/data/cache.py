"""Columns of numbers that are computed once and mapped into memory by all who need them: the ranks, runs, folds and rounds.

    runs/.cache/<hash of what the columns depend on>/   one table
        table/<column>       its numbers, one after the other
        table/table.json     what it depends on, and every column's type and length
        .lock                held by who builds it, and shared by who reads it

A table appears under its name when it is whole; one of another length than it should have is built again. Who finds
another process at work waits for it. Where nobody can write, or a lock cannot be had, everyone builds their own.
Imports no torch.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, TypedDict

import numpy as np
from numpy.typing import NDArray

from llamatrain import atomic, heartbeat
from llamatrain.errors import DiskError, UserError, no_space
from llamatrain.lock import NO_FLOCK
from llamatrain.replaced import bytes_of, size
from llamatrain.settings import RunConfig
from llamatrain.text_files import read_json

PLACE = ".cache"  # in the folder of runs
NAME = re.compile("[0-9a-f]{24}")
TABLE, INDEX, LOCK = "table", "table.json", ".lock"
WAIT, SPEAK = 0.1, 5.0  # seconds between looks at what another builds, and until that is said

Columns = dict[str, NDArray[Any]]
Blocks = Generator[Columns, None, dict[str, Any]]  # of columns, one after the other; returns notes, which JSON keeps


class _Column(TypedDict):
    dtype: str
    length: int


class _Index(TypedDict):
    about: dict[str, Any]
    columns: dict[str, _Column]
    notes: dict[str, Any]


@dataclass(frozen=True)
class Table:
    """Columns by name, each of one dimension, and notes; `key` is the hash of what they depend on."""

    key: str
    columns: Columns
    notes: dict[str, Any]
    held: Any = None  # what keeps others from removing its files

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.columns[name]


class Cache:
    """A folder of tables; None: there is none. `keep`: what is missing is kept in it; `show`: what takes long is said."""

    def __init__(self, folder: Path | None, keep: bool = True, show: bool = True) -> None:
        self.folder, self.keep, self.show = folder, keep, show

    @classmethod
    def of(cls, run: RunConfig, keep: bool = True) -> Cache:
        """Return the cache of all runs beside this one."""
        return cls(Path(run.dir) / PLACE, keep, run.progress)

    def table(self, about: Mapping[str, Any], build: Callable[[], Blocks]) -> Table:
        """Return the table of what depends on `about` alone; `build` yields its columns in blocks where it is missing.

        OSError and DiskError where it cannot be written; what `build` raises leaves nothing behind.
        """
        key = key_of(about)
        if self.folder is None:
            return in_memory(key, build())
        place, started, said = self.folder / key, time.monotonic(), not self.show
        while True:
            heartbeat.beat("read")
            if (found := _opened(place)) is not None:
                return found
            if not self.keep or not _made(place):
                return in_memory(key, build())
            with _building(place) as mine:
                if mine:
                    if _read(place) is None:
                        _write(place, about, build)
                        assert _read(place) is not None
                    continue
            if not said and time.monotonic() - started > SPEAK:
                said = True
                print(f"waiting for another process, which makes {place}", file=sys.stderr, flush=True)
            time.sleep(WAIT)


def _opened(place: Path) -> Table | None:
    """Return a whole table, whose lock is shared by all who read it; None where there is none yet."""
    if not (place / TABLE).is_dir():
        return None
    reader = None
    with suppress(OSError):  # a folder that only others can write in may still be read
        reader = (place / LOCK).open("rb")
        fcntl.flock(reader, fcntl.LOCK_SH | fcntl.LOCK_NB)
        os.utime(place / LOCK)  # when it was used last
    found = _read(place)
    return None if found is None else replace(found, held=reader)


UNKEPT = Cache(None, show=False)  # what is computed is held in memory alone


def key_of(about: Mapping[str, Any]) -> str:
    """Return the name of a table by what it depends on."""
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:24]


def in_memory(key: str, blocks: Blocks) -> Table:
    """Return the table that blocks make, held by this process alone."""
    parts: dict[str, list[NDArray[Any]]] = {}

    def collect(block: Columns) -> None:
        for name, column in block.items():
            parts.setdefault(name, []).append(column)

    notes = _drain(blocks, collect)
    return Table(key, {name: np.concatenate(columns) for name, columns in parts.items()}, notes)


def _drain(blocks: Blocks, take: Callable[[Columns], None]) -> dict[str, Any]:
    """Hand every block on; return the notes at their end."""
    try:
        while True:
            take(next(blocks))
    except StopIteration as end:
        notes: dict[str, Any] = end.value
        return notes


# --- a table's folder --------------------------------------------------------------------------------------------


def _made(place: Path) -> bool:
    """Make a table's folder with its lock; False where nobody may write there."""
    try:
        place.mkdir(parents=True, exist_ok=True)
        (place / LOCK).touch()
    except OSError as error:
        if no_space(error):
            raise _full(place, error) from None
        return False  # a run that cannot write there either says so itself
    return True


@contextmanager
def _building(place: Path, without_locks: bool = True) -> Iterator[bool]:
    """Hold a table's lock, which ends with the process however that ends; yield whether it could be had.

    Where the file system knows no locks, yield `without_locks`.
    """
    try:
        file = (place / LOCK).open("rb+")
    except FileNotFoundError:  # removed meanwhile: look again
        yield False
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            mine = False
        except OSError as error:
            if error.errno not in NO_FLOCK:
                raise
            mine = without_locks
        else:  # what lies there of this machine's was left by a kill
            mine = True
            for left in place.glob(f".{socket.gethostname()}-*"):
                shutil.rmtree(left, ignore_errors=True)
        yield mine


def _write(place: Path, about: Mapping[str, Any], build: Callable[[], Blocks]) -> None:
    """Build a table beside its name, then give it that."""
    temporary = place / f".{socket.gethostname()}-{os.getpid()}"
    try:
        temporary.mkdir()
        columns: dict[str, _Column] = {}
        with ExitStack() as stack:
            files: dict[str, BinaryIO] = {}

            def append(block: Columns) -> None:
                for name, column in block.items():
                    if name not in files:
                        files[name] = stack.enter_context((temporary / name).open("wb"))
                        columns[name] = {"dtype": column.dtype.str, "length": 0}
                    assert columns[name]["dtype"] == column.dtype.str
                    files[name].write(np.ascontiguousarray(column).data)
                    columns[name]["length"] += len(column)

            notes = _drain(build(), append)
        atomic.write_json(temporary / INDEX, _Index(about=dict(about), columns=columns, notes=notes))
        if (place / TABLE).exists() and _read(place) is None:
            shutil.rmtree(place / TABLE)
        atomic.publish(temporary, place / TABLE)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return  # without a lock another one was quicker: the same table
        if isinstance(error, OSError):
            raise _full(place, error) from None
        raise


def _full(place: Path, error: OSError) -> OSError | DiskError:
    if not no_space(error):
        return error
    where = next(path for path in (place, *place.parents) if path.is_dir())
    free = size(shutil.disk_usage(where).free)
    return DiskError(f"no space left on the disk of {place} for tokenized rows ({free} free); nothing is left of them")


def _read(place: Path) -> Table | None:
    """Return a whole table, its columns mapped into memory; None where it is missing or was cut."""
    folder = place / TABLE
    try:
        index = read_json(folder / INDEX, _Index)
        columns = {name: _mapped(folder / name, column) for name, column in index["columns"].items()}
    except (OSError, UserError, ValueError):
        return None
    return Table(place.name, columns, index["notes"])


def _mapped(path: Path, column: _Column) -> NDArray[Any]:
    dtype, length = np.dtype(column["dtype"]), column["length"]
    if path.stat().st_size != length * dtype.itemsize:
        raise ValueError(f"{path} was cut")
    return np.memmap(path, dtype, "r").view(np.ndarray) if length else np.empty(0, dtype)


# --- what lies there ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kept:
    """A table, or what a kill left of one."""

    place: Path
    about: str  # what it holds, in words
    bytes: int
    used: float  # when last, in seconds since the epoch


def kept(folder: Path) -> Iterator[Kept]:
    """Yield the tables in a folder that is called PLACE; what else lies there is somebody else's."""
    for place in sorted(path for path in folder.iterdir() if (path / LOCK).is_file() and NAME.fullmatch(path.name)):
        try:
            source = read_json(place / TABLE / INDEX, _Index)["about"].get("source")
            about = f"tokens of {source}" if source else "how rows are packed"
        except (OSError, UserError):
            about = "unfinished"
        yield Kept(place, about, bytes_of(place), (place / LOCK).stat().st_mtime)


def remove(place: Path) -> bool:
    """Delete a table; False where a process uses or builds it, or where no locks tell whether one does."""
    with _building(place, without_locks=False) as mine:
        if mine:
            shutil.rmtree(place)
    return mine
