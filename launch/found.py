"""What run folders lie below a folder, and how each stands: read from its files, fast, whatever they hold. No torch."""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypedDict

from llamatrain import lock, manifest
from llamatrain.config.options import FROM_FILE
from llamatrain.description import Headline
from llamatrain.errors import UserError
from llamatrain.replaced import NAME as REPLACED
from llamatrain.run_files import METRICS, STATUS, Status
from llamatrain.runs import headline_figures, is_number
from llamatrain.text_files import read_json

from .programs import PROGRAMS

PIPELINE = "pipeline.json"
WRITTEN = "# Written by: "  # the line of a job's script (`slurm`) that has the command
PASSED_OVER = (
    "checkpoints",
    "wandb",
    "chunks",
    "work",
    "measured",
)  # of a run's or a pipeline's own: no run to be listed lies there
STATES = ("running", "done", "stopped", "failed", "waiting")  # that status.json may say
TAIL = 1 << 16  # bytes of metrics.jsonl in which the newest figures are looked for


class Described(TypedDict):
    """What is read of pipeline.json."""

    command: list[str]
    stages: dict[str, dict[str, Any]]


@dataclass
class Folder:
    """A folder with the names and the size of what lies in it and below, and the folders in which runs may lie."""

    path: Path
    names: set[str] = field(default_factory=set)
    bytes: int = 0
    below: list[Folder] = field(default_factory=list)
    replaced: list[Folder] = field(default_factory=list)  # former results, at any depth; not counted in `bytes`

    @property
    def is_run(self) -> bool:
        """Whether a program ran in it, also where its status is lost."""
        return STATUS in self.names or {"checkpoints", "config.yaml"} <= self.names


@dataclass(frozen=True)
class Found:
    """A run, or a pipeline with its stages."""

    path: Path
    state: str  # running, done, stopped, failed, waiting, killed, damaged
    step: int | None
    total: int | None
    figures: list[tuple[str, str]]  # the result: words and number, the first the most telling
    note: str  # what is wrong, or waited for
    updated: float  # its last sign of life
    bytes: int
    next: list[str] = field(default_factory=list)  # arguments of `llamatrain`: the command that comes next
    stages: list[Found] = field(default_factory=list)


def scan(path: Path) -> Folder:
    """Return a folder with all below it. What vanishes meanwhile, or may not be read, counts as absent."""
    found = Folder(path)
    try:
        entries = list(os.scandir(path))
    except OSError:
        return found
    for entry in sorted(entries, key=lambda one: one.name):
        found.names.add(entry.name)
        try:
            if not entry.is_dir(follow_symlinks=False):
                found.bytes += entry.stat(follow_symlinks=False).st_size
                continue
        except OSError:
            continue
        inner = scan(path / entry.name)
        if REPLACED.fullmatch(entry.name):
            found.replaced.append(inner)
            continue
        found.bytes += inner.bytes
        found.replaced += inner.replaced
        if entry.name not in PASSED_OVER:
            found.below.append(inner)
    return found


def runs_in(folder: Folder) -> Iterator[Found]:
    """Yield every run and pipeline in a folder and below, those of a pipeline as its stages."""
    if PIPELINE in folder.names:
        yield pipeline(folder)
        return
    if folder.is_run:
        yield run(folder)
    for inner in folder.below:
        yield from runs_in(inner)


def run(folder: Folder) -> Found:
    """Return how a run stands."""
    path, size = folder.path, folder.bytes
    try:
        status = read_json(path / STATUS, Status)
        state, program = status["state"], status["program"]
        if state not in STATES:
            raise UserError(f"{path / STATUS} is damaged: state is {state!r}, need one of {', '.join(STATES)}")
    except FileNotFoundError:
        return _damaged(folder, f"{STATUS} is missing")
    except KeyError as error:
        return _damaged(folder, f"{path / STATUS} is damaged: {error.args[0]} is missing")
    except (UserError, OSError) as error:
        return _damaged(folder, str(error))
    about = PROGRAMS.get(program)
    step, last = newest(path, about.headline if about else Headline(), state == "done")
    if state == "running" and not lock.at_work(path):
        state = "killed"
    if state != "running":  # what was logged after the last checkpoint is lost
        step = status.get("step")
    updated = max(status.get("updated", 0.0), _modified(path / METRICS))
    note = status.get("reason", "") if state in ("failed", "waiting", "done") else ""
    figures = headline_figures(last, about.headline)[1] if about else []
    following: list[str] = []
    if state == "done" and about is not None and about.chats and (path / "final").exists():
        following = ["chat", str(path)]
    elif state in ("stopped", "failed", "killed") and about is not None:
        ranks = status.get("ranks", 1)
        following = _submitted_with(path) or [
            program,
            f"{FROM_FILE}={path / 'config.yaml'}",
            *([f"ranks={ranks}"] if ranks > 1 else []),
        ]
    return Found(path, state, step, status.get("total"), figures, note, updated, size, following)


