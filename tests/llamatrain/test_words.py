"""Lengths in words, and that all who say "longer wins" mean the same by it."""

from __future__ import annotations

from llamatrain.words import won, words
from reward.card.rulers import rulers
from sft.figures import Figures

from ..reward.card.test_rows import made_row


def test_length_is_in_words() -> None:
    assert words(" In the  forest.\n") == 3


def test_a_tie_is_half_right() -> None:
    assert [won(2, 1), won(1, 2), won(1, 1)] == [1.0, 0.0, 0.5]


def test_longer_wins_in_data_as_on_the_card() -> None:
    """In characters one of the four pairs would be another way round, and none a tie."""
    pairs = [("a b c", "internationalization"), ("one two", "ten eleven"), ("a", "b c"), ("I do not", "no")]
    figures = Figures("preference", len)
    for number, (chosen, rejected) in enumerate(pairs, start=1):
        row = {"messages": [{"role": "user", "content": "Why?"}], "chosen": chosen, "rejected": rejected}
        figures.add({**row, "kind": "helpfulness"}, f"p:{number}")
    rows = [made_row(i, chosen=chosen, rejected=rejected) for i, (chosen, rejected) in enumerate(pairs)]
    assert float(figures.longer_wins) == rulers(rows)["longer"]["accuracy"] == 2.5 / 4
