"""Every ZeRO stage and offload: the same losses as stage 0's, a checkpoint that goes on at another stage."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from parts import ON_GPU, device, figure, optim, rows, shape, tokenizer
from parts import zero as sharding

from llamatrain import checkpoint, distributed, saving
from llamatrain.engine.learning import Engine
from llamatrain.engine.models import build
from llamatrain.fit import train_step
from llamatrain.losses import Batch, language_model_loss
from llamatrain.model.transformer import Transformer
from llamatrain.settings import ZeroConfig

STEPS, SAVED = 4, 2
TOKENS = 128 if ON_GPU else 32
BOUNDS = {"float32": 1e-5, "bfloat16": 5e-3}  # of a loss (nats) against the first setting's


def check() -> Iterator[dict[str, Any]]:
    """Train a few steps in each setting."""
    config = shape(vocab_size=300)
    place = Path(distributed.broadcast_object(tempfile.mkdtemp()))
    # On a CPU, which is slow in bfloat16, one rank shows that it works.
    for dtype in ("float32", "bfloat16") if ON_GPU or distributed.world_size() == 1 else ("float32",):
        usual: list[float] = []
        for setting in settings(dtype):
            engine = Engine(build(lambda: Transformer(config, 0), setting), optim(), setting, STEPS)
            losses = [step(engine, number) for number in range(STEPS)]
            if not usual:
                usual = losses
                yield figure(f"{named(setting)}: loss after {STEPS} steps", losses[-1])
                continue
            worst = max(abs(a - b) for a, b in zip(losses, usual, strict=True))
            yield figure(f"{named(setting)}: largest difference of a loss", worst, most=BOUNDS[dtype])
        yield resumed(dtype, usual, place / dtype)
    if distributed.is_main():
        shutil.rmtree(place)


def settings(dtype: str) -> list[ZeroConfig]:
    """Return the stages and offloads of a precision; bfloat16 has no stage 0, and no CPU a use for an offload."""
    stages = [sharding(stage, dtype) for stage in range(4) if stage or dtype == "float32"]
    if device().type == "cpu":
        return stages
    return [*stages, *(sharding(stage, dtype, True) for stage in (1, 2, 3)), sharding(3, dtype, True, True)]


def named(setting: ZeroConfig) -> str:
    """Say a setting in words."""
    kinds = {"optimizer": setting.offload_optimizer, "parameters": setting.offload_parameters}
    offloaded = " and ".join(kind for kind, is_so in kinds.items() if is_so)
    return f"{setting.dtype}, stage {setting.stage}{', offloading ' + offloaded if offloaded else ''}"


def step(engine: Engine, number: int) -> float:
    """Take an optimizer step of two micro-batches on every rank; return its loss."""
    config = shape(vocab_size=300)
    whole = rows(config, 4 * distributed.world_size(), TOKENS, 3, seed=number)
    own = [{key: value[place::2] for key, value in mine(whole).items()} for place in range(2)]
    return train_step(engine, [weighed(batch) for batch in own], language_model_loss)["train/loss"]


def mine(batch: Batch) -> Batch:
    """Return this rank's rows of a batch."""
    columns = {key: value for key, value in batch.items() if key != "weight"}
    return {key: value[distributed.rank() :: distributed.world_size()] for key, value in columns.items()}


def weighed(batch: Batch) -> Batch:
    """Return a batch with its number of targets."""
    from llamatrain.losses import next_token_select

    return {**batch, "weight": torch.tensor(float(len(next_token_select(batch)[0])))}


def resumed(dtype: str, usual: list[float], place: Path) -> dict[str, Any]:
    """Save at stage 1 and go on at stage 3; return how far the losses are from those of an undisturbed run."""
    config = shape(vocab_size=300)
    first, second = sharding(1, dtype), sharding(3, dtype)
    engine = Engine(build(lambda: Transformer(config, 0), first), optim(), first, STEPS)
    for number in range(SAVED):
        step(engine, number)
    save(engine, place)
    engine = Engine(build(lambda: Transformer(config, None), second), optim(), second, STEPS)
    checkpoint.restore(place, {"model": engine})
    engine.state.set_step(SAVED)
    losses = [step(engine, number) for number in range(SAVED, STEPS)]
    worst = max(abs(a - b) for a, b in zip(losses, usual[SAVED:], strict=True))
    return figure(f"{dtype}, saved at stage 1, resumed at stage 3", worst, most=BOUNDS[dtype])


def save(engine: Engine, place: Path) -> None:
    """Write a checkpoint."""
    about = {"program": "gpu check", "step": SAVED, "config": {}, "parents": {}, "data": {}}
    saving.save(place, {"model": engine}, tokenizer(), about, {})
