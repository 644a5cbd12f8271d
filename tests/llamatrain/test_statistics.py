"""Intervals against published values."""

from __future__ import annotations

import pytest

from llamatrain.statistics import (
    by_prompt,
    mean_interval,
    paired_interval,
    spearman_interval,
    t_quantile,
    wilson,
    win_rate,
)


@pytest.mark.parametrize(
    ("degrees", "value"), [(1, 12.7062), (2, 4.30265), (9, 2.26216), (30, 2.04227), (1000, 1.96234)]
)
def test_t_quantile_matches_the_tables(degrees: int, value: float) -> None:
    assert t_quantile(degrees) == pytest.approx(value, rel=1e-4)


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (29, 29, 0.8830, 1.0)],
)
def test_wilson_matches_newcombe(successes: int, count: int, low: float, high: float) -> None:
    assert wilson(successes / count, count) == pytest.approx((low, high), abs=1e-4)


def test_mean_interval_by_hand() -> None:
    interval = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])  # s = 1.5811, t(4) = 2.7764
    assert (interval.mean, interval.low, interval.high) == pytest.approx((3.0, 1.0368, 4.9632), abs=1e-4)
    assert mean_interval([2.0]).low is None


def test_samples_of_a_prompt_are_averaged_before_the_interval() -> None:
    once = {"a": [1.0], "b": [3.0], "c": [2.0]}
    often = {prompt: values * 50 for prompt, values in once.items()}
    assert by_prompt(often) == {"a": 1.0, "b": 3.0, "c": 2.0}
    zero = {prompt: [0.0] for prompt in once}
    assert paired_interval(often, zero) == paired_interval(once, zero)


def test_paired_interval_uses_common_prompts_only() -> None:
    interval = paired_interval({"a": [1.0], "b": [2.0], "x": [9.0]}, {"a": [0.5], "b": [1.0], "y": [9.0]})
    assert interval is not None
    assert interval.mean == pytest.approx(0.75)
    assert interval.count == 2
    assert paired_interval({"a": [1.0]}, {"b": [1.0]}) is None


def test_win_rate_removes_and_counts_ties() -> None:
    model = {str(i): [1.0] for i in range(100)}
    baseline = {str(i): [0.0 if i < 60 else 2.0 if i < 90 else 1.0] for i in range(100)}
    result = win_rate(model, baseline)
    assert (result.wins, result.losses, result.ties) == (60, 30, 10)
    assert (result.low, result.high) == pytest.approx(wilson(60 / 90, 90))


def test_win_rate_interval_does_not_shrink_with_copies_of_the_same_samples() -> None:
    model = {str(i): [1.0] for i in range(40)}
    baseline = {str(i): [float(2 * (i % 4 == 0))] for i in range(40)}
    once = win_rate(model, baseline)
    often = win_rate({k: v * 8 for k, v in model.items()}, {k: v * 8 for k, v in baseline.items()})
    assert often.wins == 8 * once.wins
    assert (often.low, often.high) == pytest.approx((once.low, once.high))


def test_win_rate_without_decided_comparisons() -> None:
    assert win_rate({"a": [1.0]}, {"a": [1.0]}).rate is None


def test_spearman_matches_a_published_example() -> None:
    iq = [106, 100, 86, 101, 99, 103, 97, 113, 112, 110]  # and hours of television: rho = -29/165
    hours = [7, 27, 2, 50, 28, 29, 20, 12, 6, 17]
    found = spearman_interval({str(i): [x] for i, x in enumerate(iq)}, {str(i): [y] for i, y in enumerate(hours)})
    assert found is not None and found.low is not None and found.high is not None
    assert (found.mean, found.count) == (pytest.approx(-29 / 165), 10)
    assert -1 < found.low < found.mean < found.high < 1


def test_spearman_gives_equal_values_their_mean_rank_and_needs_values_that_vary() -> None:
    found = spearman_interval({"a": [1.0, 2.0], "b": [2.0, 3.0]}, {"a": [1.0, 3.0], "b": [2.0, 4.0], "c": [0.0]})
    assert found is not None and found.mean == pytest.approx(4.5 / 22.5**0.5)  # ranks 1, 2.5, 2.5, 4 and 1, 3, 2, 4
    assert spearman_interval({"a": [1.0, 1.0]}, {"a": [0.0, 1.0]}) is None


def test_more_samples_of_the_same_prompts_do_not_narrow_spearmans_interval() -> None:
    scores, marks = {str(i): [float(i)] for i in range(9)}, {str(i): [float(i * i % 7)] for i in range(9)}
    often = [{prompt: values * 5 for prompt, values in side.items()} for side in (scores, marks)]
    once, more = spearman_interval(scores, marks), spearman_interval(*often)
    assert once is not None and more is not None
    assert (once.low, once.high) == pytest.approx((more.low, more.high))
