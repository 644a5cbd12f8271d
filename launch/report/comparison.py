"""Several pipelines on one page: their models' results with the spread over seeds, what was configured otherwise, and curves.

Pipelines whose configurations differ in seeds alone are one group, and stand in one row: means, and from where to where
the seeds reach. All else is set side by side.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

from llamatrain.description import Measure
from llamatrain.errors import UserError
from llamatrain.pages.parts import Card, Cell, Table, spread
from llamatrain.progress import counted
from llamatrain.runs import Row, decimals, is_number

from ..story import Story
from . import figures
from .figures import Interval, Line
from .page import templates
from .training import charts_of

SEED = re.compile(r"(^|\.)seed$")
MOST = 80  # differences that are listed


@dataclass(frozen=True)
class Group:
    """Pipelines that differ in their seeds alone."""

    name: str
    colour: int
    stories: Sequence[Story]

    @property
    def runs(self) -> str:
        """How many there are, where there are several."""
        return f"{self.name} ({len(self.stories)} runs)" if len(self.stories) > 1 else self.name


class Comparison:
    """Pipelines, and what the page tells of them."""

    def __init__(self, stories: Sequence[Story]) -> None:
        self.stories = stories

    @cached_property
    def names(self) -> list[str]:
        """What the pipelines are called: their names or, where these are alike, their folders."""
        names = [story.name for story in self.stories]
        if len(set(names)) == len(names):
            return names
        parts = [story.folder.absolute().parts for story in self.stories]
        if len(set(parts)) < len(parts):
            raise UserError(f"others: {self.stories[0].folder} stands twice; need different folders")
        return list(map("/".join, _without_shared(_without_shared(parts, 1), -1)))

    @cached_property
    def groups(self) -> list[Group]:
        """The pipelines by what they were configured to do, in the order in which they were given."""
        found: dict[str, list[int]] = {}
        for place, story in enumerate(self.stories):
            found.setdefault(str(sorted(_settings(story).items())), []).append(place)
        return [
            Group(self.names[places[0]], number % 7 + 1, [self.stories[place] for place in places])
            for number, places in enumerate(found.values())
        ]

    # --- results ---

    def results(self) -> list[Card]:
        """Return what was measured of every model: on each kind of prompts what counts there, then the rest."""
        about = next((story.measured[0] for story in self.stories if story.evaluation), None)
        if about is None:
            return []
        cards, told = list[Card](), set[str]()
        for kind, metrics in about.of_kind.items():
            found = [[(story.evaluation.get("by_kind") or {}).get(kind) for story in g.stories] for g in self.groups]
            card = self._table(f"On {kind} prompts", found, metrics, about.known)
            cards += [card] if card else []
            told.update(metrics if card else ())
        everything = [[story.evaluation for story in group.stories] for group in self.groups]
        rest = [metric for metric in about.known if metric not in told]
        card = self._table("Over all prompts", everything, rest, about.known)
        return [*cards, *([card] if card else [])]

    def _table(
        self, title: str, found: Sequence[Sequence[Any]], metrics: Sequence[str], known: Mapping[str, Measure]
    ) -> Card | None:
        """Return a row per model and group, and a column a metric, of rows with `models` of each pipeline."""
        parts = [[(row or {}).get("models") or {} for row in rows] for rows in found]
        models = dict.fromkeys(model for rows in parts for row in rows for model in row)
        values = {
            (model, place, metric): [one for row in rows if _value(one := row.get(model, {}).get(metric)) is not None]
            for model in models
            for place, rows in enumerate(parts)
            for metric in metrics
        }
        there = [
            metric for metric in metrics if any(values[model, k, metric] for model in models for k in range(len(parts)))
        ]
        cells = list[list[Cell | str]]()
        for model in models:
            for place, group in enumerate(self.groups):
                row = [values[model, place, metric] for metric in there]
                if any(row):
                    told = [_over_runs(one, known[metric].digits) for one, metric in zip(row, there, strict=True)]
                    cells.append([Cell(model, strong=True, colour=group.colour), group.runs, *told])
        if not cells:
            return None
        head = ["Model", "Pipeline", *(f"{known[m].title}{_by(known[m])}" for m in there)]
        return Card(title, self._note(), table=Table(head, cells, numbers=2))

    def _note(self) -> str:
        several, alone = (any((len(g.stories) > 1) is many for g in self.groups) for many in (True, False))
        told = ["of several runs from the least to the most"] if several else []
        told += ["of a single run the 95 % interval over prompts"] if alone else []
        return f"means; {', '.join(told)}"

    def charts(self) -> list[Card]:
        """Return the two measures that count first, of every pipeline's last model."""
        about = next((story.measured[0] for story in self.stories if story.evaluation), None)
        cards = []
        for metric in list(about.known)[:2] if about else ():
            rows = list[Interval]()
            for group in self.groups:
                last = [list((story.evaluation.get("models") or {}).items())[-1:] for story in group.stories]
                found = [one for pair in last for _, model in pair if (one := _value(model.get(metric))) is not None]
                if found:
                    low, high = (min(found), max(found)) if len(found) > 1 else (None, None)
                    rows.append(Interval(group.name, fmean(found), low, high, group.colour, decimals(fmean(found), 3)))
            if rows and about:
                known = about.known[metric]
                drawn = figures.intervals(rows, f"{known.title} of the last models", bounds=known.bounds)
                cards.append(Card(known.title, f"of the last model, {known.by}".rstrip(", "), drawn))
        return cards

    # --- configuration ---

    def differences(self) -> Card | None:
        """Return what was configured otherwise, a column a group; None where nothing was, or only seeds."""
        settings = [_settings(group.stories[0]) for group in self.groups]
        keys = dict.fromkeys(key for own in settings for key in own)
        stages = [[stage.name for stage in group.stories[0].stages] for group in self.groups]
        shared = set(stages[0]).intersection(*stages)
        own_stages = [", ".join(name for name in own if name not in shared) for own in stages]
        rows: list[list[Cell | str]] = []
        if any(own_stages):
            rows.append([Cell("stages of its own", strong=True), *(names or "–" for names in own_stages)])
        for key in keys:
            told = [str(own[key]) if key in own else "–" for own in settings]
            if key.partition(" ")[0] in shared and len(set(told)) > 1:
                rows.append([key, *told])
        if not rows:
            return None
        note = f"the first {MOST} of {len(rows):,}" if len(rows) > MOST else counted(len(rows), "difference")
        table = Table(
            ["Stage and key", *(group.runs for group in self.groups)], rows[:MOST], numbers=len(self.groups) + 1
        )
        return Card("Configured otherwise", note, table=table)

    # --- curves ---

    def curves(self) -> list[Card]:
        """Return the first curve of every stage that has one, of all pipelines over each other."""
        cards = []
        for name in dict.fromkeys(stage.name for story in self.stories for stage in story.stages):
            lines, chart = list[Line](), None
            for group in self.groups:
                stages = [stage for story in group.stories for stage in story.stages if stage.name == name]
                for stage in stages:
                    own = next(iter(charts_of(stage)), None)
                    metric = next((m for m in own.metrics if stage.series.get(m)), None) if own else None
                    if own and metric:
                        chart = chart or own
                        lines.append(Line(group.name, figures.smoothed(stage.series[metric]), group.colour))
            if chart and len(lines) > 1:
                about = f"{chart.title} of {name}, of every pipeline"
                drawn = figures.line_chart(lines, "step", chart.y_label, about, logarithmic=chart.logarithmic)
                legend = [(group.runs, group.colour) for group in self.groups]
                cards.append(Card(f"{name}: {chart.title.lower()}", "smoothed", drawn, legend))
        return cards

    def pipelines(self) -> Table:
        """Return where each pipeline lies, how far it is and what it took."""
        rows: list[list[Cell | str]] = []
        for group in self.groups:
            for story in group.stories:
                done = sum(stage.status.get("state") == "done" for stage in story.chain)
                minutes = sum(stage.seconds for stage in story.stages) / 60
                name = Cell(story.name, strong=True, colour=group.colour)
                rows.append([name, str(story.folder), f"{done} of {len(story.chain)}", decimals(minutes, 1)])
        return Table(["Pipeline", "Folder", "Stages done", "Minutes"], rows, numbers=2)


