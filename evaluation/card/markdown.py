"""The card as Markdown: the body of README.md."""

from __future__ import annotations

import re
from collections.abc import Sequence

from llamatrain.pages.parts import Card, Cell, Table

from .sections import Field, Section


def body(name: str, summary: str, sections: Sequence[Section]) -> str:
    """Return the card below its metadata."""
    lines = [f"# {escaped(name)}", ""]
    if summary:
        lines += [summary, ""]
    for section in sections:
        lines += [f"## {section.title}", ""]
        for part in section.parts:
            lines += _card(part) if isinstance(part, Card) else _field(part)
    return "\n".join(lines).rstrip() + "\n"


def _field(field: Field) -> list[str]:
    return [f"**{field.name}** {field.text}", ""]


def _card(card: Card) -> list[str]:
    assert card.table is not None, card.title
    note = f" ({card.note})" if card.note else ""
    return [f"### {escaped(card.title + note)}", "", *table(card.table), ""]


def table(made: Table) -> list[str]:
    """Return a table's lines."""
    numbers = len(made.head) - made.numbers
    head = [f"| {' | '.join(map(escaped, made.head))} |", f"|{'---|' * made.numbers}{'---:|' * numbers}"]
    return [*head, *(f"| {' | '.join(map(_cell, row))} |" for row in made.rows)]


def _cell(cell: Cell | str) -> str:
    if isinstance(cell, str):
        return escaped(cell)
    text = f"**{escaped(cell.text)}**" if cell.strong and cell.text else escaped(cell.text)
    return f"{text} ({escaped(cell.note)})" if cell.note else text


def escaped(text: str) -> str:
    """Return a text that was measured, or a name, so that Markdown takes nothing in it for more."""
    return re.sub(r"([\\`*_|<>\[\]#])", r"\\\1", " ".join(text.split()))
