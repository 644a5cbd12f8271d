"""Figures as inline SVG: their colours are the page's CSS variables, so they follow light, dark and print.

Every function takes plain numbers and returns an `<svg>` element. Colours are numbers 0 to 7: the series of report.css.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

Points = Sequence[tuple[float, float]]

MOST_POINTS = 240  # of a line: more than its width in pixels shows


@dataclass(frozen=True)
class Line:
    """One series: `style` is line, faint (what a smooth line is drawn over) or dots (few points, joined thinly)."""

    name: str
    points: Points
    colour: int = 1
    style: str = "line"


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval; without one, `low` and `high` are None."""

    name: str
    mean: float
    low: float | None
    high: float | None
    colour: int = 1
    note: str = ""


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


def thinned(points: Points, most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """Return at most `most` points, each the mean of neighbours."""
    size = math.ceil(len(points) / most) or 1
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]


def smoothed(points: Points) -> list[tuple[float, float]]:
    """Return the points as a centred moving average over about a twentieth of them."""
    half = max(1, len(points) // 40)
    sums = [0.0]
    for _, y in points:
        sums.append(sums[-1] + y)
    found = []
    for i, (x, _) in enumerate(points):
        first, last = max(0, i - half), min(len(points), i + half + 1)
        found.append((x, (sums[last] - sums[first]) / (last - first)))
    return found


def _svg(width: float, height: float, parts: Sequence[str], about: str) -> str:
    body = "".join(parts)
    return f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(about)}">{body}</svg>'


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(text)}</text>'


# --- figures -----------------------------------------------------------------------------------------------------


def line_chart(
    lines: Sequence[Line],
    x_label: str,
    y_label: str,
    about: str,
    width: int = 460,
    height: int = 230,
    logarithmic: bool = False,
    bounds: tuple[float, float] | None = None,
) -> str:
    """Return curves with named axes.

    `logarithmic` is for positive values that fall over more than a factor of two; what lies beyond `bounds` is drawn at
    their edge, so that one wild value does not flatten the rest.
    """
    lines = [
        Line(line.name, _within(thinned(line.points), bounds), line.colour, line.style) for line in lines if line.points
    ]
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    low, high = min(ys), max(ys)
    logarithmic = logarithmic and low > 0 and high / low > 2
    margin = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    bottom, top = (low / 1.06, high * 1.06) if logarithmic else (low - margin, high + margin)
    if not logarithmic and low >= 0:
        bottom = max(bottom, 0.0)
    left, right, over, under = 44, width - 12, 24, height - 38
    first, last = min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1

    def place(value: float) -> float:
        share = math.log(value / bottom) / math.log(top / bottom) if logarithmic else (value - bottom) / (top - bottom)
        return under - share * (under - over)

    def across(step: float) -> float:
        return left + (step - first) / (last - first) * (right - left)

    parts = [_text(4, 11, f"{y_label} (logarithmic)" if logarithmic else y_label, "tick")]
    for tick in log_ticks(bottom, top) if logarithmic else ticks(bottom, top):
        y = place(tick)
        parts.append(f'<line x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        parts.append(_text(left - 7, y + 4, label(tick), "tick", "end"))
    for tick in ticks(first, last):
        parts.append(_text(across(tick), under + 17, label(tick), "tick", "middle"))
    parts.append(_text((left + right) / 2, height - 2, x_label, "tick", "middle"))
    for line in lines:
        spots = [(across(x), place(y)) for x, y in line.points]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in spots)
        parts.append(f'<path d="{path}" class="{line.style} c{line.colour}"><title>{escape(line.name)}</title></path>')
        if line.style == "dots" or len(spots) == 1:
            for (x, y), (step, value) in zip(spots, line.points, strict=True):
                title = f"<title>{escape(line.name)} {label(value)} at {label(step)}</title>"
                parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" class="dot c{line.colour}">{title}</circle>')
    return _svg(width, height, parts, about)


def _within(points: Points, bounds: tuple[float, float] | None) -> Points:
    return points if bounds is None else [(x, min(max(y, bounds[0]), bounds[1])) for x, y in points]


def scatter(
    points: Points, line: Points, x_label: str, y_label: str, about: str, colour: int, bounds: tuple[float, float]
) -> str:
    """Return points with y in [0, 1] and x in `bounds`, and a line through the means of some of them."""
    width, height = 300, 200
    left, right, over, under = 34, width - 10, 24, height - 36
    low, high = bounds if bounds[1] > bounds[0] else (bounds[0] - 1, bounds[0] + 1)

    def spot(x: float, y: float) -> str:
        return f"{left + (x - low) / (high - low) * (right - left):.0f} {under - y * (under - over):.0f}"

    parts = [_text(4, 11, y_label, "tick"), _text((left + right) / 2, height - 2, x_label, "tick", "middle")]
    for tick in (0, 0.5, 1):
        y = under - tick * (under - over)
        parts.append(f'<line x1="{left}" x2="{right}" y1="{y:.0f}" y2="{y:.0f}" class="grid"/>')
        parts.append(_text(left - 7, y + 4, label(tick), "tick", "end"))
    for tick in ticks(low, high):
        x = left + (tick - low) / (high - low) * (right - left)
        parts.append(_text(x, under + 16, label(tick), "tick", "middle"))
    marks = "".join(f"M{spot(x, y)}h0" for x, y in points)
    parts.append(f'<path d="{marks}" class="points c{colour}"/>')
    parts.append(f'<path d="M{"L".join(spot(x, y) for x, y in line)}" class="line c{colour}"/>')
    return _svg(width, height, parts, about)


