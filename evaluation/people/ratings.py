"""What people's ratings say: wins, ties and losses, safety violations, gamma of red teaming, and how far raters agree.

    llamatrain ratings runs/my_ratings

Reads the files that the pages of `collect` make there: `evaluate` (paper 3.4.2), `safety` (4.4), `red_team` (4.3); of one
that is not finished what was said so far. Prints tables and writes ratings.json into the folder.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from llamatrain import atomic
from llamatrain.config.program import main
from llamatrain.errors import UserError, missing, show
from llamatrain.text_files import as_kind, read_lines

from .config import RatingsConfig
from .preferred import preferred
from .tables import tables
from .verdicts import ATTACK, DEGREES, POINTS, SAFETY, SAFETY_SCALE, SIDE_BY_SIDE, AttackRow, SafetyRow, SideBySideRow
from .violations import fixed, rated_safety, red_team

SO_FAR = "so_far.jsonl"
KINDS: Mapping[str, tuple[Any, str, Collection[Any]]] = {  # of a row -> its type, and which key takes which values
    SIDE_BY_SIDE: (SideBySideRow, "rating", POINTS),
    SAFETY: (SafetyRow, "rating", SAFETY_SCALE),
    ATTACK: (AttackRow, "degree", DEGREES),
}


def ratings(cfg: RatingsConfig) -> None:
    """Print and write what the ratings of a folder say."""
    folder = Path(cfg.folder)
    rated = read(files(folder))
    if not any(rated.values()):
        raise UserError(
            f"{folder}: holds no ratings; need files of the pages evaluate, safety or red_team of `collect`"
        )
    earlier = read(map(Path, cfg.attacks))[ATTACK]
    found: dict[str, Any] = {
        "side_by_side": preferred(rated[SIDE_BY_SIDE], cfg.outcome, cfg.weights),
        "safety": rated_safety(rated[SAFETY], cfg.weights),
        "red_team": red_team(rated[ATTACK]),
        "fixed": fixed([*earlier, *rated[ATTACK]], rated[SAFETY]),
    }
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 80)
    for part in tables(found):
        console.print(part)
    atomic.write_json(folder / "ratings.json", {"outcome": cfg.outcome, **found})
    console.print(f"wrote {folder / 'ratings.json'}", markup=False, soft_wrap=True)


def files(folder: Path) -> list[Path]:
    """Return the files of rows in a folder, and what collections below it that are not finished hold so far."""
    if not folder.is_dir():
        raise missing(folder, "collect")
    unfinished = [path for path in folder.glob(f"*/{SO_FAR}") if not path.parent.with_suffix(".jsonl").is_file()]
    return [*sorted(folder.glob("*.jsonl")), *sorted(unfinished)]


def read(paths: Iterable[Path]) -> dict[str, list[Any]]:
    """Return the ratings of all files by their kind; rows of other kinds are none. UserError names the line of a bad one."""
    found: dict[str, list[Any]] = {kind: [] for kind in KINDS}
    for path in paths:
        if not path.is_file():
            raise missing(path, "collect")
        for number, line in enumerate(read_lines(path, dict[str, Any], grows=True), 1):
            if line.get("kind") in KINDS:
                row, key, allowed = KINDS[line["kind"]]
                try:
                    found[line["kind"]].append(as_kind(line, row))
                except UserError as error:
                    raise UserError(f"{path}:{number}: {error}") from None
                if line[key] is not None and line[key] not in allowed:
                    need = ", ".join(map(str, allowed))
                    raise UserError(f"{path}:{number}: {key} is {show(line[key])}, need one of {need}, or null")
    return found


if __name__ == "__main__":
    main("ratings", RatingsConfig, ratings)
