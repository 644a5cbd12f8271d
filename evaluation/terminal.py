"""The form that all tables have in the terminal: words to the left, figures to the right, no rules but one below the head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table


def plain_table(*titles: str, caption: str | None = None) -> Table:
    """Return a table without rows, the first column for words and the others for figures."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), caption=caption, caption_justify="left")
    for number, title in enumerate(titles):
        table.add_column(title, justify="right" if number else "left")
    return table


def with_interval(value: Mapping[str, Any], form: str) -> str:
    """Return a mean in a format, with its interval where there is one: `0.710 (0.650 to 0.770)`."""
    spread = "" if value["low"] is None else f" ({value['low']:{form}} to {value['high']:{form}})"
    return f"{value['mean']:{form}}{spread}"
