"""How a pipeline or a run stands, stage by stage, on this machine or in Slurm's queue.

    llamatrain status                          the newest below runs/
    llamatrain status runs/demo --watch        one pipeline, shown again every few seconds; Ctrl-C leaves it

Steps, loss, tokens per second and the time left are those of metrics.jsonl; cost is in GPU hours, or core hours without
GPUs. All of it is read from the run folders, so it works anywhere they can be seen; where Slurm is there, its queue adds
what waits. Of a stage that did not end well the last line says why.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llamatrain.config import program
from llamatrain.errors import UserError
from llamatrain.lock import at_work
from llamatrain.progress import counted
from llamatrain.stopping import handling

from .found import PIPELINE
from .listing import COLOURS
from .programs import NAME, with_keys
from .slurm import queue
from .slurm.queue import Queued
from .slurm.submitted import JOBS
from .stage import PLAN
from .standing import Standing, cost, folder_of, standings

HEAD = ("stage", "state", "job", "step", "loss", "tokens/s", "left", "restarts", "cost")
RIGHT = HEAD[3:]
EVERY = 5.0  # seconds between two looks
IDLE = ("not started", "queued", "cancelled")
INDENT = "    "  # of a note below its stage


@dataclass
class StatusConfig:
    """configs/status.yaml says what each key means."""

    folder: str
    watch: bool


def table(found: Sequence[Standing], colour: bool, width: int | None = None) -> Iterator[str]:
    """Yield the lines of a table: the columns that say something, notes below their stage; cut or wrapped to a width."""
    rows = [one.cells for one in found]
    columns = [name for name in HEAD if any(row[name] for row in rows)]
    wide = {name: max(len(name), *(len(row[name]) for row in rows)) for name in columns}

    def line(row: Mapping[str, str], state: str = "") -> str:
        cells = [row[name].rjust(wide[name]) if name in RIGHT else row[name].ljust(wide[name]) for name in columns]
        text = "  ".join(cells).rstrip()[:width]
        if colour and state in COLOURS:
            start = wide["stage"] + 2
            end = start + len(state)
            text = f"{text[:start]}\033[{COLOURS[state]}m{text[start:end]}\033[0m{text[end:]}"
        return text

    yield line({name: name for name in HEAD})
    for one, row in zip(found, rows, strict=True):
        yield line(row, one.state)
        note = " ".join(one.note.split())
        if note:
            yield from textwrap.wrap(INDENT + note, width, subsequent_indent=INDENT) if width else [INDENT + note]


def summary(found: Sequence[Standing]) -> str:
    """Return one line on all of it: how many stages are in which state, and the cost so far."""
    states = [one.state for one in found]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    total = cost(sum(one.gpu_hours for one in found), sum(one.core_hours for one in found))
    return f"{counts}; {total} so far" if total else counts


def show(cfg: StatusConfig) -> None:
    """Print the table; with `watch` again and again, until there is nothing to wait for or Ctrl-C."""
    folder = _chosen(Path(cfg.folder))
    if not cfg.watch:
        found, warning = _look(folder)
        print("\n".join([str(folder), *table(found, _coloured()), summary(found), *warning]))
        return
    try:
        with handling(signal.default_int_handler, [signal.SIGINT]):
            _watch(folder)
    except KeyboardInterrupt:
        print()
        raise SystemExit(128 + signal.SIGINT) from None


def _watch(folder: Path) -> None:
    on_screen = sys.stdout.isatty()
    print("\033[2J" if on_screen else "", end="")
    while True:
        found, warning = _look(folder)
        head, foot = f"{folder}  {time.strftime('%H:%M:%S')}", [summary(found), *warning]
        if on_screen:  # written over what is there, line by line: nothing flickers
            size = shutil.get_terminal_size()
            foot = [line for text in foot for line in textwrap.wrap(text, size.columns)]
            room = size.lines - len(foot) - 2
            lines = [head[: size.columns], *fitting(found, _coloured(), size.columns, room), *foot]
            print("\033[H" + "".join(f"{line}\033[K\n" for line in lines) + "\033[J", end="", flush=True)
        else:
            print("\n".join([head, *table(found, colour=False), *foot, ""]), flush=True)
        under_way = {"running", "queued", "starting"}.intersection(one.state for one in found)
        if not (under_way or warning or at_work(folder)):
            return
        time.sleep(EVERY)


def fitting(found: Sequence[Standing], colour: bool, width: int, height: int) -> list[str]:
    """Return the lines of a table that fits a screen: what is done is left out first, then what comes last."""
    shown = list(found)
    while True:
        left_out = len(found) - len(shown)
        more = [f"and {counted(left_out, 'stage')} more"[:width]] if left_out else []
        lines = [*table(shown, colour, width), *more]
        if len(lines) <= height or len(shown) == 1:
            return lines
        done = [place for place, one in enumerate(shown) if one.state == "done"]
        idle = [place for place, one in enumerate(shown) if one.state in IDLE]
        shown.pop(done[0] if done else idle[-1] if idle else -1)


def _coloured() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


def _look(folder: Path) -> tuple[list[Standing], list[str]]:
    """Return how all stands now, and in a line what could not be asked."""
    active: list[Queued] | None = None  # where nothing was submitted, or Slurm is not there or does not answer
    warning = list[str]()
    if shutil.which("squeue") is not None and (folder / JOBS).exists():
        try:
            active = queue.jobs()
        except queue.ClusterError as error:
            warning = [f"warning: {error}; what is queued is not shown"]
    return standings(folder, active, time.time()), warning


def _chosen(folder: Path) -> Path:
    """Return the pipeline or run that a folder is, or the newest below it; UserError where there is none."""
    if not folder.is_dir():
        raise UserError(f"folder={folder}: there is no such folder")
    if _is_one(folder):
        return folder
    found = [path for path in folder.iterdir() if path.is_dir() and _is_one(path)]
    if not found:
        raise UserError(f"folder={folder}: no pipeline and no run lies there ({NAME} runs lists those at any depth)")
    return max(found, key=_touched)


def _is_one(folder: Path) -> bool:
    return any((folder / name).exists() for name in (PIPELINE, PLAN, JOBS)) or folder_of(folder).is_run


def _touched(folder: Path) -> float:
    times = [path.stat().st_mtime for path in (folder, *folder.glob("*/status.json"), *folder.glob("*/metrics.jsonl"))]
    return max(times)


def main(argv: Sequence[str] | None = None) -> None:
    """Take the folder without its key, and `--watch`: `llamatrain status runs/demo --watch`."""
    given = with_keys("status", argv)
    program.main("status", StatusConfig, show, ["watch=true" if one == "--watch" else one for one in given])


if __name__ == "__main__":
    main()
