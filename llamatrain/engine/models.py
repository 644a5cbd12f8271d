"""Models made for the engine: to learn, or to be read only while they are sharded over the ranks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn

from llamatrain import distributed, heartbeat, kernels
from llamatrain.engine.zero import (
    DTYPES,
    divides,
    full_shape,
    gathered,
    gathered_module,
    import_deepspeed,
    quiet,
    reading_config,
    set_weight,
)
from llamatrain.model.transformer import Noted, Transformer, drawn_later
from llamatrain.settings import ZeroConfig


def build(make: Callable[[], nn.Module], zero: ZeroConfig) -> nn.Module:
    """Make a model in the training precision, on the device that trains it; a sharded one never lies whole on a rank.

    Its weights are what its seed says or, without one, not yet anything. Called by all ranks together.
    """
    with _place(zero), drawn_later() as noted:
        model = make()
    _draw(noted)
    kernels.measure(model.config)  # type: ignore[arg-type]
    return model


def _place(zero: ZeroConfig) -> contextlib.AbstractContextManager[Any]:
    """Return the context in which each parameter is made where and as it is wanted."""
    if divides(zero):  # sharded as soon as it is made
        init: contextlib.AbstractContextManager[Any] = import_deepspeed().zero.Init(
            config_dict_or_path=reading_config(zero)
        )
        return init
    return _whole("cpu" if zero.offload_parameters else distributed.device(), DTYPES[zero.dtype])


@contextlib.contextmanager
def _whole(device: torch.device | str, dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


def _draw(noted: Noted) -> None:
    """Fill weights. The ranks draw one each at a time, and give it to the others."""
    rank, world = distributed.rank(), distributed.world_size()
    for first in range(0, len(noted), world):
        heartbeat.beat("draw")
        group = noted[first : first + world]
        own = group[rank][1].draw(full_shape(group[rank][0])) if rank < len(group) else None
        for drawer, (weight, _) in enumerate(group):
            with torch.no_grad(), gathered(weight, writer=drawer):
                if drawer == rank and own is not None:
                    weight.copy_(own)
                if world > 1 and not hasattr(weight, "ds_id"):
                    distributed.broadcast(weight, drawer)


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
    if isinstance(model, Transformer):
        model.gathering = gathered_module
    return engine
