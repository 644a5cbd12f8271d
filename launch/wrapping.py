"""Text that arrives piece by piece: broken between words where a terminal would break it within one, without wide gaps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator


def collapsed(pieces: Iterable[str]) -> Iterator[str]:
    """Yield the text of `pieces` with one blank line where several follow each other, and none at its end.

    Line ends are held back until something follows: a model may write nothing else.
    """
    gap = ""
    for piece in pieces:
        text = ""
        for character in piece:
            if character == "\n" or (gap and character.isspace()):
                gap += character
            else:
                indent = gap.rpartition("\n")[2]
                text += (gap if gap.count("\n") < 3 else f"\n\n{indent}") + character
                gap = ""
        if text:
            yield text


def wrapped(pieces: Iterable[str], width: int) -> Iterator[str]:
    """Yield the text of `pieces` in lines of at most `width` characters.

    A word is held back until what follows shows that it is whole; one longer than a line is left to the terminal.
    """
    column, gap, word = 0, "", ""

    def placed() -> str:
        nonlocal column, gap, word
        # A word that begins a line stays there, however long: another break would only leave an empty one.
        anew = bool(word) and column > 0 and column + len(gap) + len(word) > width
        text = f"\n{word}" if anew else f"{gap}{word}"
        column = len(word) if anew else column + len(text)
        gap = word = ""
        return text

    for character in (character for piece in pieces for character in piece):
        if character not in " \n":
            word += character
        elif character == " ":
            if word:
                yield placed()
            gap += character
        else:
            yield placed() + character
            column = 0
    yield placed()
