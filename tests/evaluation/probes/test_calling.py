"""Calls of tools: found in a text, worked out, searched."""

from __future__ import annotations

import pytest

from evaluation.probes.calling import Call, calculate, find_call, run_call, search
from evaluation.probes.matching import holds


@pytest.mark.parametrize(
    ("text", "call"),
    [
        ("calculator(3 * (4 + 5))", ("calculator", "3 * (4 + 5)")),
        ('I will look. SEARCH("red fox"). Then I go on: search(bear)', ("search", "red fox")),
        ("calculator(3 + and search(fox)", ("search", "fox")),  # the first is not closed
        ("no call of research(x) here", None),
        ("search", None),
    ],
)
def test_a_call_is_the_first_whose_brackets_are_closed(text: str, call: tuple[str, str] | None) -> None:
    found = find_call(text)
    assert (found and (found.tool, found.argument)) == call
    assert found is None or text[: found.end].endswith(")")


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("3 + 4 * 2", "11"),
        ("-(2 - 5) / 2", "1.5"),
        ("1,200 × 3 =", "3600"),
        ("1 / 3", "0.3333333333"),
        ("1 / 0", None),
        ("2 ** 99999", None),
        ("__import__('os')", None),
        ("abs(3)", None),
        ("True + 1", None),
        ("x + 1", None),
        ("", None),
        ("(" * 150 + "1" + ")" * 150, None),
    ],
)
def test_a_calculator_does_arithmetic_alone(expression: str, value: str | None) -> None:
    assert calculate(expression) == value


def test_search_finds_by_rare_words() -> None:
    texts = ["Tom went to the mill.", "Anna went to the inn.", "Anna has a hat."]
    assert search("Where did Anna go? went", texts) == texts[1]
    assert search("hat", texts) == texts[2]
    assert search("the", texts) == texts[0]  # the first of several
    assert search("zebra", texts) is None and search("zebra", []) is None
    assert run_call(Call("search", "zebra", 0), texts) == ("nothing found", False)
    assert run_call(Call("calculator", "1 +", 0), texts) == ("not a calculation", False)


def test_whole_words_and_numbers() -> None:
    assert holds("It is 1,200.50 in all.", ["1200.5"]) and not holds("It is 12005.", ["1200.5"])
    assert holds("The RED fox.", ["red fox"]) and not holds("redfox", ["red"]) and not holds("", [""])
    assert not holds("77", ["7"]) and holds("7.", ["7.0"])
