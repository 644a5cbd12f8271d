"""A real Slurm with two virtual nodes on this machine, for one session of tests.

Where it cannot be, the tests skip and say why; with REQUIRE_SLURM=1 in the environment they fail instead.
"""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

LAB = Path(__file__).with_name("lab.sh")
ROOT = LAB.parents[2]
PATIENCE = 1500  # seconds that anything may take on a busy machine before it counts as hung


@dataclass(frozen=True)
class Lab:
    """The cluster, and how it is asked."""

    folder: Path
    environ: dict[str, str]

    def ask(self, *command: str) -> str:
        """Return what a command of Slurm's says."""
        return subprocess.run(command, env=self.environ, check=True, capture_output=True, text=True, timeout=120).stdout

    def llamatrain(self, *arguments: str, code: int = 0) -> str:
        """Call llamatrain as a user does on a login node; return what it says, and hold its exit code."""
        command = [sys.executable, "-m", "launch", *arguments]
        done = subprocess.run(command, env=self.environ, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == code, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def until(self, what: Callable[[], bool]) -> None:
        """Wait until something is so."""
        deadline = time.monotonic() + PATIENCE
        while not what():
            assert time.monotonic() < deadline, self.ask("squeue")
            time.sleep(0.2)

    def until_empty(self) -> None:
        """Wait until no job waits or runs."""
        self.until(lambda: not self.ask("squeue", "--noheader"))


def why_not() -> str:
    """Return why Slurm cannot run here, installing it where that may be; empty where it can."""
    if os.geteuid() != 0:
        return "virtual nodes need root"
    if not all(shutil.which(tool) for tool in ("slurmctld", "slurmd", "munged", "sbatch")):
        if shutil.which("apt-get") is None:
            return "Slurm is not installed, and there is no apt-get to install it with"
        done = subprocess.run([str(LAB), "install"], capture_output=True, text=True, timeout=600)
        if done.returncode:
            return f"Slurm is not installed, and apt-get cannot install it: {done.stderr.strip().splitlines()[-1:]}"
    return ""


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """The cluster, started once."""
    reason = why_not()
    if reason and os.environ.get("REQUIRE_SLURM") == "1":
        pytest.fail(f"REQUIRE_SLURM=1, but {reason}")
    if reason:
        pytest.skip(f"no Slurm here: {reason}")
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # not pytest's: a socket's path has a limit
    environ = {**os.environ, "LAB_ID": str(_free_number()), "WANDB_MODE": "disabled", "PYTHONPATH": str(ROOT)}
    started = _start(folder, environ)
    if started.returncode:  # network namespaces may be forbidden: all nodes on one address then
        environ["LAB_NET"] = "0"
        started = _start(folder, environ)
    assert started.returncode == 0, started.stderr
    for line in (folder / "env").read_text().splitlines():
        name, _, value = line.removeprefix("export ").partition("=")
        environ[name] = value
    try:
        yield Lab(folder, environ)
    finally:
        subprocess.run([str(LAB), "stop", str(folder)], env=environ, capture_output=True, timeout=120)
        shutil.rmtree(folder, ignore_errors=True)


def _start(folder: Path, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command: Sequence[str] = [str(LAB), "start", str(folder), "2", "4", "0"]
    log = folder / "start.log"
    with log.open("w") as file:  # its daemons keep the streams: a pipe would never end
        done = subprocess.run(command, env=environ, stdout=file, stderr=file, timeout=300)
    return subprocess.CompletedProcess(command, done.returncode, "", log.read_text())


def _free_number() -> int:
    """Return a number of a cluster whose ports nobody has taken."""
    for number in range(10):
        with socket.socket() as taken:
            if taken.connect_ex(("127.0.0.1", 17000 + 100 * number)) and not _bridge(number).exists():
                return number
    raise AssertionError("ten clusters run on this machine already")


def _bridge(number: int) -> Path:
    return Path(f"/sys/class/net/slab{number}")
