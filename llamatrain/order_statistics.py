"""The best and the median of k values, on average over all choices of k among more (paper figure 7). Imports no torch.

They are weights of the values in rising order: what is chosen by one score can so be measured by another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def ranked(count: int, k: int, rank: int) -> list[float]:
    """Return each of `count` ordered values' share of being the `rank`-th among k of them, over all choices of k."""
    total = math.comb(count, k)
    return [math.comb(i, rank - 1) * math.comb(count - 1 - i, k - rank) / total for i in range(count)]


def best_weights(count: int, k: int) -> list[float]:
    """Return each value's share of being the last of k."""
    return ranked(count, k, k)


def median_weights(count: int, k: int) -> list[float]:
    """Return each value's share of the median of k, which for an even k is the mean of the two in the middle."""
    low, high = ranked(count, k, (k + 1) // 2), ranked(count, k, k // 2 + 1)
    return [(a + b) / 2 for a, b in zip(low, high, strict=True)]


def expected_best(values: Sequence[float], k: int) -> float:
    """Return the mean of the best of k over all choices of k among the values."""
    return sum(share * value for share, value in zip(best_weights(len(values), k), sorted(values), strict=True))
