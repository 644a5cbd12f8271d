"""Checkpoints: Hugging Face folders that also hold what an exact resume needs.

    step_00001000/
      config.json  model.safetensors[.index.json]  generation_config.json
      tokenizer.model  tokenizer_config.json  tokenizer.json
      llamatrain.json   lineage
      trainer/          optimizer state (and master weights) by parameter name, knowing neither ranks nor ZeRO stages
      MANIFEST.json     written last

A checkpoint is written under a temporary name and renamed, so a published one is complete.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from safetensors import safe_open

from . import atomic, distributed, hf_tokenizer, manifest
from .errors import DiskError, UserError, no_space
from .hf_folder import INDEX, WEIGHTS, load_weights, matched
from .manifest import Entry, published
from .model.config import ModelConfig
from .model.scalar_head import ScalarModel
from .replaced import size
from .tensor_files import Shapes, write_tensors
from .text_files import read_json
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    from .engine.learning import Engine

SHARD_BYTES = 5_000_000_000


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


# --- saving ------------------------------------------------------------------------------------------------------


def save(
    target: Path,
    engines: Mapping[str, Engine],
    tokenizer: Tokenizer,
    lineage: dict[str, Any],
    state: dict[str, Any],
) -> None:
    """Write a checkpoint; the first engine's model is the published one. Called by all ranks together.

    Raises DiskError when it cannot be written; older checkpoints are untouched then.
    """
    need = _bytes(engines)
    temporary = target.with_name(target.name + ".tmp")
    failure = ""  # of this rank; before each next part the ranks agree that none has one
    try:
        if distributed.is_main():
            shutil.rmtree(temporary, ignore_errors=True)
            (temporary / "trainer").mkdir(parents=True)
    except OSError as error:
        failure = _why(error)
    _agree(failure, temporary, need)
    primary = next(iter(engines))
    models = {name: temporary if name == primary else temporary / "trainer" / name for name in engines}
    written: dict[Path, Entry] = {}
    for name, engine in engines.items():
        # Every rank goes through all of it even after its own disk failed, so that none waits for ever.
        for write, folder in ((_write_model, models[name]), (_write_optimizer, temporary / "trainer" / name)):
            try:
                written |= write(folder, engine)
            except OSError as error:
                failure = failure or _why(error)
    if distributed.is_main() and not failure:
        try:
            _write_description(temporary, engines[primary], tokenizer, lineage, state)
        except OSError as error:
            failure = _why(error)
    _agree(failure, temporary, need)
    known = {str(path.relative_to(temporary)): entry for path, entry in written.items()}
    entries = {name: entry for part in distributed.gather_objects(known) for name, entry in part.items()}
    if distributed.is_main():
        try:
            _publish(temporary, target, entries)
        except OSError as error:
            failure = _why(error)
    _agree(failure, temporary, need)


def _publish(temporary: Path, target: Path, entries: Mapping[str, Entry]) -> None:
    """Complete a checkpoint with its manifest and give it its name, in place of a former one of the same step."""
    manifest.write(temporary, entries)
    former = target.with_name(f"{target.name}.old.tmp")
    if target.is_symlink():  # moved to another disk: it stays there
        target.unlink()
    elif target.exists():  # never deleted under its published name: a kill would leave half of it
        os.replace(target, former)
    atomic.publish(temporary, target)
    shutil.rmtree(former, ignore_errors=True)


def _bytes(engines: Mapping[str, Engine]) -> int:
    """Return about how many bytes a checkpoint of the engines takes: weights in their precision, the rest in float32."""
    per_weight = {name: e.dtype.itemsize + 4 * len(e.state.optimizer_keys()) for name, e in engines.items()}
    return sum(s.numel() * per_weight[name] for name, e in engines.items() for s in e.state.shapes().values())


def _agree(failure: str, temporary: Path, need: int) -> None:
    """Raise a failure of one rank on all of them, once what was written is deleted."""
    try:
        distributed.fail_together(failure)
    except UserError as error:
        if distributed.is_main():
            shutil.rmtree(temporary, ignore_errors=True)
        distributed.barrier()
        free = size(shutil.disk_usage(temporary.parent.parent).free)
        raise DiskError(
            f"checkpoint {temporary.with_suffix('')} could not be saved: {error}, need {size(need)}, {free} free; "
            "older checkpoints are untouched"
        ) from None


def _why(error: OSError) -> str:
    return "no space left on the disk" if no_space(error) or "No space left" in str(error) else str(error)


def _write_model(folder: Path, engine: Engine) -> dict[Path, Entry]:
    """Write the weights in files of SHARD_BYTES at most, with an index where there are several; ranks share the files.

    Returns the manifest's entries of this rank's files. Every rank takes part in gathering the weights, to the last.
    """
    shards = _shards(engine.state.shapes(), engine.dtype.itemsize)
    many = len(shards) > 1
    files: dict[Path, dict[str, torch.Size]] = {}
    for number, shard in enumerate(shards, start=1):  # named as transformers looks for them
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors" if many else WEIGHTS
        files[folder / name] = shard
    own = {path: files[path] for path in distributed.shard(files)}
    written = write_tensors(own, engine.dtype, engine.state.parameters_by_name())
    if many and distributed.is_main():
        total = sum(shape.numel() for shard in shards for shape in shard.values()) * engine.dtype.itemsize
        weight_map = {weight: path.name for path, shard in files.items() for weight in shard}
        _write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
    return written


def _shards(shapes: Shapes, itemsize: int) -> list[dict[str, torch.Size]]:
    """Assign the weights, in order, to files of SHARD_BYTES at most; a larger weight has its own."""
    shards: list[dict[str, torch.Size]] = [{}]
    size = 0
    for name, shape in shapes.items():
        bytes_ = shape.numel() * itemsize
        if shards[-1] and size + bytes_ > SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][name] = shape
        size += bytes_
    return shards


def _write_optimizer(folder: Path, engine: Engine) -> dict[Path, Entry]:
    """Write this rank's share of the optimizer state: parameters are assigned to the ranks round-robin."""
    rank, world = distributed.rank(), distributed.world_size()
    keys, share = engine.state.optimizer_keys(), distributed.shard(engine.state.shapes().items())
    path = folder / f"optimizer-{rank + 1:05d}-of-{world:05d}.safetensors"
    files = {path: {f"{key}.{name}": shape for name, shape in share for key in keys}}
    return write_tensors(files, torch.float32, engine.state.optimizer_state_by_name())


def _write_description(
    folder: Path, engine: Engine, tokenizer: Tokenizer, lineage: dict[str, Any], state: dict[str, Any]
) -> None:
    model = engine.module
    config: ModelConfig = model.config
    scalar = isinstance(model, ScalarModel)
    hf = config.to_hf(scalar_head=scalar)
    hf["dtype"] = hf["torch_dtype"] = str(engine.dtype).removeprefix("torch.")
    hf |= {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id}
    if scalar:  # transformers finds each row's last token by it
        hf["pad_token_id"] = tokenizer.unk_id  # what tokenizer_config.json pads with
    _write_json(folder / "config.json", hf)
    if not scalar:
        # The sampling defaults of the released chat models.
        generation = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "do_sample": True}
        _write_json(folder / "generation_config.json", {**generation, "temperature": 0.6, "top_p": 0.9})
    hf_tokenizer.save(tokenizer, folder)
    _write_json(folder / "llamatrain.json", lineage)
    _write_json(folder / "trainer" / "state.json", state)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, default=str) + "\n")


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
