"""Probes from files: one JSON object a line, of which each kind says what it must hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NotRequired, TypedDict, TypeVar

from llamatrain.errors import MissingFileError, UserError
from llamatrain.text_files import read_lines


class Probe(TypedDict):
    """What every probe has."""

    id: str
    system: NotRequired[str]


P = TypeVar("P", bound=Probe)


def read_probes(paths: Sequence[str | Path], kind: type[P], most: int | None) -> list[P]:
    """Return the probes of some files; UserError where a line is none, or an id is there twice."""
    found: dict[str, P] = {}
    for path in map(Path, paths):
        if not path.is_file():
            raise MissingFileError(f"probes: {path} does not exist; need a JSONL file (docs/evaluation.md)")
        for number, probe in enumerate(read_lines(path, kind), 1):
            if probe["id"] in found:
                raise UserError(f"{path}:{number}: id {probe['id']!r} is there twice, need unique ids")
            found[probe["id"]] = probe
    if not found:
        raise UserError(f"probes={', '.join(map(str, paths))}: no probes, need one at least")
    return list(found.values())[:most]


def with_system(system: str, user: str) -> list[dict[str, str]]:
    """Return a question after a system message, where there is one."""
    told = [{"role": "system", "content": system}] if system else []
    return [*told, {"role": "user", "content": user}]