def pipeline(folder: Folder) -> Found:
    """Return how a pipeline stands, with its stages in their order; other runs in its folder come after them."""
    found = {one.path.name: one for inner in folder.below for one in runs_in(inner)}
    try:
        described = read_json(folder.path / PIPELINE, Described)
    except (UserError, OSError) as error:
        return _damaged(folder, str(error), list(found.values()))
    order = list(described["stages"])
    planned = [found[name] for name in order if name in found]
    others = [one for name, one in found.items() if name not in order]
    done = sum(one.state == "done" for one in planned)
    states = {one.state for one in planned}
    if "running" in states or lock.at_work(folder.path):
        state = "running"
    elif done == len(order):
        state = "done"
    else:
        state = next((one for one in ("damaged", "failed", "waiting", "killed") if one in states), "stopped")
    chats = [one for one in planned if one.next[:1] == ["chat"]]
    following = chats[-1].next if state == "done" and chats else []
    if state not in ("done", "running"):
        following = described["command"][1:]
    at = next((one for one in planned if one.state == state), None)
    note = f"{at.path.name} {at.note}".strip() if at is not None and state != "done" else ""
    figures = next((one.figures for one in reversed(planned) if one.state == "done" and one.figures), [])
    updated = max((one.updated for one in planned), default=_modified(folder.path / PIPELINE))
    stages = [replace(one, next=[]) for one in planned]  # the pipeline's command goes on with them
    return Found(folder.path, state, done, len(order), figures, note, updated, folder.bytes, following, stages + others)


def newest(folder: Path, shown: Headline, done: bool = False) -> tuple[int | None, Mapping[str, float]]:
    """Return the newest step and the values of its metrics, from the end of metrics.jsonl.

    Of older lines only the newest that holds what says most is read: parsing them all takes long. Of a run that is `done`
    and stopped early, so that `final` is of an earlier step, the values are that step's.
    """
    final = (folder / "final").resolve()
    made = manifest.step_of(final) if done and manifest.STEP.fullmatch(final.name) else None
    telling = f'"{shown.best_of or next(iter(shown.metrics), "")}'
    step: int | None = None
    last: dict[str, float] = {}
    for line in reversed(end_of(folder / METRICS).splitlines()):
        if step is not None and telling not in line:
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):  # cut, or damaged: it is left out
            continue
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            continue
        if step is None:
            step = row["step"]
        if made is not None and row["step"] > made:
            continue
        for name, value in row.items():
            if name not in ("step", "time") and is_number(value):
                last.setdefault(name, value)
        if telling in line:
            break
    return step, last


def end_of(path: Path) -> str:
    """Return the last lines of a file, from its last TAIL bytes; nothing where there is none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return text if size <= TAIL else text.partition("\n")[2]


def _submitted_with(path: Path) -> list[str]:
    """Return the arguments of the command that submitted a run as a job, as its script has them; none where none did."""
    try:
        lines = (path / "jobs" / "job.sh").read_text(encoding="utf-8").splitlines()
        words = shlex.split(next(line.removeprefix(WRITTEN) for line in lines if line.startswith(WRITTEN)))
        return words[words.index("slurm") :]
    except (OSError, ValueError, StopIteration):
        return []


def _damaged(folder: Folder, why: str, stages: list[Found] | None = None) -> Found:
    updated = _modified(folder.path) or time.time()
    return Found(folder.path, "damaged", None, None, [], why, updated, folder.bytes, stages=stages or [])


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
