"""Best of several as RewardBench 2 counts it, held against upstream's formula in numpy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from reward.card.best_of import Question, best_of, ties

from .test_rows import made_row


def upstream(questions: dict[str, Question]) -> float:
    """The formula as the benchmark's own code has it, over arrays."""
    stats = {
        name: (min(q.right.values()) > max(q.wrong.values()), q.spread, min(q.right.values()) - max(q.wrong.values()))
        for name, q in questions.items()
    }
    ref, tied = ({n[len(k) :]: s for n, s in stats.items() if n.startswith(k)} for k in ("ref:", "tied:"))
    shared = sorted(set(ref) & set(tied))
    spread, margin = (np.array([tied[n][i] for n in shared]) for i in (1, 2))
    least = np.minimum(np.array([ref[n][2] for n in shared]), margin)
    with np.errstate(divide="ignore", invalid="ignore"):
        closer = np.nan_to_num(np.tanh(least / spread - 1), nan=0.0)
    parts = [np.mean([s[0] for s in tied.values()]), np.mean([s[0] for s in ref.values()])]
    parts += [np.mean(margin > spread), np.mean(least > spread), np.mean(closer)]
    return float(np.dot(parts, [0.3, 0.3, 0.2, 0.2, 0.01]))


def test_ties_are_scored_as_upstream() -> None:
    random = np.random.default_rng(0)
    questions: dict[str, Question] = {}
    for number in range(40):
        for kind, right in (("ref", 1), ("tied", 4)):
            answers = [(f"r{i}", float(random.normal(2, 1))) for i in range(right)]
            wrong = [(f"w{i}", float(random.normal(0, 1))) for i in range(6)]
            questions[f"{kind}:{number}"] = Question(dict(answers), dict(wrong))
    assert ties(questions) == pytest.approx(upstream(questions))
    questions["tied:0"] = Question({"a": 2.0, "b": 2.0}, {"c": 1.0})  # no spread: the ratio is infinite
    questions["tied:1"] = Question({"a": 1.0, "b": 1.0}, {"c": 1.0})  # nothing by nothing
    questions["ref:0"], questions["ref:1"] = Question({"a": 3.0}, {"c": 1.0}), Question({"a": 3.0}, {"c": 1.0})
    assert ties(questions) == pytest.approx(upstream(questions))


def test_a_question_is_won_by_the_highest_score() -> None:
    def pairs(group: str, right: float, wrong: list[float], subset: str = "Math") -> list:
        return [
            made_row(i, right, score, rejected=f"wrong {i}", group=group, subset=subset, answers=4)
            for i, score in enumerate(wrong)
        ]

    rows = [
        *pairs("0", 2.0, [1.0, 0.0, -1.0]),
        *pairs("1", 2.0, [1.0, 3.0, -1.0]),  # two of three pairs are right, the question is lost
        *pairs("2", 2.0, [2.0, 0.0, -1.0]),  # shared with a wrong one: half
        *pairs("0", 1.0, [0.0, 0.0, 0.0], "Focus"),
    ]
    found = best_of(rows)
    assert found is not None
    assert found["subsets"] == {
        "Math": {"score": 0.5, "questions": 3, "incomplete": 0},
        "Focus": {"score": 1.0, "questions": 1, "incomplete": 0},
    }
    assert found["score"] == 0.75
    # Best of 3 is easier: a question of which an answer was left out is none, and neither is one of unknown length.
    short = [*pairs("3", 2.0, [1.0, 0.0]), *pairs("0", 2.0, [1.0], "Safety")]
    unknown = [replace(row, answers=None) for row in pairs("4", 2.0, [1.0, 0.0, 0.0])]
    fewer = best_of([*rows, *short, *unknown])
    assert fewer is not None
    assert fewer["subsets"] == {
        "Math": {"score": 0.5, "questions": 3, "incomplete": 2},
        "Focus": {"score": 1.0, "questions": 1, "incomplete": 0},
        "Safety": {"score": None, "questions": 0, "incomplete": 1},
    }
    assert fewer["score"] == 0.75
    none = best_of(short[2:])
    assert none is not None and none["score"] is None
    assert best_of([made_row(0)]) is None
