"""A checkpoint's name and its MANIFEST.json: the size and sha256 of every file, written last. Imports no torch."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import TypedDict

from . import heartbeat
from .errors import UserError, missing
from .text_files import read_json

NAME = "MANIFEST.json"
STEP = re.compile(r"step_\d+")  # a checkpoint's name
MODEL_FILES = ("config.json", "tokenizer.model")  # and *.safetensors: what a checkpoint's result is


class Entry(TypedDict):
    """What the manifest knows of a file."""

    size: int
    sha256: str


class Content(TypedDict):
    """What MANIFEST.json holds."""

    files: dict[str, Entry]


def checkpoint_folder(path: str | Path, made_by: str) -> Path:
    """Return the folder that `path` (a checkpoint, a run's `final` or a run folder) means, its files unverified."""
    folder = Path(path)
    if (folder / "final").exists():
        folder = folder / "final"
    if not folder.exists():
        raise missing(path, made_by)
    folder = folder.resolve()
    if not (folder / "config.json").is_file():
        saved = published(folder / "checkpoints")
        hint = f"; the run is not finished, its newest checkpoint is {saved[-1]}" if saved else ""
        raise UserError(f"{path} is not a checkpoint: it has no config.json{hint}")
    return folder


def sha256(path: Path) -> str:
    """Return a file's sha256 in hexadecimal."""
    heartbeat.beat("read")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write(folder: Path, known: Mapping[str, Entry] | None = None) -> None:
    """Write the manifest of all files under the folder; those `known` (by relative path) are not read again.

    Raises OSError where a known file is not there as it was written: a rank wrote it to another disk.
    """
    entries: dict[str, Entry] = dict(known or {})
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != NAME):
        name, size = str(path.relative_to(folder)), path.stat().st_size
        if name not in entries:
            entries[name] = {"size": size, "sha256": sha256(path)}
    # Also the other ranks' files: folders of the same name on several machines' own disks would pass until a resume.
    for name, entry in entries.items():
        if not (folder / name).is_file() or (folder / name).stat().st_size != entry["size"]:
            raise OSError(f"rank 0 does not see {name} as another rank wrote it: need one run folder for all ranks")
    (folder / NAME).write_text(json.dumps({"files": dict(sorted(entries.items()))}, indent=1) + "\n")


def read(folder: Path) -> dict[str, Entry]:
    """Return the manifest's entries; UserError where it is missing, unreadable, or silent about a file of the result."""
    try:
        entries = read_json(folder / NAME, Content, "the checkpoint was altered")["files"]
    except FileNotFoundError:
        raise UserError(f"{folder} has no {NAME}: it is not a finished checkpoint") from None
    for path in folder.iterdir():  # a file of weights laid in beside would be loaded, and nothing would vouch for it
        if _is_result(path.name) and path.name not in entries:
            raise UserError(f"checkpoint {folder} is damaged: {path.name} is not in its {NAME}")
    return entries


def _is_result(name: str) -> bool:
    return name in MODEL_FILES or ("/" not in name and name.endswith(".safetensors"))


def verify(folder: Path, names: Iterable[str] | None = None) -> None:
    """Hold every file (or those named) against the manifest; UserError names the first that is missing or altered."""
    entries = read(folder)
    for name in entries if names is None else names:
        path, entry = folder / name, entries[name]
        if not path.is_file():
            if name.startswith("trainer/") and not (folder / "trainer").exists():
                continue  # the trainer state may be dropped from a kept checkpoint
            raise UserError(f"checkpoint {folder} is damaged: {name} is missing")
        size = path.stat().st_size  # first: a cut file is told apart without reading it
        if size != entry["size"]:
            raise UserError(
                f"checkpoint {folder} is damaged: {name} has {size} bytes, its manifest says {entry['size']}"
            )
        if sha256(path) != entry["sha256"]:
            raise UserError(
                f"checkpoint {folder} is damaged: {name} was altered (its sha256 differs from the manifest's)"
            )


def published(checkpoints: Path) -> list[Path]:
    """Return a run's finished checkpoints, oldest first: those being written or deleted, and copies, have other names."""
    return sorted(path for path in checkpoints.glob("step_*") if STEP.fullmatch(path.name) and path.is_dir())


def delete(folder: Path) -> None:
    """Delete a checkpoint under a name that is not published: a kill leaves no half of one that counts.

    Of one that was moved to another disk and linked from here only the link goes.
    """
    if folder.is_symlink():
        folder.unlink()
        return
    doomed = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(doomed, ignore_errors=True)
    os.replace(folder, doomed)
    shutil.rmtree(doomed)


def keep_newest(checkpoints: Path, number: int, best: Path | None = None) -> None:
    """Delete all but so many of a run's newest checkpoints, and the best; 0 keeps all."""
    for old in published(checkpoints)[:-number] if number else ():
        if old != best:
            delete(old)


def clear(checkpoints: Path) -> None:
    """Delete what a kill left of checkpoints that were being written or deleted."""
    for left in checkpoints.glob("step_*.tmp"):
        shutil.rmtree(left, ignore_errors=True)


def step_of(folder: Path) -> int:
    """Return the steps that were done when a checkpoint was saved."""
    return int(folder.name.removeprefix("step_"))


def fingerprint(folder: Path) -> str:
    """Return one hash of a checkpoint's result: its weights, configuration and tokenizer.

    A model's folder that was made elsewhere has no manifest: its files are read for it, once in a process.
    """
    if (folder / NAME).is_file():
        hashes = {name: entry["sha256"] for name, entry in read(folder).items() if _is_result(name)}
    else:
        hashes = _hashes(folder)
    text = "\n".join(f"{name} {hashes[name]}" for name in sorted(hashes))
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def _hashes(folder: Path) -> dict[str, str]:
    """Return file -> sha256 of a folder's result."""
    return {path.name: sha256(path) for path in folder.iterdir() if _is_result(path.name)}
