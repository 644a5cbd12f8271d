"""stage.json: what a stage was made from, so that the next start knows whether it is done, interrupted or out of date.

A stage's key follows from its program, its composed configuration without what cannot change the result, and the content
of every file it reads: its parents' results and the user's data. Where the key changed, the record says which part did.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from llamatrain import atomic, manifest
from llamatrain.errors import MissingFileError, UserError
from llamatrain.keys import completed, decisive, flatten
from llamatrain.run_files import HANGS, STAGE
from llamatrain.runs import warn
from llamatrain.text_files import read_json

from .graph import DATA, REFERENCE

NAME = STAGE

# A value that may name a file: adapter:path@part, where adapter and part are for the program that reads it.
VALUE = re.compile(r"(?P<adapter>\w+:)?(?P<path>@?[^@]+)(?P<part>@.*)?")
# A run folder's own bookkeeping: not its result.
BOOKKEEPING = {
    NAME,
    "status.json",
    "config.yaml",
    "metrics.jsonl",
    "incidents.jsonl",
    "wandb",
    "checkpoints",
    "log.txt",
    HANGS,
    "work",
    "report",
}


@dataclass
class Record:
    """What a stage was made from (`config`, `inputs`) and what making it took."""

    program: str
    config: dict[str, Any]  # flat: key -> value; files stand as `@stage/file` or `file:`
    inputs: dict[str, str]  # reference, or configuration key of a file of the user's -> sha256 of its content
    paths: dict[str, str] = field(default_factory=dict)  # where those inputs lay
    hashed: dict[str, list[Any]] = field(
        default_factory=dict
    )  # file -> [size, mtime_ns, sha256]: spares hashing it again
    composed: dict[str, Any] = field(default_factory=dict)  # the whole configuration as composed from `source`
    source: str = ""  # hash of the overrides and YAML files it was composed from: spares composing it again
    parents: list[str] = field(default_factory=list)
    seconds: float = 0.0  # over all attempts
    ranks: int = 1
    cores: int = 1
    gpus: int = 0

    @property
    def key(self) -> str:
        """One hash of everything that can change the result."""
        return digest(json.dumps([self.program, self.config, self.inputs], sort_keys=True))

    def changes(self, old: Record, schema: type) -> list[str]:
        """Return in words what differs from an earlier record, empty where the result would be the same."""
        if old.program != self.program:
            return [f"program: {old.program} -> {self.program}"]
        old = old.decisive(schema)
        found = []
        for key in dict.fromkeys([*self.config, *old.config]):  # ours in their order, then those that went
            if self.config.get(key) != old.config.get(key):
                found.append(f"{key}: {_shown(old.config, key)} -> {_shown(self.config, key)}")
        for name, content in self.inputs.items():
            if old.inputs.get(name) != content:
                # The user's files stand by their key; people know them by their path.
                shown = name if name.startswith("@") else self.paths.get(name, name)
                found.append(f"{shown} changed")
        return found

    def decisive(self, schema: type) -> Record:
        """Return the record without what cannot change the result: it may be of a time when more was thought to."""
        config = decisive(schema, completed(schema, self.config))
        named = {parts["path"] for value in config.values() if (parts := VALUE.fullmatch(str(value)))}
        inputs = {name: content for name, content in self.inputs.items() if name in config or name in named}
        return replace(self, config=config, inputs=inputs)

    def write(self, folder: Path) -> None:
        """Write stage.json, atomically."""
        folder.mkdir(parents=True, exist_ok=True)
        atomic.write_json(folder / NAME, {"key": self.key, **asdict(self)})


def digest(text: str) -> str:
    """Return a text's sha256 in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def read_record(folder: Path) -> Record | None:
    """Return the folder's record; None where it has none. DamagedFileError where it cannot be read."""
    try:
        return read_json(folder / NAME, Record, "move its folder away to rerun the stage")
    except FileNotFoundError:
        return None


