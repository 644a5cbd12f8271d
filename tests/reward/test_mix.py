"""The share of other pairs is exact and reproducible."""

from __future__ import annotations

import pytest

from reward.mix import draw, mixed_count


@pytest.mark.parametrize(
    ("own", "share", "count"), [(900, 0.1, 100), (50, 0.5, 50), (60, 0.4, 40), (7, 0.0, 0), (10, 0.9, 90)]
)
def test_the_share_is_that_of_the_whole(own: int, share: float, count: int) -> None:
    assert mixed_count(own, share) == count


def test_draw_is_without_replacement_and_reproducible() -> None:
    chosen = draw(100, 30, seed=1)
    assert len(set(chosen)) == 30
    assert chosen == draw(100, 30, seed=1)
    assert chosen != draw(100, 30, seed=2)
    assert draw(100, 40, seed=1)[:30] == chosen


def test_draw_repeats_evenly_where_there_are_too_few() -> None:
    chosen = draw(10, 34, seed=3)
    counts = [chosen.count(i) for i in range(10)]
    assert sum(counts) == 34
    assert set(counts) == {3, 4}
