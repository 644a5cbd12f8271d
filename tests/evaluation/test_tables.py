"""The terminal's tables say who gives which marks, in which unit, and fit 80 columns."""

from __future__ import annotations

from io import StringIO
from typing import Any

from rich.console import Console

from evaluation.measures import COMPARED, Measured, report
from evaluation.tables import tables
from llamatrain.statistics import mean_interval


def printed(found: dict[str, Any]) -> str:
    """Return both tables as an 80-column terminal shows them."""
    console = Console(file=StringIO(), width=80)
    for table in tables(found):
        console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def model(value: float) -> Measured:
    """Return a model's measures of a harmless and an adversarial prompt, twice."""
    found = Measured(is_adversarial={"h": False, "u": True})
    for metric in (*COMPARED, "gated", "finished", "length"):
        for prompt in "hu":
            for sample in range(2):
                found.add(metric, prompt, value + 0.1 * sample)
    return found


def test_who_says_what_in_which_unit_on_80_columns() -> None:
    text = printed(report({name: model(0.1 * i) for i, name in enumerate(("base", "sft", "rs", "ppo"))}, None, 0.001))
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    start = lines.index(next(line for line in lines if line.startswith("by the gold judge")))
    first = [line.rstrip().split("  0.")[0].strip() for line in lines[start : start + 10]]
    assert first[:3] == ["by the gold judge", "helpfulness", "safety"]
    assert first[3:7] == ["by the reward models", "helpfulness", "safety", "combined"]
    assert first[7:] == ["of the responses", "scored unsafe", "finished"]
    assert lines.count(next(line for line in lines if line.startswith("Spearman with judge"))) == 2  # a kind each
    assert "length in words" in text
    assert "a pretrained model's responses are not scored here" in " ".join(text.split())
    assert "safety, gold judge" in text and "safety, reward models" in text
    assert "1 adversarial prompt\n" in "\n".join(map(str.rstrip, text.splitlines()))


def test_recall_stands_beside_how_many_dialogues_reach_the_turn() -> None:
    found = report({"a": Measured(), "b": Measured()}, None, 0.001)
    found["models"]["a"] |= {"recall_turn_2": mean_interval([1.0] * 40).as_dict()}
    found["models"]["b"] |= {f"recall_turn_{turn}": mean_interval([0.5] * (60 - turn)).as_dict() for turn in (2, 20)}
    rows = [line.split() for line in printed(found).splitlines()]
    assert ["dialogues", "40", "58"] in rows and ["dialogues", "-", "40"] in rows


def test_without_reward_models_there_is_no_word_of_them() -> None:
    found = report({"a": Measured({"length": {"h": [3.0]}})}, None, 0.001)
    assert "reward" not in printed(found)