def known_record(folder: Path) -> Record | None:
    """Return the folder's record; None, with a warning, where it cannot be read."""
    try:
        return read_record(folder)
    except UserError as error:
        warn(str(error))
        return None


def make_record(
    program: str,
    schema: type,
    values: Mapping[str, Any],
    folder: Path,
    data_root: str | None,
    old: Record | None = None,
    unknown: Collection[str] = (),
) -> Record:
    """Return the record of a stage about to run; `values` are its composed ones, with their `@` references in place.

    `folder` is the pipeline's; the files of stages in `unknown`, which are to run again, are left out.
    MissingFileError where a parent did not make what is read from it.
    """
    record = Record(program, {}, {}, hashed=dict(old.hashed) if old else {}, composed=dict(values))
    for key, value in decisive(schema, flatten(values)).items():
        if isinstance(value, str):
            value = _input(record, key, value, folder, data_root, unknown)
        record.config[key] = value
    # Entries of files that changed or went are of no use to the next start.
    record.hashed = {path: entry for path, entry in record.hashed.items() if _stamp(Path(path)) == entry[:2]}
    return record


def _input(record: Record, key: str, value: str, folder: Path, data_root: str | None, unknown: Collection[str]) -> str:
    """Note the file a value names, if it names one, and return what stands for it in the configuration."""
    parts = VALUE.fullmatch(value)
    if parts is None:
        return value
    path = parts["path"]
    reference = REFERENCE.fullmatch(path)
    if reference and reference[1] in unknown:
        return value
    if reference and reference[1] != DATA:
        found = folder / f"{reference[1]}{reference[2]}"
        if not found.exists():
            raise MissingFileError(f"{found} does not exist: stage '{reference[1]}' is not done, or does not write it")
        record.inputs[path], record.paths[path] = fingerprint(found, record.hashed), str(found)
        return value
    found = Path(f"{data_root}{reference[2]}" if reference else path)
    if not _is_file(path, found):
        return value
    # By its content, not its path: the same data moved elsewhere make the same result.
    record.inputs[key], record.paths[key] = fingerprint(found, record.hashed), str(found)
    return f"{parts['adapter'] or ''}file{parts['part'] or ''}"


def _is_file(value: str, path: Path) -> bool:
    """Whether a configuration value names a file or folder: a word such as `reward` does not, even where such a folder is."""
    try:
        return path.is_file() if "/" not in value else path.exists()
    except OSError:  # too long for a name
        return False


def configs_hash(folder: Path, presets: Iterable[Path]) -> str:
    """Return one hash of every YAML file that a configuration may be composed from."""
    files = [*sorted(folder.rglob("*.yaml")), *presets]
    return digest("\n".join(f"{path} {manifest.sha256(path)}" for path in files))


def fingerprint(path: Path, hashed: dict[str, list[Any]]) -> str:
    """Return one hash of a file's, a checkpoint's or a run folder's content; `hashed` remembers files by size and time."""
    if path.is_file():
        return _file_hash(path, hashed)
    if (path / manifest.NAME).is_file():
        return manifest.fingerprint(path)
    if (path / "final").is_dir():
        return manifest.fingerprint(path / "final")
    if (path / "manifest.json").is_file():  # a corpus: names its files' hashes
        return _file_hash(path / "manifest.json", hashed)
    # Hidden: the lock, and what a kill left half-written.
    children = [child for child in sorted(path.iterdir()) if child.name not in BOOKKEEPING and child.name[0] != "."]
    return digest("\n".join(f"{child.name} {fingerprint(child, hashed)}" for child in children))


def _file_hash(path: Path, hashed: dict[str, list[Any]]) -> str:
    stamp, known = _stamp(path), hashed.get(str(path))
    if known is None or known[:2] != stamp:
        hashed[str(path)] = known = [*stamp, manifest.sha256(path)]
    return str(known[2])


def _stamp(path: Path) -> list[int]:
    try:
        status = path.stat()
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]


def _shown(config: Mapping[str, Any], key: str) -> str:
    return json.dumps(config[key]) if key in config else "(absent)"
