"""A model that learns: AdamW and its schedule under ZeRO stages 0-3, in float32 or bfloat16.

DeepSpeed is told that the caller owns gradient accumulation: any number of `backward` calls, then one `step`. Losses
arrive divided by the weight of the whole global batch, so DeepSpeed's average over the ranks is undone here.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from llamatrain import distributed, heartbeat
from llamatrain.allocator import keep_freed_memory
from llamatrain.engine.norms import GradNorms
from llamatrain.engine.state import NamedState
from llamatrain.engine.zero import DTYPES, import_deepspeed, quiet, training_config, whole
from llamatrain.errors import UserError
from llamatrain.optim import AdamW, parameter_groups
from llamatrain.settings import OptimConfig, ZeroConfig


class Engine:
    """A model in training: forward, backward, step; `state` is its state by parameter name."""

    def __init__(
        self, model: nn.Module, optim: OptimConfig, zero: ZeroConfig, total_steps: int, compiled: bool = False
    ) -> None:
        """Wrap a model; `total_steps` is the length of the learning-rate schedule in optimizer steps.

        `compiled` hands the layers to torch.compile, which does its work, once for all of them, at the first
        micro-batch of each shape.
        """
        distributed.setup()
        if compiled:
            compile_layers(model, zero)
        deepspeed = import_deepspeed()
        self.optim, self.zero, self.total_steps, self.compiled = optim, zero, total_steps, compiled
        self.dtype = DTYPES[zero.dtype]
        self.device = distributed.device()
        if self.device.type == "cpu":
            keep_freed_memory()
        config = training_config(optim, zero)
        groups = parameter_groups(model, optim)
        betas = optim.betas[0], optim.betas[1]
        adamw = AdamW(groups, lr=optim.lr, betas=betas, eps=optim.eps, fused=True)
        with quiet():
            self._ds, *_ = deepspeed.initialize(model=model, optimizer=adamw, config=config)
        self._adamw: torch.optim.Optimizer = self._ds.basic_optimizer
        self._norms = GradNorms(self._ds, zero, optim.grad_clip)
        self.state = NamedState(self._ds, zero.stage, self.dtype)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model forward."""
        heartbeat.beat("forward")
        return self._ds(*args, **kwargs)

    @property
    def module(self) -> Any:
        """Return the bare model; under ZeRO-3 its parameters are sharded over the ranks."""
        return self._ds.module

    @property
    def steps_done(self) -> int:
        """Return the number of updates done."""
        return self.state.steps_done

    @property
    def grad_norms(self) -> dict[str, float]:
        """Return the last step's gradient norm by kind of tensor, where it was asked for."""
        return self._norms.by_kind

    @property
    def lr(self) -> float:
        """Return the learning rate of the next update."""
        return self.optim.lr_at(self.steps_done, self.total_steps)

    def backward(self, loss: torch.Tensor) -> None:
        """Accumulate gradients of a loss that is already divided by the global batch's weight."""
        heartbeat.beat("backward")
        self._ds.backward(loss * distributed.world_size(), scale_wrt_gas=False)

    def step(self, detailed: bool = False) -> float:
        """Clip, update, move the schedule on, forget the gradients; return the gradient norm before clipping.

        A gradient that is not finite changes no weight. `detailed` fills `grad_norms`.
        """
        heartbeat.beat("update")
        for group in self._adamw.param_groups:  # a function of the step, not a scheduler with a state of its own
            group["lr"] = self.lr
        self._norms.expect(detailed)
        self._ds.step()
        self.state.steps_done += 1  # a step that changed no weight counts, too: the data have moved on
        return self._norms.read()

    @contextlib.contextmanager
    def generating(self) -> Iterator[Any]:
        """Give the plain model for generation or scoring; under ZeRO-3 its weights are gathered once."""
        module = self.module
        was_training = module.training
        module.eval()
        try:
            with torch.no_grad(), whole(self._ds, self.zero) as gathered:
                yield gathered
        finally:
            module.train(was_training)


def compile_layers(model: nn.Module, zero: ZeroConfig) -> None:
    """Put a compiled step through one layer, which serves them all, into the decoder."""
    if zero.stage == 3:
        raise UserError(
            "compile=true: need zero.stage of 2 or lower, as stage 3 gathers and frees each layer's weights"
        )
    if os.environ.get("LLAMATRAIN_VERBOSE") != "1":
        logging.getLogger("torch._dynamo").setLevel(logging.ERROR)
    decoder: Any = model.model
    decoder.through = torch.compile(decoder.through)
