"""PPO's losses, one number per response token (Schulman et al. 2017; paper 3.2.3 clips at 0.2).

Shapes: n response tokens of a micro-batch; N responses; V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from llamatrain.losses import chunk_rows

MAX_LOG_RATIO = 20.0  # exp(20) is finite in every precision: one absurd token does not make the whole update NaN


def token_logprobs(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Return log-probabilities (n,) of the targets at the sampler's temperature, from float32 logits (n, V).

    Without the division by the temperature the policy would be trained as another one than was sampled. Beside the logits
    and their gradient no more than a chunk of n x V numbers is held.
    """
    found: Tensor = _TokenLogprobs.apply(logits, targets, temperature)  # type: ignore[no-untyped-call]
    return found


class _TokenLogprobs(torch.autograd.Function):
    """A chunk of positions at a time; the backward pass computes each chunk's distributions again, as keeping all costs."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
        ctx.save_for_backward(logits, targets)
        ctx.temperature = temperature
        found = logits.new_empty(len(logits))
        for rows in _chunks(logits):
            found[rows] = _log_softmax(logits[rows], temperature).gather(1, targets[rows, None]).squeeze(1)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        logits, targets = ctx.saved_tensors
        grad_logits = torch.empty_like(logits)
        for rows in _chunks(logits):
            # Torch's own backward pass of log-softmax and gather, bit by bit.
            logprobs, part = _log_softmax(logits[rows], ctx.temperature), grad_logits[rows]
            chosen = torch.zeros_like(logprobs).scatter_(1, targets[rows, None], grad[rows, None])
            torch.ops.aten._log_softmax_backward_data.out(chosen, logprobs, -1, torch.float32, out=part)
            if ctx.temperature != 1:
                part.div_(ctx.temperature)
        return grad_logits, None, None


def entropies(logits: Tensor, temperature: float) -> Tensor:
    """Return the entropy (n,) in nats of each distribution at the sampler's temperature, from logits (n, V)."""
    found = logits.new_empty(len(logits))
    for rows in _chunks(logits):
        logprobs = _log_softmax(logits[rows], temperature)
        found[rows] = -(logprobs.exp() * logprobs).sum(-1)
    return found


def _log_softmax(logits: Tensor, temperature: float) -> Tensor:
    return torch.log_softmax(logits if temperature == 1 else logits / temperature, -1)


def _chunks(logits: Tensor) -> Iterator[slice]:
    """Yield slices of the positions, each of a chunk of logits."""
    rows = chunk_rows(logits.device, logits.shape[-1])
    for start in range(0, len(logits), rows):
        yield slice(start, start + rows)


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
