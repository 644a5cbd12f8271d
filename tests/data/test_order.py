"""The permutation: every place once, another one for another seed, the same for numbers and arrays."""

from __future__ import annotations

import numpy as np
import pytest

from llamatrain.data.order import mix, permuted


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 16, 17, 100, 1000, 65_537])
def test_every_index_is_met_once(n: int) -> None:
    assert np.array_equal(np.sort(permuted(np.arange(n), n, seed=7)), np.arange(n))


def test_numbers_and_arrays_agree_and_are_fixed() -> None:
    expected = permuted(np.arange(50), 50, seed=3)
    assert [permuted(i, 50, seed=3) for i in range(50)] == expected.tolist()
    assert isinstance(permuted(4, 50, seed=3), int)
    assert permuted(np.arange(8), 8, seed=0).tolist() == permuted(np.arange(8), 8, seed=0).tolist()


def test_seeds_give_unrelated_orders() -> None:
    n = 2000
    orders = [permuted(np.arange(n), n, seed) for seed in range(4)]
    for i, one in enumerate(orders):
        assert abs(np.corrcoef(one, np.arange(n))[0, 1]) < 0.1
        assert all((one == other).mean() < 0.01 for other in orders[:i])


def test_every_place_is_about_as_likely() -> None:
    """Over 600 seeds each of 6 things comes first about 100 times (5 standard deviations are 46)."""
    counts = np.bincount([permuted(0, 6, seed) for seed in range(600)], minlength=6)
    assert abs(counts - 100).max() < 46


def test_large_n_costs_nothing() -> None:
    n = 10**15
    places = permuted(np.array([0, 1, n - 1]), n, seed=1)
    assert len(set(places.tolist())) == 3
    assert ((places >= 0) & (places < n)).all()


def test_outside_is_refused() -> None:
    for index in (-1, 5):
        with pytest.raises(ValueError, match=r"not within 0\.\.4"):
            permuted(index, 5, seed=0)


def test_mix_tells_its_numbers_apart() -> None:
    assert len({mix(a, b) for a in range(50) for b in range(50)}) == 2500
    assert mix(1, 2) != mix(2, 1)
