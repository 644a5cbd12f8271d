"""AdamW's settings and the learning rate as a pure function of the step (paper 2.2)."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .errors import UserError

KINDS = {
    "embed_tokens": "embedding",
    "self_attn": "attention",
    "mlp": "feed_forward",
    "lm_head": "head",
    "score": "head",
}
SCHEDULES = ("cosine", "constant")


@dataclass
class OptimConfig:
    """AdamW and its schedule; the paper's figures stand in configs/optim/."""

    lr: float
    betas: list[float]
    eps: float
    weight_decay: float
    grad_clip: float
    schedule: str
    warmup_steps: int
    warmup_fraction: float
    final_lr_fraction: float

    def __post_init__(self) -> None:
        """Check what belongs together."""
        if self.schedule not in SCHEDULES:
            raise UserError(f"optim.schedule={self.schedule}: need one of {', '.join(SCHEDULES)}")
        if self.lr <= 0:
            raise UserError(f"optim.lr={self.lr}: need a positive number")
        if self.eps <= 0:
            raise UserError(f"optim.eps={self.eps}: need a positive number")
        for key in ("weight_decay", "grad_clip", "warmup_steps"):
            if getattr(self, key) < 0:
                raise UserError(f"optim.{key}={getattr(self, key)}: need 0 or more")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"optim.betas={self.betas}: need two numbers in [0, 1)")
        if not 0 <= self.warmup_fraction < 1:
            raise UserError(f"optim.warmup_fraction={self.warmup_fraction}: need a number in [0, 1)")
        if not 0 <= self.final_lr_fraction <= 1:
            raise UserError(f"optim.final_lr_fraction={self.final_lr_fraction}: need a number in [0, 1]")

    def warmup(self, total_steps: int) -> int:
        """Return the steps of warm-up: the fraction of the run, but at least `warmup_steps`."""
        return max(self.warmup_steps, math.ceil(self.warmup_fraction * total_steps))

    def lr_at(self, step: int, total_steps: int) -> float:
        """Return the learning rate of update `step` (0-based): a linear ramp, then cosine down to the floor.

        The ramp gives update 0 a rate of lr / warmup, not 0, so that no update is wasted. The floor is reached at the
        last update.
        """
        warmup = self.warmup(total_steps)
        if step < warmup:
            return self.lr * (step + 1) / warmup
        if self.schedule == "constant":
            return self.lr
        progress = min(1.0, (step - warmup + 1) / max(1, total_steps - warmup))
        floor = self.final_lr_fraction
        return self.lr * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))


class AdamW(torch.optim.AdamW):
    """torch's AdamW without its wrappers for torch.compile, which import the compiler: more than a second of a start."""

    add_param_group = inspect.unwrap(torch.optim.AdamW.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.AdamW.zero_grad)
    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))


def parameter_groups(model: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """Split the parameters into matrices, which decay, and norm weights, which do not (our choice: the paper is silent)."""
    trained = [p for p in model.parameters() if p.requires_grad]
    # Under ZeRO-3 a parameter's own shape is empty; ds_shape keeps the real one.
    matrices = [p for p in trained if len(getattr(p, "ds_shape", p.shape)) >= 2]
    norms = [p for p in trained if len(getattr(p, "ds_shape", p.shape)) < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": norms, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def kind_of(name: str) -> str:
    """Return the kind of tensor a parameter is: embedding, attention, feed_forward, norm or head."""
    parts = name.split(".")
    for part, kind in KINDS.items():
        if part in parts:
            return kind
    return "norm"
