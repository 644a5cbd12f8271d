"""A drawing: shapes at places, which a template writes as inline SVG, and what figures have in common.

Colours are numbers 0 to 7, the series of page.css, so that drawings follow light, dark and print.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Shape:
    """An SVG element: its tag, its attributes, the text in it, what a reader is told who points at it, and where it leads."""

    tag: str
    attributes: dict[str, str | float]
    text: str = ""
    title: str = ""
    link: str = ""


@dataclass(frozen=True)
class Drawing:
    """Shapes in the order of painting, on a ground of so many units; `about` says it to those who do not see it."""

    width: float
    height: float
    about: str
    shapes: list[Shape] = field(default_factory=list)

    def add(self, tag: str, kind: str, text: str = "", title: str = "", /, **attributes: str | float) -> None:
        """Add a shape of a class of page.css; `_` in an attribute's name stands for `-`."""
        known = {name.replace("_", "-"): _short(value) for name, value in attributes.items()}
        self.shapes.append(Shape(tag, {"class": kind, **known} if kind else dict(known), text, title))

    def text(self, x: float, y: float, text: str, kind: str = "tick", anchor: str = "") -> None:
        """Add a line of text."""
        self.add("text", kind, text, x=x, y=y, **({"text-anchor": anchor} if anchor else {}))

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        """Add a straight line."""
        self.add("line", kind, x1=x1, y1=y1, x2=x2, y2=y2)


def _short(value: str | float) -> str | float:
    return value if isinstance(value, str) else round(value, 1)


# --- numbers to places -------------------------------------------------------------------------------------------


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Return round numbers within [low, high], at most about `most` of them."""
    if not high > low:
        return [low]
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(step * factor for factor in (1, 2, 2.5, 5, 10) if (high - low) / (step * factor) <= most)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return 1, 2, 3, 5 times powers of ten within [low, high], or evenly spaced ones where those are too few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [factor * 10.0**power for power in powers for factor in (1, 2, 3, 5)]
    within = [tick for tick in found if low <= tick <= high]
    return within if len(within) > 2 else ticks(low, high, 4)


def label(value: float) -> str:
    """Write a tick: 0.25, −1.5, 20k, 3M."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size * (1 if size > 1e3 else 10):
            return f"{value / size:g}{unit}".replace("-", "−")
    return f"{value:.4g}".replace("-", "−")


@dataclass(frozen=True)
class Axis:
    """Values in [low, high] at places from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """Return a value's place."""
        if self.logarithmic:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, most: int = 5) -> list[float]:
        """Return what is written beside it."""
        return log_ticks(self.low, self.high) if self.logarithmic else ticks(self.low, self.high, most)


def path(spots: Points) -> str:
    """Return straight lines from spot to spot, as a path's `d`."""
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in spots)
