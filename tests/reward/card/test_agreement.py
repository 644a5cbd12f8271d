"""Annotators' agreement and two models side by side, by hand."""

from __future__ import annotations

import pytest

from reward.card.agreement import annotators, by_model, compared, mistakes, names_of

from .test_rows import made_row


def test_the_ceiling_of_annotators_who_do_not_all_agree() -> None:
    first, second = "In the forest.", "At the river."
    votes = [
        made_row(0, 1.0, 0.0, chosen=first, rejected=second, annotator="a"),
        made_row(0, 1.0, 0.0, chosen=first, rejected=second, annotator="b"),
        # The same two answers, the other way round.
        made_row(0, 0.0, 1.0, chosen=second, rejected=first, annotator="c"),
        made_row(1, 1.0, 0.0, annotator="a"),
        made_row(1, 1.0, 0.0, annotator="b"),
        made_row(2, annotator="a"),
    ]
    found = annotators(votes)
    assert found is not None
    assert (found["pairs"], found["votes"]) == (2, 5)
    assert found["agreement"]["accuracy"] == pytest.approx((1 / 3 + 1) / 2)
    assert found["ceiling"]["accuracy"] == found["accuracy"]["accuracy"] == pytest.approx((2 / 3 + 1) / 2)
    assert found["ceiling"]["low"] < 0.9
    assert annotators(votes[3:4]) is None
    assert annotators([*votes, *votes]) == found  # the same rows twice are no further votes
    assert annotators([votes[3], votes[3]]) is None
    assert annotators([made_row(1), made_row(1)]) is None  # nobody knows whether two people rated it


def test_the_difference_is_that_of_the_accuracies() -> None:
    """Of prompts with unequally many pairs, which a mean of the prompts' means would weigh otherwise."""
    other = {"other_chosen_score": 1.0, "other_rejected_score": 0.0}
    rows = [
        *(made_row(0, 1.0, 0.0, nth=nth, other_chosen_score=0.0, other_rejected_score=1.0) for nth in range(5)),
        made_row(1, 0.0, 1.0, **other),
        made_row(2, 1.0, 0.0, **other),
    ]
    both, found = by_model(rows, ["a", "b"]), compared(rows)
    assert found is not None
    first, second = (both[name]["by_kind"]["helpfulness"]["all"]["accuracy"] for name in ("a", "b"))
    assert found["difference"]["difference"] == pytest.approx(first - second)
    assert (first, second) == (pytest.approx(6 / 7), pytest.approx(2 / 7))


def test_two_models_on_both_kinds() -> None:
    own, other = (
        {"other_chosen_score": -1.0, "other_rejected_score": 2.0},
        {"other_chosen_score": 3.0, "other_rejected_score": 2.0},
    )
    rows = [
        made_row(0, 4.0, 0.0, rating="better", **own),  # the second is wrong
        made_row(1, 1.0, 0.0, rating="better", **other),
        made_row(2, -2.0, 0.0, kind="safety", source="b.jsonl", **other),  # the first is wrong
    ]
    found = by_model(rows, ["helpfulness", "safety"])
    assert {
        name: {kind: part["all"]["accuracy"] for kind, part in one["by_kind"].items()} for name, one in found.items()
    } == {
        "helpfulness": {"helpfulness": 1.0, "safety": 0.0},
        "safety": {"helpfulness": 0.5, "safety": 1.0},
    }
    assert found["safety"]["by_kind"]["helpfulness"]["better"]["pairs"] == 2
    assert found["safety"]["by_file"]["b.jsonl"]["accuracy"] == 1.0
    both = compared(rows)
    assert both is not None
    assert both["difference"]["difference"] == pytest.approx(0.0)
    assert both["ordered_differently"] == pytest.approx(2 / 3)
    assert both["first_is_right"] == 0.5
    # The surer disagreement first: 3 is the smaller of 4 and 3, 1 of 2 and 1.
    assert [(case["row"], case["gap"], case["other_gap"]) for case in both["cases"]] == [(0, 4.0, -3.0), (2, -2.0, 1.0)]
    assert compared([made_row(0)]) is None
    assert list(by_model([made_row(0)], ["helpfulness"])) == ["helpfulness"]


def test_the_surest_mistakes_come_first() -> None:
    found = mistakes([made_row(0), made_row(1, 0.0, 1.0), made_row(2, 0.0, 5.0), made_row(3, 0.0, 0.0)])
    assert [(case["row"], case["gap"]) for case in found] == [(2, -5.0), (1, -1.0), (3, 0.0)]
    assert found[0]["prompt"] == "Where? 2"


def test_names_tell_the_models_apart() -> None:
    assert names_of(["helpfulness", "safety"]) == ["helpfulness", "safety"]
    assert names_of(["safety", "safety"]) == names_of([None, "safety"]) == ["checkpoint", "other"]
    assert names_of(["safety"]) == ["safety"]
    assert names_of([None]) == ["checkpoint"]
