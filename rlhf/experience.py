"""Experience: PPO's rollouts, judged by five models and given credit (paper 3.2.3).

Shapes: N rollouts of the whole batch, R response tokens (padded on the right), n response tokens of some rollouts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from llamatrain import distributed
from llamatrain.engine import Engine

from .config import PPOConfig
from .credit import Credit, assign
from .losses import entropies, token_logprobs
from .rollouts import Rollout, pack_rollouts, portions
from .scoring import combined_logits, scores_at_end


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
    """A rollout with its verdicts: scores are raw (logits), tensors have a number a response token, on the CPU."""

    rollout: Rollout
    helpfulness: float
    safety: float
    combined: float
    logprobs: Tensor
    reference: Tensor
    values: Tensor
    entropy: Tensor


@dataclass
class Batch:
    """A whole batch of judged rollouts with their credit; tensors are (N, R), padded on the right."""

    judged: list[Judged]
    mask: Tensor
    logprobs: Tensor
    values: Tensor
    credit: Credit


@torch.no_grad()
def judge(cfg: PPOConfig, models: Models, rollouts: list[Rollout], context: int) -> list[Judged]:
    """Judge this rank's rollouts: every rank has as many, so all make the same number of forward passes."""
    judged: list[Judged] = []
    for portion in portions(rollouts, cfg.micro_batch_size):
        packed = pack_rollouts(portion, context, distributed.device())
        logits = models.policy(**packed.inputs, select=packed.before)
        logprobs, entropy = token_logprobs(logits, packed.targets, cfg.temperature), entropies(logits, cfg.temperature)
        logits = models.reference(**packed.inputs, select=packed.before)
        reference = token_logprobs(logits, packed.targets, cfg.temperature)
        values = packed.at(models.critic(**packed.inputs), packed.before)
        helpfulness = scores_at_end(models.helpfulness, packed).cpu()
        safety = scores_at_end(models.safety, packed).cpu()
        is_safety = torch.tensor([r.prompt.safety for r in portion])
        finished = torch.tensor([r.finished for r in portion])
        combined = combined_logits(helpfulness, safety, is_safety, finished, cfg.gate)
        scores = zip(helpfulness.tolist(), safety.tolist(), combined.tolist(), strict=True)
        tokens = zip(
            *(torch.split(x.cpu(), packed.lengths) for x in (logprobs, reference, values, entropy)), strict=True
        )
        judged += [Judged(r, *s, *t) for r, s, t in zip(portion, scores, tokens, strict=True)]
    return judged


def gather(own: list[Judged]) -> list[Judged]:
    """Return the judged rollouts of all ranks in the order of the prompts, on every rank."""
    parts = distributed.gather_objects(own)
    return [parts[rank][place] for place in range(len(own)) for rank in range(len(parts))]


def credit(cfg: PPOConfig, judged: list[Judged]) -> Batch:
    """Assign credit over the whole batch."""
    logprobs, reference, values = (
        pad_sequence([getattr(j, name) for j in judged], batch_first=True)
        for name in ("logprobs", "reference", "values")
    )
    mask = pad_sequence([torch.ones(len(j.logprobs), dtype=torch.bool) for j in judged], batch_first=True)
    scores = torch.tensor([j.combined for j in judged])
    assigned = assign(scores, logprobs, reference, values, mask, cfg.beta, cfg.gamma, cfg.lam)
    return Batch(judged, mask, logprobs, values, assigned)


def batch_metrics(batch: Batch) -> dict[str, float]:
    """Return an iteration's measures; scores are raw (logits) and not whitened, so that they show progress."""
    judged, mask, returns = batch.judged, batch.mask, batch.credit.returns
    lengths = mask.sum(1).float()
    kl = torch.stack([(j.logprobs - j.reference).sum() for j in judged])
    sampler = torch.tensor([p for j in judged for p in j.rollout.sampler_logprobs])
    seen, expected = batch.values[mask].double(), returns[mask].double()
    spread = expected.var(unbiased=False)
    return {
        "ppo/score_combined": mean([j.combined for j in judged]),
        "ppo/helpfulness": mean([j.helpfulness for j in judged]),
        "ppo/safety": mean([j.safety for j in judged]),
        "ppo/kl": float(kl.mean()),
        "ppo/kl_per_token": float(kl.sum() / lengths.sum()),
        "ppo/entropy": float(torch.cat([j.entropy for j in judged]).mean()),
        "ppo/explained_variance": float(1 - (expected - seen).var(unbiased=False) / spread) if spread > 0 else 0.0,
        "ppo/response_length": float(lengths.mean()),
        "ppo/finished": mean([float(j.rollout.finished) for j in judged]),
        "ppo/sampler_mismatch": float((sampler - batch.logprobs[mask]).abs().max()),
    }


def mean(values: list[float]) -> float:
    """Return the mean of numbers."""
    return math.fsum(values) / len(values)
