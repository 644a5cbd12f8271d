"""Models that learn from a checkpoint on: continued pretraining, fine-tuning, reward models, PPO's policy and critic."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Protocol

from .engine.learning import Engine
from .engine.models import build
from .errors import UserError
from .footprint import ALONE, ModelCounts
from .hf_folder import load_weights, matched
from .memory import micro_batch
from .model.config import ModelConfig, load_config
from .model.scalar_head import ScalarModel
from .model.transformer import Decoder, Init, Transformer
from .settings import OptimConfig, ZeroConfig

SCORE = "score.weight"


class Tuning(Protocol):
    """What the settings of every program that trains a checkpoint's model have."""

    zero: ZeroConfig
    micro_batch_size: int | None
    activation_checkpointing: str


def rows_at_once(
    cfg: Tuning,
    folder: Path,
    rows: int,
    tokens: int,
    ranks: int,
    own: ModelCounts = ALONE,
    learned: int | None = None,
) -> int:
    """Return the micro-batch size of a global batch of packed `rows`, for models of a checkpoint's shape (`micro_batch`)."""
    model = dataclasses.replace(load_config(folder)[0], activation_checkpointing=cfg.activation_checkpointing)
    return micro_batch(cfg.micro_batch_size, rows, tokens, model, cfg.zero, ranks, own, segments=True, learned=learned)


def language_engine(
    folder: Path,
    optim: OptimConfig,
    zero: ZeroConfig,
    total_steps: int,
    activation_checkpointing: str = "none",
    compiled: bool = False,
    resumes: bool = False,
) -> Engine:
    """Return an engine that trains the language model of a checkpoint folder (see `checkpoint.resolve`).

    With `resumes` (see `Run.resumes`) its weights are not read: `Run.resume` sets them.
    """
    config, scalar = load_config(folder)
    if scalar:
        raise UserError(f"{folder} is a reward model; need a language model")
    config = dataclasses.replace(config, activation_checkpointing=activation_checkpointing)
    engine = Engine(build(lambda: Transformer(config, None), zero), optim, zero, total_steps, compiled)
    return engine if resumes else _filled(engine, folder)


def scalar_engine(
    folder: Path,
    optim: OptimConfig,
    zero: ZeroConfig,
    total_steps: int,
    seed: int,
    activation_checkpointing: str = "none",
    resumes: bool = False,
) -> Engine:
    """Return an engine that trains a scalar model: a language model's checkpoint gets a new head, a scalar one goes on.

    With `resumes` as `language_engine`.
    """
    config = dataclasses.replace(load_config(folder)[0], activation_checkpointing=activation_checkpointing)
    model = build(lambda: _scalar_model(config, None if resumes else seed), zero)
    engine = Engine(model, optim, zero, total_steps)
    return engine if resumes else _filled(engine, folder)


def _scalar_model(config: ModelConfig, seed: int | None) -> ScalarModel:
    """Make a scalar model whose decoder is left to be loaded and whose head is initialised."""
    return ScalarModel(config, seed, Decoder(config, Init(None, config.init_std)))


def _filled(engine: Engine, folder: Path) -> Engine:
    engine.state.load_parameters(matched(load_weights(folder), engine.state.shapes(), str(folder), fresh=(SCORE,)))
    return engine
