"""The report's view of models that were trained on growing shares of the safety data (paper 4.2.3, A.4.2)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from llamatrain.pages.parts import Card, Cell, Table
from llamatrain.runs import Row, decimals, is_number, read_json

from ..stage_run import StageRun
from ..story import Story
from . import figures
from .figures import Line
from .results import measure_of

SHARE = re.compile(r"@adversarial([\d.]+)%$")  # of a source (llamatrain.data.rows)
SAFETY, HELPFULNESS = 5, 1  # colours, those of adversarial and harmless prompts
JUDGED = (("safety", "adversarial", SAFETY), ("helpfulness", "harmless", HELPFULNESS))
REFUSALS = ("refused", "declined")  # by the judge; by wording where there is none


@dataclass(frozen=True)
class Variant:
    """A model, its share of the safety data in per cent, and how many dialogues it was trained on."""

    model: str
    share: float
    dialogues: float | None


def safety_data(story: Story) -> Row | None:
    """Return what grows and what falls with the share of the safety data; None where no models differ in it."""
    found = variants(story)
    if len({one.share for one in found}) < 2:
        return None
    alike = len({one.dialogues for one in found}) == 1
    return {"alike": alike, "cards_": [*_means(story, found), *_refusals(story, found)], "table_": _table(story, found)}


def variants(story: Story) -> list[Variant]:
    """Return the models that were trained on a share of the safety data, and on all of it by the same program, by share."""
    shares = {model: share_of(stage) for model, stage in story.trained.items()}
    programs = {story.trained[model].program for model, share in shares.items() if share is not None}
    made = []
    for model, share in shares.items():
        stage = story.trained[model]
        if stage.program in programs:
            counts = [points[-1][1] for name, points in stage.series.items() if name.endswith("/dialogues")]
            made.append(Variant(model, 100.0 if share is None else share, counts[0] if counts else None))
    return sorted(made, key=lambda one: one.share)


def share_of(stage: StageRun) -> float | None:
    """Return the share of adversarial rows that a stage's sources say, in per cent; None where none says one."""
    sources = [source for about in stage.about.learns_from if about.key for source in stage.sources(about.key)]
    found = [float(match[1]) for source in sources if (match := SHARE.search(source))]
    return min(found, default=None)


def _means(story: Story, found: Sequence[Variant]) -> Iterator[Card]:
    """Yield safety on adversarial and helpfulness on harmless prompts: by the gold judge, and by the reward models."""
    for prefix in ("", "score_"):
        lines = [
            Line(
                measure_of(story, prefix + name).title.lower(),
                *_course(story.evaluation, found, prefix + name, kind, c),
            )
            for name, kind, c in JUDGED
        ]
        lines = [line for line in lines if line.points]
        if lines:
            by = measure_of(story, f"{prefix}safety").by
            yield _card("Safety and helpfulness", by, lines, "mean score" + (" (logit)" if prefix else ""), found)


def _course(
    evaluation: Row, found: Sequence[Variant], metric: str, kind: str, colour: int
) -> tuple[list[tuple[float, float]], int, str, list[tuple[float, float]]]:
    """Return a measure of every variant on one kind of prompts, as points with their intervals, as a `Line` takes them."""
    models = ((evaluation.get("by_kind") or {}).get(kind) or {}).get("models") or {}
    points, spans = [], []
    for place, one in enumerate(found):
        value: Any = (models.get(one.model) or {}).get(metric)
        mean = value.get("mean") if isinstance(value, dict) else value
        if is_number(mean):
            points.append((float(place), float(mean)))
            low, high = (value.get("low"), value.get("high")) if isinstance(value, dict) else (mean, mean)
            spans.append((low, high) if is_number(low) and is_number(high) else (mean, mean))
    return points, colour, "dots", spans


def _refusals(story: Story, found: Sequence[Variant]) -> Iterator[Card]:
    """Yield the share of harmless prompts that are refused, in every evaluation: of borderline prompts there is one."""
    others = [
        (stage.name.removeprefix("evaluate_"), read_json(stage.folder / about.file))
        for stage in story.stages
        if (about := stage.about.measures)
    ]
    for metric in REFUSALS:
        lines = []
        for number, (name, evaluation) in enumerate(others):
            own = "harmless" if evaluation == story.evaluation else name
            lines.append(Line(f"{own} prompts", *_course(evaluation, found, metric, "harmless", (3, 1, 2)[number % 3])))
        lines = [line for line in lines if line.points]
        if lines:
            by = "by the gold judge" if metric == "refused" else "by their wording"
            yield _card("False refusals", by, lines, "share refused", found)
            return


def _card(title: str, note: str, lines: Sequence[Line], y_label: str, found: Sequence[Variant]) -> Card:
    words = [f"{one.share:g} %" for one in found]
    drawn = figures.line_chart(lines, "share of the safety data", y_label, f"{title} by share, {note}", words=words)
    return Card(title, note, drawn, [(line.name, line.colour) for line in lines])


def _table(story: Story, found: Sequence[Variant]) -> Table:
    """Return how many dialogues each variant learned from, and how many of its answers the safety model calls unsafe."""
    rows: list[list[Cell | str]] = []
    for one in found:
        unsafe = [row["safety_score"] < 0.5 for row in story.scored("safety_score", True).get(one.model, [])]
        counts = "–" if one.dialogues is None else f"{one.dialogues:,.0f}"
        shown = Cell(one.model, strong=True, colour=story.colours.get(one.model, 0))
        rows.append([shown, f"{one.share:g} %", counts, decimals(fmean(unsafe), 3) if unsafe else "–"])
    return Table(["Model", "Safety data", "Dialogues", "Scored below 0.5 on adversarial prompts"], rows)
