"""PPO's losses, one number per response token (Schulman et al. 2017; paper 3.2.3 clips at 0.2).

Shapes: n response tokens of a micro-batch; N responses; V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_LOG_RATIO = 20.0  # exp(20) is finite in every precision: one absurd token does not make the whole update NaN


def token_logprobs(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Return log-probabilities (n,) of the targets at the sampler's temperature, from float32 logits (n, V).

    Without the division by the temperature the policy would be trained as another one than was sampled.
    """
    return -F.cross_entropy(logits / temperature, targets, reduction="none")


def entropies(logits: Tensor, temperature: float) -> Tensor:
    """Return the entropy (n,) in nats of each distribution at the sampler's temperature, from logits (n, V)."""
    logprobs = torch.log_softmax(logits / temperature, -1)
    return -(logprobs.exp() * logprobs).sum(-1)


def log_ratio(logprobs: Tensor, old: Tensor) -> Tensor:
    """Return log(policy / old policy) of each token (n,), kept within +-20."""
    return (logprobs - old).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


def policy_loss(log_ratios: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """Return -min(ratio * advantage, clipped ratio * advantage) of each token (n,)."""
    ratio = log_ratios.exp()
    # The minimum: clipping takes away what would reward going further, never what would punish having gone too far.
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


def value_loss(values: Tensor, old: Tensor, returns: Tensor, clip: float) -> Tensor:
    """Return half the larger square of value - return and of the value held within +-clip of the old one - return."""
    held = old + (values - old).clamp(-clip, clip)  # the larger loss of the two: clipping never hides an error
    return 0.5 * torch.maximum((values - returns).square(), (held - returns).square())
