"""Scoring responses with the two reward models, and the combined score (paper 3.2.3).

A score is the raw output (logit) of a reward model at the response's last token. The paper quotes sigmoids of it in
(0, 1) and undoes them with LOGIT; here the logit is kept and the sigmoid is taken for files and people only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llamatrain import distributed

from .config import GateConfig
from .rollouts import Packed, Rollout, pack_rollouts, portions


@dataclass(frozen=True)
class Scores:
    """Raw scores (logits) of one response; the combined one needs both models."""

    helpfulness: float | None = None
    safety: float | None = None
    combined: float | None = None


def sigmoid(logit: float) -> float:
    """Return the score as the paper quotes it, in (0, 1)."""
    return 1 / (1 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1 + math.exp(logit))


def combined_logits(
    helpfulness: Tensor, safety: Tensor, is_safety_prompt: Tensor, finished: Tensor, gate: GateConfig
) -> Tensor:
    """Return R_c as logits (N,): the safety score for a safety prompt or one below the threshold, else helpfulness.

    A response that did not end with EOS gets at most `unfinished_logit` (our choice; the paper does not say).
    """
    threshold = math.log(gate.safety_threshold / (1 - gate.safety_threshold))
    combined = torch.where(is_safety_prompt | (safety.double() < threshold), safety, helpfulness)
    return torch.where(finished, combined, combined.clamp(max=gate.unfinished_logit))


def combine(
    rollouts: Sequence[Rollout], helpfulness: Tensor | None, safety: Tensor | None, gate: GateConfig
) -> list[Scores]:
    """Join the scores (N,) of the two reward models, either of which may be absent."""
    combined = None
    if helpfulness is not None and safety is not None:
        is_safety = torch.tensor([r.prompt.safety for r in rollouts])
        finished = torch.tensor([r.finished for r in rollouts])
        combined = combined_logits(helpfulness, safety, is_safety, finished, gate)
    columns = [[None] * len(rollouts) if c is None else c.tolist() for c in (helpfulness, safety, combined)]
    return [Scores(*row) for row in zip(*columns, strict=True)]


def scores_at_end(model: Callable[..., Tensor], packed: Packed) -> Tensor:
    """Return a reward model's raw scores (N,), read at each response's last token."""
    return packed.at(model(**packed.inputs), packed.last)


@torch.no_grad()
def score(model: Any, rollouts: Sequence[Rollout], context: int, batch_size: int) -> Tensor:
    """Return raw scores (N,) on the CPU, `batch_size` responses a forward pass."""
    parts = [
        scores_at_end(model, pack_rollouts(portion, context, distributed.device())).cpu()
        for portion in portions(rollouts, batch_size)
    ]
    return torch.cat(parts)
