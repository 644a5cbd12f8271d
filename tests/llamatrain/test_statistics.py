"""Intervals against published values."""

from __future__ import annotations

import numpy as np
import pytest

from llamatrain.statistics import (
    by_prompt,
    clustered_interval,
    mean_interval,
    paired_interval,
    spearman_interval,
    t_quantile,
    wilson,
    win_rate,
    win_rate_at_equal_length,
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


def test_clustered_interval_weighs_values_not_groups() -> None:
    alone = {"a": [1.0], "b": [3.0], "c": [2.0]}
    plain, clustered = mean_interval([1.0, 3.0, 2.0]), clustered_interval(alone)
    assert (clustered.mean, clustered.low, clustered.high) == pytest.approx((plain.mean, plain.low, plain.high))
    assert clustered_interval({"a": [1.0] * 3, "b": [0.0]}).mean == pytest.approx(0.75)
    assert clustered_interval({"a": [1.0, 0.0]}).low is None


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


def compared(share: float, longer: float, seed: int, prompts: int = 400) -> tuple[dict[str, list[float]], ...]:
    """Return gold scores and lengths of two models: ours wins by `share` (logit) and by `longer` per unit of length."""
    chance = np.random.default_rng(seed)
    ours, theirs, lengths, others = ({str(n): list[float]() for n in range(prompts)} for _ in range(4))
    for prompt in ours:
        for _ in range(4):
            length, other = chance.normal(60, 10), chance.normal(50, 10)  # ours is longer
            won = chance.random() < 1 / (1 + np.exp(-(share + longer * np.tanh((length - other) / 14.1))))
            for table, value in ((ours, float(won)), (theirs, 0.5), (lengths, length), (others, other)):
                table[prompt].append(value)
    return ours, theirs, lengths, others


def test_a_judge_of_length_alone_gives_no_win_at_equal_length() -> None:
    tables = compared(0.0, 2.0, 0)
    plain, equal = win_rate(*tables[:2]), win_rate_at_equal_length(*tables)
    assert plain.low is not None and plain.low > 0.6
    assert equal is not None and equal.low is not None and equal.high is not None
    assert equal.low < 0.5 < equal.high


def test_a_win_that_does_not_hang_on_length_stays() -> None:
    tables = compared(1.0, 0.0, 1)
    equal = win_rate_at_equal_length(*tables)
    assert equal is not None and equal.mean == pytest.approx(1 / (1 + np.exp(-1)), abs=0.03)
    assert equal.count == 400


def test_the_interval_at_equal_length_covers() -> None:
    held = 0
    for seed in range(40):
        equal = win_rate_at_equal_length(*compared(0.4, 1.0, seed, 60))
        assert equal is not None and equal.low is not None and equal.high is not None
        held += equal.low <= 1 / (1 + np.exp(-0.4)) <= equal.high
    assert 34 <= held <= 40


def test_one_side_that_always_wins_has_a_finite_rate_at_equal_length() -> None:
    ours = {"a": [1.0], "b": [1.0], "c": [1.0]}
    theirs = {prompt: [0.0] for prompt in ours}
    lengths = {"a": [10.0], "b": [12.0], "c": [9.0]}
    equal = win_rate_at_equal_length(ours, theirs, lengths, lengths)
    assert equal is not None and 0.7 < equal.mean < 1 and equal.low is not None and equal.low > 0
    assert win_rate_at_equal_length(ours, ours, lengths, lengths) is None
