"""The starts of a job: noted one per line in attempts.jsonl, so that one that gets nowhere is seen, and its ranks' last words."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from llamatrain import manifest
from llamatrain.run_files import INCIDENTS, METRICS, STATUS
from llamatrain.runs import skip
from llamatrain.stopping import EXIT_STOPPED
from llamatrain.text_files import read_lines

ATTEMPTS, EXIT_CODE = "attempts.jsonl", "exit_code"
EXIT_GAVE_UP = 77  # of `slurm.attempt`, where the start is one too many; srun's own failures have others
HEAD = "=== "  # begins the lines that the script writes into a log
ERROR = "error: "  # begins the line in which a program says why it ends
TAIL = 1 << 14  # bytes of a log in which its last words are looked for
LINES = 3
# A run's own bookkeeping, which every start writes: no progress.
BOOKKEEPING = {STATUS, METRICS, INCIDENTS, "config.yaml", "stage.json", "bad_nodes.txt", "wandb", "jobs", "hangs"}


class Attempt(TypedDict):
    """What a line of attempts.jsonl holds."""

    job: str
    restart: int
    nodes: str
    started: float
    found: list[str]  # what the run had made
    before: int | None  # how the job's attempt before it had ended; None: from outside, without a word


def read_attempts(folder: Path) -> list[Attempt]:
    """Return the starts of a job's folder, the oldest first; lines that cannot be read are left out."""
    try:
        return list(read_lines(folder / ATTEMPTS, Attempt, bad=skip, grows=True))
    except OSError:
        return []


def of_job(attempts: Sequence[Attempt], job: str) -> list[Attempt]:
    """Return a job's own starts, or, where it has none, those of the one that started last."""
    return [one for one in attempts if one["job"] == job] or [
        one for one in attempts if one["job"] == attempts[-1]["job"]
    ]


def note(folder: Path, run: Path, started: float) -> list[Attempt]:
    """Add this process's job's start to the others; return all of them."""
    env = os.environ
    job, ended = env.get("SLURM_JOB_ID", ""), folder / EXIT_CODE
    try:
        whose, code = ended.read_text(encoding="ascii").split()
        before = int(code) if whose == job else None  # a second job may have come and gone meanwhile
    except (OSError, ValueError):
        before = None
    attempt = Attempt(
        job=job,
        restart=int(env.get("SLURM_RESTART_COUNT", "0")),
        nodes=env.get("SLURM_JOB_NODELIST", ""),
        started=started,
        found=made(run),
        before=before,
    )
    with (folder / ATTEMPTS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(attempt) + "\n")
    ended.unlink(missing_ok=True)
    return read_attempts(folder)


def made(run: Path) -> list[str]:
    """Return the names of what a run made so far: its checkpoints, and other files that are no bookkeeping."""
    found = [path.name for path in manifest.published(run / "checkpoints")]
    for place, folders, files in os.walk(run):
        passed_over = {*BOOKKEEPING, "checkpoints"}
        folders[:] = [one for one in folders if one not in passed_over and not one.endswith(".tmp") and one[0] != "."]
        names = {one for one in files if not one.endswith(".tmp") and not one.startswith(".")} - BOOKKEEPING
        found += [str((Path(place) / name).relative_to(run)) for name in names]
    return sorted(found)


def stuck(attempts: Sequence[Attempt]) -> int:
    """Return how many restarts in a row, the newest included, began where the one before had begun.

    One that follows a stop on request does not count: it was interrupted before it could get anywhere.
    """
    count = 0
    for before, attempt in zip(reversed(attempts[:-1]), reversed(attempts[1:]), strict=True):
        of_one_job = attempt["job"] == before["job"] and attempt["restart"] > 0
        if not of_one_job or attempt["found"] != before["found"] or attempt["before"] == EXIT_STOPPED:
            break
        count += 1
    return count


def last_words(folder: Path) -> list[str]:
    """Return the last lines of every rank's log, those of ranks that say the same together."""
    said: dict[tuple[str, ...], list[int]] = {}
    for path in sorted(folder.glob("rank_*.log")):
        said.setdefault(_end(path), []).append(int(path.stem.removeprefix("rank_")))
    found = []
    for lines, ranks in said.items():
        who = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks[:8]))}"
        more = f" and {len(ranks) - 8} more" if len(ranks) > 8 else ""
        found.append(f"{who}{more}: {' | '.join(lines) or 'nothing'}")
    return found


def last_error(folder: Path) -> str:
    """Return the error that ended the newest start, as the first of its ranks with one says it; empty where none does."""
    newest = "".join(f"job {one['job']}, restart {one['restart']}, " for one in read_attempts(folder)[-1:])
    for path in sorted(folder.glob("rank_*.log")) if newest else ():
        head, lines = _newest(path)
        errors = [line for line in lines if line.startswith(ERROR)]
        if newest in head and errors:
            return errors[-1].removeprefix(ERROR)
    return ""


def _end(path: Path) -> tuple[str, ...]:
    """Return the last errors of a log since its newest head; the last lines where there is none."""
    lines = _newest(path)[1]
    # A stage says after its program's error how to go on.
    return tuple(([line for line in lines if line.startswith(ERROR)] or lines)[-LINES:])


def _newest(path: Path) -> tuple[str, list[str]]:
    """Return the newest head of a log and the lines after it, without blanks that say nothing."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
            text = file.read().decode(errors="replace")
    except OSError:
        return "", []
    lines = [re.sub(r"\s+", " ", line.strip()) for line in text.splitlines() if line.strip()]
    heads = [number for number, line in enumerate(lines) if line.startswith(HEAD)]
    return (lines[heads[-1]], lines[heads[-1] + 1 :]) if heads else ("", lines)
