"""Two texts that arrive piece by piece, in two columns: a row is there as soon as both its lines are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import zip_longest

from rich.cells import cell_len, chop_cells

from .wrapping import wrapped

GAP = "  "
NARROWEST = 36  # cells of a column: with less, texts stand under each other


def column(width: int) -> int:
    """Return how wide each of two columns is where a line has `width` cells; 0 where there is no room for two."""
    each = (width - len(GAP)) // 2
    return each if each >= NARROWEST else 0


def beside(left: Iterable[str], right: Iterable[str], width: int) -> Iterator[str]:
    """Yield rows of two texts, in columns of `width` cells."""
    for one, other in zip_longest(_lines(left, width), _lines(right, width), fillvalue=""):
        yield f"{one}{' ' * (width - cell_len(one))}{GAP}{other}".rstrip()


def _lines(pieces: Iterable[str], width: int) -> Iterator[str]:
    """Yield a text's lines as they get whole, none wider than `width` cells."""
    line = ""
    for piece in wrapped(pieces, width):
        *whole, line = (line + piece).split("\n")
        for one in whole:
            yield from chop_cells(one, width) or [""]
    yield from chop_cells(line, width)
