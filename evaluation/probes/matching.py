"""Whether an answer holds what it should: whole words, whatever their case, and numbers however they are written."""

from __future__ import annotations

import re
from collections.abc import Iterable

WORD = re.compile(r"\d+(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\w+")


def words_of(text: str) -> list[str]:
    """Return the words and numbers of a text: `1,200.50` is `1200.5`."""
    return [_plain(word) for word in WORD.findall(text.lower())]


def holds(text: str, accepted: Iterable[str]) -> bool:
    """Tell whether a text has one of some phrases as whole words."""
    spaced = f" {' '.join(words_of(text))} "
    return any(f" {' '.join(words_of(phrase))} " in spaced for phrase in accepted if words_of(phrase))


def _plain(word: str) -> str:
    if not word[0].isdigit() or not word.replace(",", "").replace(".", "").isdigit():
        return word
    whole, _, rest = word.replace(",", "").partition(".")
    rest = rest.rstrip("0")
    return f"{whole}.{rest}" if rest else whole
