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

import errno
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from . import distributed, manifest
from .errors import UserError, missing
from .manifest import fingerprint
from .model import ModelConfig, ScalarModel, Transformer
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    from .engine import Engine

__all__ = [
    "fingerprint",
    "latest",
    "load_config",
    "load_model",
    "load_tokenizer",
    "load_weights",
    "resolve",
    "restore",
    "save",
]

SHARD_BYTES = 5_000_000_000
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


# --- finding -----------------------------------------------------------------------------------------------------


def published(checkpoints: Path) -> list[Path]:
    """Return the finished checkpoints of a run, oldest first; half-written ones have another name."""
    return sorted(p for p in checkpoints.glob("step_*") if p.is_dir() and p.suffix != ".tmp")


def step_of(folder: Path) -> int:
    """Return the steps that were done when a checkpoint was saved."""
    return int(folder.name.removeprefix("step_"))


def lineage(folder: Path) -> dict[str, Any]:
    """Return where a checkpoint came from: llamatrain.json."""
    content: dict[str, Any] = json.loads((folder / "llamatrain.json").read_text())
    return content


def latest(checkpoints: Path) -> Path | None:
    """Return the newest finished checkpoint after verifying it; a damaged one stops the run, naming the last good one."""
    found = published(checkpoints)
    if not found:
        return None
    try:
        manifest.verify(found[-1])
    except UserError as error:
        for older in reversed(found[:-1]):
            try:
                manifest.verify(older)
            except UserError:
                continue
            raise UserError(
                f"{error}. The last good one is {older}: delete the damaged folder to resume from it"
            ) from None
        raise UserError(f"{error}. There is no older one: delete the damaged folder to start anew") from None
    return found[-1]


def resolve(path: str | Path, made_by: str = "pretrain") -> Path:
    """Return the checkpoint folder behind `path` (a checkpoint, a run's `final` or a run folder), its manifest verified."""
    folder = Path(path)
    if (folder / "final").exists():
        folder = folder / "final"
    if not folder.exists():
        raise missing(path, made_by)
    folder = folder.resolve()
    if not (folder / "config.json").is_file():
        raise UserError(f"{path} is not a checkpoint: it has no config.json")
    if (folder / manifest.NAME).exists() or not (folder / "llamatrain.json").exists():
        if (folder / manifest.NAME).exists():
            manifest.verify(folder)
        return folder  # a Hugging Face folder made elsewhere has no manifest
    raise UserError(f"checkpoint {folder} is damaged: {manifest.NAME} is missing")


# --- loading -----------------------------------------------------------------------------------------------------


def load_config(folder: Path) -> tuple[ModelConfig, bool]:
    """Return the model's configuration, and whether it has a scalar head (a reward model)."""
    try:
        data = json.loads((folder / "config.json").read_text())
    except ValueError as error:
        raise UserError(f"{folder / 'config.json'} is not JSON ({error})") from None
    return ModelConfig.from_hf(data), "LlamaForSequenceClassification" in data.get("architectures", [])


