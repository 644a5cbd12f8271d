"""The report's building blocks in HTML: tables, cards, legends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from ..runs import decimals, is_number


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 1) -> str:
    """Return a table; columns from `numbers` on hold numbers. Cells are HTML."""

    def cells(tag: str, row: Sequence[str], scope: str = "") -> str:
        return "".join(
            f"<{tag}{scope}{' class=n' if i >= numbers else ''}>{cell}</{tag}>" for i, cell in enumerate(row)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    columns = cells("th", head, " scope=col")
    return f'<div class="scroll"><table><thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table></div>'


def card(title: str, body: str, note: str = "") -> str:
    """Return a framed figure or table with its title."""
    soft = f' <span class="soft">{note}</span>' if note else ""
    return f'<div class="card"><h3>{title}{soft}</h3>{body}</div>'


def legend(names: Iterable[tuple[str, int]]) -> str:
    """Return the colours' names."""
    keys = (f'<span><i class="key c{colour}"></i>{escape(name)}</span>' for name, colour in names)
    return f'<p class="legend">{"".join(keys)}</p>'


def spread(low: Any, high: Any, digits: int = 3) -> str:
    """Return an interval in words, nothing where there is none."""
    if not (is_number(low) and is_number(high)):
        return ""
    return f'<span class="range">{decimals(low, digits)} to {decimals(high, digits)}</span>'
