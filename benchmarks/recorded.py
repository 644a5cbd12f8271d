"""What the studies share: starting programs, lines of results, and pictures drawn by the report's code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

from chain import commit, machine

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"
COLOURS = ("#676d79", "#2a66cc", "#0b7a74", "#ad5208", "#7d45ba", "#c03050", "#4d7718", "#86610f")  # of page.css
STYLE = """text{font:12px sans-serif;fill:#5b626d}.name{fill:#1d2129}.title{font-weight:600;fill:#1d2129}.grid{stroke:#e3e0d9}
.dots{fill:none;stroke:var(--k);stroke-dasharray:2 3}.dot{fill:var(--k)}.span{stroke:var(--k);stroke-width:2;opacity:.3}
.line,.faint{fill:none;stroke:var(--k);stroke-width:1.8}.faint{opacity:.45}.ridge{fill:var(--k);fill-opacity:.22;stroke:var(--k)}.mean{stroke:var(--k);stroke-width:2}.value{fill:var(--k)}"""


def start(*arguments: str) -> None:
    """Start a program of this checkout; a finished run has nothing left to do."""
    subprocess.run(
        [sys.executable, "-m", "launch", *arguments],
        cwd=ROOT,
        env={**os.environ, "WANDB_MODE": "disabled"},
        check=True,
    )


def add(name: str, line: dict[str, Any]) -> None:
    """Add a line to the results of a study, with the day, the commit and the machine."""
    about = {"date": datetime.now(UTC).date().isoformat(), "commit": commit(), "machine": machine()}
    with (RESULTS / f"{name}.jsonl").open("a") as file:
        file.write(json.dumps({**line, **about}) + "\n")


def lines_of(name: str) -> list[dict[str, Any]]:
    """Return the lines of a study's results."""
    path = RESULTS / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def ends(one: Any) -> list[float] | None:
    """Return an interval as its mean and ends; None where there is none."""
    return None if one is None or one.low is None else [round(value, 4) for value in (one.mean, one.low, one.high)]


def svg(drawn: Sequence[tuple[str, Sequence[tuple[str, int]], Any]], columns: int = 2, gap: float = 34) -> str:
    """Return drawings in columns, each below its title and legend, as the text of one SVG file."""
    width = max(drawing.width for _, _, drawing in drawn)
    bottoms, parts = [0.0] * columns, list[str]()
    for number, (title, legend, drawing) in enumerate(drawn):
        column = number % columns
        x, y = column * (width + gap), bottoms[column]
        parts.append(f'<text class="title" x="{x:.0f}" y="{y + 16:.0f}">{escape(title)}</text>')
        for place, (name, colour) in enumerate(legend):
            at = x + width - (150 if len(legend) < 3 else 270 / len(legend)) * (len(legend) - place)
            parts.append(f'<text x="{at:.0f}" y="{y + 16:.0f}" style="fill:{COLOURS[colour]}">■ {escape(name)}</text>')
        parts.append(f'<g transform="translate({x:.0f} {y + 28:.0f})">')
        for shape in drawing.shapes:
            names = str(shape.attributes.get("class", "")).split()
            colour = next((int(name[1:]) for name in names if name[:1] == "c" and name[1:].isdigit()), 0)
            given = " ".join(f'{name}="{escape(str(value))}"' for name, value in shape.attributes.items())
            parts.append(f'<{shape.tag} {given} style="--k:{COLOURS[colour]}">{escape(shape.text)}</{shape.tag}>')
        parts.append("</g>")
        bottoms[column] = y + drawing.height + 28 + gap
    size = f"{columns * (width + gap):.0f} {max(bottoms):.0f}"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-8 0 {size}" role="img">'
    return "\n".join(
        [head, f"<style>{STYLE}</style>", '<rect x="-8" width="100%" height="100%" fill="#fff"/>', *parts, "</svg>\n"]
    )
