"""Slurm's commands: submitting, asking for one's own jobs, cancelling. What they refuse becomes one line."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llamatrain.errors import UserError

from ..programs import nearest

SECONDS = 60  # for an answer of the controller


class ClusterError(Exception):
    """The cluster refused what was asked, in its own words."""


@dataclass(frozen=True)
class Queued:
    """A job of one's own that waits or runs."""

    number: str
    state: str  # PENDING, RUNNING, COMPLETING, ...
    reason: str  # why it waits
    run: str  # the folder that it makes

    @property
    def standing(self) -> str:
        """How it stands, in words."""
        return self.state.lower() + (f", {self.reason}" if self.state == "PENDING" and self.reason != "None" else "")


def reach() -> None:
    """Ask whether jobs can be submitted from here: UserError where a command is missing, ClusterError without an answer."""
    for command in ("sbatch", "squeue", "scancel"):
        if shutil.which(command) is None:
            raise _absent(command)
    jobs()


def submit(script: Path, after: Sequence[str]) -> str:
    """Submit a script to run once the jobs `after` have ended well; return the job's id."""
    held = [f"--dependency=afterok:{':'.join(after)}", "--kill-on-invalid-dep=yes"] if after else []
    return _ask("sbatch", "--parsable", *held, str(script)).strip().partition(";")[0]


def jobs() -> list[Queued]:
    """Return one's own jobs, the oldest first."""
    lines = _ask("squeue", "--me", "--noheader", "--sort=i", "--format=%i|%T|%r|%k").splitlines()
    return [Queued(*line.split("|", 3)) for line in lines if line.count("|") >= 3]


def cancel(numbers: Sequence[str]) -> None:
    """Cancel jobs."""
    _ask("scancel", *numbers)


def check_partition(key: str, name: str) -> None:
    """Refuse a partition that the cluster does not have; UserError names the nearest."""
    known = _ask("sinfo", "--noheader", "--format=%R").split()
    if name not in known:
        raise UserError(
            f"{key}={name}: no such partition{nearest(name, known)}  (there are {', '.join(sorted(known))})"
        )


def _absent(command: str) -> UserError:
    return UserError(
        f"{command} is not on the PATH: need a login node of a Slurm cluster, or dry_run=true to see the scripts"
    )


def _ask(*command: str) -> str:
    """Return what a command of Slurm's says; ClusterError where it refuses."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, errors="replace")
    except FileNotFoundError:
        raise _absent(command[0]) from None
    except subprocess.TimeoutExpired:
        raise ClusterError(f"{command[0]} gave no answer within {SECONDS} s") from None
    if done.returncode:
        lines = [re.sub(rf"^{command[0]}: (error: )?", "", line).strip() for line in done.stderr.splitlines()]
        told = "; ".join(dict.fromkeys(line for line in lines if line))
        raise ClusterError(f"{command[0]} refused: {told or f'exit code {done.returncode}'}")
    return done.stdout
