"""Settings that several programs share, as dataclasses: the run, the optimizer, ZeRO, spikes, sampling.

Imports no torch, so that a configuration can be checked before anything heavy is started. configs/ holds the values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from .errors import UserError
from .keys import KEEPS, MEASURES, SPEED

PRECISIONS = ("float32", "bfloat16")
SCHEDULES = ("cosine", "constant")
KERNELS = ("auto", "mkl", "onednn")
RESUME = ("auto", "never", "required")
WANDB_MODES = ("offline", "online", "disabled")


@dataclass
class WandbConfig:
    """Where the dashboard's data go."""

    mode: str
    project: str
    entity: str | None
    group: str | None
    tags: list[str]

    def __post_init__(self) -> None:
        """Check the mode."""
        if self.mode not in WANDB_MODES:
            raise UserError(f"run.wandb.mode={self.mode}: need one of {', '.join(WANDB_MODES)}")


def check_run_name(name: str) -> None:
    """Refuse a run.name that is no folder below run.dir."""
    if "\0" in name or {"", ".", ".."}.intersection(name.split("/")):
        raise UserError(
            f"run.name={name}: need a folder's name below run.dir, like chat or tries/chat, without . or .."
        )


@dataclass
class RunConfig:
    """What every program's run needs; configs/run/default.yaml says what each key means."""

    name: str = field(metadata=KEEPS)
    dir: str = field(metadata=KEEPS)
    seed: int
    resume: str = field(metadata=KEEPS)
    save_every: int = field(metadata=KEEPS)
    keep: int = field(metadata=KEEPS)
    eval_every: int = field(metadata=MEASURES)
    log_every: int = field(metadata=KEEPS)
    progress: bool = field(metadata=KEEPS)
    verbose: bool = field(metadata=KEEPS)
    kernels: str = field(metadata=SPEED)
    wandb: WandbConfig = field(metadata=KEEPS)
    given: list[str] = field(default_factory=list, metadata=KEEPS)  # the keys of a length that the user gave

    def __post_init__(self) -> None:
        """Check values."""
        if self.resume not in RESUME:
            raise UserError(f"run.resume={self.resume}: need one of {', '.join(RESUME)}")
        if self.kernels not in KERNELS:
            raise UserError(f"run.kernels={self.kernels}: need one of {', '.join(KERNELS)}")
        check_run_name(self.name)
        for key in ("save_every", "keep", "eval_every"):
            if getattr(self, key) < 0:
                raise UserError(f"run.{key}={getattr(self, key)}: need 0 or more")
        if self.log_every < 1:
            raise UserError(f"run.log_every={self.log_every}: need 1 or more")


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


@dataclass
class ZeroConfig:
    """What DeepSpeed divides over the ranks, and the precision; choices stand in configs/zero/."""

    stage: int = field(metadata=SPEED)
    dtype: str
    offload_optimizer: bool = field(metadata=SPEED)
    offload_parameters: bool = field(metadata=SPEED)

    def __post_init__(self) -> None:
        """Check what belongs together."""
        if self.stage not in (0, 1, 2, 3):
            raise UserError(f"zero.stage={self.stage}: need 0, 1, 2 or 3")
        if self.dtype not in PRECISIONS:
            raise UserError(f"zero.dtype={self.dtype}: need float32 or bfloat16")
        if self.dtype == "bfloat16" and self.stage == 0:
            raise UserError(
                "zero.dtype=bfloat16 needs zero.stage of 1 or higher: stage 0 keeps no float32 master weights"
            )
        if self.offload_optimizer and self.stage == 0:
            raise UserError("zero.offload_optimizer=true needs zero.stage of 1 or higher")
        if self.offload_parameters and self.stage != 3:
            raise UserError("zero.offload_parameters=true needs zero.stage=3")


@dataclass
class SpikeConfig:
    """When a step is a spike, and how many a run may have; configs/pretrain.yaml says what each key means."""

    enabled: bool
    window: int
    min_steps: int
    loss_sigmas: float
    norm_sigmas: float
    look_ahead: int
    max_incidents: int

    def __post_init__(self) -> None:
        """Check values."""
        if not 2 <= self.min_steps <= self.window:
            raise UserError(f"spikes.min_steps={self.min_steps}: need 2 to spikes.window={self.window}")
        for key in ("loss_sigmas", "norm_sigmas"):
            if getattr(self, key) <= 0:
                raise UserError(f"spikes.{key}={getattr(self, key)}: need a number above 0")
        for key in ("look_ahead", "max_incidents"):
            if getattr(self, key) < 0:
                raise UserError(f"spikes.{key}={getattr(self, key)}: need 0 or more")


@dataclass
class Sampling:
    """How tokens are drawn: temperature 0 is greedy; top_p 1 keeps every token.

    Each `program` has noise of its own: PPO must not begin with the very samples that rejection sampling chose among.
    """

    temperature: float
    top_p: float
    max_new_tokens: int
    seed: int
    program: str = ""

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise UserError(f"temperature is {self.temperature}; it must be 0 (greedy) or above")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p is {self.top_p}; it must be above 0 and at most 1")
        if self.max_new_tokens < 1:
            raise UserError(f"max_new_tokens is {self.max_new_tokens}; it must be at least 1")
