"""What a model card is made of, whatever it is written as: sections with named fields, tables and texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llamatrain.pages.parts import Card

NOT_STATED, NOT_KNOWN = "Not stated.", "Not known."


@dataclass(frozen=True)
class Field:
    """A named text: a line of the card's form."""

    name: str
    text: str


@dataclass(frozen=True)
class Section:
    """A part of the card; a part of its own without a name is plain text."""

    anchor: str
    title: str
    parts: Sequence[Field | Card]


def said(name: str, text: str | None) -> Field:
    """Return what people say, or that they do not."""
    return Field(name, (text or "").strip() or NOT_STATED)
