"""Best of K is the mean over all choices of K, and what a run's course shows are means with their intervals."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from statistics import fmean, median

import pytest

from launch.report import scores
from launch.report.parts import Card
from launch.story import Story

from ..synthetic import make


@pytest.mark.parametrize("k", range(1, 7))
def test_best_and_median_of_k_are_means_over_all_choices(k: int) -> None:
    values = [0.5, 3.0, 1.0, -2.0, 7.0, 4.0]  # in the order of a score, which may differ from theirs
    weights = scores.best(len(values), k)
    chosen = [max(choice) for choice in combinations(range(len(values)), k)]
    assert sum(w * v for w, v in zip(weights, values, strict=True)) == pytest.approx(fmean(values[i] for i in chosen))
    ordered = sorted(values)
    middle = sum(w * v for w, v in zip(scores.median(len(values), k), ordered, strict=True))
    assert middle == pytest.approx(fmean(median(choice) for choice in combinations(values, k)))


def drawn(cards: list[Card], title: str) -> Card:
    return next(card for card in cards if card.title == title)


def test_best_of_k_shows_best_median_and_mean_and_what_the_judge_says(tmp_path: Path) -> None:
    found = scores.scores(Story(make(tmp_path / "demo"))) or {}
    card = drawn(found["best"], "Best of K, harmless prompts")
    assert [name for name, _ in card.legend] == ["best", "median", "mean"] and card.note == "rs"
    assert drawn(found["best"], "The best of K, by the gold judge").legend == [("harmless prompts", 1)]
    without = scores.scores(Story(make(tmp_path / "tales", judge=False))) or {}
    assert [card.title for card in without["best"]] == ["Best of K, harmless prompts"]


def test_score_and_judge_stand_against_the_kl_with_their_intervals(tmp_path: Path) -> None:
    found = scores.scores(Story(make(tmp_path / "demo"))) or {}
    for title in ("Score against KL", "Gold judge against KL"):
        shapes = drawn(found["course"], title).drawing.shapes  # type: ignore[union-attr]
        dots = [shape for shape in shapes if shape.tag == "circle"]
        spans = [shape for shape in shapes if str(shape.attributes["class"]).startswith("span")]
        assert len(dots) == len(spans) == 10  # five batches, two kinds of prompts


def test_an_interval_is_of_95_percent() -> None:
    mean, low, high = scores._interval([1.0, 2.0, 3.0, 4.0])
    assert (mean, high - mean) == (2.5, pytest.approx(1.96 * (5 / 3) ** 0.5 / 2)) and mean - low == high - mean
    assert scores._interval([2.0]) == (2.0, 2.0, 2.0)
