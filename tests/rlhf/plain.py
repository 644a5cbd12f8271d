"""What PPO judges and learns, once more by plain loops: a response at a time, nothing packed, torch's own gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rlhf.experience import Batch, Models
from rlhf.ppo_config import PPOConfig

Gradients = dict[str, Tensor]


def own_logprobs(model: Any, prompt: list[int], response: list[int], temperature: float) -> Tensor:
    """Return the log-probability of each response token at the sampler's temperature."""
    logits = model(torch.tensor([[*prompt, *response]]))[0]
    at = range(len(prompt) - 1, len(prompt) + len(response) - 1)
    return torch.stack(
        [(logits[t] / temperature).log_softmax(-1)[token] for t, token in zip(at, response, strict=True)]
    )


def own_values(model: Any, prompt: list[int], response: list[int]) -> Tensor:
    """Return the critic's value where each response token is about to be chosen."""
    values: Tensor = model(torch.tensor([[*prompt, *response]]))[0]
    return torch.stack([values[len(prompt) - 1 + t] for t in range(len(response))])


def own_score(model: Any, prompt: list[int], response: list[int]) -> float:
    """Return a reward model's score, at the response's last token."""
    return float(model(torch.tensor([[*prompt, *response]]))[0][-1])


def penalty(log_ratio: Tensor, estimator: str) -> Tensor:
    """Return the estimated divergence at a token."""
    return log_ratio.square() / 2 if estimator == "k2" else (-log_ratio).exp() - 1 + log_ratio


def gradients(cfg: PPOConfig, models: Models, batch: Batch, numbers: list[int]) -> tuple[Gradients, Gradients]:
    """Return the gradients of policy and critic of the mini-batch `numbers`: means over all of its response tokens."""
    policy, critic = models.policy.module, models.critic.module
    actor: list[Tensor] = []
    value: list[Tensor] = []
    for i in numbers:
        rollout, length = batch.judged[i].rollout, len(batch.judged[i].rollout.tokens)
        logprobs = own_logprobs(policy, rollout.prompt.tokens, rollout.tokens, cfg.sampling.temperature)
        values = own_values(critic, rollout.prompt.tokens, rollout.tokens)
        for t in range(length):
            advantage, old = batch.credit.advantages[i, t], batch.logprobs[i, t]
            ratio = (logprobs[t] - old).exp()
            loss = -torch.min(ratio * advantage, ratio.clamp(1 - cfg.clip, 1 + cfg.clip) * advantage)
            if cfg.kl.place == "loss":
                loss = loss + batch.kl_coef * penalty(logprobs[t] - batch.reference[i, t], cfg.kl.estimator)
            actor.append(loss)
            target, was = batch.credit.returns[i, t], batch.values[i, t]
            held = was + (values[t] - was).clamp(-cfg.value_clip, cfg.value_clip)
            value.append(0.5 * torch.max((values[t] - target) ** 2, (held - target) ** 2))
    return of(torch.stack(actor).mean(), policy), of(torch.stack(value).mean(), critic)


def of(loss: Tensor, model: Any) -> Gradients:
    """Return the gradients of a loss by the parameters' names."""
    named = dict(model.named_parameters())
    return dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))
