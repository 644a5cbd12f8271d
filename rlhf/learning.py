"""Learning: the updates of PPO's policy and critic from a batch of experience (paper 3.2.3).

Shapes: (N, R) as in experience; n response tokens of a micro-batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from llamatrain import distributed
from llamatrain.data.order import mix, permuted
from llamatrain.responses.rollouts import pack_rollouts

from .experience import Batch, Models
from .kl import estimate
from .losses import log_ratio, policy_loss, token_logprobs, value_loss
from .measures import mismatch_metrics
from .passes import passes
from .ppo_config import LOSS, SAMPLER, PPOConfig
from .replay import Replay


def mini_batches(cfg: PPOConfig, iteration: int) -> Iterator[list[int]]:
    """Yield an iteration's mini-batches: in the prompts' order (itself random) first, in others in later epochs."""
    for epoch in range(cfg.epochs):
        order = np.arange(cfg.rollout_prompts)
        if epoch:
            order = permuted(order, cfg.rollout_prompts, mix(cfg.run.seed, iteration, epoch))
        for start in range(0, cfg.rollout_prompts, cfg.mini_batch_prompts):
            yield order[start : start + cfg.mini_batch_prompts].tolist()


def learn(
    cfg: PPOConfig,
    models: Models,
    batch: Batch,
    iteration: int,
    context: int,
    hold: bool,
    pause: Callable[[], None] | None = None,
    replay: Replay | None = None,
) -> dict[str, float]:
    """Update critic and (unless on `hold`) policy once per mini-batch; return the means over the iteration's tokens.

    `batch.log_ratios` are filled in. Where the old log-probabilities are the sampler's, the first mini-batch tells how far
    it is from the policy. Before each mini-batch all ranks call `pause` together, which may end the run. The text of
    `replay` is learned by the policy beside each.
    """
    sums: dict[str, Tensor] = {}
    norms: list[tuple[float, float]] = []
    replayed: list[float] = []
    extremes = Extremes()
    total = 0
    mismatch: dict[str, float] = {}
    for numbers in mini_batches(cfg, iteration):
        if pause is not None:
            pause()
        tokens = int(batch.mask[numbers].sum())  # every rank holds the whole batch, so all know the global number
        for name, value in accumulate(cfg, models, batch, numbers, tokens, context, hold, extremes).items():
            sums[name] = sums.get(name, torch.zeros((), dtype=torch.float64)) + value
        if cfg.old_logprobs == SAMPLER and not hold and total == 0:  # the policy is still the one that sampled
            own = batch.log_ratios[numbers][batch.mask[numbers]]
            mismatch = mismatch_metrics(distributed.all_reduce_sum(own))
        if replay is not None and not hold:
            replayed.append(replay.accumulate(models.policy))
        norms.append((0.0 if hold else models.policy.step(), models.critic.step()))  # one update of each
        total += tokens
    batch.log_ratios = distributed.all_reduce_sum(batch.log_ratios)  # each rank has filled in its own rows
    means = distributed.all_reduce_sum(torch.stack(list(sums.values()))) / total
    metrics = {f"ppo/{name}": float(mean) for name, mean in zip(sums, means, strict=True)}
    policy_norm, critic_norm = np.mean(norms, axis=0).tolist()
    if replayed:
        metrics["ppo/replay_loss"] = float(np.mean(replayed))
    return {
        **metrics,
        **mismatch,
        **extremes.metrics(),
        "ppo/grad_norm": policy_norm,
        "ppo/critic_grad_norm": critic_norm,
        "ppo/lr": models.policy.lr,
        "ppo/critic_lr": models.critic.lr,
    }


class Extremes:
    """The smallest and the largest ratio of the policy to the one that sampled, over an iteration's tokens of all ranks."""

    def __init__(self) -> None:
        self.low, self.high = 0.0, 0.0  # logarithms: before its first update the policy is the one that sampled

    def see(self, log_ratios: Tensor) -> None:
        """Take some tokens' log-ratios (n,) into account."""
        if len(log_ratios):
            self.low, self.high = min(self.low, float(log_ratios.min())), max(self.high, float(log_ratios.max()))

    def metrics(self) -> dict[str, float]:
        """Return the ratios, on all ranks alike."""
        lows, highs = zip(*distributed.gather_objects((self.low, self.high)), strict=True)
        return {"ppo/ratio_min": math.exp(min(lows)), "ppo/ratio_max": math.exp(max(highs))}


def accumulate(
    cfg: PPOConfig,
    models: Models,
    batch: Batch,
    numbers: list[int],
    tokens: int,
    context: int,
    hold: bool,
    extremes: Extremes,
) -> dict[str, Tensor]:
    """Accumulate the gradients of a mini-batch that has so many response tokens on all ranks; return sums over tokens.

    Rollouts are distributed to the ranks by length; all make as many backward passes, the last ones perhaps without any.
    """
    # Longest first, in turn: the ranks' shares are about as long, so that none waits for another.
    own = distributed.shard(sorted(numbers, key=lambda i: -len(batch.judged[i].logprobs)))
    sums: dict[str, Tensor] = {}
    batch.log_ratios[numbers] = 0  # an earlier epoch's, perhaps another rank's
    rollouts = [batch.judged[i].rollout for i in own]
    for part in passes(cfg, rollouts, context):
        packed = pack_rollouts(rollouts[part], context, distributed.device())
        rows = own[part]
        chosen = batch.mask[rows]
        # (N, R) to (n,): the response tokens one after the other, as `packed` reads the models' outputs.
        old, reference, old_values, advantages, returns = (
            values[rows][chosen].to(packed.targets.device)
            for values in (
                batch.logprobs,
                batch.reference,
                batch.values,
                batch.credit.advantages,
                batch.credit.returns,
            )
        )
        found: dict[str, Tensor] = {}
        if not hold:
            logits = models.policy(**packed.inputs, select=packed.before)
            logprobs = token_logprobs(logits, packed.targets, cfg.sampling.temperature)
            del logits  # (n, V) numbers: the backward pass frees them before the critic and the next pass need room
            ratios = log_ratio(logprobs, old)
            losses = policy_loss(ratios, advantages, cfg.clip)
            found |= {"policy_loss": losses, **ratio_metrics(ratios.detach(), cfg.clip)}
            extremes.see(ratios.detach())
            batch.log_ratios[rows] = batch.log_ratios[rows].masked_scatter(chosen, ratios.detach().float().cpu())
            if cfg.kl.place == LOSS:
                found["kl_loss"] = batch.kl_coef * estimate(logprobs - reference, cfg.kl.estimator)
                losses = losses + found["kl_loss"]
            models.policy.backward(losses.sum() / tokens)  # of the mini-batch on all ranks: each token counts alike
        values = models.critic(**packed.inputs, select=packed.before)
        losses = value_loss(values, old_values, returns, cfg.value_clip)
        models.critic.backward(losses.sum() / tokens)
        found |= {"value_loss": losses, "value_clip_fraction": ((values - old_values).abs() > cfg.value_clip).float()}
        for name, value in found.items():
            sums[name] = sums.get(name, torch.zeros((), dtype=torch.float64)) + value.detach().double().sum().cpu()
    return sums


def ratio_metrics(ratios: Tensor, clip: float) -> dict[str, Tensor]:
    """Return how far the policy moved from the one that sampled, a number per token; `approx_kl` is the estimator k3."""
    return {
        "clip_fraction": ((ratios.exp() - 1).abs() > clip).float(),
        "approx_kl": ratios.exp() - 1 - ratios,
    }
