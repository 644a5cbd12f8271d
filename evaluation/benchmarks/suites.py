"""Which groups a suite has, their benchmarks, and the rows of these in a local folder. Imports no torch.

A suite is a folder of suites/, a group a file there. A group's score is the mean of its members', as the paper groups
them; that of a member with several tasks is over all their rows.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamatrain.errors import MissingFileError, UserError

SUITES = Path(__file__).with_name("suites")
NAMES = tuple(sorted(path.name for path in SUITES.iterdir() if path.is_dir()))
ENDINGS = ("jsonl", "json", "parquet")


@dataclass(frozen=True)
class Member:
    """A benchmark: a task of the harness or of ours, a group of the harness, or several tasks."""

    name: str
    shots: int
    metric: str  # that counts, as `metric` or `metric,filter`
    tasks: tuple[str, ...]


@dataclass(frozen=True)
class Group:
    """Benchmarks that the paper averages, with its figures in percent by model size."""

    name: str
    title: str
    paper: dict[str, float]
    members: tuple[Member, ...]
    harness: tuple[str, ...]  # folders of the harness's tasks that they need


def read_suite(name: str, chosen: Collection[str] | None = None) -> list[Group]:
    """Return a suite's groups: all, or those that are chosen, and of the others those members that are.

    UserError where something is chosen that it does not have.
    """
    groups = [_group(path) for path in sorted((SUITES / name).glob("*.yaml"))]
    if chosen is None:
        return groups
    known = [one for group in groups for one in (group.name, *(member.name for member in group.members))]
    for one in chosen:
        if one not in known:
            close = difflib.get_close_matches(one, known, n=1)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            raise UserError(
                f"tasks: '{one}' is not in suite={name}: need one of {', '.join(dict.fromkeys(known))}{hint}"
            )
    kept = []
    for group in groups:
        members = tuple(m for m in group.members if group.name in chosen or m.name in chosen)
        if members:
            kept.append(Group(group.name, group.title, group.paper, members, group.harness))
    return kept


def _group(path: Path) -> Group:
    import yaml  # here, since programs are listed without any package

    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    members = tuple(
        Member(name, about["shots"], about["metric"], tuple(about.get("tasks", [name])))
        for name, about in content["members"].items()
    )
    return Group(path.stem, content["title"], content["paper"], members, tuple(content.get("harness", ())))


# --- local rows --------------------------------------------------------------------------------------------------


def local_files(root: Path, dataset: str, config: str | None) -> dict[str, list[Path]]:
    """Return split -> files of a data set of the hub under `root`; MissingFileError where there is none.

    They lie as on the hub, in `<root>/<owner>/<name>/<config>/`, and begin with the split's name: `test.jsonl`,
    `test-00000-of-00001.parquet`. Without a folder of that name, in `<root>/<owner>/<name>/`, or its `data/`.
    """
    own = root / dataset
    places = [*([own / config] if config else []), own / own.name, own / "data", own]
    for folder in places:
        found: dict[str, list[Path]] = {}
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.suffix.removeprefix(".") in ENDINGS:
                found.setdefault(path.name.split(".")[0].split("-")[0], []).append(path)
        if found:
            return found
    need = f"{places[0]}/<split>.jsonl or .parquet"
    raise MissingFileError(f"root={root}: no rows of {dataset}{f' ({config})' if config else ''}: need {need}")


def read_rows(paths: list[Path]) -> list[dict[str, Any]]:
    """Return the rows of files in the data set's published form."""
    return [row for path in paths for row in _rows(path)]


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    if path.suffix == ".parquet":
        import pyarrow.parquet

        yield from pyarrow.parquet.read_table(path).to_pylist()
    elif path.suffix == ".json":
        yield from json.loads(path.read_text(encoding="utf-8"))
    else:
        for number, line in enumerate(path.read_text(encoding="utf-8").rstrip("\n").split("\n"), 1):
            try:
                yield json.loads(line)
            except ValueError:
                raise UserError(f"{path}:{number}: need a JSON object per line") from None
