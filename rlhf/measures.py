"""What PPO measures of an iteration's batch of experience; `learning` adds what its updates did.

Shapes: N rollouts of the whole batch, R response tokens (padded on the right), n response tokens of all of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .experience import Batch, Scored
from .kl import estimate
from .ppo_config import K3, POLICY, PPOConfig


def batch_metrics(cfg: PPOConfig, batch: Batch) -> dict[str, float]:
    """Return an iteration's measures; scores are raw (logits) and not whitened, so that they show progress.

    By kind of prompt: the reward models' scores, the share that the gate calls unsafe, and the mean and the spread that
    are left of the whitened scores (spread 1 over all: what a kind has less of, it learns with less strength).
    """
    judged, mask = batch.judged, batch.mask
    lengths = mask.sum(1).float()
    # Estimated from the sampled tokens alone: the sum over a response is the one-sample estimate k1 of its KL.
    kl = torch.stack([(j.logprobs - j.reference).sum() for j in judged])  # (N,)
    ratios = torch.cat([j.logprobs - j.reference for j in judged]).double()  # (n,): log of policy over reference
    raw, whitened = batch.credit.raw[mask].double(), batch.credit.advantages[mask]
    return {
        "ppo/score_combined": float(batch.combined.mean()),
        "ppo/helpfulness": mean([j.helpfulness for j in judged]),
        "ppo/safety": mean([j.safety for j in judged]),
        **kind_metrics(batch),
        "ppo/kl": float(kl.mean()),
        # What is subtracted, by the estimator that is learned from: in the reward or, as it begins, in the loss.
        "ppo/kl_penalty": batch.kl_coef * float(estimate(ratios, cfg.kl.estimator).sum() / len(judged)),
        "ppo/kl_coef": batch.kl_coef,
        "ppo/kl_per_token": float(kl.sum() / lengths.sum()),
        "ppo/kl_k3": float(estimate(ratios, K3).mean()),  # per token, to the reference; never below 0
        "ppo/entropy": float(torch.cat([j.entropy for j in judged]).mean()),
        "ppo/explained_variance": explained_variance(batch.values[mask], batch.credit.following[mask]),
        "ppo/advantage_mean": float(raw.mean()),
        "ppo/advantage_std": float(raw.std(unbiased=False)),
        "ppo/advantage_min": float(
            whitened.min()
        ),  # after whitening: how many standard deviations the extremes are off
        "ppo/advantage_max": float(whitened.max()),
        "ppo/response_length": float(lengths.mean()),
        "ppo/response_length_max": float(lengths.max()),
        "ppo/finished": mean([float(j.rollout.finished) for j in judged]),
        **(mismatch_metrics(sampler_differences(batch)) if cfg.old_logprobs == POLICY else {}),
    }


def sampler_differences(batch: Batch) -> Tensor:
    """Return by how much each token's log-probability of the policy differs from the sampler's, (n,)."""
    sampler = torch.tensor([p for j in batch.judged for p in j.rollout.sampler_logprobs])
    return sampler - batch.logprobs[batch.mask]


def mismatch_metrics(differences: Tensor) -> dict[str, float]:
    """Return how far sampler and trainer are apart, from differences (n,) of log-probabilities.

    Rounding alone; more means that another distribution is trained than was sampled (a wrong temperature, a cache).
    """
    differences = differences.abs().double()
    return {
        "ppo/sampler_mismatch": float(differences.max()),
        "ppo/sampler_mismatch_mean": float(differences.mean()),
    }


def kind_metrics(batch: Batch) -> dict[str, float]:
    """Return measures by kind of prompt; none for a kind that is not in the batch."""
    metrics = score_metrics("ppo", batch.judged, batch.gated)
    for name, own in by_kind(batch.judged).items():
        combined, whitened = batch.combined[own].double(), batch.credit.whitened[own].double()
        metrics |= {
            f"ppo/spread_{name}": float(combined.std(unbiased=False)),
            f"ppo/whitened_score_{name}": float(whitened.mean()),
            f"ppo/whitened_spread_{name}": float(whitened.std(unbiased=False)),
        }
    return metrics


def score_metrics(prefix: str, scored: Sequence[Scored], gated: Tensor) -> dict[str, float]:
    """Return the means of both models' raw scores, and the shares gated and finished, by kind of prompt."""
    metrics: dict[str, float] = {}
    for name, own in by_kind(scored).items():
        metrics |= {
            f"{prefix}/helpfulness_{name}": mean([scored[i].helpfulness for i in own]),
            f"{prefix}/safety_{name}": mean([scored[i].safety for i in own]),
            f"{prefix}/gated_{name}": mean(gated[own].double().tolist()),
            f"{prefix}/finished_{name}": mean([float(scored[i].rollout.finished) for i in own]),
        }
    return metrics


def by_kind(scored: Sequence[Scored]) -> dict[str, list[int]]:
    """Return where the rollouts of each kind of prompt stand, of the kinds that are there."""
    adversarial = [s.rollout.prompt.is_adversarial for s in scored]
    kinds = {"harmless": False, "adversarial": True}
    places = {name: [i for i, one in enumerate(adversarial) if one is kind] for name, kind in kinds.items()}
    return {name: own for name, own in places.items() if own}


def explained_variance(values: Tensor, following: Tensor) -> float:
    """Return which share of the variance of the rewards that follow (n,) the critic's values explain.

    Below 0 they only mislead. The critic's own returns would be a milder judge: its values enter them.
    """
    seen, expected = values.double(), following.double()
    spread = expected.var(unbiased=False)
    return float(1 - (expected - seen).var(unbiased=False) / spread) if spread > 0 else 0.0


def mean(values: list[float]) -> float:
    """Return the mean of numbers."""
    return math.fsum(values) / len(values)
