"""Where a Slurm cannot be, its tests are skipped and say why; with REQUIRE_SLURM=1 they fail."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from .cluster import ROOT


@pytest.mark.parametrize(("required", "code", "said"), [("1", 1, "REQUIRE_SLURM=1, but"), ("", 0, "no Slurm here:")])
def test_without_a_slurm_its_tests_are_skipped_unless_required(required: str, code: int, said: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-m", "slurm"]
    environ = {
        **os.environ,
        "PATH": "/nowhere",
        "REQUIRE_SLURM": required,
    }  # without sbatch, and nothing to install it with
    files = ["tests/slurm/test_jobs.py", "tests/slurm/test_faults.py"]
    done = subprocess.run([*command, *files], env=environ, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stdout
    assert said in done.stdout and " passed" not in done.stdout
    assert ("virtual nodes need root" if os.geteuid() else "Slurm is not installed") in done.stdout
