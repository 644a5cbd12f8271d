"""The share of other pairs is exact and reproducible, and off-topic ones are what they should be."""

from __future__ import annotations

import numpy as np
import pytest

from llamatrain.responses.pairs import Pair
from reward.mix import OffTopic, draw, mixed_count


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


def pair(prompt: list[int], chosen: list[int], rejected: list[int]) -> Pair:
    sides = (np.array([*prompt, *answer, 2], dtype=np.int32) for answer in (chosen, rejected))
    return Pair(*sides, "slightly_better", True, True, False, "made", 0, prompt=len(prompt))


def test_off_topic_pairs_take_the_answer_to_the_likest_other_prompt() -> None:
    about = [([1, 10, 11, 12], [20, 21]), ([1, 10, 11, 13], [20, 22]), ([1, 30, 31, 32], [40])]
    pairs = [pair(prompt, answer, [9]) for prompt, answer in about]
    made = OffTopic(pairs, 3, seed=0, max_length=16)
    found = {tuple(one.chosen.tolist()): one for one in made}
    assert len(found) == 3
    for place, other in ((0, 1), (1, 0)):
        prompt, answer = about[place]
        one = found[(*prompt, *answer, 2)]
        assert one.rejected.tolist() == [*prompt, *about[other][1], 2]
        assert (one.rating, one.chosen_safe, one.rejected_safe, one.prompt) == ("significantly_better", True, None, 4)
    assert [p.rejected.tolist() for p in OffTopic(pairs, 3, seed=0, max_length=16)] == [
        p.rejected.tolist() for p in made
    ]


def test_off_topic_pairs_take_no_answer_to_the_same_prompt_none_that_is_alike_and_none_that_is_too_long() -> None:
    first = pair([1, 10], [20], [9])
    pairs = [first, pair([1, 10], [21], [9]), pair([1, 11], [20], [8]), pair([1, 12], [22] * 30, [8])]
    made = OffTopic(pairs, 4, seed=3, max_length=16)
    (own,) = (one for one in made if one.chosen.tolist() == first.chosen.tolist())
    assert own.rejected.tolist() == first.rejected.tolist() and own.rating == first.rating
