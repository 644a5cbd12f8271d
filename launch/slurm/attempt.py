"""Notes that a job starts, and ends it where its restarts make no progress; every job calls it before its ranks start.

    llamatrain slurm.attempt folder=runs/demo/jobs/ppo run_folder=runs/demo/ppo restarts=3

Progress is a new checkpoint, or any new file in the run folder. A job that was saved and stopped on request before it got
anywhere, by a preemption say, does not count. After the last restart the exit code is 77, and the reason with the last
lines of every rank's log stands in the run's status.json and in the job's log.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llamatrain import atomic
from llamatrain.config import program
from llamatrain.keys import check_values, least
from llamatrain.progress import counted
from llamatrain.run_files import STATUS
from llamatrain.runs import read_status

from .attempts import EXIT_GAVE_UP, last_words, note, stuck


@dataclass
class AttemptConfig:
    """configs/slurm_attempt.yaml says what each key means."""

    folder: str
    run_folder: str
    restarts: int = field(metadata=least(0))

    def __post_init__(self) -> None:
        check_values(self)


def begin(cfg: AttemptConfig) -> None:
    """Note this start, and refuse it where it is one too many."""
    folder, run = Path(cfg.folder), Path(cfg.run_folder)
    vain = stuck(note(folder, run, time.time()))
    if vain <= cfg.restarts:
        return
    words = last_words(folder)
    restarts = counted(cfg.restarts, "restart")
    reason = f"no progress in {restarts}; {'; '.join(words)}"
    status = read_status(run)
    if status and status.get("state") != "done":
        atomic.write_json(run / STATUS, {**status, "state": "failed", "reason": reason, "updated": time.time()})
    print(f"error: gave up after {restarts} without progress; the ranks' last lines:", file=sys.stderr)
    print("".join(f"  {line}\n" for line in words), end="", file=sys.stderr)
    raise SystemExit(EXIT_GAVE_UP)


def main(argv: Sequence[str] | None = None) -> None:
    """Note this start."""
    program.main("slurm.attempt", AttemptConfig, begin, argv)


if __name__ == "__main__":
    main()
