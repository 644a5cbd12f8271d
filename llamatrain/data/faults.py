"""Preferences from which nothing can be learned: found, counted by reason, and the first of each named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from llamatrain.data.skipped import NAMED, named, warned

SIDES = ("chosen", "rejected")
FAULTS = {  # why a pair is left out -> in words
    "equal": "with two equal answers",
    "empty": "with an empty answer",
    "unsafe_chosen": "whose chosen answer is unsafe and rejected answer safe",
    "too_long": "longer than the context",
}


def fault(row: Mapping[str, Any]) -> str | None:
    """Return why nothing can be learned from a preference (of FAULTS); None where something can.

    A pair of equal answers ranks nothing, an empty answer is none, and the paper drops pairs whose chosen answer is
    unsafe while the other is safe (3.2.1).
    """
    chosen, rejected = row["chosen"].strip(), row["rejected"].strip()
    if chosen == rejected:
        return "equal"
    if not chosen or not rejected:
        return "empty"
    if row.get("chosen_safe") is False and row.get("rejected_safe") is True:
        return "unsafe_chosen"
    return None


class LeftOutPairs(Counter[str]):
    """Reason of FAULTS -> pairs left out; `first` has the places of the first ones of each."""

    def __init__(self) -> None:
        super().__init__()
        self.first: dict[str, list[str]] = {}

    def note(self, why: str, where: str) -> None:
        """Count a pair that stands at `where` (file:line)."""
        self[why] += 1
        places = self.first.setdefault(why, [])
        if len(places) < NAMED:
            places.append(where)

    def in_words(self) -> str:
        """Return for people how many pairs were left out and why."""
        return ", ".join(f"{count:,} {FAULTS[why]}" for why, count in self.items())

    def lines(self, path: str, kept: int) -> str:
        """Return a line about the pairs of a file that were left out, a warning where they are many, and one a reason."""
        total = kept + self.total()
        head = warned(f"{path}: of {total:,} pairs left out {self.in_words()}", self.total(), total)
        return "\n".join(
            [head, *(f"  {FAULTS[why]}: {named(places, self[why])}" for why, places in self.first.items())]
        )
