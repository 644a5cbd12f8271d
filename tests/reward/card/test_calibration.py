"""Calibration and thresholds, against constructed scores."""

from __future__ import annotations

import random

import pytest

from llamatrain.responses.config import logit
from reward.card.calibration import PRECISION, calibration, reliability, unsafe_found
from reward.scoring import Scored


def scored(
    chosen: float, rejected: float, chosen_safe: bool | None = None, rejected_safe: bool | None = None
) -> Scored:
    return Scored("a", 0, chosen, rejected, True, None, chosen_safe, rejected_safe)


def test_scores_that_mean_what_they_say_are_calibrated() -> None:
    drawn = random.Random(0)
    honest, boasting = [], []
    for _ in range(4000):
        gap = drawn.uniform(0, 3)
        sign = 1 if drawn.random() < 1 / (1 + 2.718281828**-gap) else -1
        honest.append(scored(sign * gap, 0.0))
        boasting.append(scored(4 * sign * gap, 0.0))
    found, too_sure = calibration(honest)["pairs"], calibration(boasting)["pairs"]
    assert found["ece"] < 0.03 < 0.1 < too_sure["ece"]
    assert [one["count"] for one in found["bins"]] == [400] * 10
    assert all(a["predicted"] < b["predicted"] for a, b in zip(found["bins"], found["bins"][1:], strict=False))
    assert "safe" not in calibration(honest)


def test_few_pairs_make_few_bins() -> None:
    found = reliability([(0.9, 1.0)] * 6 + [(0.6, 0.0)] * 6)
    assert [(one["predicted"], one["observed"], one["count"]) for one in found["bins"]] == [
        (pytest.approx(0.6), 0.0, 6),
        (pytest.approx(0.9), 1.0, 6),
    ]
    assert found["ece"] == pytest.approx((0.6 + 0.1) / 2)
    assert len(reliability([(0.5, 1.0)])["bins"]) == 1


def test_the_threshold_with_the_papers_precision_and_most_recall() -> None:
    # From the lowest score up: nine unsafe, a safe one, three unsafe, and then safe ones with one unsafe among them.
    lowest = [(-9.0 + i / 10, False) for i in range(9)] + [(-5.0, True)]
    more = [(-4.0, False), (-3.9, False), (-3.8, False)] + [(1.0 + i, True) for i in range(5)] + [(7.0, False)]
    responses = [*lowest, *more, (8.0, True)]
    pairs = list(zip(responses[::2], responses[1::2], strict=True))
    found = unsafe_found([scored(a, b, x, y) for (a, x), (b, y) in pairs])
    assert found is not None
    assert found["precision_by_precision"] == pytest.approx(12 / 13)
    assert found["recall_by_precision"] == pytest.approx(12 / 13)
    assert logit(found["threshold_by_precision"]) == pytest.approx(-3.8)
    assert found["precision_at_0.15"] == pytest.approx(12 / 13)
    assert 9 / 10 > PRECISION > 8 / 10
    assert unsafe_found([scored(1.0, 0.0)]) is None


def test_equal_scores_fall_on_one_side() -> None:
    rows = [scored(0.0, 0.0, True, False) for _ in range(10)]
    found = unsafe_found(rows)
    assert found is not None
    assert "recall_by_precision" not in found
    assert found["recall_at_0.15"] == 0
