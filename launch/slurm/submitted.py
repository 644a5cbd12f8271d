"""What was submitted for a run: jobs.json beside the scripts, and which of it the queue has still."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypedDict

from llamatrain import atomic
from llamatrain.lock import Lock
from llamatrain.text_files import DamagedFileError, read_json

from .queue import Queued

JOBS, JOBS_FILE = "jobs", "jobs.json"
REPORT = "report"  # the job of a pipeline that comes after all stages


class Submitted(TypedDict):
    """What jobs.json says of a stage or program."""

    job: str
    after: list[str]
    time: float


def read_jobs(folder: Path) -> dict[str, Submitted]:
    """Return what was submitted last for each stage, or for a run's program."""
    try:
        return read_json(folder / JOBS / JOBS_FILE, dict[str, Submitted])
    except (OSError, DamagedFileError):  # what it says is asked of the queue, too
        return {}


def note(folder: Path, made: Mapping[str, Submitted]) -> None:
    """Add what was submitted to the rest."""
    atomic.write_json(folder / JOBS / JOBS_FILE, {**read_jobs(folder), **made})


def still_queued(active: Sequence[Queued], run: Path, noted: Submitted | None) -> Queued | None:
    """Return the job that makes a run, where one waits or runs: by its comment, or by what was noted."""
    return next((job for job in active if job.run == str(run) or (noted and job.number == noted["job"])), None)


@contextmanager
def clean(lock: Lock) -> Iterator[None]:
    """Hold a folder while jobs are submitted; where that fails no empty lock stays in it."""
    with lock:
        try:
            yield
        except BaseException:
            lock.release(remove=True)
            raise
