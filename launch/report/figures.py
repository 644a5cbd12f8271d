"""Figures: curves, points, intervals and distributions. Every function takes plain numbers and returns a `Drawing`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from llamatrain.pages.drawing import Axis, Drawing, Points, label, path

MOST_POINTS = 240  # of a line: more than its width in pixels shows
WIDE, NARROW = 460, 300  # of figures in a page of two or of three columns


@dataclass(frozen=True)
class Line:
    """One series: `style` is line, faint (what a smooth line is drawn over) or dots (few points, joined thinly).

    `spans` are the intervals of the values of dots.
    """

    name: str
    points: Points
    colour: int = 1
    style: str = "line"
    spans: Points = ()


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval; without one, `low` and `high` are None."""

    name: str
    mean: float
    low: float | None
    high: float | None
    colour: int = 1
    note: str = ""


# --- points ------------------------------------------------------------------------------------------------------


def thinned(points: Points) -> list[tuple[float, float]]:
    """Return at most MOST_POINTS points, each the mean of neighbours."""
    size = math.ceil(len(points) / MOST_POINTS) or 1
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


def _across(
    drawing: Drawing, axis: Axis, y: float, name: str, over: float | None = None, words: Sequence[str] = ()
) -> None:
    """Write a horizontal axis at height y, with lines up to `over` where it is given; `words` stand at 0, 1, 2, ..."""
    named = [(float(place), word) for place, word in enumerate(words)]
    for tick, text in named or [(tick, label(tick)) for tick in axis.ticks()]:
        if over is not None:
            drawing.line(axis(tick), over, axis(tick), y - 17, "grid")
        drawing.text(axis(tick), y, text, anchor="middle")
    if name:
        drawing.text((axis.start + axis.end) / 2, drawing.height - 2, name, anchor="middle")


def _up(drawing: Drawing, axis: Axis, left: float, right: float, marks: Sequence[float] = ()) -> None:
    for tick in marks or axis.ticks():
        drawing.line(left, axis(tick), right, axis(tick), "grid")
        drawing.text(left - 7, axis(tick) + 4, label(tick), anchor="end")


# --- figures -----------------------------------------------------------------------------------------------------


