"""Rules beside the model, by hand."""

from __future__ import annotations

import pytest

from reward.card.rulers import by_length, correlations, rulers

from .test_rows import made_row

REFUSAL = "I cannot help with that, and I will not do it for anybody."
ROWS = [
    made_row(0),  # the model is right; so is "longer wins"
    made_row(1, -1.0, 0.0, chosen="Here.", rejected="It is over there."),  # wrong; shorter wins
    made_row(2, 2.0, 1.0, chosen="One two.", rejected="Three four."),  # right; as long as the other
    made_row(3, 1.0, 0.5, chosen=REFUSAL, rejected="So."),  # right; the refusal wins
]


def test_a_tie_is_half_right() -> None:
    found = rulers(ROWS)
    assert {name: part["accuracy"] for name, part in found.items()} == {
        "longer": 2.5 / 4,
        "shorter": 1.5 / 4,
        "refusal": 2.5 / 4,
        "random": 0.5,
    }
    assert found["longer"]["lead"]["difference"] == pytest.approx(0.75 - 0.625)
    assert found["longer"]["lead"]["low"] < 0 < found["longer"]["lead"]["high"]
    assert all(part["pairs"] == 4 for part in found.values())


def test_pairs_by_which_one_is_longer() -> None:
    found = by_length([*ROWS, made_row(4, chosen="a " * 20, rejected="b " * 19)])
    assert {name: (part["accuracy"], part["pairs"]) for name, part in found.items()} == {
        "matched": (1.0, 2),
        "chosen_longer": (1.0, 2),
        "chosen_shorter": (0.0, 1),
    }


def test_correlations_are_by_kind_of_prompt() -> None:
    long = [made_row(i, 2.0 + i, -1.0 - i) for i in range(5)]  # the longer answer always has the higher score
    short = [made_row(i, -1.0 - i, 2.0 + i, is_adversarial=True) for i in range(5)]
    found = correlations([*long, *short])
    assert found["harmless"]["length"]["mean"] > 0.8
    assert found["adversarial"]["length"]["mean"] < -0.8
    assert "refusal" not in found["harmless"]  # no answer refuses: nothing varies


def test_pairs_of_one_prompt_count_for_less() -> None:
    apart = [made_row(i, float(i % 2)) for i in range(20)]
    alike = [made_row(i // 10, float(i // 10)) for i in range(20)]  # two prompts, all of one right, all of one wrong
    for rows in (apart, alike, [*apart, *alike, *ROWS]):  # the lead is that of the accuracies beside it
        right, longer = sum(row.correct for row in rows) / len(rows), rulers(rows)["longer"]
        assert longer["lead"]["difference"] == pytest.approx(right - longer["accuracy"])
    wide, narrow = (rulers(rows)["longer"]["lead"] for rows in (alike, apart))
    assert wide["high"] - wide["low"] > 2 * (narrow["high"] - narrow["low"])
