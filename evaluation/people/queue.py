"""In which order items are given to people."""

from __future__ import annotations

from collections.abc import Sequence

from .store import Item


def order(items: Sequence[Item]) -> list[Item]:
    """Return the items in the order in which they are given to raters: as they stand in the file."""
    return list(items)
