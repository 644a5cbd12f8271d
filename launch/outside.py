"""Looking at the files that a stage reads and no stage makes: they exist and are what the key needs, before anything runs.

A look reads a first row, a name or a folder's contents, never a whole file; a data set of the hub is left to its program.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from llamatrain.data import rows
from llamatrain.data.kinds import KINDS
from llamatrain.errors import UserError, missing
from llamatrain.manifest import checkpoint_folder
from llamatrain.tokenizer import Tokenizer


def look(what: str, value: str, made_by: str = "", lenient: bool = False) -> None:
    """Hold a value against what its key reads (`keys.reads`); UserError where the program could only fail on it.

    `lenient`: bad rows are skipped, so a bad first one is no reason to refuse.
    """
    if what in KINDS:
        rows.look(value, KINDS[what], first=not lenient)
        return
    LOOKS[what](Path(value), made_by)


def _corpus(path: Path, made_by: str) -> None:
    if not (path / "train" / "manifest.json").is_file():
        raise missing(path / "train" / "manifest.json", "corpus")


def _world(path: Path, made_by: str) -> None:
    if not (path / "world.json").is_file():
        raise missing(path / "world.json", "toyworld")


def _file(path: Path, made_by: str) -> None:
    if not path.exists():
        raise missing(path, made_by) if made_by else UserError(f"{path} does not exist")


LOOKS: dict[str, Callable[[Path, str], object]] = {
    "checkpoint": lambda path, made_by: checkpoint_folder(path, made_by or "pretrain"),
    "corpus": _corpus,
    "tokenizer": lambda path, made_by: Tokenizer(path),
    "world": _world,
    "file": _file,
}
