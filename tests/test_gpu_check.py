"""The GPU check, small, on the CPU: whoever has a GPU must find it working."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.distributed
def test_every_check_answers_and_holds(tmp_path: Path, repository: Path) -> None:
    command = [sys.executable, "benchmarks/gpu.py", "--out", str(tmp_path / "gpu.jsonl")]
    ranks = ("RANK", "LOCAL_RANK", "WORLD_SIZE")  # set by tests that ran in this process
    environ = {key: value for key, value in os.environ.items() if key not in ranks} | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=repository, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "gpu.jsonl").read_text())
    assert found["count"] == 0 and len(found["checks"]) == 12
    rows = [row for check in found["checks"].values() for row in check["rows"]]
    assert {row["what"] for row in rows} >= {"float32, saved at stage 1, resumed at stage 3", "episodes per second"}
