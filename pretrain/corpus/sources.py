"""The mixture: named sources with their files, weight or epochs, and licence; cut into parts that workers read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path
from typing import Any

from llamatrain.data import rows
from llamatrain.data.hub import Version
from llamatrain.data.rows import Part
from llamatrain.errors import UserError
from llamatrain.yaml_files import read_yaml

KEYS = ("paths", "eval", "weight", "epochs", "licence", "text", "config", "revision")


@dataclass
class Mixed:
    """One source of the mixture. `epochs` or `weight` says how often it is read, the same kind for all sources.

    `text` names the field that holds the text; `config` and `revision` choose a version of a data set of the hub.
    """

    name: str
    paths: list[str]
    eval: list[str] = field(default_factory=list)
    weight: float | None = None
    epochs: float | None = None
    licence: str = ""
    text: str | None = None
    config: str | None = None
    revision: str | None = None

    def whole(self, path: str) -> Part:
        """Return one of the source's paths as what can be read."""
        return Part(path, text=self.text, version=Version(self.config, self.revision))


@dataclass(frozen=True)
class Unit:
    """A part of a source that one worker reads."""

    source: int
    held_out: bool
    part: Part


def plain(documents: Sequence[str], eval_documents: Sequence[str]) -> list[Mixed]:
    """Return the mixture of one source, `documents`, read once."""
    return [Mixed("documents", list(documents), list(eval_documents), epochs=1.0)]


def read_mixture(path: str) -> list[Mixed]:
    """Read a mixture file: source name -> paths, weight or epochs, licence, eval."""
    if not Path(path).is_file():
        raise UserError(f"mixture={path} does not exist; need a .yaml file (docs/corpus.md)")
    content = read_yaml(Path(path))
    if not isinstance(content, dict) or not content:
        raise UserError(f"mixture={path}: need sources by name, each with paths and weight or epochs")
    mixture = [_source(str(name), entry, f"{path}: source {name}") for name, entry in content.items()]
    kinds = {"epochs" if source.epochs is not None else "weight" for source in mixture}
    if len(kinds) > 1:
        raise UserError(f"{path}: some sources have a weight and others epochs; need the same one for all")
    return mixture


def _source(name: str, entry: Any, where: str) -> Mixed:
    if not re.fullmatch(r"[\w.-]*\w", name):
        raise UserError(f"{where}: need a name of letters, digits, '.', '_' and '-' (it becomes a folder)")
    if not isinstance(entry, dict):
        raise UserError(f"{where}: need {', '.join(KEYS)}")
    unknown = set(entry) - set(KEYS)
    if unknown:
        raise UserError(f"{where}: unknown key {sorted(unknown)[0]!r}; need one of {', '.join(KEYS)}")
    paths, held_out = (_paths(entry.get(key), f"{where}: {key}") for key in ("paths", "eval"))
    if not paths:
        raise UserError(f"{where}: need paths, a list of files")
    given = [key for key in ("weight", "epochs") if entry.get(key) is not None]
    if len(given) != 1:
        raise UserError(f"{where}: has {' and '.join(given) or 'neither weight nor epochs'}; need one of the two")
    often = entry[given[0]]
    if not isinstance(often, int | float) or isinstance(often, bool) or not 0 < often < float("inf"):
        raise UserError(f"{where}: {given[0]}={often}: need a number above 0")
    if not isinstance(entry.get("licence"), str) or not entry["licence"].strip():
        raise UserError(f"{where}: need a licence")
    named = {key: entry[key] for key in ("text", "config", "revision") if entry.get(key) is not None}
    for key, value in named.items():
        if not isinstance(value, str) or not value:
            raise UserError(f"{where}: {key}={value!r}: need a name")
        files = [path for path in (*paths, *held_out) if key != "text" and rows.local_file(path) is not None]
        if files:
            raise UserError(f"{where}: {key}={value}: {files[0]} is a file, which has none; need a data set on the hub")
    often_and_named: dict[str, Any] = {given[0]: float(often), **named}
    return Mixed(name, paths, held_out, licence=entry["licence"], **often_and_named)


def _paths(value: Any, where: str) -> list[str]:
    listed = [value] if isinstance(value, str) else value or []
    if not isinstance(listed, list) or not all(isinstance(path, str) and path for path in listed):
        raise UserError(f"{where}: found {value!r}, need a path or a list of paths")
    return [found for path in listed for found in _expanded(path)]


def _expanded(path: str) -> list[str]:
    """Return the files that a path with `*` stands for, in the order of their names."""
    if "*" not in path:
        return [path]
    match = re.fullmatch(r"(\w+:)?(.*?)(@\w+/\d+)?", path, re.S)
    assert match is not None
    found = [f"{match[1] or ''}{name}{match[3] or ''}" for name in sorted(glob(match[2]))]  # noqa: PTH207
    if not found:
        raise UserError(f"{path}: there is no such file")
    return found


def shares(mixture: Sequence[Mixed], tokens: Sequence[int]) -> list[float]:
    """Return each source's part of the training sequences from its weight, or from its tokens times its epochs."""
    often: list[float] = []
    for source, count in zip(mixture, tokens, strict=True):
        # All sources have the one or all have the other (`read_mixture`), so that the sum is of like things.
        often.append(source.weight if source.weight is not None else (source.epochs or 0) * count)
    total = sum(often)
    return [value / total if total else 0.0 for value in often]


def units(mixture: Sequence[Mixed], part_bytes: int) -> list[Unit]:
    """Return all parts in the order of the documents: held-out ones first, then by source, file and place."""
    found = []
    # Held-out documents have the lowest numbers: of equal documents the first is kept, so a duplicate in the training
    # text goes, never the held-out one.
    for held_out in (True, False):
        for number, source in enumerate(mixture):
            for path in source.eval if held_out else source.paths:
                found += [Unit(number, held_out, part) for part in rows.split(source.whole(path), part_bytes)]
    return found


def stamps(mixture: Sequence[Mixed]) -> list[list[Any]]:
    """Return what tells whether inputs changed since work on them began: for every path its name and stamp."""
    paths = [(source, path) for source in mixture for path in (*source.eval, *source.paths)]
    return [[path, *rows.stamp(source.whole(path))] for source, path in paths]
