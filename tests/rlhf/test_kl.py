"""The estimators of the KL divergence against its definition, and the adapted weight of its penalty."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rlhf.kl import Coefficient, estimate

from .small import composed, measures, ppo, weights


def two_policies() -> tuple[Tensor, Tensor]:
    """Return the log-probabilities of a policy (its logits learn) and of its reference over seven tokens."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(7, generator=generator, dtype=torch.float64).requires_grad_()
    return logits, torch.randn(7, generator=generator, dtype=torch.float64).log_softmax(0)


def test_k1_and_k3_are_unbiased_and_k3_is_never_negative() -> None:
    logits, reference = two_policies()
    logprobs = logits.detach().log_softmax(0)
    ratios = logprobs - reference
    divergence = float((logprobs.exp() * ratios).sum())  # the definition
    for estimator in ("k1", "k3"):
        assert float((logprobs.exp() * estimate(ratios, estimator)).sum()) == pytest.approx(divergence, abs=1e-12)
    assert float((logprobs.exp() * estimate(ratios, "k2")).sum()) != pytest.approx(divergence, abs=1e-3)
    assert estimate(ratios, "k3").min() >= 0 > ratios.min()
    assert estimate(ratios, "k2").tolist() == pytest.approx([x * x / 2 for x in ratios.tolist()])
    assert estimate(ratios, "k3").tolist() == pytest.approx([math.exp(-x) - 1 + x for x in ratios.tolist()])
    assert estimate(torch.tensor([-500.0, 500.0]), "k3").isfinite().all()


def test_as_a_loss_k2_pulls_towards_the_reference_and_k1_does_not_pull() -> None:
    """Expected over the policy's own samples: why `kl.place=loss` refuses k1."""
    logits, reference = two_policies()
    logprobs = logits.log_softmax(0)
    wanted = torch.autograd.grad((logprobs.exp() * (logprobs - reference)).sum(), logits, retain_graph=True)[0]

    def expected(estimator: str) -> Tensor:
        loss = (logprobs.detach().exp() * estimate(logprobs - reference, estimator)).sum()
        return torch.autograd.grad(loss, logits, retain_graph=True)[0]

    torch.testing.assert_close(expected("k2"), wanted)
    torch.testing.assert_close(expected("k1"), torch.zeros(7, dtype=torch.float64))
    assert torch.dot(expected("k3"), wanted) > 0


def test_the_gradient_of_k3_never_points_away_from_the_reference() -> None:
    ratios = torch.tensor([-25.0, -15.0, -1.0, 1.0, 25.0], dtype=torch.float64, requires_grad=True)
    [slopes] = torch.autograd.grad(estimate(ratios, "k3").sum(), ratios)
    wanted = [0.0, *(1 - math.exp(-x) for x in (-15.0, -1.0, 1.0, 25.0))]  # none beyond what is held
    assert slopes.tolist() == pytest.approx(wanted, rel=1e-12)
    assert (slopes * ratios.detach() >= 0).all()


def test_the_weight_follows_its_target_by_at_most_a_fifth(world: dict[str, str], tmp_path: Path) -> None:
    cfg = composed(world, tmp_path, "ppo", "kl_coef=0.1", "kl.target=4", "kl.horizon=100")
    kl = Coefficient(cfg)
    kl.adapt(4.4, responses=50)  # a tenth too far, half a horizon
    assert kl.value == pytest.approx(0.1 * (1 + 0.1 * 0.5))
    kl.adapt(400.0, responses=50)
    assert kl.value == pytest.approx(0.105 * 1.1)
    kl.adapt(0.0, responses=50)
    assert kl.value == pytest.approx(0.105 * 1.1 * 0.9)
    fixed = Coefficient(composed(world, tmp_path, "ppo", "kl_coef=0.1"))
    fixed.adapt(400.0, responses=50)
    assert (fixed.value, fixed.state()) == (0.1, {})


def test_an_adapted_weight_goes_on_exactly_after_a_resume(world: dict[str, str], tmp_path: Path) -> None:
    more = ["iterations=3", "run.save_every=1", "kl.target=0.5", "kl.horizon=20", "kl_coef=0.2"]
    whole, resumed = ppo(world, tmp_path, "whole", *more), tmp_path / "resumed"
    shutil.copytree(whole, resumed, symlinks=True)
    shutil.rmtree(resumed / "checkpoints" / "step_00000003")
    ppo(world, tmp_path, "resumed", *more)
    rows = measures(resumed)
    assert rows == measures(whole)
    assert len({row["ppo/kl_coef"] for row in rows}) == 3
    first, second = weights(whole), weights(resumed)
    assert all(torch.equal(first[name], second[name]) for name in first)
