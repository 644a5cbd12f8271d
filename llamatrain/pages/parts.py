"""What the page's sections are made of: cards, tables and their cells, which parts.html writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..runs import decimals, is_number
from .drawing import Drawing


@dataclass(frozen=True)
class Cell:
    """A table's cell: text, a note beside it, the key of a colour before it; `kind` is a class of page.css."""

    text: str
    note: str = ""
    strong: bool = False
    kind: str = ""
    colour: int | None = None


@dataclass(frozen=True)
class Table:
    """A table; columns from `numbers` on hold numbers."""

    head: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    numbers: int = 1


@dataclass(frozen=True)
class Card:
    """A framed figure or table: its title and a note beside it, the colours' names below."""

    title: str
    note: str = ""
    drawing: Drawing | None = None
    legend: Sequence[tuple[str, int]] = ()
    table: Table | None = None


def spread(low: Any, high: Any, digits: int = 3) -> str:
    """Return an interval in words, nothing where there is none."""
    return f"{decimals(low, digits)} to {decimals(high, digits)}" if is_number(low) and is_number(high) else ""
