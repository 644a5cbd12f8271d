"""Processes of several ranks get what torch.distributed reads; when one fails the others follow."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch import processes
from launch.processes import Processes

SAY = "import os; print([os.environ[k] for k in ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'OMP_NUM_THREADS')], flush=True)"


def test_ranks_know_their_places(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    with Processes() as started:
        assert started.run([sys.executable, "-c", SAY], ranks=2) == 0
    lines = capfd.readouterr().out.splitlines()
    assert sorted(lines) == ["['0', '0', '2', '4']", "['1', '1', '2', '4']"]


def test_one_rank_alone_is_a_plain_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with Processes() as started:
        code = "import os, sys; sys.exit('RANK' in os.environ)"
        assert started.run([sys.executable, "-c", code]) == 0


def test_the_first_failure_ends_all_and_gives_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "SECONDS_TO_FOLLOW", 0.2)
    code = "import os, sys, time; time.sleep(60) if os.environ['RANK'] == '0' else sys.exit(7)"
    before = time.monotonic()
    with Processes() as started:
        assert started.run([sys.executable, "-c", code], ranks=2) == 7
    assert time.monotonic() - before < 20


def test_death_by_a_signal_is_told_as_shells_do() -> None:
    with Processes() as started:
        assert started.run([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]) == 137


def test_nothing_is_left_running(tmp_path: Path) -> None:
    with Processes() as started:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        started._children.append(child)
    assert child.wait(timeout=10) == -9
