"""Credit: from one score per response to one advantage per token (paper 3.2.3, equations 3 and 4).

Pure functions of a whole rollout batch. Shapes: N responses, R response tokens (padded on the right, False in `mask`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .kl import estimate
from .ppo_config import K1

EPSILON = 1e-8


@dataclass
class Credit:
    """What the update of each response token needs, (N, R), 0 in the padding; and what the scores became."""

    rewards: Tensor
    advantages: Tensor
    returns: Tensor
    following: Tensor  # the discounted rewards from each token on, which no value enters
    whitened: Tensor  # the scores (N,) after whitening
    raw: Tensor  # the advantages before whitening


def whiten(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the values with mean 0 and variance 1 over where the mask is True, and 0 elsewhere.

    The variance is the biased one: the batch is all there is, not a sample of something larger. A batch of equal values
    becomes all zeros.
    """
    mask = torch.ones_like(values, dtype=torch.bool) if mask is None else mask
    # In float64: over many tokens a float32 mean is off by more than the result's own rounding.
    exact, count = values.double().masked_fill(~mask, 0), mask.sum()  # not 0 * value: that of a NaN would be one
    mean = exact.sum() / count
    variance = ((exact - mean).square() * mask).sum() / count
    return ((exact - mean) * (variance + EPSILON).rsqrt() * mask).to(values.dtype)


def token_rewards(
    scores: Tensor, logprobs: Tensor, reference: Tensor, mask: Tensor, kl_coef: float, estimator: str = K1
) -> Tensor:
    """Return the reward of each token (N, R): -kl_coef * the estimated KL, and the score (N,) at the last token.

    With k1, logprob - reference, the sum over a response is equation 4 with the one-sample estimate of the divergence.
    """
    rewards = (-kl_coef * estimate(logprobs - reference, estimator)).masked_fill(~mask, 0)
    last = mask.sum(1) - 1  # (N,)
    rewards[torch.arange(len(rewards)), last] += scores.to(rewards.dtype)  # at EOS itself, not at padding behind it
    return rewards


def generalized_advantages(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, gae_lambda: float) -> Tensor:
    """Return the advantages (N, R) of Schulman et al. 2016; after a response's last token there is no value."""
    values = values.masked_fill(~mask, 0)
    advantages = torch.zeros_like(rewards)
    following = torch.zeros_like(rewards[:, 0])  # (N,): the advantage one token on
    next_values = torch.zeros_like(following)  # 0 behind the last token: a response ends there
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_values - values[:, t]
        # The mask keeps the sum at 0 through the padding, until a row's last token is reached from behind.
        following = (delta + gamma * gae_lambda * following) * mask[:, t]
        advantages[:, t], next_values = following, values[:, t]
    return advantages


def whiten_scores(scores: Tensor, adversarial: Tensor, apart: bool) -> Tensor:
    """Return the scores (N,) whitened: harmless and adversarial prompts `apart`, or all together.

    The two kinds are scored by two models, whose means and spreads have nothing in common. Together the distance of the
    means takes most of the variance, and the kind with the narrower spread, harmless prompts, learns with a fraction of
    the strength (the paper, 3.2.3, does not say over what it whitens). The price: where a kind's responses have become
    alike, what still differs among them weighs as much as ever (`ppo/spread_*` shows it).
    """
    if not apart:
        return whiten(scores)
    kinds = [kind for kind in (adversarial, ~adversarial) if kind.any()]
    # Each is 0 where the other kind is, so that the sum puts them together.
    return torch.stack([whiten(scores, kind) for kind in kinds]).sum(0)


def assign(
    whitened: Tensor,
    logprobs: Tensor,
    reference: Tensor,
    values: Tensor,
    mask: Tensor,
    kl_coef: float,
    gamma: float,
    gae_lambda: float,
    estimator: str = K1,
) -> Credit:
    """Return the credit of a whole rollout batch; with `kl_coef` 0 the rewards are the scores alone.

    The order: whitened scores, the KL term, advantages, returns = advantages + values, whitened advantages. Returns are
    not whitened: they are what the critic learns.
    """
    rewards = token_rewards(whitened, logprobs, reference, mask, kl_coef, estimator)
    advantages = generalized_advantages(rewards, values, mask, gamma, gae_lambda)
    returns = (advantages + values).masked_fill(~mask, 0)
    # With values of 0 and lambda 1 the "advantages" are the discounted sums of the rewards themselves.
    following = generalized_advantages(rewards, torch.zeros_like(rewards), mask, gamma, 1.0)
    return Credit(rewards, whiten(advantages, mask), returns, following, whitened, advantages)
