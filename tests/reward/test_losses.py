"""The reward losses against plain arithmetic."""

from __future__ import annotations

import math

import pytest
import torch

from llamatrain.data.kinds import RATINGS
from llamatrain.errors import UserError
from reward.losses import auxiliary_loss, centring_loss, margin_of, ranking_loss


def test_margins_are_the_papers() -> None:
    assert [margin_of(r, "small") for r in RATINGS] == pytest.approx([1, 2 / 3, 1 / 3, 0])
    assert [margin_of(r, "large") for r in RATINGS] == [3, 2, 1, 0]
    assert [margin_of(r, "none") for r in RATINGS] == [0, 0, 0, 0]
    assert margin_of(None, "large") == 0


def test_unknown_margin_or_rating_is_named() -> None:
    with pytest.raises(UserError, match=r"margin=huge.*none, small, large"):
        margin_of("better", "huge")
    with pytest.raises(UserError, match=r"rating 'great'.*significantly_better"):
        margin_of("great", "small")


def test_ranking_loss_matches_plain_arithmetic() -> None:
    chosen, rejected, margin = torch.tensor([2.0, -1.0]), torch.tensor([0.5, 1.0]), torch.tensor([1.0, 0.0])
    expected = [math.log(1 + math.exp(-(2.0 - 0.5 - 1.0))), math.log(1 + math.exp(2.0))]
    assert ranking_loss(chosen, rejected, margin).tolist() == pytest.approx(expected)


def test_ranking_loss_stays_finite_for_far_scores() -> None:
    far = torch.tensor([1000.0])
    assert ranking_loss(-far, far, torch.zeros(1)).item() == pytest.approx(2000.0)
    assert ranking_loss(far, -far, torch.zeros(1)).item() == 0.0


def test_centring_sees_the_shift_that_ranking_does_not() -> None:
    chosen, rejected, margin = torch.tensor([2.0, -1.0]), torch.tensor([0.5, 1.0]), torch.zeros(2)
    assert centring_loss(chosen, rejected).tolist() == [2.5**2, 0.0]
    for shift in (-6.0, 6.0):
        moved, other = chosen + shift, rejected + shift
        assert torch.allclose(ranking_loss(moved, other, margin), ranking_loss(chosen, rejected, margin))
        assert (centring_loss(moved, other) > centring_loss(chosen, rejected)).all()


def test_auxiliary_loss_matches_plain_arithmetic_and_ignores_missing_labels() -> None:
    nan = math.nan
    scores = torch.tensor([[1.0, -2.0], [0.3, 0.7], [0.5, 0.5]], requires_grad=True)
    safe = torch.tensor([[1.0, 0.0], [nan, nan], [0.0, nan]])
    losses = auxiliary_loss(scores, safe)

    def softplus(x: float) -> float:
        return math.log(1 + math.exp(x))

    assert losses.tolist() == pytest.approx([(softplus(-1.0) + softplus(-2.0)) / 2, 0.0, softplus(0.5) / 2])
    losses.sum().backward()  # type: ignore[no-untyped-call]
    assert scores.grad is not None
    assert (scores.grad != 0).tolist() == [[True, True], [False, False], [True, False]]
