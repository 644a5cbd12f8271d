"""What a run must still be to go on: the same data, parents and loss as its checkpoint's, or a finished result's settings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import yaml

from . import __version__, manifest
from .errors import UserError
from .keys import changed, former_values
from .run_files import Status
from .yaml_files import read_yaml

MEND = "undo the change, or start from scratch with run.resume=never or another run.name"


def refuse_resume(
    schema: type,
    settings: Mapping[str, Any],
    data: Mapping[str, str],
    parents: Mapping[str, Path],
    fixed: Sequence[str],
    newest: Path,
) -> None:
    """Refuse to go on from the checkpoint `newest` with other data, parents, or values of the `fixed` keys."""
    from . import checkpoint  # needs torch, which a program without a model does not load

    try:
        lineage = checkpoint.lineage(newest)
    except (OSError, UserError):  # who resumes looks at all of it, and says what is left
        return
    settings = json.loads(json.dumps(settings, default=str))
    other = sorted(name for name in data if lineage["data"].get(name) != data[name])
    if other:
        raise UserError(f"the data behind '{other[0]}' changed since {newest} was saved: {MEND}")
    # By content: a parent that was moved is the same, one that was trained again under the same path is not.
    before = {key: parent["sha256"] for key, parent in lineage["parents"].items()}
    now = {key: parent_hash(path) for key, path in parents.items()}
    other = sorted(key for key in before | now if before.get(key) != now.get(key))
    if other:
        named = parents.get(other[0], "null")
        raise UserError(f"{other[0]}={named} is not what {newest} was trained from: {MEND}")
    without = former_values(schema) if is_dataclass(schema) else {}
    for key in fixed:
        was, now = _setting(lineage["config"], key, without.get(key)), _setting(settings, key)
        if was != now:
            raise UserError(
                f"{key}={now}: {newest} was trained with {was}, and another value would change its samples or its loss "
                f"halfway: {MEND}"
            )


def lineage_of(
    program: str,
    step: int,
    settings: Mapping[str, Any],
    parents: Mapping[str, Path],
    data: Mapping[str, str],
    more: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what a checkpoint's llamatrain.json says of where it came from."""
    return {
        "program": program,
        "step": step,
        "config": settings,
        "parents": {key: {"path": str(path), "sha256": parent_hash(path)} for key, path in parents.items()},
        "data": data,
        **more,
        "version": __version__,
    }


def refuse_replacement(
    folder: Path,
    old: Status,
    schema: type,
    settings: Mapping[str, Any],
    made_from: Mapping[str, str | None],
    free: Sequence[str],
) -> None:
    """Refuse to replace a finished result that was made with other settings (but those in `free`) or from other files."""
    if is_dataclass(schema):
        before = _settings_before(folder)
        now = yaml.safe_load(yaml.safe_dump(settings))  # as the file has them: a tuple is a list there
        for key, was, value in changed(schema, before, now):
            if key.partition(".")[0] not in free:
                raise UserError(f"{key}={_cut(value)}: {folder} is finished and was made with {_cut(was)}: {MEND}")
    formerly = old.get("made_from") or {}
    for name, content in made_from.items():  # what the earlier run did not note says nothing
        if formerly.get(name, content) != content:
            raise UserError(f"what '{name}' names changed since {folder} was finished: {MEND}")


def _settings_before(folder: Path) -> dict[str, Any]:
    """Return the settings that a folder's result was made with."""
    path = folder / "config.yaml"
    reason = f"{path} has no settings"
    try:
        before = read_yaml(path)
        if isinstance(before, dict):
            return before
    except FileNotFoundError:
        reason = f"{path} is missing"
    except UserError as error:
        reason = str(error)
    raise UserError(f"{folder} is finished, but nothing records what it was made with ({reason}): {MEND}")


def parent_hash(path: Path) -> str | None:
    """Return the hash of what a run starts from; None where it is no model's folder."""
    folder = path / "final" if (path / "final").exists() else path
    return manifest.fingerprint(folder) if (folder / "config.json").is_file() else None


def _cut(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _setting(config: Any, key: str, absent: Any = None) -> Any:
    """Return a value by its dotted key; `absent` where an earlier version did without the key."""
    for name in key.split("."):
        if not isinstance(config, Mapping) or name not in config:
            return absent
        config = config[name]
    return config


def changes_since(newest: Path, settings: Mapping[str, Any]) -> list[str]:
    """Return a line for every setting that differs from the checkpoint's that a run goes on from."""
    from . import checkpoint

    now = json.loads(json.dumps(settings, default=str))
    return [f"changed since the checkpoint: {line}" for line in differences(checkpoint.lineage(newest)["config"], now)]


def differences(old: Any, new: Any, key: str = "") -> list[str]:
    """Return `key: before -> now` for every setting that differs and is not about the run folder alone."""
    if isinstance(old, dict) and isinstance(new, dict):
        names = [name for name in new if name in old and (key, name) != ("", "run")]
        return [line for name in names for line in differences(old[name], new[name], f"{key}.{name}".strip("."))]
    return [] if old == new else [f"{key}: {old} -> {new}"]
