"""How far raters agree beyond chance: Gwet's AC1 and AC2 (the paper's measure of agreement, 3.4.2 and 4.4).

Gwet, Handbook of Inter-Rater Reliability (4th edition, 2014), chapters 2, 3 and 5, for any number of raters, of whom each
may have rated some subjects only. Other than kappa it does not collapse where nearly all ratings are the same, as are
those of safe answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from llamatrain.statistics import t_quantile

R = TypeVar("R", bound=Hashable)

# How much of an agreement two ratings are that are so many of the `last` points of the scale apart: 1 where equal.
WEIGHTS: Mapping[str, Callable[[int, int], float]] = {
    "identity": lambda apart, last: float(apart == 0),
    "linear": lambda apart, last: 1 - apart / last,
    "quadratic": lambda apart, last: 1 - (apart / last) ** 2,
    "ordinal": lambda apart, last: 1 - math.comb(apart + 1, 2) / math.comb(last + 1, 2),
}


@dataclass(frozen=True)
class Agreement:
    """A coefficient with its 95 % interval (None where one subject cannot give any), and what it is made of.

    `observed` is the agreement found, `chance` what would be expected by chance; of `subjects` that were rated, `shared`
    were by two raters or more.
    """

    value: float
    low: float | None
    high: float | None
    observed: float
    chance: float
    subjects: int
    shared: int


def agreement(rated: Sequence[Sequence[R]], scale: Sequence[R], weights: str = "identity") -> Agreement | None:
    """Return how raters agree: AC1 with identity weights, else AC2.

    `rated` has each subject's ratings, in any order; `scale` has all ratings that there are, in order, given or not. None
    where no subject has two ratings. The interval is over subjects, with raters as they are.
    """
    place = {rating: number for number, rating in enumerate(scale)}
    counts = np.zeros((len(rated), len(scale)))  # (N, Q)
    for row, ratings in zip(counts, rated, strict=True):
        for rating in ratings:
            row[place[rating]] += 1
    counts = counts[counts.sum(axis=1) > 0]
    raters = counts.sum(axis=1)  # (N,)
    shared = raters >= 2
    count, last = len(counts), len(scale) - 1
    if not shared.any():
        return None
    weight = np.array([[WEIGHTS[weights](abs(a - b), last) for a in range(last + 1)] for b in range(last + 1)])
    pairs = np.where(shared, raters * (raters - 1), 1)
    observed = (counts * (counts @ weight - 1)).sum(axis=1) / pairs  # of each subject, 0 with a single rating
    found = float(observed[shared].mean())
    shares = (counts / raters[:, None]).mean(axis=0)  # (Q,)
    scattered = weight.sum() / (len(scale) * last)
    chance = float(scattered * (shares * (1 - shares)).sum())
    value = (found - chance) / (1 - chance)
    if count < 2:
        return Agreement(value, None, None, found, chance, count, int(shared.sum()))
    # The variance by linearization: how each subject pulls at the coefficient, by its agreement and by its ratings.
    by_agreement = count / shared.sum() * (observed - chance * shared) / (1 - chance)
    by_ratings = scattered * (counts @ (1 - shares)) / raters - chance
    pulls = by_agreement - 2 * (1 - value) * by_ratings / (1 - chance)
    error = math.sqrt(((pulls - value) ** 2).sum() / (count * (count - 1)))
    half = t_quantile(count - 1) * error
    return Agreement(value, value - half, min(1.0, value + half), found, chance, count, int(shared.sum()))
