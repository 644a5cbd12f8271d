"""Words are never broken, lines never too long, and the text is what came but for spaces at a line's end."""

from __future__ import annotations

import random

import pytest

from launch.wrapping import collapsed, wrapped


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a pig is pink.", ["a pig", "is", "pink."]),
        ("pig", ["pig"]),
        ("", [""]),
        ("a  b\n\n  c ", ["a  b", "", "  c "]),
        ("a hippopotamus is", ["a", "hippopotamus", "is"]),
        ("fives fives", ["fives", "fives"]),
    ],
)
def test_lines(text: str, lines: list[str]) -> None:
    assert "".join(wrapped([text], 5)).split("\n") == lines


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("a\nb", "a\nb"),
        ("a\n\nb", "a\n\nb"),
        ("a\n\n\n\n  b", "a\n\n  b"),
        ("a\n \n \n\tb c ", "a\n\n\tb c "),
        ("a\n\n\n", "a"),
        ("\n\n\n", ""),
    ],
)
def test_of_several_blank_lines_one_is_left_and_none_at_the_end(text: str, left: str) -> None:
    assert "".join(collapsed([text])) == "".join(collapsed(text)) == left


@pytest.mark.parametrize("seed", range(20))
def test_it_does_not_matter_how_the_text_is_cut(seed: int) -> None:
    draw = random.Random(seed)
    text = "".join(draw.choice("abc  \n") for _ in range(200))
    cuts = sorted(draw.sample(range(200), 40))
    pieces = [text[begin:end] for begin, end in zip([0, *cuts], [*cuts, 200], strict=True)]
    whole = "".join(wrapped([text], 12))
    assert "".join(wrapped(pieces, 12)) == whole
    assert whole.split() == text.split()
    assert all(len(line.rstrip()) <= 12 or " " not in line.strip() for line in whole.split("\n"))


def test_a_word_is_shown_as_soon_as_it_is_whole() -> None:
    read: list[str] = []

    def pieces() -> list[str]:
        return ["The", " red", " fox"]

    for shown in wrapped((read.append(piece) or piece for piece in pieces()), 80):  # type: ignore[func-returns-value]
        if shown == "The":
            assert read == ["The", " red"]
    assert "".join(wrapped(pieces(), 80)) == "The red fox"
