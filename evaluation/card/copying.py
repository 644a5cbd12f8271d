"""A copy of a checkpoint that can be published: without the trainer state, and with no path of this machine."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from llamatrain import atomic, manifest
from llamatrain.errors import UserError

LEFT_OUT = {"trainer", manifest.NAME}


def copy(folder: Path, target: Path) -> None:
    """Copy a checkpoint; UserError where the target holds anything else than an earlier copy of the same weights."""
    if target.resolve() == folder.resolve() or folder.resolve() in target.resolve().parents:
        raise UserError(f"to={target}: need a folder outside of the checkpoint {folder}")
    if target.exists() and any(target.iterdir()):
        same = (target / manifest.NAME).is_file() and manifest.fingerprint(target) == manifest.fingerprint(folder)
        if not same:
            raise UserError(f"to={target}: need a folder that is empty or not there, or an earlier copy of {folder}")
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(
        path for path in folder.iterdir() if path.name not in LEFT_OUT and not path.name.startswith(".")
    ):
        if path.name == "llamatrain.json":
            atomic.write_json(target / path.name, without_paths(json.loads(path.read_text(encoding="utf-8"))))
        elif path.is_dir():
            shutil.copytree(path, target / path.name, dirs_exist_ok=True)
        else:
            _place(path, target / path.name)
    manifest.write(target)


def _place(path: Path, target: Path) -> None:
    """Link weights, which nobody changes, where both lie on one disk; copy all else."""
    target.unlink(missing_ok=True)
    if path.suffix == ".safetensors":
        try:
            os.link(path.resolve(), target)
            return
        except OSError:  # another disk, or one without links
            pass
    shutil.copyfile(path, target)


def without_paths(value: Any) -> Any:
    """Return a value of JSON in which absolute paths keep their last three parts: they tell of runs, not of this machine."""
    if isinstance(value, dict):
        return {key: without_paths(one) for key, one in value.items()}
    if isinstance(value, list):
        return [without_paths(one) for one in value]
    if isinstance(value, str) and value.startswith(("/", "~")):
        return "/".join(["...", *Path(value).parts[-3:]])
    return value
