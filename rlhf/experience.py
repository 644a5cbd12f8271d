"""Experience: PPO's rollouts, judged by five models and given credit (paper 3.2.3).

Shapes: N rollouts of the whole batch, R response tokens (padded on the right), n response tokens of some rollouts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from llamatrain import distributed
from llamatrain.engine.learning import Engine
from llamatrain.responses.rollouts import Rollout, pack_rollouts
from llamatrain.responses.scoring import (
    check_zero,
    combined_logits,
    gate_closes,
    hold_back,
    recorded_zeros,
    scores_at_end,
)

from .credit import Credit, assign, whiten_scores
from .losses import entropies, token_logprobs
from .passes import passes
from .ppo_config import KIND, REWARD, SAMPLER, PPOConfig

NO_ANSWER_QUANTILE = 0.05  # of the answers' scores, below which a response that is no answer is held


@dataclass
class Models:
    """Two models that learn, three that judge, and those that score held-out answers in place of the reward models."""

    policy: Engine
    critic: Engine
    reference: Any
    helpfulness: Any
    safety: Any
    apart: dict[str, Any] = field(default_factory=dict)  # `eval_helpfulness`, `eval_safety`, where they are given


@dataclass
class Scored:
    """A rollout with the raw scores (logits) of two reward models."""

    rollout: Rollout
    helpfulness: float
    safety: float


@dataclass
class Judged(Scored):
    """A rollout with all verdicts: tensors have a number per response token, on the CPU."""

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
    reference: Tensor
    values: Tensor
    credit: Credit
    kl_coef: float  # the weight of the KL penalty, in the rewards or in the loss
    log_ratios: Tensor = field(init=False)  # of the policy to the one that sampled, as it last learned from each token

    def __post_init__(self) -> None:
        """Begin before the first update."""
        self.log_ratios = torch.zeros_like(self.logprobs)


@torch.no_grad()
def judge(
    cfg: PPOConfig,
    models: Models,
    rollouts: list[Rollout],
    context: int,
    leave: Callable[[], None] = lambda: None,
) -> list[Judged]:
    """Judge this rank's rollouts, with as many forward passes as every rank makes.

    Before each micro-batch all ranks call `leave` together.
    """
    judged: list[Judged] = []
    for part in passes(cfg, rollouts, context):
        leave()
        portion = rollouts[part]
        packed = pack_rollouts(portion, context, distributed.device())
        if cfg.old_logprobs == SAMPLER:
            logprobs = torch.tensor([p for r in portion for p in r.sampler_logprobs])
            entropy = torch.tensor([h for r in portion for h in r.sampler_entropies])
        else:
            logits = models.policy(**packed.inputs, select=packed.before)
            # Measured again although the sampler knows them: its cache rounds otherwise, and the first ratio must be 1.
            logprobs = token_logprobs(logits, packed.targets, cfg.sampling.temperature)
            entropy = entropies(logits, cfg.sampling.temperature)
            del logits  # (n, V) numbers, of which the next models need not find any
        logits = models.reference(**packed.inputs, select=packed.before)
        reference = token_logprobs(logits, packed.targets, cfg.sampling.temperature)
        del logits
        # A token's value is read where it is about to be chosen, at the position before it.
        values = models.critic(**packed.inputs, select=packed.before)
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


def rewarded(cfg: PPOConfig, scored: Sequence[Scored]) -> tuple[Tensor, Tensor]:
    """Return the combined scores (N,) of a whole batch, and where the gate closes.

    A response that is no answer is held below the answers to its kind of prompt in the batch: of all ranks, so that the
    rule knows of no micro-batch.
    """
    helpfulness, safety = torch.tensor([s.helpfulness for s in scored]), torch.tensor([s.safety for s in scored])
    is_adversarial = [s.rollout.prompt.is_adversarial for s in scored]
    combined = combined_logits(helpfulness, safety, torch.tensor(is_adversarial), cfg.gate)
    is_answer = torch.tensor([s.rollout.is_answer for s in scored])
    held = hold_back(combined, is_answer, is_adversarial, NO_ANSWER_QUANTILE, cfg.gate)
    return held, gate_closes(safety, cfg.gate)


def zero_problems(cfg: PPOConfig, judged: list[Judged]) -> list[str]:
    """Return what is wrong with the zeros of the reward models (`scoring.check_zero`), which the batch's responses stand in for."""
    recorded = recorded_zeros({"helpfulness": cfg.helpfulness, "safety": cfg.safety})
    helpfulness = [j.helpfulness for j in judged if not j.rollout.prompt.is_adversarial]
    safety = [j.safety for j in judged if j.rollout.prompt.is_adversarial]
    return check_zero(helpfulness, safety, cfg.gate, recorded)


def credit(cfg: PPOConfig, judged: list[Judged], kl_coef: float) -> Batch:
    """Assign credit over the whole batch, with the KL penalty at this weight."""
    logprobs, reference, values = (
        pad_sequence([getattr(j, name) for j in judged], batch_first=True)
        for name in ("logprobs", "reference", "values")
    )
    mask = pad_sequence([torch.ones(len(j.logprobs), dtype=torch.bool) for j in judged], batch_first=True)  # (N, R)
    combined, gated = rewarded(cfg, judged)
    adversarial = torch.tensor([j.rollout.prompt.is_adversarial for j in judged])
    whitened = whiten_scores(combined, adversarial, apart=cfg.whiten == KIND)
    weight, estimator = kl_coef if cfg.kl.place == REWARD else 0.0, cfg.kl.estimator
    assigned = assign(whitened, logprobs, reference, values, mask, weight, cfg.gamma, cfg.gae_lambda, estimator)
    return Batch(judged, combined, gated, mask, logprobs, reference, values, assigned, kl_coef)
