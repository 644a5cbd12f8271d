"""The choice of the best of K responses, and what it is said to bring."""

from __future__ import annotations

from typing import Any

from rlhf.best_of import best_in_words, best_of, is_tied, sizes


def candidate(combined: float, response: str = "text", finished: bool = True) -> dict[str, Any]:
    return {"response": response, "finished": finished, "raw": {"combined": combined}}


def test_the_best_is_the_first_with_the_highest_score() -> None:
    rows = [candidate(0.5, "a"), candidate(2.0, "b"), candidate(2.0, "c"), candidate(-1.0, "d")]
    assert best_of(rows) == rows[1]


def test_scores_that_a_sigmoid_would_make_equal_are_told_apart() -> None:
    rows = [candidate(40.0, "a"), candidate(41.0, "b")]
    assert best_of(rows) == rows[1]


def test_unfinished_and_empty_responses_are_not_trained_on() -> None:
    rows = [candidate(3.0, finished=False), candidate(2.0, ""), candidate(1.0, "fine")]
    assert best_of(rows) == rows[2]
    assert best_of(rows[:2]) is None


def test_what_the_best_bring_is_said_in_words() -> None:
    metrics = {"rs/prompts": 400, "rs/kept": 399, "rs/best_of_1": 0.553, "rs/best_of_10": 0.825}
    metrics |= {"rs/duplicates": 0.21, "rs/ties": 0.004}
    text = "combined score of the best of 1: 0.55, 10: 0.82; a best response kept for 399 of 400 prompts"
    text += "; 21% of the responses repeat another, 0% of the prompts have a tie"
    assert best_in_words(metrics) == text


def test_k_doubles_up_to_all() -> None:
    assert [sizes(most) for most in (1, 2, 8, 10, 100)] == [
        [1],
        [1, 2],
        [1, 2, 4, 8],
        [1, 2, 4, 8, 10],
        [1, 2, 4, 8, 16, 32, 64, 100],
    ]


def test_a_tie_is_between_texts_not_repetitions() -> None:
    assert not is_tied([candidate(1.0, "a"), candidate(1.0, "a"), candidate(0.5, "b")])
    assert is_tied([candidate(1.0, "a"), candidate(1.0, "b")])
    assert not is_tied([candidate(1.0, "a"), candidate(1.0, "b", finished=False)])  # that one is never kept
    assert not is_tied([candidate(1.0, "")])
