"""A Slurm of shell scripts that says yes, and writes down what it was asked."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from launch.slurm import __main__ as slurm

from ..conftest import Start

Submit = Callable[..., int]

SBATCH = """\
number=$(($(cat {folder}/last 2>/dev/null || echo 100) + 1))
[ -e {folder}/refuse_$number ] && {{ cat {folder}/refuse_$number >&2; exit 1; }}
echo $number >{folder}/last
comment=$(sed -n 's/^#SBATCH --comment=//p' "${{@: -1}}")
echo "$number|PENDING|Dependency|$comment" >>{folder}/queue
echo "sbatch $*" >>{folder}/asked
echo $number
"""
SQUEUE = "cat {folder}/queue 2>/dev/null || true"
SCANCEL = 'echo "scancel $*" >>{folder}/asked'
SINFO = "echo main; echo high"


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the fake commands keep what they were `asked`, and what is in the `queue`."""
    folder = tmp_path / "fake_slurm"
    (folder / "bin").mkdir(parents=True)
    for name, body in (("sbatch", SBATCH), ("squeue", SQUEUE), ("scancel", SCANCEL), ("sinfo", SINFO)):
        path = folder / "bin" / name
        path.write_text(f"#!/bin/bash\n{body.format(folder=folder)}")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return folder


@pytest.fixture
def submit(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path) -> Submit:
    """Call `llamatrain slurm` with some arguments, and return its exit code; `start` has set up the three fake stages."""
    shutil.copy(repository / "configs" / "slurm.yaml", tmp_path / "configs")
    shutil.copytree(repository / "configs" / "cluster", tmp_path / "configs" / "cluster")

    def call(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["slurm", *arguments])
        with pytest.raises(SystemExit) as end:
            slurm.main(list(arguments))
        return int(end.value.code or 0)

    return call


def asked(cluster: Path) -> list[str]:
    """Return what the fake commands were asked to change."""
    path = cluster / "asked"
    return path.read_text().splitlines() if path.exists() else []
