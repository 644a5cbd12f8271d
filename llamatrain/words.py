"""Lengths in words, and which of two responses a rule that needs no model picks by them: "longer wins"."""

from __future__ import annotations


def words(text: str) -> int:
    """Return the length of a text in words."""
    return len(text.split())


def won(chosen: float, rejected: float) -> float:
    """Return 1 where the chosen response has more of what a rule goes by, 0 where it has less; a tie is half right."""
    return 0.5 if chosen == rejected else float(chosen > rejected)
