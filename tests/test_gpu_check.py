"""The GPU check, small, on the CPU: whoever has a GPU must find it working."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

RANKS = ("RANK", "LOCAL_RANK", "WORLD_SIZE")  # set by tests that ran in this process


@pytest.mark.distributed
def test_every_check_answers_and_holds(tmp_path: Path, repository: Path) -> None:
    command = [sys.executable, "benchmarks/gpu.py", "--out", str(tmp_path / "gpu.jsonl")]
    environ = {key: value for key, value in os.environ.items() if key not in RANKS} | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=repository, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "gpu.jsonl").read_text())
    assert found["count"] == 0 and len(found["checks"]) == 12
    rows = [row for check in found["checks"].values() for row in check["rows"]]
    assert {row["what"] for row in rows} >= {"float32, saved at stage 1, resumed at stage 3", "episodes per second"}
    assert f"all {sum(bool(row['need']) for row in rows)} bounds held" in done.stdout


def test_a_check_that_fails_says_why(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    for name in RANKS:
        monkeypatch.delenv(name, raising=False)
    import gpu

    found = gpu.answer(
        [gpu.Check("no such", "no_such_check", 60), gpu.Check("about", "about_nothing", 60)], tmp_path, 600
    )
    whys = [(check.name, row["value"], row["ok"]) for check, answer in found for row in answer["rows"]]
    assert whys == [
        ("no such", "ModuleNotFoundError: No module named 'no_such_check'", False),
        ("about", "ModuleNotFoundError: No module named 'about_nothing'", False),
    ]
    assert gpu.last_words("  File x\nValueError: bad\n=====\n", 1) == "ValueError: bad"
    assert gpu.last_words("", -9).startswith("killed by signal 9")


def test_a_check_that_does_not_exist_is_refused(repository: Path) -> None:
    command = [sys.executable, "benchmarks/gpu.py", "--only", "speeed"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert done.returncode == 2 and "--only speeed: need beginnings of parity: CPU," in done.stderr
