"""Wins, ties and losses of ratings by hand, their intervals as published, and what order and length have to do with them."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from evaluation.people.preferred import outcomes, preferred, shares
from evaluation.people.verdicts import SideBySideRow

A, TIE, B = "a_better", "about_the_same", "b_slightly_better"


def rows(*verdicts: tuple[str, str | None], **about: Any) -> list[SideBySideRow]:
    """Return a row per (prompt, rating), raters in order."""
    numbers: dict[str, int] = {}
    made = []
    for prompt, rating in verdicts:
        numbers[prompt] = numbers.get(prompt, 0) + 1
        row = {
            "kind": "side_by_side",
            "prompt_id": prompt,
            "rater": f"r{numbers[prompt]}",
            "system_a": "ppo",
            "system_b": "sft",
            "rating": rating,
            "first": "a",
            "turns": 1,
            "words": 10,
            "words_a": 20,
            "words_b": 20,
            **about,
        }
        made.append(row)
    return made  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("points", "majority", "mean", "each"),
    [
        ([3, 1, -1], 1, 1, [1, 1, -1]),  # two of three prefer A; 1.0 on average
        ([1, 0, 0], 0, 0, [1, 0, 0]),  # two of three see no difference; 0.33 is nearer to it than to 1
        ([-3, 0, 1], 0, -1, [-1, 0, 1]),  # no two agree, and the strong opinion decides the mean, -0.67
        ([-1, -1, 3], -1, 0, [-1, -1, 1]),  # a majority against the mean, 0.33
        ([2, -2], 0, 0, [1, -1]),  # a third could not judge
        ([-2], -1, -1, [-1]),
    ],
)
def test_the_ratings_of_a_prompt_become_its_outcome(
    points: list[int], majority: int, mean: int, each: list[int]
) -> None:
    assert outcomes(points, "majority") == [majority]
    assert outcomes(points, "mean") == [mean]
    assert outcomes(points, "each") == each


def test_the_papers_figures_get_the_papers_intervals() -> None:
    # Llama 2-Chat 70B against ChatGPT (3.4.2): 36 % wins and 31.5 % ties on 1,917 + 2,256 prompts, intervals of 1 to 2 %.
    count = 1917 + 2256
    wins, ties = round(0.36 * count), round(0.315 * count)
    points = [1] * wins + [0] * ties + [-1] * (count - wins - ties)
    found = shares({str(number): [point] for number, point in enumerate(points)}, "majority")
    assert [round(found[name]["mean"], 3) for name in ("win", "tie", "loss")] == [0.360, 0.315, 0.325]
    assert all(0.01 < (found[name]["high"] - found[name]["low"]) / 2 < 0.02 for name in ("win", "tie", "loss"))


def test_intervals_are_wilsons() -> None:
    # 81 of 263: 0.2553 to 0.3662 (Newcombe, Statistics in Medicine 17, 1998, table I, method 3); 15 of 148: 0.0624 to 0.1605.
    for wins, count, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605)):
        found = shares({str(n): [1 if n < wins else -1] for n in range(count)}, "majority")["win"]
        assert (round(found["low"], 4), round(found["high"], 4)) == (low, high)


def test_related_ratings_widen_the_interval() -> None:
    alike = {str(n): [1 if n < 50 else -1] * 3 for n in range(100)}  # three raters who say the same add nothing
    each, majority = (shares(alike, outcome)["win"] for outcome in ("each", "majority"))
    assert (each["low"], each["high"]) == (pytest.approx(majority["low"]), pytest.approx(majority["high"]))
    assert (each["count"], majority["count"]) == (300, 100)


def test_by_category_by_turns_and_by_length() -> None:
    made = [
        *rows(("1", A), ("1", A), ("1", B), category="factual"),
        *rows(("2", TIE), ("2", None), ("2", TIE), category="factual", turns=3, words_b=70),
        *rows(("3", B), ("3", B), ("3", B), category="writing", turns=3, words_b=170),
    ]
    (found,) = preferred(made, "majority", "quadratic")
    assert (found["system_a"], found["system_b"], found["prompts"]) == ("ppo", "sft", 3)
    assert (found["ratings"], found["raters"], found["cannot_judge"]) == (8, 3, 1)
    assert [found[name]["mean"] for name in ("win", "tie", "loss")] == [pytest.approx(1 / 3)] * 3
    assert found["mean_points"] == pytest.approx((1 + 0 - 1) / 3)
    parts = {
        key: {name: (part["prompts"], part["win"]["mean"], part["loss"]["mean"]) for name, part in found[key].items()}
        for key in ("by_category", "by_turns", "by_length")
    }
    assert parts == {
        "by_category": {"factual": (2, 0.5, 0), "writing": (1, 0, 1)},
        "by_turns": {"1": (1, 1, 0), "3": (2, 0, 0.5)},
        "by_length": {"up to 50": (1, 1, 0), "51 to 100": (1, 0, 0), "more than 100": (1, 0, 1)},
    }
    assert list(found["by_length"]) == ["up to 50", "51 to 100", "more than 100"]


def test_agreement_is_of_the_ratings_on_the_whole_scale() -> None:
    (found,) = preferred(rows(("1", A), ("1", A), ("2", B), ("2", B)), "majority", "quadratic")
    assert (found["agreement"]["value"], found["agreement"]["weights"]) == (1.0, "quadratic")
    # By hand: identity weights, seven points, two prompts. A and B agree on one of two pairs: observed 1/2. Shares of the
    # points: 3/4 and 1/4, so chance is (3/16 + 3/16) / 6 = 1/16 and AC1 is (1/2 - 1/16) / (15/16) = 7/15.
    (found,) = preferred(rows(("1", A), ("1", A), ("2", B), ("2", A)), "majority", "identity")
    assert found["agreement"]["value"] == pytest.approx(7 / 15)
    assert found["agreement"]["chance"] == pytest.approx(1 / 16)


def test_a_liking_for_the_first_answer_shows() -> None:
    shown = itertools.cycle("ab")
    made = []
    for number in range(40):  # whoever is shown first is found better
        first = next(shown)
        made += rows((str(number), A if first == "a" else B), first=first)
    (found,) = preferred(made, "majority", "quadratic")
    assert found["first_preferred"]["mean"] == 1.0
    assert found["win"]["mean"] == 0.5


def test_a_liking_for_length_wins_nothing_at_equal_length() -> None:
    made = []
    for number in range(120):  # A is longer two times of three; nine times of ten the longer answer is found better
        longer = number % 3 > 0
        preferred_a = longer != (number % 10 == 0)
        made += rows((str(number), A if preferred_a else B), words_a=60 if longer else 10, words_b=10 if longer else 60)
    (found,) = preferred(made, "majority", "quadratic")
    assert found["win"]["mean"] > 0.6
    rate = found["win_rate_at_equal_length"]
    assert rate["low"] < 0.5 < rate["high"]


def test_nothing_is_made_up_where_nobody_could_judge() -> None:
    assert preferred(rows(("1", None)), "majority", "quadratic") == [
        {"system_a": "ppo", "system_b": "sft", "ratings": 0, "raters": 0, "cannot_judge": 1}
    ]
