"""A folder's MANIFEST.json: the size and sha256 of every file, written last. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from .errors import UserError

NAME = "MANIFEST.json"
MODEL_FILES = ("config.json", "tokenizer.model")  # and *.safetensors: what a checkpoint's result is


def sha256(path: Path) -> str:
    """Return a file's sha256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write(folder: Path) -> None:
    """Write the manifest of all files under the folder."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != NAME)
    entries = {str(p.relative_to(folder)): {"size": p.stat().st_size, "sha256": sha256(p)} for p in files}
    (folder / NAME).write_text(json.dumps({"files": entries}, indent=1) + "\n")


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the manifest's entries; UserError where it is missing or unreadable."""
    path = folder / NAME
    try:
        entries: dict[str, dict[str, Any]] = json.loads(path.read_text())["files"]
        return entries
    except FileNotFoundError:
        raise UserError(f"{folder} has no {NAME}: it is not a finished checkpoint") from None
    except (json.JSONDecodeError, KeyError, TypeError):
        raise UserError(f"{path} is not readable: the checkpoint was altered") from None


def verify(folder: Path, hashes: bool = True) -> None:
    """Hold every file against the manifest; UserError names the first that is missing or altered."""
    for name, entry in read(folder).items():
        path = folder / name
        if not path.is_file():
            if name.startswith("trainer/") and not (folder / "trainer").exists():
                continue  # the trainer state may be dropped from a kept checkpoint
            raise UserError(f"checkpoint {folder} is damaged: {name} is missing")
        size = path.stat().st_size
        if size != entry["size"]:
            raise UserError(
                f"checkpoint {folder} is damaged: {name} has {size} bytes, its manifest says {entry['size']}"
            )
        if hashes and sha256(path) != entry["sha256"]:
            raise UserError(
                f"checkpoint {folder} is damaged: {name} was altered (its sha256 differs from the manifest's)"
            )


def fingerprint(folder: Path) -> str:
    """Return one hash of a checkpoint's result: its weights, configuration and tokenizer."""
    entries = read(folder)
    names = sorted(n for n in entries if "/" not in n and (n in MODEL_FILES or n.endswith(".safetensors")))
    text = "\n".join(f"{name} {entries[name]['sha256']}" for name in names)
    return hashlib.sha256(text.encode()).hexdigest()