def intervals(
    rows: Sequence[Interval],
    about: str,
    zero: float | None = None,
    bounds: tuple[float, float] | None = None,
    width: int = 460,
) -> str:
    """Return a dot with its interval a row; `zero` is the line of no difference, `bounds` what the axis holds at least."""
    edges = [v for row in rows for v in (row.mean, row.low, row.high) if v is not None]
    edges += [zero] if zero is not None else []
    edges += list(bounds or ())
    low, high = min(edges), max(edges)
    margin = 0.0 if bounds == (low, high) else (high - low) * 0.06 or 0.1
    low, high = low - margin, high + margin
    left = 14 + 7.1 * max(len(row.name) for row in rows)
    right, step = width - 14 - 6.4 * max(len(row.note) for row in rows), 30
    height = step * len(rows) + 32

    def across(value: float) -> float:
        return left + (value - low) / (high - low) * (right - left)

    parts = []
    for tick in ticks(low, high, 5):
        x = across(tick)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="4" y2="{height - 26}" class="grid"/>')
        parts.append(_text(x, height - 8, label(tick), "tick", "middle"))
    if zero is not None:
        parts.append(f'<line x1="{across(zero):.1f}" x2="{across(zero):.1f}" y1="4" y2="{height - 26}" class="zero"/>')
    for i, row in enumerate(rows):
        y = i * step + step / 2 + 4
        parts.append(_text(left - 12, y + 4, row.name, "name", "end"))
        if row.low is not None and row.high is not None:
            x1, x2 = across(row.low), across(row.high)
            parts.append(f'<line x1="{x1:.1f}" x2="{x2:.1f}" y1="{y}" y2="{y}" class="whisker c{row.colour}"/>')
        title = f"<title>{escape(row.name)} {label(row.mean)}</title>"
        parts.append(f'<circle cx="{across(row.mean):.1f}" cy="{y}" r="5" class="dot c{row.colour}">{title}</circle>')
        parts.append(_text(width - 4, y + 4, row.note, "tick", "end"))
    return _svg(width, height, parts, about)


def ridges(rows: Sequence[tuple[str, Sequence[float], int]], x_label: str, about: str, width: int = 460) -> str:
    """Return one distribution a row (name, values, colour) over a common axis, and a mark at each mean."""
    bins, tall, step = 40, 46, 50
    left, right = 14 + 7.1 * max(len(name) for name, _, _ in rows), width - 46.0
    height = step * len(rows) + 46
    low, high = min(min(values) for _, values, _ in rows), max(max(values) for _, values, _ in rows)
    low, high = (low, high) if high > low else (low - 1, high + 1)
    shapes = [_density([(value - low) / (high - low) for value in values], bins) for _, values, _ in rows]
    highest = max(max(shape) for shape in shapes)

    def across(value: float) -> float:
        return left + (value - low) / (high - low) * (right - left)

    parts = [_text((left + right) / 2, height - 2, x_label, "tick", "middle")]
    for tick in ticks(low, high):
        x = across(tick)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="6" y2="{height - 38}" class="grid"/>')
        parts.append(_text(x, height - 20, label(tick), "tick", "middle"))
    for i, ((name, values, colour), shape) in enumerate(zip(rows, shapes, strict=True)):
        base = (i + 1) * step + 2.0
        spots = [
            (left + (b + 0.5) / bins * (right - left), base - tall * (height_ / highest) ** 0.7)
            for b, height_ in enumerate(shape)
        ]
        outline = "L".join(f"{x:.1f} {y:.1f}" for x, y in [(left, spots[0][1]), *spots, (right, spots[-1][1])])
        mean = f"{sum(values) / len(values):.2f}".replace("-", "−")
        title = f"<title>{escape(name)}: mean {mean} of {len(values)} responses</title>"
        parts.append(
            f'<path d="M{left:.1f} {base}L{outline}L{right:.1f} {base}Z" class="ridge c{colour}">{title}</path>'
        )
        x = across(sum(values) / len(values))
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{base - tall * 0.8:.1f}" y2="{base}" class="mean c{colour}"/>'
        )
        parts.append(_text(left - 12, base - 6, name, "name", "end"))
        parts.append(_text(width - 4, base - 6, mean, f"value c{colour}", "end"))
    return _svg(width, height, parts, about)


def _density(shares: Sequence[float], bins: int) -> list[float]:
    """Return the portion of numbers in each bin of [0, 1], smoothed a little."""
    counts = [0.0] * bins
    for share in shares:
        counts[min(bins - 1, max(0, int(share * bins)))] += 1 / len(shares)
    kernel = (0.06, 0.24, 0.4, 0.24, 0.06)
    return [
        sum(
            weight * counts[min(bins - 1, max(0, b + offset))]
            for offset, weight in zip(range(-2, 3), kernel, strict=True)
        )
        for b in range(bins)
    ]


def shares(parts: Sequence[tuple[str, float, str]], about: str, width: int = 940) -> str:
    """Return one bar divided among named amounts (name, amount, amount in words)."""
    total, x, drawn = sum(amount for _, amount, _ in parts) or 1.0, 0.0, []
    for name, amount, words in parts:
        wide = amount / total * width
        title = f"<title>{escape(name)}: {escape(words)} ({amount / total:.0%})</title>"
        drawn.append(
            f'<rect x="{x:.1f}" y="0" width="{max(0.5, wide - 1.5):.1f}" height="30" rx="3" class="bar c1">{title}</rect>'
        )
        if wide > 8.0 * len(name) + 8:
            drawn.append(_text(x + wide / 2, 19.5, name, "on", "middle"))
        x += wide
    return _svg(width, 30, drawn, about)
