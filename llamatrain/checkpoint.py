"""Checkpoints, found and restored: Hugging Face folders that also hold what an exact resume needs (saving.py writes them).

    step_00001000/
      config.json  model.safetensors[.index.json]  generation_config.json
      tokenizer.model  tokenizer_config.json  tokenizer.json
      llamatrain.json   lineage
      trainer/          optimizer state (and master weights) by parameter name, knowing neither ranks nor ZeRO stages
      MANIFEST.json     written last

A checkpoint is written under a temporary name and renamed, so a published one is complete.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from safetensors import safe_open

from . import distributed, manifest
from .errors import UserError
from .hf_folder import load_weights, matched
from .manifest import published
from .text_files import read_json

if TYPE_CHECKING:
    from .engine.learning import Engine


class Lineage(TypedDict):
    """What must stand in llamatrain.json."""

    program: str
    step: int
    config: dict[str, Any]
    parents: dict[str, dict[str, str | None]]
    data: dict[str, Any]


# --- finding -----------------------------------------------------------------------------------------------------


def lineage(folder: Path) -> dict[str, Any]:
    """Return where a checkpoint came from: llamatrain.json."""
    content: dict[str, Any] = {**read_json(folder / "llamatrain.json", Lineage, "the checkpoint was altered")}
    return content


def latest(checkpoints: Path) -> Path | None:
    """Return the newest finished checkpoint after verifying it; a damaged one stops the run, naming the last good one.

    Called by all ranks together: each verifies its share of the files.
    """
    found = distributed.broadcast_object(published(checkpoints))
    if not found:
        return None
    try:
        _verify_together(found[-1])
    except UserError as error:
        # Not resumed from without being asked: what the newest one held would be trained again, unnoticed.
        for older in reversed(found[:-1]):
            try:
                _verify_together(older)
            except UserError:
                continue
            raise UserError(
                f"{error}. The last good one is {older}: delete the damaged folder to resume from it"
            ) from None
        raise UserError(f"{error}. There is no older one: delete the damaged folder to start from scratch") from None
    return found[-1]


def _verify_together(folder: Path) -> None:
    distributed.together(lambda: _verify_share(folder))


def _verify_share(folder: Path, trainer: bool = True) -> None:
    """Verify this rank's share of the files, those of the trainer state where asked for."""
    names = [name for name in manifest.read(folder) if trainer or not name.startswith("trainer/")]
    manifest.verify(folder, distributed.shard(names))


def resolve(path: str | Path, made_by: str = "pretrain") -> Path:
    """Return the checkpoint folder behind `path` (a checkpoint, a run's `final` or a run folder), its manifest verified.

    Called by all ranks together: each verifies its share of the files. The trainer state, which only a resume reads, is
    left alone.
    """
    return distributed.together(lambda: _resolved(path, made_by))


def _resolved(path: str | Path, made_by: str) -> Path:
    folder = manifest.checkpoint_folder(path, made_by)
    if (folder / manifest.NAME).exists() or not (folder / "llamatrain.json").exists():
        if (folder / manifest.NAME).exists():
            _verify_share(folder, trainer=False)
        return folder  # a Hugging Face folder made elsewhere has no manifest
    raise UserError(f"checkpoint {folder} is damaged: {manifest.NAME} is missing")


# --- restoring ---------------------------------------------------------------------------------------------------


def restore(folder: Path, engines: Mapping[str, Engine]) -> dict[str, Any]:
    """Put a checkpoint's weights and optimizer state into the engines (any ranks, any ZeRO stage); return the state."""
    trainer = folder / "trainer"
    if not (trainer / "state.json").is_file():
        raise UserError(
            f"{folder} has no trainer state: a new run can start from it (checkpoint={folder}), but this one cannot resume"
        )
    primary = next(iter(engines))
    for name, engine in engines.items():
        source = folder if name == primary else trainer / name
        where = _optimizer_tensors(trainer / name)
        if not any(tensor.startswith("master.") for tensor in where):  # masters are the weights, unrounded
            engine.state.load_parameters(matched(load_weights(source), engine.state.shapes(), str(source)))
        engine.state.load_optimizer_state(where)
    return read_json(trainer / "state.json", dict[str, Any], "the checkpoint was altered")


def _optimizer_tensors(folder: Path) -> dict[str, Path]:
    """Return tensor name -> file for all shards of an engine's optimizer state."""
    where: dict[str, Path] = {}
    paths = sorted(folder.glob("optimizer-*.safetensors"))
    if not paths or len(paths) != int(paths[0].stem.rpartition("-")[2]):  # optimizer-00001-of-00002
        raise UserError(f"{folder} lacks files of the optimizer state: the checkpoint was altered")
    for path in paths:
        with safe_open(path, framework="pt") as file:
            where.update(dict.fromkeys(file.keys(), path))
    return where
