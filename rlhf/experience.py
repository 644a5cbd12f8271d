"""Experience: PPO's rollouts, judged by five models and given credit (paper 3.2.3).

Shapes: N rollouts of the whole batch, R response tokens (padded on the right), n response tokens of some rollouts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from llamatrain import distributed
from llamatrain.engine.learning import Engine
from llamatrain.responses.rollouts import Rollout, pack_rollouts, portions
from llamatrain.responses.scoring import check_zero, combined_logits, gate_closes, hold_back, scores_at_end

from .config import KIND, PPOConfig
from .credit import Credit, assign, whiten_scores
from .losses import entropies, token_logprobs

NO_ANSWER_QUANTILE = 0.05  # of the answers' scores, below which a response that is no answer is held


@dataclass
class Models:
    """Two models that learn and three that judge."""

    policy: Engine
    critic: Engine
    reference: Any
    helpfulness: Any
    safety: Any


@dataclass
class Judged:
    """A rollout with its verdicts: scores are raw (logits), tensors have a number per response token, on the CPU."""

    rollout: Rollout
    helpfulness: float
    safety: float
    logprobs: Tensor
    reference: Tensor
    values: Tensor
    entropy: Tensor


@dataclass
class Batch:
    """A whole batch of judged rollouts with their credit; tensors are (N, R), padded on the right."""

    judged: list[Judged]
    combined: Tensor  # (N,), raw, as it is rewarded
    gated: Tensor  # (N,): the safety model calls the response unsafe
    mask: Tensor
    logprobs: Tensor
    values: Tensor
    credit: Credit


@torch.no_grad()
def judge(
    cfg: PPOConfig,
    models: Models,
    rollouts: list[Rollout],
    share: int,
    context: int,
    leave: Callable[[], None] = lambda: None,
) -> list[Judged]:
    """Judge this rank's rollouts, with as many forward passes as the rank makes that has the largest `share` of them.

    Before each micro-batch all ranks call `leave` together.
    """
    judged: list[Judged] = []
    for portion in portions(rollouts, cfg.micro_batch_size, share):
        leave()
        packed = pack_rollouts(portion, context, distributed.device())
        logits = models.policy(**packed.inputs, select=packed.before)
        # Measured again although the sampler knows them: its cache rounds otherwise, and the first ratio must be 1.
        logprobs = token_logprobs(logits, packed.targets, cfg.sampling.temperature)
        entropy = entropies(logits, cfg.sampling.temperature)
        logits = models.reference(**packed.inputs, select=packed.before)
        reference = token_logprobs(logits, packed.targets, cfg.sampling.temperature)
        # A token's value is read where it is about to be chosen, at the position before it.
        values = packed.at(models.critic(**packed.inputs), packed.before)
        helpfulness = scores_at_end(models.helpfulness, packed).tolist()
        safety = scores_at_end(models.safety, packed).tolist()
        # All responses of a portion lie one after the other: cut into each one's own.
        per_token = (torch.split(x.cpu(), packed.lengths) for x in (logprobs, reference, values, entropy))
        for rollout, helpful, safe, *tokens in zip(portion, helpfulness, safety, *per_token, strict=True):
            judged.append(Judged(rollout, helpful, safe, *tokens))
    return judged


def gather(own: list[Judged]) -> list[Judged]:
    """Return the judged rollouts of all ranks in the order of the prompts, on every rank."""
    parts = distributed.gather_objects(own)
    # Prompts were assigned to the ranks in turn (`distributed.shard`), so place by place, rank by rank is their order.
    return [part[place] for place in range(len(parts[0])) for part in parts if place < len(part)]


def rewarded(cfg: PPOConfig, judged: list[Judged]) -> tuple[Tensor, Tensor]:
    """Return the combined scores (N,) of the whole batch, and where the gate closes.

    A response that is no answer is held below the answers to its kind of prompt in the batch: of all ranks, so that the
    rule knows of no micro-batch.
    """
    helpfulness, safety = torch.tensor([j.helpfulness for j in judged]), torch.tensor([j.safety for j in judged])
    is_adversarial = [j.rollout.prompt.is_adversarial for j in judged]
    combined = combined_logits(helpfulness, safety, torch.tensor(is_adversarial), cfg.gate)
    is_answer = torch.tensor([j.rollout.is_answer for j in judged])
    held = hold_back(combined, is_answer, is_adversarial, NO_ANSWER_QUANTILE, cfg.gate)
    return held, gate_closes(safety, cfg.gate)


def zero_problems(cfg: PPOConfig, judged: list[Judged]) -> list[str]:
    """Return what is wrong with the zeros of the reward models (`scoring.check_zero`), by the batch's responses."""
    helpfulness = [j.helpfulness for j in judged if not j.rollout.prompt.is_adversarial]
    return check_zero(helpfulness, [j.safety for j in judged if j.rollout.prompt.is_adversarial], cfg.gate)


