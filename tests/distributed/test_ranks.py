"""ZeRO 0-3 on one rank and on two: numbers, resume, offload, memory, spikes, generation (the checks stand in worker.py)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKS = [
    "stages",
    "bfloat16",
    "resume",
    "offload",
    "streaming",
    "writing",
    "frozen",
    "building",
    "uneven",
    "spikes",
    "reading",
    "generation",
]


@pytest.mark.distributed
@pytest.mark.timeout(900)
@pytest.mark.parametrize("ranks", [1, 2])
def test_ranks(ranks: int, tmp_path: Path, tokenizer_path: Path, repository: Path) -> None:
    launcher = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks), "-m"] if ranks > 1 else []
    )
    command = [sys.executable, *(launcher or ["-m"]), "tests.distributed.worker", str(tmp_path), str(tokenizer_path)]
    environ = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")} | {
        "OMP_NUM_THREADS": "1"
    }
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=840, env=environ)
    assert done.returncode == 0, done.stderr[-4000:]
    assert [line.removeprefix("ok ") for line in done.stdout.splitlines() if line.startswith("ok ")] == CHECKS
