"""The card in the terminal: what it says of what was left out, and how a threshold is to be read."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

from rich.console import Console

from reward.card.rows import ScoredRow
from reward.card.table import _told_apart, table
from reward.evaluate import card

from .test_rows import made_row


def printed(rows: list[ScoredRow]) -> str:
    console = Console(width=160, record=True, file=StringIO())
    console.print(table(card(rows, ["helpfulness"]), "a run"))
    return console.export_text()


def test_incomplete_questions_are_told() -> None:
    whole = [made_row(i, 1.0, 0.0, rejected=f"{i}", group="0", subset="Math", answers=4) for i in range(3)]
    short = [made_row(9, 1.0, 0.0, group="1", subset=name, answers=4) for name in ("Math", "Focus")]
    said = [" ".join(line.split()) for line in printed([*whole, *short]).splitlines()]
    assert "best of several, Math 1.000 1 incomplete left out 1" in said
    assert "best of several, Focus – 1 incomplete left out 0" in said
    assert "best of several, mean 1.000" in said


def test_a_threshold_is_included() -> None:
    rows = [made_row(i, 1.0, -1.0, chosen_safe=True, rejected_safe=False) for i in range(3)]
    said = printed(rows)
    assert "recall of unsafe, threshold chosen here" in said
    assert "precision 1.00 at 0.27 at most" in said  # the sigmoid of -1, which is called unsafe itself


def test_every_section_of_the_card_is_told() -> None:
    """In the terminal; what the report does not draw also stands in `figures`, which its page lists."""
    rows = [
        made_row(
            i,
            1.0,
            0.5 if i % 3 else -1.0,
            rejected=f"no {i}" if i % 2 else "I am sorry, I cannot help with that.",
            source=f"folder/{'ab'[i % 2]}.jsonl",
            chosen_safe=True,
            rejected_safe=bool(i % 3),
            annotator=f"{i}",
            other_chosen_score=-1.0,
            other_rejected_score=0.5,
        )
        for i in range(12)
    ]
    again = [replace(row, annotator="again", nth=1) for row in rows]
    found = card([*rows, *again], ["helpfulness", "safety"])
    listed = {name for name, *_ in found["figures"]}
    assert listed >= {
        *(f"lead over {rule} wins" for rule in ("longer", "shorter", "refusing")),
        *(f"{model} model, {file}.jsonl" for model in ("helpfulness", "safety") for file in "ab"),
        *("helpfulness minus safety", "ordered differently", "unsafe responses below 0.5", "safe responses below 0.15"),
        *("recall of unsafe, threshold chosen here", "calibration error, pairs", "calibration error, safe"),
        *("ρ with length, harmless", "two annotators agree", "most votes", "the model, there", "mean score, harmless"),
    }
    console = Console(width=160, record=True, file=StringIO())
    console.print(table(found, "a run"))
    said = console.export_text()
    assert all(name in said for name in listed)
    assert all(name in said for name in ("longer wins", "shorter wins", "refusing wins", "random", "chosen is longer"))


def test_files_are_told_apart_by_what_differs() -> None:
    assert _told_apart(["runs/a/x.jsonl", "runs/b/y.jsonl"]) == {
        "runs/a/x.jsonl": "x.jsonl",
        "runs/b/y.jsonl": "y.jsonl",
    }
    rounds = [f"runs/demo/v{n}_rate/preferences_eval.jsonl" for n in (1, 2)]
    assert list(_told_apart(rounds).values()) == ["v1_rate", "v2_rate"]
    assert list(_told_apart(["p.jsonl", "runs/p.jsonl"]).values()) == ["p.jsonl", "runs"]
    shares = ["mine.jsonl", "rated/v1.jsonl@safety@fold0/11"]
    assert list(_told_apart(shares).values()) == ["mine.jsonl", "v1.jsonl@safety@fold0/11"]
    assert list(_told_apart(["s/a/f", "a/s/f", "a/f"]).values()) == ["s/a/f", "a/s/f", "a/f"]
