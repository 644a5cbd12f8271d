"""The page can be read: by its colours, in light, in dark and on paper."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from evaluation.card import page as card
from launch.report import page as report
from llamatrain.pages.templates import SHARED

TEMPLATES = [SHARED, *(Path(str(page.__file__)).with_name("templates") for page in (report, card))]
STYLE, PAPER = ((SHARED / f"{name}.css").read_text() for name in ("page", "print"))
LIGHT, DARK = re.findall(r":root \{(.*?)\}", STYLE, re.S)
SCHEMES = {"light": LIGHT, "dark": DARK, "paper": re.findall(r":root \{(.*?)\}", PAPER, re.S)[0]}
SERIES = [f"c{number}" for number in range(8)]


def named(pattern: str) -> set[str]:
    """Return the variables that are used so, `k` being any of the series."""
    found = set(re.findall(pattern, STYLE + PAPER))
    return found - {"k"} | set(SERIES if "k" in found else ())


def luminance(colour: str) -> float:
    """Return a colour's relative luminance (WCAG 2.2)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """Return two colours' contrast, from 1 to 21."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_text_has_a_contrast_of_4_5_and_lines_of_3(scheme: str) -> None:
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", SCHEMES[scheme]))
    texts = named(r"[{;\s]color: var\(--(\w+)\)") | named(r"svg \.(?:tick|name|value) \{ fill: var\(--(\w+)\)")
    grounds = named(r"background: var\(--(\w+)\)") - set(SERIES)  # those are keys, without text
    assert {"ink", "soft", "accent", *SERIES} <= texts and grounds == {"page", "card", "tint"}
    for text, ground in itertools.product(texts, grounds):
        assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    for series in SERIES:  # of a name within a bar
        assert contrast(colours["card"], colours[series]) >= 4.5, series
    lines = named(r"stroke: var\(--(\w+)\)") - {
        "line",
        "card",
    }  # a grid and an outline only part what is told otherwise
    for line in lines:
        assert contrast(colours[line], colours["card"]) >= 3, line


def test_text_is_never_made_pale() -> None:
    rules = re.findall(r"([^{}]+)\{[^{}]*[\s;]opacity:", STYLE + PAPER)
    assert {rule.strip() for rule in rules} == {f"svg .{kind}" for kind in ("faint", "span", "whisker", "points")}


def test_every_class_of_a_template_or_drawing_is_styled() -> None:
    """A class that nothing styles is a misspelt one, or left over."""
    styled = set(re.findall(r"\.([a-z]\w*(?:-\w+)?)", re.sub(r"/\*.*?\*/|url\(.*?\)", "", STYLE + PAPER)))
    used = {
        name
        for path in (path for folder in TEMPLATES for path in folder.glob("*.html"))
        for value in re.findall(r'class="([^"{]*)', path.read_text())
        for name in value.split()
    }
    assert used - {"c"} <= styled
