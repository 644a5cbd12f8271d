"""The report's cards of scores: best of K, trials of temperatures, and what a run's course shows as means with their intervals."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch.report import scores
from launch.stage_run import StageRun
from launch.story import Story
from llamatrain.data.rows import write_rows
from llamatrain.description import Against
from llamatrain.pages.parts import Card

from ..synthetic import make


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


def test_the_temperatures_that_were_tried_are_drawn(tmp_path: Path) -> None:
    pipeline = make(tmp_path / "demo")
    assert not (scores.scores(Story(pipeline)) or {})["trials"]
    rows = [
        {"temperature": t, "k": k, "best": 0.5 + t / 10 + k / 100, "median": 0.4, "mean": 0.4, "chosen": t == 1.2}
        for t in (0.8, 1.2)
        for k in (1, 2, 4)
    ]
    write_rows(pipeline / "rs" / "temperatures.jsonl", rows)
    (card,) = (scores.scores(Story(pipeline)) or {})["trials"]
    assert [name for name, _ in card.legend] == ["best of 4", "median", "mean"]
    assert card.note == "rs: sampled at 1.2"
    paths = [shape for shape in card.drawing.shapes if shape.tag == "path"]  # type: ignore[union-attr]
    assert len(paths) >= 3


def test_the_best_score_is_named_over_the_kl(tmp_path: Path) -> None:
    """Planted: the score rises to the end, the gold score to the middle, and that of held-out prompts to the third of four."""
    folder = tmp_path / "ppo"
    rows = [
        {"step": step, "kl": float(step), "is_adversarial": False, "combined": 0.5, "prompt_id": "p", "response": "r"}
        for step in range(5)
        for _ in range(3)
    ]
    marks = [{"prompt_id": "p", "helpfulness": gold} for gold in (0.2, 0.5, 0.7, 0.6, 0.3) for _ in range(3)]
    measured = zip((0, 2, 4, 6), (0.5, 1.0, 1.5, 1.25), strict=True)
    metrics = [{"step": step, "time": 0, "eval/score": score, "kl": step / 2} for step, score in measured]
    write_rows(folder / "samples.jsonl", rows)
    write_rows(
        folder / "metrics.jsonl", [{k: v for k, v in row.items() if k != "kl" or row["step"]} for row in metrics]
    )
    write_rows(tmp_path / "judge" / "judgements.jsonl", marks)
    story = Story(tmp_path)
    stage = StageRun("ppo", "ppo", folder, [])
    story.judgements = lambda _: marks  # type: ignore[method-assign]
    about = Against("samples.jsonl", "kl", "KL", "KL, nats", held_out="eval/score", over="kl")
    cards = {card.title: card for card in scores.over_course(story, stage, about)}
    assert cards["Gold judge against KL"].note == "ppo: best gold score 0.700 at KL 2.00, 0.300 at the largest"
    assert scores._best([(1.0, 0.5), (2.0, 0.7)], about, "gold") == "best gold score 0.700 at the largest KL, 2.00"
    held_out = cards["Held-out prompts against KL"]
    assert held_out.note == "ppo: best held-out score 1.500 at KL 2.00, 1.250 at the largest"
