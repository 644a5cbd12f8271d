"""The best and the median of k are means over all choices of k."""

from __future__ import annotations

from itertools import combinations
from statistics import fmean, median

import pytest

from llamatrain import order_statistics


@pytest.mark.parametrize("k", range(1, 7))
def test_best_and_median_of_k_are_means_over_all_choices(k: int) -> None:
    values = [0.5, 3.0, 1.0, -2.0, 7.0, 4.0]  # in the order of a score, which may differ from theirs
    weights = order_statistics.best_weights(len(values), k)
    chosen = [max(choice) for choice in combinations(range(len(values)), k)]
    assert sum(w * v for w, v in zip(weights, values, strict=True)) == pytest.approx(fmean(values[i] for i in chosen))
    assert order_statistics.expected_best(values, k) == pytest.approx(fmean(map(max, combinations(values, k))))
    weights = order_statistics.median_weights(len(values), k)
    middle = sum(w * v for w, v in zip(weights, sorted(values), strict=True))
    assert middle == pytest.approx(fmean(map(median, combinations(values, k))))
