"""The picture of scaling curves: a page with a figure for all pairs and for each rating."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from llamatrain import atomic
from llamatrain.pages.parts import Card

from . import figures
from .figures import Line
from .page import templates

Curve = Sequence[
    tuple[float, float, float, float]
]  # pairs, and of the seeds the mean accuracy, the lowest, the highest


def write_picture(path: Path, like: str, chance: str, curves: Mapping[str, Mapping[str, Curve]]) -> None:
    """Write the page: title of a figure -> name of a line -> its curve; `chance` says how far one accuracy can be off."""
    cards = []
    for title, lines in curves.items():
        drawn = [
            Line(name, [(x, y) for x, y, _, _ in curve], number, "dots", [(low, high) for _, _, low, high in curve])
            for number, (name, curve) in enumerate(lines.items(), 1)
        ]
        legend = [(one.name, one.colour) for one in drawn]
        about = f"accuracy on {title} over the pairs trained on"
        cards.append(Card(title, "", figures.line_chart(drawn, "pairs trained on", "accuracy", about), legend))
    page = templates().get_template("scaling.html").render(like=like, chance=chance, cards=cards)
    atomic.write_bytes(path, page.encode(errors="replace"))