def line_chart(
    lines: Sequence[Line],
    x_label: str,
    y_label: str,
    about: str,
    width: int = WIDE,
    logarithmic: bool = False,
    bounds: tuple[float, float] | None = None,
    words: Sequence[str] = (),
) -> Drawing:
    """Return curves with named axes; `words` stand below x = 0, 1, 2, ... where those are no numbers.

    `logarithmic` is for positive values that fall over more than a factor of two; what lies beyond `bounds` is drawn at
    their edge, so that one wild value does not flatten the rest.
    """
    lines = [
        Line(line.name, _within(thinned(line.points), bounds), line.colour, line.style, line.spans)
        for line in lines
        if line.points
    ]
    xs, ys = list[float](), list[float]()
    for line in lines:
        xs += [x for x, _ in line.points]
        ys += [y for _, y in line.points]
        ys += itertools.chain.from_iterable(line.spans)  # an interval must fit in, too
    low, high = min(ys), max(ys)
    logarithmic = logarithmic and low > 0 and high / low > 2
    margin = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    bottom, top = (low / 1.06, high * 1.06) if logarithmic else (low - margin, high + margin)
    if not logarithmic and low >= 0:
        bottom = max(bottom, 0.0)
    drawing = Drawing(width, width // 2 + 10, about)
    left, right, under = 44.0, width - 12.0, drawing.height - 38
    across = Axis(min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1, left, right)
    up = Axis(bottom, top, under, 24, logarithmic)
    drawing.text(4, 11, f"{y_label} (logarithmic)" if logarithmic else y_label)
    _up(drawing, up, left, right)
    _across(drawing, across, under + 17, x_label, words=words)
    for line in lines:
        _draw_line(drawing, line, across, up)
    return drawing


def _draw_line(drawing: Drawing, line: Line, across: Axis, up: Axis) -> None:
    colour = f"c{line.colour}"
    for (x, _), (low, high) in zip(line.points, line.spans, strict=False):
        drawing.line(across(x), up(low), across(x), up(high), f"span {colour}")
    spots = [(across(x), up(y)) for x, y in line.points]
    drawing.add("path", f"{line.style} {colour}", "", line.name, d=path(spots))
    if line.style == "dots" or len(spots) == 1:
        for (x, y), (step, value) in zip(spots, line.points, strict=True):
            title = f"{line.name} {label(value)} at {label(step)}"
            drawing.add("circle", f"dot {colour}", "", title, cx=x, cy=y, r=3)


def _within(points: Points, bounds: tuple[float, float] | None) -> Points:
    return points if bounds is None else [(x, min(max(y, bounds[0]), bounds[1])) for x, y in points]


def scatter(
    points: Points, line: Points, x_label: str, y_label: str, about: str, colour: int, bounds: tuple[float, float]
) -> Drawing:
    """Return points with y in [0, 1] and x in `bounds`, and a line through the means of some of them."""
    drawing = Drawing(NARROW, 200, about)
    left, right, under = 34.0, drawing.width - 10, drawing.height - 36
    low, high = bounds if bounds[1] > bounds[0] else (bounds[0] - 1, bounds[0] + 1)
    across, up = Axis(low, high, left, right), Axis(0, 1, under, 24)
    drawing.text(4, 11, y_label)
    _up(drawing, up, left, right, (0, 0.5, 1))
    _across(drawing, across, under + 16, x_label)
    marks = "".join(f"M{across(x):.0f} {up(y):.0f}h0" for x, y in points)
    drawing.add("path", f"points c{colour}", d=marks)
    drawing.add("path", f"line c{colour}", d=path([(across(x), up(y)) for x, y in line]))
    return drawing


def intervals(
    rows: Sequence[Interval], about: str, zero: float | None = None, bounds: tuple[float, float] | None = None
) -> Drawing:
    """Return a dot with its interval a row; `zero` is the line of no difference, `bounds` what the axis holds at least."""
    edges = [v for row in rows for v in (row.mean, row.low, row.high) if v is not None]
    edges += [zero] if zero is not None else []
    edges += list(bounds or ())
    low, high = min(edges), max(edges)
    # Where the bounds hold all there is, such as shares in [0, 1], the axis ends with them.
    margin = 0.0 if bounds == (low, high) else (high - low) * 0.06 or 0.1
    step = 30
    drawing = Drawing(WIDE, step * len(rows) + 32, about)
    # Names stand left and notes right of the axis, so wide as their letters are.
    left = 14 + 8.2 * max(len(row.name) for row in rows)
    right = drawing.width - 14 - 7.6 * max(len(row.note) for row in rows)
    across = Axis(low - margin, high + margin, left, right)
    _across(drawing, across, drawing.height - 8, "", over=4)
    if zero is not None:
        drawing.line(across(zero), 4, across(zero), drawing.height - 26, "zero")
    for i, row in enumerate(rows):
        y = i * step + step / 2 + 4
        drawing.text(left - 12, y + 4, row.name, "name", "end")
        if row.low is not None and row.high is not None:
            drawing.line(across(row.low), y, across(row.high), y, f"whisker c{row.colour}")
        title = f"{row.name} {label(row.mean)}"
        drawing.add("circle", f"dot c{row.colour}", "", title, cx=across(row.mean), cy=y, r=5)
        drawing.text(drawing.width - 4, y + 4, row.note, anchor="end")
    return drawing


def ridges(rows: Sequence[tuple[str, Sequence[float], int]], x_label: str, about: str) -> Drawing:
    """Return one distribution a row (name, values, colour) over a common axis, and a mark at each mean."""
    bins, tall, step = 40, 46, 50
    drawing = Drawing(WIDE, step * len(rows) + 46, about)
    left, right = 14 + 8.2 * max(len(name) for name, _, _ in rows), drawing.width - 50.0
    low, high = min(min(values) for _, values, _ in rows), max(max(values) for _, values, _ in rows)
    across = Axis(*((low, high) if high > low else (low - 1, high + 1)), left, right)
    shapes = [_density([across(value) for value in values], left, right, bins) for _, values, _ in rows]
    highest = max(max(shape) for shape in shapes)
    _across(drawing, across, drawing.height - 20, x_label, over=6)
    for i, ((name, values, colour), shape) in enumerate(zip(rows, shapes, strict=True)):
        base = (i + 1) * step + 2.0
        spots = []
        for b, height in enumerate(shape):
            x = left + (b + 0.5) / bins * (right - left)
            spots.append((x, base - tall * (height / highest) ** 0.7))  # the power lets thin tails be seen
        outline = [(left, base), (left, spots[0][1]), *spots, (right, spots[-1][1]), (right, base)]
        average = sum(values) / len(values)
        mean = f"{average:.2f}".replace("-", "−")
        title = f"{name}: mean {mean} of {len(values)} responses"
        drawing.add("path", f"ridge c{colour}", "", title, d=f"{path(outline)}Z")
        drawing.line(across(average), base - tall * 0.8, across(average), base, f"mean c{colour}")
        drawing.text(left - 12, base - 6, name, "name", "end")
        drawing.text(drawing.width - 4, base - 6, mean, f"value c{colour}", "end")
    return drawing


def _density(places: Sequence[float], left: float, right: float, bins: int) -> list[float]:
    """Return the portion of places in each bin of [left, right], smoothed a little."""
    counts = [0.0] * bins
    for place in places:
        counts[min(bins - 1, max(0, int((place - left) / (right - left) * bins)))] += 1 / len(places)
    kernel = (0.06, 0.24, 0.4, 0.24, 0.06)
    return [
        sum(
            weight * counts[min(bins - 1, max(0, b + offset))]
            for offset, weight in zip(range(-2, 3), kernel, strict=True)
        )
        for b in range(bins)
    ]


def shares(parts: Sequence[tuple[str, float, str]], about: str) -> Drawing:
    """Return one bar divided among named amounts (name, amount, amount in words)."""
    drawing = Drawing(940, 30, about)
    total, x = sum(amount for _, amount, _ in parts) or 1.0, 0.0
    for name, amount, words in parts:
        wide = amount / total * drawing.width
        title = f"{name}: {words} ({amount / total:.0%})"
        drawing.add("rect", "bar c1", "", title, x=x, y=0, width=max(0.5, wide - 1.5), height=30, rx=3)
        if wide > 8.0 * len(name) + 8:
            drawing.text(x + wide / 2, 19.5, name, "on", "middle")
        x += wide
    return drawing


def histogram(
    values: Sequence[float], x_label: str, about: str, marks: Sequence[tuple[str, float]], colour: int = 1
) -> Drawing:
    """Return a distribution as bars, and a line at each of some named values."""
    bins = 40
    drawing = Drawing(WIDE, 190, about)
    left, right, under, over = 16.0, drawing.width - 16.0, drawing.height - 40, 34.0
    low, high = min(values), max(values)
    across = Axis(*((low, high) if high > low else (low - 1, high + 1)), left, right)
    counts = [0] * bins
    for value in values:
        counts[min(bins - 1, int((across(value) - left) / (right - left) * bins))] += 1
    _across(drawing, across, under + 17, x_label)
    wide = (right - left) / bins
    for number, count in enumerate(counts):
        tall = (under - over) * count / max(counts)
        title = f"{count / len(values):.1%}"
        place = {"x": left + number * wide, "y": under - tall, "width": wide - 1, "height": tall}
        if count:
            drawing.add("rect", f"bar c{colour}", "", title, **place)
    for number, (name, value) in enumerate(marks):
        drawing.line(across(value), over - 4, across(value), under, "zero")
        drawing.text(across(value), 12 + 12 * (number % 2), f"{name} {label(float(f'{value:.4g}'))}", anchor="middle")
    return drawing
