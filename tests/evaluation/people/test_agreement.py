"""Gwet's coefficients give what his handbook's examples and the documentation of his package give, and what loops give."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from evaluation.people.agreement import WEIGHTS, agreement

# Twelve subjects, four raters, ratings missing: Gwet (2014), cac.raw4raters of irrCAC.
FOUR_RATERS = ["11.1", "2232", "3333", "3333", "2222", "1234", "4444", "1121", "2222", ".555", "..11", "..3."]
# Six psychiatrists and fifteen patients, as counts by diagnosis: Fleiss (1971), distrib.6raters of irrCAC.
SIX_RATERS = "00060 03003 01401 00006 03030 20400 00402 20310 20040 00006 10050 11040 03300 10050 02031"
# Two raters of a hundred pregnancies: Gwet (2014), cont3x3abstractors of irrCAC.
TWO_RATERS = {(0, 0): 13, (1, 1): 20, (1, 2): 7, (2, 1): 4, (2, 2): 56}


def four_raters() -> list[list[str]]:
    return [[rating for rating in row if rating != "."] for row in FOUR_RATERS]


# Coefficient, standard error, observed agreement and agreement by chance, as irrCAC's README, vignette and tests print.
@pytest.mark.parametrize(
    ("weights", "value", "error", "observed", "chance", "digits"),
    [
        ("identity", 0.77544, 0.14295, 0.81818, 0.19032, 5),
        ("quadratic", 0.91400, 0.10396, 0.97538, 0.71370, 5),
        ("linear", 0.859, 0.117, 0.939, 0.571, 3),
        ("ordinal", 0.899, 0.107, 0.968, 0.685, 3),
    ],
)
def test_four_raters_with_missing_ratings(
    weights: str, value: float, error: float, observed: float, chance: float, digits: int
) -> None:
    found = agreement(four_raters(), "12345", weights)
    assert found is not None
    assert (round(found.value, digits), round(found.observed, digits)) == (value, observed)
    assert round(found.chance, digits) == chance
    t11 = 2.200985  # of a printed table of Student's t
    assert found.low == pytest.approx(found.value - t11 * error, abs=2 * 10.0**-digits)
    assert found.high == 1.0  # the interval ends where the coefficient does
    assert (found.subjects, found.shared) == (12, 11)


@pytest.mark.parametrize(
    ("weights", "value", "error", "observed", "chance"),
    [
        ("identity", 0.4448007, 0.08418757, 0.5511111, 0.1914815),
        ("quadratic", 0.4837438, 0.1058227, 0.8544444, 0.7180556),
    ],
)
def test_six_raters(weights: str, value: float, error: float, observed: float, chance: float) -> None:
    rated = [[place for place, count in enumerate(row) for _ in range(int(count))] for row in SIX_RATERS.split()]
    found = agreement(rated, range(5), weights)
    assert found is not None and found.low is not None and found.high is not None
    assert found.value == pytest.approx(value, abs=5e-8)
    assert (found.high - found.low) / 2 == pytest.approx(2.144787 * error, rel=1e-6)
    assert (found.observed, found.chance) == (pytest.approx(observed, abs=5e-8), pytest.approx(chance, abs=5e-8))


@pytest.mark.parametrize(
    ("weights", "value", "error"), [("identity", 0.8493305, 0.04321747), ("quadratic", 0.9402369, 0.01792019)]
)
def test_two_raters(weights: str, value: float, error: float) -> None:
    found = agreement([pair for pair, count in TWO_RATERS.items() for _ in range(count)], range(3), weights)
    assert found is not None and found.low is not None and found.high is not None
    assert found.value == pytest.approx(value, abs=5e-8)
    # What irrCAC prints for a table divides by N where its functions for ratings (and Gwet's formula) divide by N - 1.
    assert (found.high - found.low) / 2 == pytest.approx(1.984217 * error * math.sqrt(100 / 99), rel=1e-6)


def by_loops(rated: list[list[int]], size: int, weight: dict[tuple[int, int], float]) -> float:
    """Return the coefficient as its definition reads: over pairs of raters, and shares of the scale's ratings."""
    rated = [row for row in rated if row]
    agreed = []
    for row in rated:
        pairs = [weight[pair] for pair in itertools.permutations(row, 2)]
        if pairs:
            agreed.append(sum(pairs) / len(pairs))
    chance = 0.0
    for rating in range(size):
        share = sum(row.count(rating) / len(row) for row in rated) / len(rated)
        chance += share * (1 - share)
    chance *= sum(weight.values()) / (size * (size - 1))
    return (sum(agreed) / len(agreed) - chance) / (1 - chance)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_as_loops_over_pairs_of_raters_find_it(weights: str) -> None:
    rng, size = random.Random(3), 7
    apart = {pair: abs(pair[0] - pair[1]) for pair in itertools.product(range(size), repeat=2)}
    written = {
        "identity": lambda d: 1.0 if d == 0 else 0.0,
        "linear": lambda d: (6 - d) / 6,
        "quadratic": lambda d: (36 - d * d) / 36,
        "ordinal": lambda d: (42 - d * (d + 1)) / 42,
    }[weights]
    weight = {pair: written(d) for pair, d in apart.items()}
    for _ in range(5):
        rated = [[rng.choice([2, rng.randrange(size)]) for _ in range(rng.randrange(5))] for _ in range(40)]
        found = agreement(rated, range(size), weights)
        assert found is not None
        assert found.value == pytest.approx(by_loops(rated, size, weight), abs=1e-12)


def test_perfect_agreement_is_1_and_ratings_at_random_are_about_0() -> None:
    perfect = agreement([[rating] * 3 for rating in (1, 5, 5, 5)], range(1, 6), "quadratic")
    assert perfect is not None and perfect.value == 1.0
    rng = random.Random(0)
    found = agreement([[rng.randrange(5) for _ in range(3)] for _ in range(3000)], range(5), "quadratic")
    assert found is not None and found.low is not None and found.high is not None
    assert found.low < 0 < found.high


def test_nothing_is_said_where_nobody_shared_a_subject() -> None:
    assert agreement([["a"], [], ["b"]], "ab") is None
    alone = agreement([["a", "a"]], "ab")
    assert alone is not None and alone.low is None and math.isclose(alone.value, 1.0)
