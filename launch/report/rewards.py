"""The report's card of the reward models: accuracy with rules beside it, both models, calibration, pairs worth reading."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from llamatrain.description import Beside, Cases, Listed, Reliability, Shares
from llamatrain.pages.parts import Card, Cell, Table, spread
from llamatrain.runs import Row, Shared, decimals, is_number, read_json

from ..stage_run import StageRun
from ..story import Story
from . import figures
from .figures import NARROW, Interval, Line
from .samples import clipped

COLOURS = (1, 2, 4, 3)  # of the models
SHADES = (5, 3, 0)  # of what is told beside ratings
A = TypeVar("A", Beside, Reliability, Listed, Cases)


def reward_models(story: Story) -> Row | None:
    """Return how often the reward models order held-out pairs as the annotators did, and what else is known of them."""
    cards, reliability, listed, cases = list[Card](), list[Card](), list[Card](), list[Row]()
    rows: list[tuple[str, str, Row]] = []
    groups: Mapping[str, str] = {}
    for number, (stage, about) in enumerate(_measured(story)):
        found, colour = read_json(stage.folder / about.file, Shared), COLOURS[number % 4]
        whose = next(iter(stage.reads(about.of)), stage.name)
        shares = _shares(found, about, colour)
        if shares:
            drawn = figures.intervals(shares, f"accuracy of {whose}", zero=0.5, bounds=(0.5, 1.0))
            cards.append(Card(whose, _count(found), drawn))
        for beside in _described(stage, Beside):
            groups = beside.groups
            rows += _beside(found, beside)
        for part in _described(stage, Reliability):
            reliability += _reliability(found, part, whose, colour)
        for one in _described(stage, Listed):
            listed += _listed(found, one, whose)
        for some in _described(stage, Cases):
            cases += _cases(found, some, whose)
    if not cards:
        return None
    both = _table(rows, groups) if rows else None
    return {"cards": cards, "both": both, "reliability": reliability, "listed": listed, "cases": cases}


def _measured(story: Story) -> list[tuple[StageRun, Shares]]:
    """Return the stages that measured shares, without those that another one pools."""
    found = [(stage, chart) for stage in story.stages for chart in stage.about.charts if isinstance(chart, Shares)]
    pooled = {name for stage, chart in found for name in stage.reads(chart.pools)}
    return [(stage, chart) for stage, chart in found if stage.name not in pooled]


def _described(stage: StageRun, kind: type[A]) -> Iterator[A]:
    for chart in stage.about.charts:
        if isinstance(chart, kind):
            yield chart


def _count(found: Row) -> str:
    pairs = (found.get("overall") or {}).get("pairs")
    return f"{pairs:,} held-out pairs" if is_number(pairs) else ""


def _shares(found: Row, about: Shares, colour: int) -> list[Interval]:
    parts = [("all pairs", found.get("overall"), 0)]
    for (key, names), shade in zip(about.groups.items(), (colour, *SHADES), strict=False):
        there = found.get(key) or {}
        parts += [
            (names.get(part, part), there[part], shade) for part in dict.fromkeys([*names, *there]) if part in there
        ]
    if [part for _, part, _ in parts].count(parts[0][1]) > 1:  # pairs of one kind only: they are all pairs
        parts = parts[:1]
    return [
        Interval(name, part["accuracy"], part.get("low"), part.get("high"), shade, decimals(part["accuracy"], 2))
        for name, part, shade in parts
        if isinstance(part, dict) and is_number(part.get("accuracy"))
    ]


def _beside(found: Row, about: Beside) -> Iterator[tuple[str, str, Row]]:
    """Yield model, kind of preferences and shares by group, where there are several models."""
    models = found.get("models") or {}
    for model, own in models.items() if len(models) > 1 else ():
        for kind, parts in own["by_kind"].items():
            yield model, kind, {name: parts[name] for name in about.groups if name in parts}


def _table(rows: Sequence[tuple[str, str, Row]], groups: Mapping[str, str]) -> Card:
    """Return a row per model and kind of preferences: table 8 of the paper."""
    there = [name for name in groups if any(name in parts for _, _, parts in rows)]
    cells = [
        [Cell(model, strong=True), kind, *(_share(parts.get(name)) for name in there)] for model, kind, parts in rows
    ]
    head = ["Model", "Preferences", *(groups[name] for name in there)]
    return Card("Both models on both kinds of preferences", "accuracy", table=Table(head, cells, numbers=2))


def _share(part: Row | None) -> Cell | str:
    if part is None:
        return "–"
    return Cell(decimals(part["accuracy"], 3), spread(part.get("low"), part.get("high"), 2), strong=True)


def _reliability(found: Row, about: Reliability, whose: str, colour: int) -> Iterator[Card]:
    """Yield, for each kind of prediction, what came of it over what was predicted."""
    for name, words in about.parts.items():
        part = (found.get(about.key) or {}).get(name)
        if part is None or len(part["bins"]) < 2:
            continue
        points = [(one["predicted"], one["observed"]) for one in part["bins"]]
        spans = [(one["low"], one["high"]) for one in part["bins"]]
        ends = (points[0][0], points[-1][0])
        lines = [Line("as predicted", [(end, end) for end in ends], 0, "faint")]
        lines.append(Line("observed", points, colour, "dots", spans))
        about_it = f"how well {whose} predicts: {words}"
        drawn = figures.line_chart(lines, "predicted probability", "share observed", about_it, NARROW)
        yield Card(f"{whose}: {words}", f"calibration error {decimals(part['ece'], 3)}", drawn)


def _listed(found: Row, about: Listed, whose: str) -> Iterator[Card]:
    if rows := found.get(about.key):
        head = ["", "Value", "95 % interval, or a note", "Of"]
        yield Card(
            f"{whose}: {about.title}",
            table=Table(head, [[name, Cell(value, strong=True), *rest] for name, value, *rest in rows]),
        )


def _cases(found: Row, about: Cases, whose: str) -> Iterator[Row]:
    for key, title in about.lists.items():
        there: Any = found
        for name in key.split("."):
            there = (there or {}).get(name)
        if there:
            yield {"title": f"{whose}: {title}", "rows": [_case(row, list(found.get("models") or {})) for row in there]}


def _case(row: Row, models: list[str]) -> Row:
    """Return a pair as the macro `rows` shows it: gaps are by how much the chosen response has the higher score."""
    gaps = [row[key] for key in ("gap", "other_gap") if key in row]
    names = models if len(models) >= len(gaps) else ["gap", "other"]
    marks = [f"{name} {decimals(gap, 2, '+')}" for name, gap in zip(names, gaps, strict=False)]
    rating = str(row.get("rating") or "unrated").replace("_", " ")
    return {
        "number": row["row"] + 1,
        "why": "",
        "prompt": clipped(row["prompt"]),
        "texts": [(side, "", clipped(row[side])) for side in ("chosen", "rejected")],
        "unfinished": False,
        "marks": " · ".join([rating, *marks]),
    }
