"""Models made for the engine: to learn, or to be read only while they are sharded over the ranks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from llamatrain import kernels
from llamatrain.engine.zero import divides, import_deepspeed, quiet, reading_config, set_weight
from llamatrain.settings import ZeroConfig


def build(make: Callable[[], nn.Module], zero: ZeroConfig) -> nn.Module:
    """Make a model; where models are sharded, each parameter is as soon as it is made."""
    context: Any = contextlib.nullcontext()
    if divides(zero):
        context = import_deepspeed().zero.Init(config_dict_or_path=reading_config(zero))
    with context:
        model = make()
    kernels.measure(model.config)  # type: ignore[arg-type]
    return model


def frozen(model: nn.Module, weights: Iterable[tuple[str, torch.Tensor]], zero: ZeroConfig) -> Any:
    """Prepare a sharded model (of `build`) that is only read: filled weight by weight, gathered by layer as it runs."""
    deepspeed = import_deepspeed()
    model.requires_grad_(False).eval()
    parameters = dict(model.named_parameters())
    for name, tensor in weights:
        set_weight(parameters[name], tensor)
        del tensor
    with quiet():
        engine, *_ = deepspeed.initialize(model=model, config=reading_config(zero))
    engine.eval()
    return engine
