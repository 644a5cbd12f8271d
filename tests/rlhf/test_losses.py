"""PPO's losses against plain arithmetic."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Categorical
from torch.utils._python_dispatch import TorchDispatchMode

from rlhf.losses import entropies, log_ratio, policy_loss, token_logprobs, value_loss


def test_logprobs_and_entropy_at_the_samplers_temperature() -> None:
    logits, targets, temperature = torch.randn(6, 9), torch.randint(9, (6,)), 0.7
    logprobs, entropy = token_logprobs(logits, targets, temperature), entropies(logits, temperature)
    for row in range(6):
        weights = [math.exp(x / temperature) for x in logits[row].tolist()]
        probabilities = [w / sum(weights) for w in weights]
        assert float(logprobs[row]) == pytest.approx(math.log(probabilities[int(targets[row])]), abs=1e-5)
        assert float(entropy[row]) == pytest.approx(-sum(p * math.log(p) for p in probabilities), abs=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_in_chunks_are_those_of_the_whole(temperature: float) -> None:
    rows, vocabulary = 300, 4096  # three chunks
    logits, targets = 3 * torch.randn(rows, vocabulary), torch.randint(vocabulary, (rows,))
    one, other = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    expected = -F.cross_entropy(one / temperature, targets, reduction="none")
    with Largest() as largest:
        found = token_logprobs(other, targets, temperature)
        entropy = entropies(logits, temperature)
    assert largest.numbers <= 128 * vocabulary
    assert torch.equal(found, expected)
    torch.testing.assert_close(entropy, Categorical(logits=logits / temperature).entropy(), atol=1e-5, rtol=0)
    weights = torch.randn(rows)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    assert one.grad is not None
    assert other.grad is not None
    assert torch.equal(one.grad, other.grad)


class Largest(TorchDispatchMode):
    """Notes the most numbers of a tensor that an operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and not func.is_view:
            self.numbers = max(self.numbers, made.numel())
        return made


@pytest.mark.parametrize("ratio", [0.5, 0.8, 0.9, 1.0, 1.1, 1.2, 2.0])
@pytest.mark.parametrize("advantage", [-1.5, 0.7])
def test_policy_loss_is_the_clipped_objective(ratio: float, advantage: float) -> None:
    loss = policy_loss(torch.tensor([math.log(ratio)]), torch.tensor([advantage]), 0.2)
    expected = -min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage)
    assert float(loss) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("log_ratio_", "advantage", "moves"),
    [(0.5, 1.0, False), (0.5, -1.0, True), (-0.5, 1.0, True), (-0.5, -1.0, False), (0.1, 1.0, True)],
)
def test_gradient_stops_where_the_clip_holds(log_ratio_: float, advantage: float, moves: bool) -> None:
    ratios = torch.tensor([log_ratio_], requires_grad=True)
    policy_loss(ratios, torch.tensor([advantage]), 0.2).sum().backward()  # type: ignore[no-untyped-call]
    assert ratios.grad is not None
    assert bool(ratios.grad.abs() > 0) == moves


def test_first_update_follows_the_plain_policy_gradient() -> None:
    logprobs = torch.randn(5, requires_grad=True)
    advantages = torch.randn(5)
    policy_loss(log_ratio(logprobs, logprobs.detach()), advantages, 0.2).sum().backward()  # type: ignore[no-untyped-call]
    assert logprobs.grad is not None
    torch.testing.assert_close(logprobs.grad, -advantages)


def test_absurd_ratio_stays_finite() -> None:
    ratios = log_ratio(torch.tensor([500.0, -500.0]), torch.tensor([-500.0, 500.0]))
    assert ratios.tolist() == [20.0, -20.0]
    assert policy_loss(ratios, torch.tensor([-1.0, 1.0]), 0.2).isfinite().all()


@pytest.mark.parametrize(
    ("value", "old", "target"), [(1.0, 0.0, 2.0), (0.1, 0.0, 2.0), (-1.0, 0.0, 2.0), (1.0, 0.0, 0.9)]
)
def test_value_loss_is_the_larger_square(value: float, old: float, target: float) -> None:
    loss = value_loss(torch.tensor([value]), torch.tensor([old]), torch.tensor([target]), 0.2)
    held = old + min(max(value - old, -0.2), 0.2)
    assert float(loss) == pytest.approx(0.5 * max((value - target) ** 2, (held - target) ** 2), abs=1e-6)
