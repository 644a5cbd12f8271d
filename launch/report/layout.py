"""Where the boxes of a graph stand: in columns by what they need, in bands of columns like lines of text.

Every box stands right of what it needs. Edges over several columns have a place in each (a `Bend`; one for all edges
from a box), so that no line runs through a box.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Parents = Mapping[str, Sequence[str]]
SWEEPS = 8


@dataclass(frozen=True)
class Bend:
    """Where edges from a box pass a column."""

    source: str
    column: int


Item = str | Bend
Neighbours = dict[Item, list[Item]]


def reduced(parents: Parents) -> dict[str, list[str]]:
    """Return the graph without edges that others imply: where a is needed by b and b by c, not a by c."""
    above: dict[str, set[str]] = {}
    found: dict[str, list[str]] = {}
    for name, own in parents.items():
        implied = set[str]().union(*(above[parent] for parent in own))
        above[name] = implied | set(own)
        found[name] = [parent for parent in dict.fromkeys(own) if parent not in implied]
    return found


def depths(parents: Parents) -> dict[str, int]:
    """Return after how many others, at the most, each box can come at the earliest."""
    depth: dict[str, int] = {}
    for name, own in parents.items():
        depth[name] = max((depth[parent] + 1 for parent in own), default=0)
    return depth


def columns_of(parents: Parents) -> dict[str, int]:
    """Return each box's column: right of all it needs; what something waits for stands just left of that."""
    column = depths(parents)
    for name in reversed(list(parents)):
        after = [column[child] for child, own in parents.items() if name in own]
        column[name] = min(after) - 1 if after else column[name]
    return column


@dataclass(frozen=True)
class Layout:
    """Columns of items from the top, lines between items of neighbouring columns, and the bands of columns."""

    columns: list[list[Item]]
    lines: list[tuple[Item, Item]]
    bands: list[range]


def layout(parents: Parents, widest: int) -> Layout:
    """Lay out a graph whose boxes come in an order in which each follows what it needs; bands have at most `widest` columns."""
    edges, column = reduced(parents), columns_of(parents)
    columns: list[list[Item]] = [[] for _ in range(max(column.values(), default=-1) + 1)]
    lines: dict[tuple[Item, Item], None] = {}  # as a set that keeps its order
    for name, own in edges.items():
        columns[column[name]].append(name)
        for parent in own:
            last: Item = parent
            for between in range(column[parent] + 1, column[name]):
                bend = Bend(parent, between)
                lines[last, bend] = None
                last = bend
            lines[last, name] = None
    for bend in dict.fromkeys(target for _, target in lines if isinstance(target, Bend)):
        columns[bend.column].append(bend)
    columns = _untangled(columns, list(lines))
    return Layout(columns, list(lines), _bands(columns, list(lines), widest))


def _untangled(columns: list[list[Item]], lines: Sequence[tuple[Item, Item]]) -> list[list[Item]]:
    """Order each column by where its neighbours stand, to and fro, and keep the order with the fewest crossings."""
    before, after = _neighbours(lines)
    best, least = columns, crossings(columns, lines)
    for sweep in range(SWEEPS):
        columns = [list(items) for items in columns]
        forth = sweep % 2 == 0
        for number in range(1, len(columns)) if forth else range(len(columns) - 2, -1, -1):
            near = before if forth else after
            beside = _shares(columns[number - 1 if forth else number + 1])
            means = {item: _mean([beside[one] for one in near.get(item, [])]) for item in columns[number]}
            columns[number].sort(key=means.__getitem__)  # the barycentre heuristic
        _swap(columns, before, after)
        found = crossings(columns, lines)
        if found < least:
            best, least = columns, found
    return best


def _swap(columns: list[list[Item]], before: Neighbours, after: Neighbours) -> None:
    """Swap neighbours in a column as long as fewer of their lines cross then."""
    for number, items in enumerate(columns):
        sides = [
            (before, columns[number - 1] if number else []),
            (after, columns[number + 1] if number + 1 < len(columns) else []),
        ]
        place = [(near, {item: k for k, item in enumerate(beside)}) for near, beside in sides]
        changed = True
        while changed:
            changed = False
            for k in range(len(items) - 1):
                here, there = items[k : k + 2]
                kept = swapped = 0  # crossings of the two items' lines as they stand, and the other way round
                for near, at in place:
                    pairs = [(at[one], at[other]) for one in near.get(here, []) for other in near.get(there, [])]
                    kept += sum(one > other for one, other in pairs)
                    swapped += sum(one < other for one, other in pairs)
                if swapped < kept:
                    items[k : k + 2] = [there, here]
                    changed = True


