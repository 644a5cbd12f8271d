"""Lists the run folders below a folder: state, step, result, age, size and the command that comes next.

    llamatrain runs             all below runs/, the newest last
    llamatrain runs runs/demo   one pipeline, or one run

Stages stand under their pipeline. States are running, done, stopped, failed, killed, waiting (for a file that people make)
and damaged. The table is as wide as the terminal: where the next command has no room beside a run, it stands below it. Without a terminal
names and commands are whole, and long reasons cut.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llamatrain.config.presets import config_folder
from llamatrain.errors import UserError
from llamatrain.exits import guarded
from llamatrain.replaced import size
from llamatrain.yaml_files import read_yaml

from .found import Found, runs_in, scan
from .programs import NAME, with_keys

HEAD = ("run", "state", "step", "result", "age", "size", "next")
COLOURS = {
    "running": "36",
    "done": "32",
    "failed": "31",
    "damaged": "31",
    "killed": "33",
    "stopped": "33",
    "waiting": "33",
}
RIGHT = ("step", "age", "size")  # columns of numbers
GAP = "  "
ENOUGH = 48  # characters of a result, before the next command has its place beside it


@dataclass
class RunsConfig:
    """configs/runs.yaml says what each key means."""

    folder: str


def list_runs(cfg: RunsConfig) -> None:
    """Print the table."""
    folder = Path(cfg.folder)
    if not folder.is_dir():
        raise UserError(f"folder={folder}: there is no such folder")
    there = scan(folder)
    found = sorted(runs_in(there), key=lambda one: one.updated)
    if not found:
        print(f"no run lies below {folder}")
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
        colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        print("\n".join(table(found, folder, width, colour, time.time())))
    if there.replaced:
        print(
            f"\n{len(there.replaced)} replaced, {size(sum(one.bytes for one in there.replaced))}: {NAME} clean {folder}"
        )


# --- the table ---------------------------------------------------------------------------------------------------


def table(found: Sequence[Found], folder: Path, width: int, colour: bool, now: float) -> list[str]:
    """Return the lines of a table of at most `width` columns; 0: names and commands are whole, results and reasons short."""
    rows = [row for one in found for row in _rows(one, folder, now)]
    columns, wide = _layout([dict(zip(HEAD, HEAD, strict=True)), *(row for _, row in rows)], width)

    def line(row: Mapping[str, str], state: str = "") -> str:
        cells = {column: _cut(row[column], wide[column]) for column in columns}
        padded = {c: cell.rjust(wide[c]) if c in RIGHT else cell.ljust(wide[c]) for c, cell in cells.items()}
        if colour and state:
            padded["state"] = f"\033[{COLOURS[state]}m{padded['state']}\033[0m"
        return GAP.join(padded.values()).rstrip()

    lines = [line(dict(zip(HEAD, HEAD, strict=True)))]
    for state, row in rows:
        lines.append(line(row, state))
        if row["next"] and "next" not in columns:
            lines.append(f"    next: {row['next']}")
    return lines


def _layout(rows: Sequence[Mapping[str, str]], width: int) -> tuple[list[str], dict[str, int]]:
    """Return which columns have room beside each other, and how wide each is."""
    columns, wide = list(HEAD), {column: max(len(row[column]) for row in rows) for column in HEAD}

    def total(of: Mapping[str, int]) -> int:
        return sum(of[column] for column in columns) + len(GAP) * (len(columns) - 1)

    if not width:  # a file, or another program: it wants names and commands whole
        return columns, {**wide, "result": min(wide["result"], ENOUGH)}
    if total({**wide, "result": min(wide["result"], ENOUGH)}) > width:
        columns.remove("next")
    spare = width - total({**wide, "run": 0, "result": 0})
    wide["run"] = min(wide["run"], max(24, spare // 2))
    wide["result"] = min(wide["result"], max(16, spare - wide["run"]))
    return columns, wide


def _rows(one: Found, folder: Path, now: float, depth: int = 0) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (state, cells by column) of a run and of its stages."""
    name = one.path.name if depth or one.path == folder else str(one.path.relative_to(folder))
    step = count(one.step) if one.step is not None and (one.step or one.total) else ""
    figures = ", ".join(f"{number} {words.rstrip(':')}" for words, number in one.figures[:2])
    told = "; ".join(filter(None, [figures, one.note])) if one.state == "done" else one.note or figures
    row = {
        "run": "  " * depth + name,
        "state": one.state,
        "step": f"{step}/{count(one.total)}" if step and one.total else step,
        "result": " ".join(told.split()),
        "age": age(now - one.updated),
        "size": size(one.bytes),
        "next": f"{NAME} {shlex.join(one.next)}" if one.next else "",
    }
    yield one.state, row
    for stage in one.stages:
        yield from _rows(stage, folder, now, depth + 1)


def count(number: int) -> str:
    """Write a number of steps in few columns: 9,500, 12.5k, 477k."""
    if number < 10_000:
        return f"{number:,}"
    return f"{number / 1000:.1f}k".replace(".0k", "k") if number < 100_000 else f"{number / 1000:,.0f}k"


def age(seconds: float) -> str:
    """Write how long ago something was: 5 s, 12 min, 3 h, 8 d."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def _cut(text: str, width: int) -> str:
    """Return a text in so many columns, cut after a whole figure where it holds several."""
    if len(text) <= width:
        return text
    whole = text[: width - 1].rpartition(", ")[0]
    return f"{whole} …" if whole else f"{text[: width - 1]}…"


def main(argv: Sequence[str] | None = None) -> None:
    """Take the folder without its key. Without anything else Hydra is not asked: it would take as long as all the rest."""
    given = sys.argv[1:] if argv is None else argv
    if len(given) < 2 and not any("=" in one or one.startswith("-") for one in given):
        folder = given[0] if given else str(read_yaml(config_folder() / "runs.yaml")["folder"])

        def body() -> int:
            list_runs(RunsConfig(folder))
            return 0

        sys.exit(guarded(body, leaves=False))
    from llamatrain.config import program

    program.main("runs", RunsConfig, list_runs, with_keys("runs", given))


if __name__ == "__main__":
    main()
