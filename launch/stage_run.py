"""One stage's run folder: what it was made from, what it logged, and what its program says of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from llamatrain.description import Program
from llamatrain.errors import UserError
from llamatrain.keys import flatten
from llamatrain.runs import Row, figure, is_number, parameters, read_series, read_status
from llamatrain.spent import Spent, spent
from llamatrain.yaml_files import read_yaml

from .graph import DATA, REFERENCE
from .programs import PROGRAMS
from .record import VALUE, Record, known_record

UNKNOWN = Program("", "", "")  # of a folder that no known program made


@dataclass(frozen=True)
class StageRun:
    """One stage's run folder."""

    name: str
    program: str
    folder: Path
    parents: list[str]

    @property
    def about(self) -> Program:
        """What its program says of itself."""
        return PROGRAMS.get(self.program, UNKNOWN)

    @cached_property
    def record(self) -> Record | None:
        """What the stage was made from, where a pipeline made it."""
        return known_record(self.folder)

    @cached_property
    def status(self) -> Row:
        """status.json."""
        return read_status(self.folder)

    @cached_property
    def series(self) -> dict[str, list[tuple[float, float]]]:
        """metrics.jsonl, by metric."""
        return read_series(self.folder)

    @property
    def seconds(self) -> float:
        """How long the stage took, over all attempts."""
        return self.record.seconds if self.record else float(self.status.get("seconds") or 0.0)

    @cached_property
    def spent(self) -> Spent:
        """What it took, over all attempts."""
        return spent(self.folder)

    @cached_property
    def config(self) -> dict[str, Any]:
        """Its configuration, flat: with references to other stages where a pipeline made it."""
        if self.record:
            return self.record.config
        try:
            found = read_yaml(self.folder / "config.yaml")
        except (UserError, OSError):
            return {}
        return dict(flatten(found)) if isinstance(found, dict) else {}

    def values(self, key: str) -> dict[str, str]:
        """Return what its configuration has at and below `key`."""
        return {name: str(value) for name, value in self.config.items() if name == key or name.startswith(f"{key}.")}

    def reads(self, key: str) -> list[str]:
        """Return the stages that its configuration refers to at and below `key`."""
        return [reference[1] for value in self.values(key).values() if (reference := REFERENCE.match(value))]

    def sources(self, key: str) -> list[str]:
        """Return the data at and below `key`, as sources that `read_rows` takes."""
        return [self._source(name, value) for name, value in self.values(key).items() if value]

    def _source(self, key: str, value: str) -> str:
        parts = VALUE.fullmatch(value)
        if parts is None:
            return value
        path, reference = parts["path"], REFERENCE.fullmatch(parts["path"])
        if reference and reference[1] != DATA:
            path = f"{self.folder.parent / reference[1]}{reference[2]}"
        elif self.record:
            path = self.record.paths.get(key, path)
        return f"{parts['adapter'] or ''}{path}{parts['part'] or ''}"

    @cached_property
    def facts(self) -> Facts:
        """What the descriptions of its program are filled in from."""
        return Facts(self)

    def told(self, description: str) -> str:
        """Return a description filled in; empty where the run does not tell all of it."""
        try:
            return description.format_map(self.facts)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError):
            return ""


class Facts(dict[str, Any]):
    """A run's settings, the last value of each metric, and what else `llamatrain.description` names: numbers as `Amount`."""

    def __init__(self, stage: StageRun) -> None:
        """Gather what costs nothing."""
        last = {name: points[-1][1] for name, points in stage.series.items()}
        known = {**stage.config, **last, "step": stage.status.get("step")}
        super().__init__({name: Amount(v) if is_number(v) else v for name, v in known.items() if v is not None})
        self.stage = stage

    def __missing__(self, name: str) -> Any:
        """Look at the files."""
        if name == "tokens":
            return Amount(self["batch_tokens"] * self["step"])
        if name == "parameters":
            found = parameters(self.stage.folder / "final")
        elif name.startswith("rows of "):
            found = sum(map(_lines, self._files(name.removeprefix("rows of "))))
        else:
            raise KeyError(name)
        if not found:
            raise KeyError(name)
        return Amount(found)

    def _files(self, key: str) -> list[str]:
        """Return the files of a setting, or one that the run made."""
        made = self.stage.folder / f"{key}.jsonl"
        return [str(made)] if made.is_file() else self.stage.sources(key)


class Amount(float):
    """A number that is written for people: 1.43M, 4,500, 0.25."""

    def __format__(self, form: str) -> str:
        """Write it, shortly unless a form is asked for."""
        if form:
            return super().__format__(form)
        value = float(self)
        for size, unit in ((1e9, "B"), (1e6, "M")):
            if value >= size:
                return f"{value / size:.2f}{unit}"
        return f"{value:,.0f}" if value.is_integer() else figure(value)


def _lines(source: str) -> int:
    path = Path(source)
    if path.suffix != ".jsonl" or not path.is_file():
        return 0
    with path.open("rb") as file:
        return sum(1 for _ in file)
