"""The KL divergence of the policy from its reference: what estimates it, and the weight of its penalty.

Shapes: any, a number per response token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .losses import MAX_LOG_RATIO
from .ppo_config import K1, K2, PPOConfig

MOST = 0.2  # by which share the divergence counts as off its target at most (Ziegler et al. 2019)


def estimate(log_ratios: Tensor, estimator: str) -> Tensor:
    """Return an estimate of the divergence at each token from log(policy / reference), for tokens that the policy drew.

    k1 is the log-ratio itself: unbiased, of high variance, and below 0 where the reference likes the token better. k2 is
    half its square: biased, but its gradient is that of the divergence. k3 is unbiased and never below 0.
    """
    if estimator == K1:
        return log_ratios
    if estimator == K2:
        return 0.5 * log_ratios.square()
    # One absurd token must not make everything infinite. Both terms are held: below -20 the gradient is 0, as that of the
    # policy's clamped ratio. Held in the first alone it would turn round, and push away from the reference; a slope of
    # exp(20) would drown all other tokens.
    held = log_ratios.clamp(min=-MAX_LOG_RATIO)
    return torch.expm1(-held) + held


class Coefficient:
    """The weight of the penalty: fixed, or adapted so that a response's divergence comes to `kl.target`.

    It is a number of the run's course, so checkpoints keep it (silently lost, the first iterations after a resume would be
    learned under another objective).
    """

    def __init__(self, cfg: PPOConfig) -> None:
        self.config, self.value, self._start = cfg.kl, cfg.kl_coef, cfg.kl_coef

    def adapt(self, divergence: float, responses: int) -> None:
        """Follow an iteration of so many responses whose mean divergence was measured, in nats per response."""
        if self.config.target is not None:
            off = divergence / self.config.target - 1
            self.value *= 1 + max(-MOST, min(MOST, off)) * responses / self.config.horizon

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"kl_coef": self.value} if self.config.target is not None else {}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take a checkpoint's state, or none: the beginning. A coefficient that is fixed is the configuration's."""
        self.value = state.get("kl_coef", self._start) if self.config.target is not None else self._start