def _without_shared(paths: Sequence[Sequence[str]], way: int) -> list[Sequence[str]]:
    """Return paths without what all of them begin with; with -1 as `way` without what all end in."""
    turned = [path[::way] for path in paths]
    shared = next(
        (place for place, parts in enumerate(zip(*turned, strict=False)) if len(set(parts)) > 1), min(map(len, turned))
    )
    return [path[shared:][::way] for path in turned]


def _settings(story: Story) -> dict[str, str]:
    """Return "stage key" -> value of what can change the results, but for seeds."""
    return {
        f"{stage.name} {key}": str(value)
        for stage in story.stages
        for key, value in stage.config.items()
        if not SEED.search(key)
    }


def _value(found: Any) -> float | None:
    value = found.get("mean") if isinstance(found, dict) else found
    return value if is_number(value) else None


def _over_runs(found: Sequence[Any], digits: int) -> Cell | str:
    """Return the mean over runs, and from where to where they reach; of one run its own interval."""
    values = [value for one in found if (value := _value(one)) is not None]
    if not values:
        return "–"
    low: Any = min(values)
    high: Any = max(values)
    if len(found) == 1 and isinstance(found[0], dict):
        low, high = found[0].get("low"), found[0].get("high")
    alike = is_number(low) and is_number(high) and decimals(low, digits) == decimals(high, digits)
    return Cell(decimals(fmean(values), digits), "" if alike else spread(low, high, digits), strong=True)


def _by(known: Measure) -> str:
    return f" ({known.by.removeprefix('by the ')})" if known.by else ""


def comparison(stories: Sequence[Story]) -> str:
    """Return the page's HTML."""
    one = Comparison(stories)
    found: Row = {
        "groups": one.groups,
        "pipelines": one.pipelines(),
        "charts": one.charts(),
        "results": one.results(),
        "differences": one.differences(),
        "curves": one.curves(),
    }
    return templates().get_template("comparison.html").render(found)
