"""Settings that several programs share, as dataclasses: the run, the optimizer, ZeRO, spikes, sampling.

Imports no torch, so that a configuration can be checked before anything heavy is started. configs/ holds the values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from .errors import UserError
from .keys import KEEPS, MEASURES, SHARE, SPEED, above, check_values, least, one_of

PRECISIONS = ("float32", "bfloat16")
SCHEDULES = ("cosine", "constant")
KERNELS = ("auto", "mkl", "onednn")
RESUME = ("auto", "never", "required")
WANDB_MODES = ("offline", "online", "disabled")


@dataclass
class WandbConfig:
    """Where the dashboard's data go."""

    mode: str = field(metadata=one_of(WANDB_MODES))
    project: str
    entity: str | None
    group: str | None
    tags: list[str]

    def __post_init__(self) -> None:
        """Check the mode."""
        check_values(self, "run.wandb.")


def check_run_name(name: str) -> None:
    """Refuse a run.name that is no folder below run.dir."""
    if "\0" in name or {"", ".", ".."}.intersection(name.split("/")):
        raise UserError(f"run.name={name}: need a folder name below run.dir, like chat or tries/chat, without . or ..")


@dataclass
class RunConfig:
    """What every program's run needs; configs/run/default.yaml says what each key means."""

    name: str = field(metadata=KEEPS)
    dir: str = field(metadata=KEEPS)
    seed: int
    resume: str = field(metadata=one_of(RESUME) | KEEPS)
    save_every: int = field(metadata=least(0) | KEEPS)
    keep: int = field(metadata=least(0) | KEEPS)
    eval_every: int = field(metadata=least(0) | MEASURES)
    log_every: int = field(metadata=least(1) | KEEPS)
    progress: bool = field(metadata=KEEPS)
    verbose: bool = field(metadata=KEEPS)
    kernels: str = field(metadata=one_of(KERNELS) | SPEED)
    hang_minutes: float = field(metadata=least(0) | KEEPS)
    preflight: bool = field(metadata=KEEPS)
    wandb: WandbConfig = field(metadata=KEEPS)
    given: list[str] = field(default_factory=list, metadata=KEEPS)  # keys of a length or the model that the user gave
    keep_best: bool = field(default=False, metadata=KEEPS)
    patience: int | None = field(default=None, metadata=least(1))

    def __post_init__(self) -> None:
        """Check values."""
        check_values(self, "run.")
        check_run_name(self.name)

    def need_held_out(self, there: bool, need: str) -> None:
        """Refuse to stop early where there is nothing by which to."""
        if self.patience is not None and not there:
            raise UserError(f"run.patience={self.patience}: need {need}")

    def evaluates_after(self, step: int, total: int) -> bool:
        """Tell whether held-out data are evaluated after `step` (always after the last)."""
        return step == total or (self.eval_every > 0 and step % self.eval_every == 0)

    def saves_after(self, step: int) -> bool:
        """Tell whether a checkpoint is due after `step`."""
        return self.save_every > 0 and step % self.save_every == 0


@dataclass
class OptimConfig:
    """AdamW and its schedule; the paper's figures stand in configs/optim/."""

    lr: float = field(metadata=above(0))
    betas: list[float]
    eps: float = field(metadata=above(0))
    weight_decay: float = field(metadata=least(0))
    grad_clip: float = field(metadata=least(0))
    schedule: str = field(metadata=one_of(SCHEDULES))
    warmup_steps: int = field(metadata=least(0))
    warmup_fraction: float = field(metadata=SHARE)
    final_lr_fraction: float = field(metadata=least(0, 1))

    def __post_init__(self) -> None:
        """Check what belongs together."""
        check_values(self, "optim.")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"optim.betas={self.betas}: need two numbers in [0, 1)")

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
        # Held at the floor where more steps are made than were planned.
        progress = min(1.0, (step - warmup + 1) / max(1, total_steps - warmup))
        floor = self.final_lr_fraction
        return self.lr * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))


@dataclass
class ZeroConfig:
    """What DeepSpeed shards over the ranks, and the precision; choices stand in configs/zero/."""

    stage: int = field(metadata=one_of((0, 1, 2, 3)) | SPEED)
    dtype: str = field(metadata=one_of(PRECISIONS))
    offload_optimizer: bool = field(metadata=SPEED)
    offload_parameters: bool = field(metadata=SPEED)
    # In which gradients are summed over the ranks; null: the training precision.
    reduce_dtype: str | None = field(default=None, metadata=one_of(PRECISIONS))

    def __post_init__(self) -> None:
        """Check what belongs together."""
        check_values(self, "zero.")
        if self.dtype == "bfloat16" and self.stage == 0:
            raise UserError(
                "zero.dtype=bfloat16: need zero.stage of 1 or higher, as stage 0 keeps no float32 master weights"
            )
        if self.offload_optimizer and self.stage == 0:
            raise UserError("zero.offload_optimizer=true: need zero.stage of 1 or higher")
        if self.reduce_dtype == "bfloat16" and self.dtype == "float32":
            raise UserError("zero.reduce_dtype=bfloat16: need float32 or null, as zero.dtype is float32")
        if self.offload_parameters and self.stage != 3:
            raise UserError("zero.offload_parameters=true: need zero.stage=3")


@dataclass
class SpikeConfig:
    """When a step is a spike, and how many a run may have; configs/pretrain.yaml says what each key means."""

    enabled: bool
    window: int
    min_steps: int
    loss_sigmas: float = field(metadata=above(0))
    norm_sigmas: float = field(metadata=above(0))
    look_ahead: int = field(metadata=least(0))
    max_incidents: int = field(metadata=least(0))

    def __post_init__(self) -> None:
        """Check values."""
        if not 2 <= self.min_steps <= self.window:
            raise UserError(f"spikes.min_steps={self.min_steps}: need 2 to spikes.window={self.window}")
        check_values(self, "spikes.")


@dataclass
class SamplingConfig:
    """How tokens are drawn; configs/sampling/ says what each key means."""

    temperature: float = field(metadata=least(0))
    top_p: float = field(metadata=above(0, most=1))
    max_new_tokens: int = field(metadata=least(1))

    def __post_init__(self) -> None:
        """Check values."""
        check_values(self, "sampling.")

    def seeded(self, seed: int, program: str) -> Sampling:
        """Return it with the noise of a run of this program."""
        return Sampling(self.temperature, self.top_p, self.max_new_tokens, seed, program)


@dataclass
class Sampling(SamplingConfig):
    """How tokens are drawn, and by which noise.

    Each `program` has noise of its own: PPO must not begin with the same samples that rejection sampling chose among.
    """

    seed: int
    program: str = ""
