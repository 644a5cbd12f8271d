"""The report's curves: the loss of every stage that fits something, and whatever else its program says is to be drawn."""

from __future__ import annotations

import re
from collections.abc import Sequence

from llamatrain.description import Chart, Measure
from llamatrain.pages.drawing import Points
from llamatrain.pages.parts import Card
from llamatrain.runs import Row, figure

from ..programs import PROGRAMS
from ..stage_run import StageRun
from ..story import Story
from . import figures
from .experience import where
from .figures import NARROW, WIDE, Line
from .results import measure_of

PLUMBING = re.compile(r"seconds|tokens_per_second|lr$|grad_norm|/tokens$")
COLOURS = (1, 3, 5, 2)  # of the series of a chart
FEW = 30  # points, which are not smoothed
HEADLINES = {  # metrics of measuring programs that stand for a run: benchmarks among them
    metric: Measure(words, about.headline.whose or name.replace("_", " "))
    for name, about in PROGRAMS.items()
    if about.group == "Measuring"
    for metric, words in about.headline.metrics.items()
}


def charts_of(stage: StageRun) -> list[Chart]:
    """Return the charts of a stage of which it logged something."""
    charts = [chart for chart in stage.about.charts if isinstance(chart, Chart)]
    return [chart for chart in charts if any(stage.series.get(name) for name in chart.metrics)]


# --- curves ------------------------------------------------------------------------------------------------------


def learning(story: Story) -> Row | None:
    """Return the one curve of the stages that have one; those that differ in their number only share a figure."""
    groups: dict[str, list[StageRun]] = {}
    for stage in story.stages:
        if len(charts_of(stage)) == 1:
            groups.setdefault(re.sub(r"_\d+$", "", stage.name), []).append(stage)
    if not groups:
        return None
    return {"cards": [_curve(group[0]) if len(group) == 1 else _folds(name, group) for name, group in groups.items()]}


def _curve(stage: StageRun) -> Card:
    (chart,) = charts_of(stage)
    ends = [
        f"{words} {figure(found[-1][1])}" for name, words in chart.metrics.items() if (found := stage.series.get(name))
    ]
    return _card(stage, chart, WIDE, stage.name, ends[-1])


def _folds(name: str, group: Sequence[StageRun]) -> Card:
    (chart,) = charts_of(group[0])
    metric = next(iter(chart.metrics))
    lines = [
        Line(stage.name, figures.smoothed(stage.series[metric]), number % 8)
        for number, stage in enumerate(group, 1)
        if metric in stage.series
    ]
    about = f"{chart.title.lower()} of {name}"
    drawn = figures.line_chart(lines, "step", chart.y_label, about, logarithmic=chart.logarithmic)
    legend = [(line.name.rpartition("_")[2], line.colour) for line in lines]
    return Card(name, f"{len(group)} runs, smoothed", drawn, legend)


def courses(story: Story) -> Row | None:
    """Return the charts of every stage that has several, and everything else it logged."""
    found = []
    for stage in story.stages:
        charts = charts_of(stage)
        if len(charts) > 1:
            shown = {metric for chart in charts for metric in chart.metrics}
            rest = [name for name in stage.series if name not in shown and not PLUMBING.search(name)]
            others = [Chart(_words(name), "", "value", {name: _words(name)}) for name in rest]
            found.append(
                {
                    "stage": stage.name,
                    "summary": stage.about.summary,
                    "cards": [_card(stage, chart, NARROW, chart.title, chart.note) for chart in charts],
                    "rest": [_card(stage, chart, NARROW, chart.title) for chart in others],
                    "pages": where(stage),
                }
            )
    return {"stages": found} if found else None


def kept(story: Story) -> Row | None:
    """Return what is known of the kept checkpoints of stages, over their steps."""
    found = []
    for name, run in story.followed.items():
        lines = {
            metric: points for metric, points in run.series.items() if len(points) > 1 and not PLUMBING.search(metric)
        }
        known = {metric: HEADLINES.get(metric) or measure_of(story, metric.rpartition("/")[2]) for metric in lines}
        cards = {metric: _course(name, one, lines[metric]) for metric, one in known.items()}
        # What somebody gives marks for comes first; what follows from it or is a plain fact, below.
        marked = [metric for metric, one in known.items() if one.by]
        shown = marked or list(cards)[:3]
        rest = [card for metric, card in cards.items() if metric not in shown]
        if cards:
            found.append(
                {"stage": name, "summary": "", "cards": [cards[metric] for metric in shown], "rest": rest, "pages": ""}
            )
    return {"stages": found} if found else None


def _course(stage: str, measure: Measure, points: Points) -> Card:
    drawn = figures.line_chart(
        [Line(measure.title, points, 1, "dots")], "step", "", f"{measure.title} of {stage}, over its steps", NARROW
    )
    return Card(measure.title, measure.by, drawn)


def _card(stage: StageRun, chart: Chart, width: int, title: str, note: str = "") -> Card:
    there = {name: words for name, words in chart.metrics.items() if stage.series.get(name)}
    lines: list[Line] = []
    most = max(len(stage.series[name]) for name in there)
    for (name, words), colour in zip(there.items(), COLOURS * len(there), strict=False):
        points = stage.series[name]
        few = len(points) <= FEW and len(points) < most / 3  # measured now and then, beside what is logged always
        lines += [Line(words, points, colour, "dots")] if few else _smoothed(words, points, colour)
    about = f"{chart.title} of {stage.name}"
    x_label = "iteration" if width == NARROW else "step"
    drawn = figures.line_chart(lines, x_label, chart.y_label, about, width, chart.logarithmic, chart.bounds)
    return Card(title, note, drawn, list(zip(there.values(), COLOURS, strict=False)) if len(there) > 1 else ())


def _smoothed(name: str, points: Points, colour: int) -> list[Line]:
    if len(points) <= FEW:
        return [Line(name, points, colour)]
    return [Line(name, points, colour, "faint"), Line(f"{name}, smoothed", figures.smoothed(points), colour)]


def _words(metric: str) -> str:
    return metric.partition("/")[2].replace("_", " ") or metric