def credit(cfg: PPOConfig, judged: list[Judged]) -> Batch:
    """Assign credit over the whole batch."""
    logprobs, reference, values = (
        pad_sequence([getattr(j, name) for j in judged], batch_first=True)
        for name in ("logprobs", "reference", "values")
    )
    mask = pad_sequence([torch.ones(len(j.logprobs), dtype=torch.bool) for j in judged], batch_first=True)  # (N, R)
    combined, gated = rewarded(cfg, judged)
    adversarial = torch.tensor([j.rollout.prompt.is_adversarial for j in judged])
    whitened = whiten_scores(combined, adversarial, apart=cfg.whiten == KIND)
    assigned = assign(whitened, logprobs, reference, values, mask, cfg.kl_coef, cfg.gamma, cfg.gae_lambda)
    return Batch(judged, combined, gated, mask, logprobs, values, assigned)


def batch_metrics(batch: Batch) -> dict[str, float]:
    """Return an iteration's measures; scores are raw (logits) and not whitened, so that they show progress.

    By kind of prompt: the reward models' scores, the share that the gate calls unsafe, and the spread that is left of
    the whitened scores (1 over all: what a kind has less of, it learns with less strength).
    """
    judged, mask = batch.judged, batch.mask
    lengths = mask.sum(1).float()
    # Estimated from the sampled tokens alone: the sum over a response is the one-sample estimate k1 of its KL.
    kl = torch.stack([(j.logprobs - j.reference).sum() for j in judged])  # (N,)
    sampler = torch.tensor([p for j in judged for p in j.rollout.sampler_logprobs])
    ratios = torch.cat([j.reference - j.logprobs for j in judged]).double()  # (n,): log of reference over policy
    return {
        "ppo/score_combined": float(batch.combined.mean()),
        "ppo/helpfulness": mean([j.helpfulness for j in judged]),
        "ppo/safety": mean([j.safety for j in judged]),
        **kind_metrics(batch),
        "ppo/kl": float(kl.mean()),
        "ppo/kl_per_token": float(kl.sum() / lengths.sum()),
        "ppo/kl_k3": float((ratios.exp() - 1 - ratios).mean()),  # per token, to the reference; never below 0
        "ppo/entropy": float(torch.cat([j.entropy for j in judged]).mean()),
        "ppo/explained_variance": explained_variance(batch.values[mask], batch.credit.following[mask]),
        "ppo/response_length": float(lengths.mean()),
        "ppo/finished": mean([float(j.rollout.finished) for j in judged]),
        # Rounding alone; more means that another distribution is trained than was sampled (a wrong temperature, a cache).
        "ppo/sampler_mismatch": float((sampler - batch.logprobs[mask]).abs().max()),
    }


def kind_metrics(batch: Batch) -> dict[str, float]:
    """Return measures by kind of prompt; none for a kind that is not in the batch."""
    metrics: dict[str, float] = {}
    adversarial = [j.rollout.prompt.is_adversarial for j in batch.judged]
    for name, kind in (("harmless", False), ("adversarial", True)):
        own = [i for i, is_adversarial in enumerate(adversarial) if is_adversarial is kind]
        if own:
            judged = [batch.judged[i] for i in own]
            metrics |= {
                f"ppo/helpfulness_{name}": mean([j.helpfulness for j in judged]),
                f"ppo/safety_{name}": mean([j.safety for j in judged]),
                f"ppo/gated_{name}": float(batch.gated[own].double().mean()),
                f"ppo/finished_{name}": mean([float(j.rollout.finished) for j in judged]),
                f"ppo/spread_{name}": float(batch.combined[own].double().std(unbiased=False)),
                f"ppo/whitened_spread_{name}": float(batch.credit.whitened[own].double().std(unbiased=False)),
            }
    return metrics


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
