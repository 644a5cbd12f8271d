"""Tables are made once, whole or not at all, and shared by processes."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from llamatrain.data import cache
from llamatrain.data.cache import LOCK, TABLE, Blocks, Cache, kept, key_of, remove
from llamatrain.errors import DiskError, UserError
from tests.conftest import REPOSITORY

ABOUT = {"source": "rows.jsonl", "content": "1a2b"}
# Builds, and says so, as slowly as it is told; then says what it got.
BUILDER = """
import sys, time, numpy as np
from pathlib import Path
from llamatrain.data.cache import Cache

def build():
    print("builds", flush=True)
    for number in range(4):
        time.sleep(float(sys.argv[2]))
        yield {"ids": np.arange(number * 10, number * 10 + 10)}
    return {}

table = Cache(Path(sys.argv[1]), show=False).table({"source": "rows.jsonl", "content": "1a2b"}, build)
print(table["ids"].sum(), flush=True)
"""


def counting(calls: list[int], fails: BaseException | None = None) -> Callable[[], Blocks]:
    def build() -> Blocks:
        calls.append(len(calls))
        for number in range(3):
            yield {"ids": np.arange(number * 10, number * 10 + 10, dtype=np.uint32), "empty": np.empty(0, np.int8)}
            if fails is not None and number == 1:
                raise fails
        return {"said": "notes"}

    return build


def test_a_table_is_built_once_and_mapped(tmp_path: Path) -> None:
    calls: list[int] = []
    first = Cache(tmp_path).table(ABOUT, counting(calls))
    again = Cache(tmp_path).table(ABOUT, counting(calls))
    assert calls == [0]
    assert first["ids"].tolist() == again["ids"].tolist() == list(range(30))
    assert (again["ids"].dtype, isinstance(again["ids"].base, np.memmap), len(again["empty"])) == (np.uint32, True, 0)
    assert (again.notes, again.key) == ({"said": "notes"}, key_of(ABOUT))
    other = Cache(tmp_path).table({**ABOUT, "content": "3c4d"}, counting(calls))
    assert calls == [0, 1]
    assert other.key != again.key


def test_what_is_not_kept_is_used_where_it_is_there(tmp_path: Path) -> None:
    calls: list[int] = []
    assert Cache(tmp_path / "runs", keep=False).table(ABOUT, counting(calls))["ids"].tolist() == list(range(30))
    assert not (tmp_path / "runs").exists()
    Cache(tmp_path / "runs").table(ABOUT, counting(calls))
    Cache(tmp_path / "runs", keep=False).table(ABOUT, counting(calls))
    assert calls == [0, 1]


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOTDIR])
def test_where_nobody_can_write_everyone_builds_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "mkdir", refused)
    assert Cache(tmp_path / "runs").table(ABOUT, counting([])).notes == {"said": "notes"}


@pytest.mark.parametrize("error", [UserError("a bad row"), KeyboardInterrupt()])
def test_what_fails_leaves_nothing_behind(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        Cache(tmp_path).table(ABOUT, counting([], error))
    assert [path.name for path in (tmp_path / key_of(ABOUT)).iterdir()] == [LOCK]


def test_a_full_disk_is_told_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match=r"no space left on the disk of .* for tokenized rows \(.* free\)"):
        Cache(tmp_path).table(ABOUT, counting([], OSError(errno.ENOSPC, "full")))
    assert [path.name for path in (tmp_path / key_of(ABOUT)).iterdir()] == [LOCK]
    assert len(Cache(tmp_path).table(ABOUT, counting([]))["ids"]) == 30


def test_a_table_that_was_cut_is_built_again(tmp_path: Path) -> None:
    calls: list[int] = []
    Cache(tmp_path).table(ABOUT, counting(calls))
    folder = tmp_path / key_of(ABOUT) / TABLE
    for name, content in (("ids", b"1234"), (cache.INDEX, b"{")):
        (folder / name).write_bytes(content)
        assert Cache(tmp_path).table(ABOUT, counting(calls))["ids"].tolist() == list(range(30))
    (folder / "ids").unlink()
    assert Cache(tmp_path).table(ABOUT, counting(calls))["ids"].tolist() == list(range(30))
    assert calls == [0, 1, 2, 3]


def start(folder: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", BUILDER, str(folder), str(seconds)]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)


def test_one_builds_and_the_others_wait_and_a_kill_leaves_nothing_that_is_used(tmp_path: Path) -> None:
    killed = start(tmp_path, 60)
    assert killed.stdout is not None
    assert killed.stdout.readline() == "builds\n"
    (place,) = (path for path in tmp_path.iterdir() if path.is_dir())
    others = [start(tmp_path, 0.1) for _ in range(3)]
    time.sleep(1)
    assert not remove(place)  # it is being built
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    said = [other.communicate()[0] for other in others]
    assert sorted(said) == ["780\n", "780\n", "builds\n780\n"]
    assert sorted(path.name for path in place.iterdir()) == [LOCK, TABLE]


def test_without_locks_the_first_to_finish_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_lock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(cache.fcntl, "flock", no_lock)
    inner: list[int] = []

    def build() -> Blocks:
        yield {"ids": np.arange(3)}
        Cache(tmp_path).table(ABOUT, counting(inner))  # another one, on another node, is quicker
        return {}

    monkeypatch.setattr(cache.os, "getpid", iter(range(10)).__next__)
    assert len(Cache(tmp_path).table(ABOUT, build)["ids"]) == 30
    place = tmp_path / key_of(ABOUT)
    assert sorted(path.name for path in place.iterdir()) == [LOCK, TABLE]
    assert not remove(place)  # nothing tells whether somebody uses it
    assert sorted(path.name for path in place.iterdir()) == [LOCK, TABLE]


def test_tables_are_listed_and_those_in_use_stay(tmp_path: Path) -> None:
    used = Cache(tmp_path).table(ABOUT, counting([]))
    Cache(tmp_path).table({"source": "other.jsonl"}, counting([]))
    found = {one.about: one for one in kept(tmp_path)}
    (first, second) = found["tokens of rows.jsonl"], found["tokens of other.jsonl"]
    assert first.bytes > 120
    assert abs(first.used - time.time()) < 600
    assert remove(second.place)
    assert not remove(first.place)
    assert used["ids"].sum() == 435
    del used
    assert remove(first.place)
    assert list(kept(tmp_path)) == []
