"""Runs a pipeline's stages on this machine, one after the other, until one fails or is stopped.

A stage that waits for people holds up those that read what it makes, and no others.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from llamatrain.progress import duration
from llamatrain.runs import read_status

from .plan import Planned
from .record import known_record
from .stage import Runner


def run_stages(runner: Runner, stages: Sequence[Planned], total: int, to_run: Collection[str]) -> int:
    """Run stages in their order and return the exit code.

    `total` is how many the pipeline has, `to_run` which of them are known to have something to do now.
    """
    held: list[Planned] = []  # that wait for people's file, or for a stage that does
    for number, one in enumerate(stages, 1):
        if runner.processes.stopped:
            return runner.not_started(one)
        if any(other.name in one.parents for other in held):
            held.append(one)
            continue
        ahead = [later for later in stages[number - 1 :] if later.name in to_run]  # this one included
        code = runner.run(one, f"{number}/{total}{time_left(ahead, stages, runner.place.folder)}")
        if one.name in runner.waiting:
            held.append(one)
        elif code:
            return code
    return runner.waited(len(held)) if held else 0


def time_left(ahead: Sequence[Planned], stages: Sequence[Planned], folder: Path) -> str:
    """Say how long the stages `ahead` may take, by the time that they or others of their program took; else nothing."""
    known = [_seconds(one, stages, folder) for one in ahead]
    seconds = sum(one for one in known if one is not None)
    if seconds < 1:
        return ""
    return f", {'at least' if None in known else 'about'} {duration(seconds)} left"


def _seconds(one: Planned, stages: Sequence[Planned], folder: Path) -> float | None:
    """Return how long a stage took when it was last done, or else what the last one of its program took."""
    former = sorted(folder.glob(f"{one.name}.replaced-*"), key=lambda path: path.stat().st_mtime, reverse=True)
    own = [found for path in (folder / one.name, *former) if (found := _took(path)) is not None]
    alike = [_took(folder / other.name) for other in stages if other.program == one.program]
    others = [found for found in alike if found is not None]
    return own[0] if own else others[-1] if others else None  # a later model ends its answers sooner


def _took(folder: Path) -> float | None:
    if read_status(folder).get("state") != "done":
        return None
    record = known_record(folder)
    return None if record is None else record.seconds