def load_weights(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (parameter name, tensor) from the folder's safetensors files, one tensor in memory at a time."""
    index = folder / INDEX
    names = sorted(set(json.loads(index.read_text())["weight_map"].values())) if index.is_file() else [WEIGHTS]
    for name in names:
        path = folder / name
        if not path.is_file():
            raise UserError(f"checkpoint {folder} is damaged: {name} is missing (only safetensors weights are read)")
        try:
            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 (safe_open is no mapping)
                    yield key, file.get_tensor(key)
        except SafetensorError as error:
            raise UserError(f"checkpoint {folder} is damaged: {name} cannot be read ({error})") from None


def fill(model: torch.nn.Module, weights: Iterable[tuple[str, torch.Tensor]], where: str) -> None:
    """Copy weights into a plain (not partitioned) model; UserError on a missing, unknown or misshapen one."""
    parameters = dict(model.named_parameters())
    left = set(parameters)
    with torch.no_grad():
        for name, tensor in weights:
            if name not in parameters:
                if name.endswith("rotary_emb.inv_freq") or name == "lm_head.weight":
                    continue  # older exporters keep the rotary table; tied heads may be written twice
                raise UserError(f"{where}: unknown weight {name}")
            if parameters[name].shape != tensor.shape:
                need = tuple(parameters[name].shape)
                raise UserError(f"{where}: {name} has shape {tuple(tensor.shape)}, config.json says {need}")
            parameters[name].copy_(tensor)
            left.discard(name)
    if left:
        raise UserError(f"{where}: weight {sorted(left)[0]} is missing")


def load_model(
    path: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, made_by: str = "pretrain"
) -> Transformer | ScalarModel:
    """Load a checkpoint as a `Transformer` or, where it is a reward model, a `ScalarModel`."""
    folder = resolve(path, made_by)
    config, scalar = load_config(folder)
    with torch.device("meta"):  # the weights appear once, where and as they are wanted
        model: Transformer | ScalarModel = ScalarModel(config, seed=None) if scalar else Transformer(config, seed=None)
    model = model.to(dtype).to_empty(device=device)
    fill(model, load_weights(folder), str(folder))
    return model


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Load the tokenizer that lies in a checkpoint folder; UserError where the model has too few embeddings for it."""
    folder = Path(path)
    if (folder / "final").exists():
        folder = folder / "final"
    tokenizer, known = Tokenizer(folder), load_config(folder)[0].vocab_size
    if known is not None and known < tokenizer.vocab_size:
        raise UserError(f"{tokenizer.path} has {tokenizer.vocab_size} pieces, but the model beside it knows {known}")
    return tokenizer


# --- saving ------------------------------------------------------------------------------------------------------


def save(
    target: Path,
    engines: Mapping[str, Engine],
    tokenizer: Tokenizer,
    lineage: dict[str, Any],
    state: dict[str, Any],
) -> None:
    """Write a checkpoint; the first engine's model is the published one. Called by all ranks together.

    Raises UserError when there is no space left; older checkpoints are untouched then.
    """
    temporary = target.with_name(target.name + ".tmp")
    failure = ""
    try:
        if distributed.is_main():
            shutil.rmtree(temporary, ignore_errors=True)
            (temporary / "trainer").mkdir(parents=True)
    except OSError as error:
        failure = _disk_message(temporary, error)
    _agree(failure, temporary)
    primary = next(iter(engines))
    models = {name: temporary if name == primary else temporary / "trainer" / name for name in engines}
    for name, engine in engines.items():
        # Every rank goes through all of it even after its own disk failed, so that none waits for ever.
        for write, folder in ((_write_model, models[name]), (_write_optimizer, temporary / "trainer" / name)):
            try:
                write(folder, engine)
            except (OSError, SafetensorError) as error:
                failure = failure or _disk_message(temporary, error)
    if distributed.is_main() and not failure:
        try:
            _write_description(temporary, engines[primary], tokenizer, lineage, state)
        except OSError as error:
            failure = _disk_message(temporary, error)
    _agree(failure, temporary)
    if distributed.is_main():
        try:
            manifest.write(temporary)
            _sync(temporary)
            shutil.rmtree(target, ignore_errors=True)
            os.replace(temporary, target)
        except OSError as error:
            failure = _disk_message(temporary, error)
    _agree(failure, temporary)


def _agree(failure: str, temporary: Path) -> None:
    try:
        distributed.fail_together(failure)
    except UserError:
        if distributed.is_main():
            shutil.rmtree(temporary, ignore_errors=True)
        raise


def _disk_message(path: Path, error: BaseException) -> str:
    full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
    why = "no space left on the disk" if full else str(error)
    return f"checkpoint {path.with_suffix('')} could not be saved: {why}; older checkpoints are untouched"


def _write_model(folder: Path, engine: Engine) -> None:
    """Write the weights from rank 0; every rank takes part in gathering them, to the last one."""
    weights = engine.parameters_by_name()
    try:
        if distributed.is_main():
            _write_shards(folder, weights, engine.dtype)
    finally:
        for _ in weights:
            pass


def _write_shards(folder: Path, weights: Iterator[tuple[str, torch.Tensor]], dtype: torch.dtype) -> None:
    """Write weights as safetensors files of SHARD_BYTES at most, with an index where there are several."""
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[list[str]] = []
    held: dict[str, torch.Tensor] = {}
    size = total = 0

    def flush() -> None:
        shards.append(list(held))
        save_file(held, folder / f"model-{len(shards):05d}.safetensors", metadata={"format": "pt"})
        held.clear()

    for name, tensor in weights:
        tensor = tensor.detach().to("cpu", dtype).contiguous().clone()
        bytes_ = tensor.numel() * tensor.element_size()
        if held and size + bytes_ > SHARD_BYTES:
            flush()
            size = 0
        held[name], size, total = tensor, size + bytes_, total + bytes_
    flush()
    if len(shards) == 1:
        (folder / "model-00001.safetensors").rename(folder / WEIGHTS)
        return
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        final = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        (folder / f"model-{number:05d}.safetensors").rename(folder / final)
        weight_map.update(dict.fromkeys(names, final))
    _write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _write_optimizer(folder: Path, engine: Engine) -> None:
    """Write this rank's share of the optimizer state: parameters are dealt out to the ranks in turn."""
    rank, world = distributed.rank(), distributed.world_size()
    share: dict[str, torch.Tensor] = {}
    for number, (name, tensors) in enumerate(engine.optimizer_state_by_name()):
        if number % world == rank:
            share.update({f"{key}.{name}": t.detach().to("cpu").contiguous().clone() for key, t in tensors.items()})
    folder.mkdir(parents=True, exist_ok=True)
    save_file(share, folder / f"optimizer-{rank + 1:05d}-of-{world:05d}.safetensors")


def _write_description(
    folder: Path, engine: Engine, tokenizer: Tokenizer, lineage: dict[str, Any], state: dict[str, Any]
) -> None:
    model = engine.module
    config: ModelConfig = model.config
    scalar = isinstance(model, ScalarModel)
    hf = config.to_hf(scalar_head=scalar)
    hf["dtype"] = hf["torch_dtype"] = str(engine.dtype).removeprefix("torch.")
    hf |= {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id}
    _write_json(folder / "config.json", hf)
    if not scalar:
        # The sampling defaults of the released chat models.
        generation = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "do_sample": True}
        _write_json(folder / "generation_config.json", {**generation, "temperature": 0.6, "top_p": 0.9})
    tokenizer.save(folder)
    _write_json(folder / "llamatrain.json", lineage)
    _write_json(folder / "trainer" / "state.json", state)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, default=str) + "\n")


def _sync(folder: Path) -> None:
    """Bring the files to the disk before the rename publishes them."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)


# --- restoring ---------------------------------------------------------------------------------------------------


def restore(folder: Path, engines: Mapping[str, Engine]) -> dict[str, Any]:
    """Put a checkpoint's weights and optimizer state into the engines (any ranks, any ZeRO stage); return the state."""
    trainer = folder / "trainer"
    if not (trainer / "state.json").is_file():
        raise UserError(
            f"{folder} has no trainer state: it can start a new run (checkpoint={folder}) but not resume this one"
        )
    primary = next(iter(engines))
    for name, engine in engines.items():
        engine.load_parameters(load_weights(folder if name == primary else trainer / name))
        engine.load_optimizer_state(_optimizer_tensors(trainer / name))
    state: dict[str, Any] = json.loads((trainer / "state.json").read_text())
    return state


def _optimizer_tensors(folder: Path) -> dict[str, Path]:
    """Return tensor name -> file for all shards of an engine's optimizer state."""
    where: dict[str, Path] = {}
    for path in sorted(folder.glob("optimizer-*.safetensors")):
        with safe_open(path, framework="pt") as file:
            where.update(dict.fromkeys(file.keys(), path))
    return where