def _shares(items: Sequence[Item]) -> dict[Item, float]:
    """Return where items stand in their column, from 0 to 1."""
    return {item: (k + 0.5) / len(items) for k, item in enumerate(items)}


def _neighbours(lines: Sequence[tuple[Item, Item]]) -> tuple[Neighbours, Neighbours]:
    before: Neighbours = {}
    after: Neighbours = {}
    for source, target in lines:
        before.setdefault(target, []).append(source)
        after.setdefault(source, []).append(target)
    return before, after


def _mean(places: Sequence[float]) -> float:
    return sum(places) / len(places) if places else 0.5


def crossings(columns: Sequence[Sequence[Item]], lines: Sequence[tuple[Item, Item]]) -> int:
    """Return how many pairs of lines cross."""
    place = {item: (number, k) for number, items in enumerate(columns) for k, item in enumerate(items)}
    ends = [(*place[source], place[target][1]) for source, target in lines]  # column, height there, height in the next
    found = 0
    for (column, left, right), (other, other_left, other_right) in itertools.combinations(ends, 2):
        # They cross where one begins above the other and ends below it.
        found += column == other and (left - other_left) * (right - other_right) < 0
    return found


def _bands(columns: Sequence[Sequence[Item]], lines: Sequence[tuple[Item, Item]], widest: int) -> list[range]:
    """Divide columns into bands where the fewest lines pass from one to the next, and not into more than is needed."""
    left = {item: number for number, items in enumerate(columns) for item in items}
    passing = [sum(left[source] == number - 1 for source, _ in lines) for number in range(len(columns) + 1)]
    # The cheapest division of the first so many columns, from those of fewer: its cost and where its last band starts.
    cost, start = [0.0], [0]
    for end in range(1, len(columns) + 1):
        options = [(cost[first] + 2 + passing[first], first) for first in range(max(0, end - widest), end)]
        least, first = min(options, key=lambda option: (option[0], -option[1]))
        cost.append(least)
        start.append(first)
    found, end = list[range](), len(columns)
    while end:  # back from the last band
        found.append(range(start[end], end))
        end = start[end]
    return found[::-1]


def places(
    columns: Sequence[Sequence[Item]], lines: Sequence[tuple[Item, Item]], box: float, bend: float
) -> dict[Item, float]:
    """Return each item's middle, from 0 at the top: boxes `box` apart, bends `bend`, near the middle of their neighbours."""
    here = {item for items in columns for item in items}
    before, after = _neighbours([line for line in lines if here.issuperset(line)])
    size = {item: bend if isinstance(item, Bend) else box for item in here}
    place: dict[Item, float] = {}
    for items in columns:
        place |= dict(zip(items, _apart([0.0] * len(items), [size[item] for item in items]), strict=True))
    for sweep in range(SWEEPS + 1):  # to the right and back: what an item wants follows from where its neighbours are
        near = (before, after) if sweep % 2 == 0 else (after, before)
        for items in columns if sweep % 2 == 0 else reversed(columns):
            wanted = [_wanted(item, place, near) for item in items]
            place |= dict(zip(items, _apart(wanted, [size[item] for item in items]), strict=True))
    top = min((place[item] - size[item] / 2 for item in here), default=0.0)
    return {item: y - top for item, y in place.items()}


def _wanted(item: Item, place: Mapping[Item, float], near: Sequence[Mapping[Item, Sequence[Item]]]) -> float:
    beside = near[0].get(item) or near[1].get(item) or []
    return _mean([place[one] for one in beside]) if beside else place[item]


def _apart(wanted: Sequence[float], sizes: Sequence[float]) -> list[float]:
    """Return the places nearest to those wanted (least squares), in their order and with room for each size."""
    offsets = [sum(sizes[:k]) + size / 2 for k, size in enumerate(sizes)]
    blocks: list[list[float]] = []  # without the offsets the places must only rise: pool neighbours that do not
    for want, offset in zip(wanted, offsets, strict=True):
        blocks.append([want - offset, 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (a, m), (b, n) = blocks[-2:]
            blocks[-2:] = [[(a * m + b * n) / (m + n), m + n]]
    level = [value for value, count in blocks for _ in range(int(count))]
    return [value + offset for value, offset in zip(level, offsets, strict=True)]
