"""The lock of a folder: one holder at a time, named to the others, and nothing to clear away after a kill."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from llamatrain import lock
from llamatrain.errors import UserError
from llamatrain.lock import Holder, Lock

ELSEWHERE = Holder(pid=71, host="node3", kernel="another", job="842", since="2026-02-01 10:00:00", beats=5)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"BEAT": 60.0, "STALE": 0.2, "SETTLE": 0.0}.items():
        monkeypatch.setattr(lock, name, seconds)


def note(folder: Path, holder: Holder) -> None:
    (folder / ".lock").write_text(json.dumps(asdict(holder)))


def named(folder: Path) -> Holder:
    found = Holder.read(folder / ".lock")
    assert found is not None
    return found


def test_one_at_a_time(tmp_path: Path) -> None:
    with Lock(tmp_path) as first:
        assert first.held()
        with pytest.raises(UserError) as refused:
            Lock(tmp_path)
        assert str(refused.value) == (
            f"another process (pid {os.getpid()} on host {os.uname().nodename}, since {named(tmp_path).since}) is running "
            f"in {tmp_path}: wait for it, or choose another run.name"
        )
        assert first.held()
    assert (tmp_path / ".lock").read_bytes() == b""
    with Lock(tmp_path) as second:
        assert second.held()


def test_a_lock_that_is_removed_does_not_let_two_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, flock = Lock(tmp_path), fcntl.flock

    def removed_meanwhile(*arguments: Any) -> None:
        first.release(remove=True)
        flock(*arguments)

    monkeypatch.setattr(fcntl, "flock", removed_meanwhile)
    with pytest.raises(UserError, match="another process is running in"):
        Lock(tmp_path)
    assert not (tmp_path / ".lock").exists()


def test_a_killed_holder_leaves_nothing_to_clear_away(tmp_path: Path, repository: Path) -> None:
    code = (
        f"import os, signal; from pathlib import Path; from llamatrain.lock import Lock; Lock(Path({str(tmp_path)!r}))"
    )
    killed = subprocess.run([sys.executable, "-c", f"{code}; os.kill(os.getpid(), signal.SIGKILL)"], cwd=repository)
    assert killed.returncode == -9 and named(tmp_path).pid != os.getpid()
    with Lock(tmp_path) as own:  # at once: `quick` would not let it wait for a holder of this machine
        assert own.held() and named(tmp_path).pid == os.getpid()


def test_a_holder_elsewhere_that_gives_a_sign_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note(tmp_path, ELSEWHERE)
    alive = replace(ELSEWHERE, beats=6)
    monkeypatch.setattr(time, "sleep", lambda _: note(tmp_path, alive))
    with pytest.raises(UserError, match=r"\(pid 71 of job 842 on host node3, since 2026-02-01 10:00:00\) is running"):
        Lock(tmp_path)
    assert named(tmp_path) == alive


def test_a_holder_elsewhere_without_a_sign_is_replaced_and_notices(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Lock(tmp_path) as paused:
        paused._me.kernel = ELSEWHERE.kernel
        paused._write()
        fcntl.flock(paused._file, fcntl.LOCK_UN)  # a disk that does not pass flock on between machines
        with Lock(tmp_path) as own:
            assert own.held() and not paused.held()
            paused._me.beats += 1
        assert (tmp_path / ".lock").read_bytes() == b""
    said = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0].partition(" is ")[2] for line in said][1] == "taken over"
    assert said[0].endswith("waiting up to 0.2 s for a heartbeat")


def test_a_holder_elsewhere_that_lets_go_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note(tmp_path, ELSEWHERE)
    monkeypatch.setattr(lock, "STALE", 60.0)
    turns = iter([lambda: os.truncate(tmp_path / ".lock", 0), lambda: None])  # while watched, while it settles
    monkeypatch.setattr(time, "sleep", lambda _: next(turns)())
    with Lock(tmp_path) as own:
        assert own.held()


def test_of_two_that_take_over_at_once_one_gives_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note(tmp_path, ELSEWHERE)
    other = replace(ELSEWHERE, host="node4")
    monkeypatch.setattr(lock, "STALE", 0.0)
    monkeypatch.setattr(time, "sleep", lambda _: note(tmp_path, other))
    with pytest.raises(UserError, match="on host node4"):
        Lock(tmp_path)
    assert named(tmp_path) == other


def test_without_flock_the_sign_of_life_counts_on_this_machine_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*arguments: Any) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    sleep = time.sleep
    monkeypatch.setattr(fcntl, "flock", unknown)
    monkeypatch.setattr(lock, "BEAT", 0.02)
    monkeypatch.setattr(lock, "STALE", 60.0)
    monkeypatch.setattr(time, "sleep", lambda _: sleep(0.02))
    with Lock(tmp_path) as first:
        before = named(tmp_path).beats
        with pytest.raises(UserError, match="is running"):
            Lock(tmp_path)
        assert named(tmp_path).beats > before and first.held()


@pytest.mark.parametrize("again", [False, True])
def test_a_folder_that_is_removed_or_replaced_is_no_longer_held(again: bool, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with Lock(folder) as own:
        shutil.rmtree(folder)
        if again:
            folder.mkdir()
            other = Lock(folder)
        assert not own.held()
    assert folder.exists() is again
    if again:
        assert other.held()  # letting go of the old folder's left it alone
        other.release()


def test_who_only_looks_does_not_disturb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not lock.at_work(tmp_path)
    monkeypatch.setattr(lock, "STALE", 60.0)
    with Lock(tmp_path):
        assert lock.at_work(tmp_path)
    assert not lock.at_work(tmp_path)
    note(tmp_path, ELSEWHERE)
    assert lock.at_work(tmp_path)
    os.utime(tmp_path / ".lock", (1, 1))
    assert not lock.at_work(tmp_path)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    note(tmp_path, replace(Holder.here(), pid=gone.pid))
    assert not lock.at_work(tmp_path)
