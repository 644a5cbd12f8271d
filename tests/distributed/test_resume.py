"""A run saved at any ZeRO stage on 1, 2 or 4 ranks goes on at other stages and ranks as if nothing had happened."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.distributed
@pytest.mark.slow
def test_resume_on_other_stages_and_ranks(tmp_path: Path, repository: Path) -> None:
    """Twelve of the benchmark's 144 pairs: every stage on every number of ranks is left once and entered once."""
    record = tmp_path / "record.jsonl"
    command = [sys.executable, "benchmarks/resume_matrix.py", "--pairs", "covering", "--record", str(record)]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    line = json.loads(record.read_text())
    states = {f"stage{stage}x{ranks}" for stage in range(4) for ranks in (1, 2, 4)}
    assert {row["from"] for row in line["results"]} == {row["to"] for row in line["results"]} == states
    for row in line["results"]:
        assert row["samples"] and row["exact"], row
        assert row["loss"] <= 1e-5, row
        assert row["norm"] <= 1e-5, row
