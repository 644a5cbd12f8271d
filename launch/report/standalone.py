"""Drawings as a file of their own: an SVG in the report's style, which follows light and dark as the page does."""

from __future__ import annotations

import re
from collections.abc import Sequence

from llamatrain.pages.drawing import Drawing
from llamatrain.pages.templates import SHARED

from .page import templates

OWN = """
svg { font: 12px ui-sans-serif, system-ui, sans-serif; }
svg .title { fill: var(--ink); font-size: 13.5px; font-weight: 600; }
svg .ground { fill: var(--card); }
"""


def svg(title: str, drawings: Sequence[tuple[str, Drawing]]) -> str:
    """Return named drawings, one below the other, under a title."""
    top, placed = 54.0, list[tuple[float, str, Drawing]]()
    for name, drawing in drawings:
        placed.append((top, name, drawing))
        top += drawing.height + 34
    width = max(drawing.width for _, drawing in drawings)
    return (
        templates()
        .get_template("drawings.svg")
        .render(title=title, placed=placed, width=width, height=top - 20, style=style())
        .lstrip()
    )


def style() -> str:
    """Return what of the page's style drawings need: its colours and the rules of shapes."""
    page = (SHARED / "page.css").read_text(encoding="utf-8")
    colours, _, rest = page.partition("/* the page */")
    return colours + OWN + "\n".join(re.findall(r"^svg \.[^\n]*$", rest, re.M))
