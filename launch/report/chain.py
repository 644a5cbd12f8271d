"""The drawing of a pipeline: its stages as boxes, in the order in which each needs the others, with their sizes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from llamatrain.pages.drawing import Drawing, Points

from .layout import Bend, Item, Layout, depths, layout, places

GAP, BEND, CORNER = 22.0, 16.0, 7.0  # between columns; the height of a line that passes a column; the radius of turns
NAME, SIZE = 13.0, 12.5  # heights of lines of text
LANE = 12.0  # beside and between bands, where lines go from the end of one to the start of the next


@dataclass(frozen=True)
class Box:
    """A stage as it is drawn: `colour` is its model's, `size` how much it made, `state` one of those of page.css."""

    name: str
    parents: Sequence[str]
    size: str
    state: str
    colour: int | None
    title: str


def folded(boxes: Sequence[Box]) -> list[Box]:
    """Return the boxes, those that differ in their number only (the folds of a cross-validation) as one."""
    known = {box.name for box in boxes}
    depth = depths({box.name: [one for one in box.parents if one in known] for box in boxes})
    groups: dict[tuple[str, int], list[Box]] = {}
    for box in sorted(boxes, key=lambda box: depth[box.name]):  # of one depth, so that none needs another of its group
        groups.setdefault((re.sub(r"_\d+$", "_#", box.name), depth[box.name]), []).append(box)
    names = {box.name: _group_name(group) for group in groups.values() for box in group}
    found = []
    for group in groups.values():
        own = [one for box in group for one in box.parents if one in known]
        parents = list(dict.fromkeys(names[one] for one in own))  # the folds of a parent are one box, too
        size = group[0].size if len(group) == 1 else f"{len(group)} runs"
        state = next((box.state for box in group if box.state != "done"), "done")
        title = "\n".join(box.title for box in group)
        found.append(replace(group[0], name=names[group[0].name], parents=parents, size=size, state=state, title=title))
    return found


def _group_name(group: Sequence[Box]) -> str:
    first, last = group[0].name, group[-1].name
    return first if len(group) == 1 else f"{first}…{last.rpartition('_')[2]}"


def chain(boxes: Sequence[Box], columns: int, width: float, letter: float) -> Drawing:
    """Draw the boxes, `columns` of them side by side across `width`, for letters of names that are so wide."""
    boxes = folded(boxes)
    found = layout({box.name: box.parents for box in boxes}, columns)
    wide = (width - 2 * LANE - (columns - 1) * GAP) / columns
    texts = {box.name: _text(box, wide - 16, letter) for box in boxes}
    # All boxes are as tall as the one with most to say, so that their middles line up.
    tall = 16 + max(NAME * len(name) + SIZE * len(size) for name, size in texts.values())
    left, middle, bottoms = _placed(found, wide, tall)
    drawing = Drawing(width, bottoms[-1] + 2, "the stages of the pipeline and their inputs")
    for source, target in found.lines:
        start = (left[source] + wide, middle[source])
        end = (left[target], middle[target])
        # Into another band the line runs along the lane below the first one.
        below = next((bottom for bottom in bottoms[:-1] if middle[source] < bottom < middle[target]), None)
        _connect(drawing, start, end, isinstance(target, Bend), wide, below)
    for box in boxes:
        _draw(drawing, box, texts[box.name], left[box.name], middle[box.name], wide, tall)
    return drawing


def _placed(found: Layout, wide: float, tall: float) -> tuple[dict[Item, float], dict[Item, float], list[float]]:
    """Return every item's left edge and middle, and the bottom of every band."""
    left: dict[Item, float] = {}
    middle: dict[Item, float] = {}
    bottom, bottoms = 0.0, []
    for band in found.bands:
        columns = [found.columns[number] for number in band]
        inside = places(columns, found.lines, tall + 10, BEND)
        for k, items in enumerate(columns):
            left |= dict.fromkeys(items, LANE + k * (wide + GAP))
        middle |= {item: bottom + y for item, y in inside.items()}
        bottom += max(y + (BEND if isinstance(item, Bend) else tall + 10) / 2 for item, y in inside.items()) + LANE
        bottoms.append(bottom - LANE / 2)
    return left, middle, bottoms


def _connect(
    drawing: Drawing, start: tuple[float, float], end: tuple[float, float], bend: bool, wide: float, below: float | None
) -> None:
    """Draw a line from a box's right to another's left, or through a bend; by the lane `below` to the next band."""
    (x1, y1), (x2, y2) = start, end
    if below is None:
        half = (x1 + x2) / 2
        way = f"M{x1:.1f} {y1:.1f}C{half:.1f} {y1:.1f} {half:.1f} {y2:.1f} {x2:.1f} {y2:.1f}"
    else:
        right, side = x1 + LANE - 2, x2 - LANE + 2
        way = _turning([(x1, y1), (right, y1), (right, below), (side, below), (side, y2), (x2, y2)])
    drawing.add("path", "wire", d=f"{way}h{wide:.1f}" if bend else way)
    if not bend:
        drawing.add("path", "head", d=f"M{x2:.1f} {y2:.1f}l-6 -3.5v7z")


def _turning(spots: Points) -> str:
    """Return a way along lines that are level or upright, its corners round."""
    way = f"M{spots[0][0]:.1f} {spots[0][1]:.1f}"
    for before, (x, y), after in zip(spots, spots[1:], spots[2:], strict=False):
        ends = []
        for ox, oy in (before, after):
            length = abs(ox - x) + abs(oy - y)
            share = min(CORNER, length / 2) / length if length else 0
            ends.append((x + (ox - x) * share, y + (oy - y) * share))
        (ax, ay), (bx, by) = ends
        way += f"L{ax:.1f} {ay:.1f}Q{x:.1f} {y:.1f} {bx:.1f} {by:.1f}"
    return f"{way}L{spots[-1][0]:.1f} {spots[-1][1]:.1f}"


def _draw(
    drawing: Drawing, box: Box, text: tuple[list[str], list[str]], left: float, middle: float, wide: float, tall: float
) -> None:
    top = middle - tall / 2
    drawing.add("rect", f"stage {box.state}", "", box.title, x=left, y=top, width=wide, height=tall, rx=6)
    if box.colour is not None:
        drawing.add("rect", f"bar c{box.colour}", x=left, y=top + 6, width=4, height=tall - 12, rx=2)
    name, size = text
    y = middle - (NAME * len(name) + SIZE * len(size)) / 2 - 2.5
    for line in name:
        drawing.text(left + 9, y := y + NAME, line, "name")
    for line in size:
        drawing.text(left + 9, y := y + SIZE, line, "tick")


def _text(box: Box, room: float, letter: float) -> tuple[list[str], list[str]]:
    """Return a box's lines: its name, broken after `_`, and its size, broken between words."""
    name = _lines(re.findall(r"[^_]+_*|_+", box.name), int(room / letter), "")
    return name, _lines(box.size.split(), int(room / letter * 1.19), " ")


def _lines(words: Iterable[str], most: int, between: str) -> list[str]:
    lines: list[str] = []
    for word in words:
        if lines and len(f"{lines[-1]}{between}{word}".rstrip("_")) <= most:
            lines[-1] += between + word
        else:
            lines.append(word)
    return [line if len(line.rstrip("_")) <= most else f"{line[: most - 1]}…" for line in lines]
