"""The card as a page in the report's style: self-contained, without scripts."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from llamatrain.pages.parts import Card
from llamatrain.pages.templates import templates

from .sections import NOT_KNOWN, NOT_STATED, Field, Section


def page(name: str, summary: str, sections: Sequence[Section], license_text: str = "", folder: str = "") -> str:
    """Return the page's HTML."""
    return (
        templates(Path(__file__).with_name("templates"))
        .get_template("card.html")
        .render(
            name=name,
            summary=summary,
            sections=sections,
            license=license_text,
            folder=folder,
            groups=_groups,
            lacking=(NOT_STATED, NOT_KNOWN),
        )
    )


def _groups(section: Section) -> Iterator[tuple[str, list[Field | Card]]]:
    """Yield the fields that follow one another together, and so the tables."""
    for kind, parts in itertools.groupby(section.parts, lambda part: "field" if isinstance(part, Field) else "table"):
        yield kind, list(parts)
