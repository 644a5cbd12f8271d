"""What was measured of a pipeline's models, as tables of the card and as results in Hugging Face's metadata.

Read are evaluation.json, of the shape

    {"models": {MODEL: {METRIC: NUMBER or {"mean", "low", "high", "count"}}}, "by_kind": {KIND: {"prompts", "models"}}}

what benchmarks, probes and people said (`llamatrain.pages.evaluations` has the shapes), and accuracy.json of `reward.evaluate`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamatrain.description import Measure, Measures
from llamatrain.errors import UserError
from llamatrain.pages.evaluations import BENCHMARK, PROBE, RATINGS, SAFETY, TABLES, Measured, below, figures, read
from llamatrain.pages.parts import Card, Cell, Table, spread
from llamatrain.runs import Row, decimals, is_number, read_json

from ..config import MEASURES
from .pipeline import REFERENCE, Pipeline, Stage


@dataclass(frozen=True)
class Result:
    """A number about the card's model."""

    task: str  # as the hub knows it
    dataset: str
    metric: str
    value: float
    low: float | None = None
    high: float | None = None
    count: int | None = None  # of what it is a mean


@dataclass(frozen=True)
class Found:
    """A program's results: their tables, and those about the card's model as numbers."""

    program: str
    tables: list[Card]
    results: list[Result]


PROGRAM_OF = {  # file of results -> what makes it
    BENCHMARK: "benchmark",
    SAFETY: "safety_benchmark",
    PROBE: "probe",
    RATINGS: "ratings",
}


def found(pipeline: Pipeline | None, own: Stage | None, more: Sequence[Path]) -> list[Found]:
    """Return what was measured, a program after the other: in the run's folder, and in further ones."""
    for folder in more:
        if not any((folder / file).is_file() for file in (MEASURES.file, *PROGRAM_OF)):
            need = ", ".join((MEASURES.file, *PROGRAM_OF))
            raise UserError(f"results: {folder} has no results; need a folder with one of {need}")
    stages = [*(pipeline.stages if pipeline else ()), *(Stage(path.name, "evaluate", path) for path in more)]
    made = list[Found]()
    for stage in stages:
        row = read_json(stage.folder / MEASURES.file) if stage.program == "evaluate" else {}
        if row.get("models"):
            made = [_measured("evaluate", MEASURES, row, _called(stage, own))]  # of several the last counts
    places = [*(below(pipeline.folder) if pipeline else ()), *more]
    for file, program in PROGRAM_OF.items():
        if there := read(places, file):
            made.append(Found(program, TABLES[file](there), list(_of_own(file, there, own))))
    return made


def _of_own(file: str, measured: Sequence[Measured], own: Stage | None) -> Iterator[Result]:
    """Yield what benchmarks and probes say of the card's model; people's ratings are of pairs, and stay in the tables."""
    for one in measured:
        if own is None or one.model != own.name or file == RATINGS:
            continue
        if file == BENCHMARK:
            for group in one.found.get("groups") or []:
                for part in (group, *group.get("members", ())):
                    if is_number(part.get("score")):
                        name, low, high = (part.get(key) for key in ("name", "low", "high"))
                        metric = str(part.get("metric") or "score").partition(",")[0]
                        yield Result("text-generation", str(name), metric, part["score"], low, high, part.get("rows"))
            continue
        for words, figure in figures(one.found.get("sets") or one.found):
            dataset, _, metric = words.rpartition(", ")
            low, high, count = (figure.get(key) for key in ("low", "high", "count"))
            yield Result("text-generation", dataset or PROGRAM_OF[file], metric, figure["mean"], low, high, count)


def _called(stage: Stage, own: Stage | None) -> str:
    """Return what a measuring stage calls the card's model; nothing where it did not measure it."""
    for key, value in stage.config.items():
        name = re.fullmatch(r"(?:models\.(.+)\.)?checkpoint", key)
        reference = REFERENCE.fullmatch(str(value))
        if name and own and ((reference and reference[1] == own.name) or _same(str(value), own)):
            return name[1] or own.name
    return ""


def _same(path: str, own: Stage) -> bool:
    """Whether a path is that of a stage's last checkpoint, or of its folder."""
    there = Path(path).resolve()
    return there.exists() and there in (own.folder.resolve(), (own.folder / "final").resolve())


def _measured(program: str, about: Measures, row: Row, own: str) -> Found:
    """Return a file's tables: what counts on each kind of prompts, then what is measured over all."""
    tables, results, told = list[Card](), list[Result](), set[str]()
    kinds: Mapping[str, Row] = row.get("by_kind") or {}
    for kind, part in kinds.items() if len(kinds) > 1 else ():
        metrics = about.of_kind.get(kind, ())
        told.update(metrics)
        count = part.get("prompts")
        note = f"{count:,} held-out prompts" if is_number(count) else ""
        tables += _table(about, f"On {kind} prompts", note, part["models"], metrics)
        results += _results(part["models"], metrics, own, f"{kind} prompts")
    everything = dict.fromkeys(metric for values in row["models"].values() for metric in values)
    rest = [metric for metric in [*about.known, *everything] if metric in everything and metric not in told]
    rest = list(dict.fromkeys(rest))
    count = row.get("prompts")
    note = f"{count:,} held-out prompts" if is_number(count) and count else ""
    tables += _table(about, "Over all prompts" if told else "Measured", note, row["models"], rest)
    results += _results(row["models"], rest, own, "held-out prompts and text")
    return Found(program, tables, results)


def _known(about: Measures, metric: str) -> Measure:
    return about.known.get(metric) or Measure(metric.replace("_", " ").capitalize())


def _table(about: Measures, title: str, note: str, models: Mapping[str, Row], metrics: Sequence[str]) -> Iterator[Card]:
    """Yield a row a model and a column a metric, where any is there."""
    there = [metric for metric in metrics if any(metric in values for values in models.values())]
    if not there:
        return
    known = [_known(about, metric) for metric in there]
    head = ["Model", *(f"{one.title} ({one.by.removeprefix('by the ')})" if one.by else one.title for one in known)]
    rows = [
        [
            Cell(model, strong=True),
            *(_cell(values.get(metric), one.digits) for metric, one in zip(there, known, strict=True)),
        ]
        for model, values in models.items()
    ]
    yield Card(title, note, table=Table(head, rows))


def _cell(value: Any, digits: int) -> Cell | str:
    if isinstance(value, dict) and is_number(value.get("mean")):
        return Cell(decimals(value["mean"], digits), spread(value.get("low"), value.get("high"), digits))
    return decimals(value, digits) if is_number(value) else "–"


def _results(models: Mapping[str, Row], metrics: Sequence[str], own: str, dataset: str) -> Iterator[Result]:
    """Yield the numbers of the card's model."""
    for metric in metrics:
        value = models.get(own, {}).get(metric)
        if isinstance(value, dict) and is_number(value.get("mean")):
            low, high, count = (value.get(key) for key in ("low", "high", "count"))
            yield Result("text-generation", dataset, metric, value["mean"], low, high, count)
        elif is_number(value):
            yield Result("text-generation", dataset, metric, value)


def reward_models(pipeline: Pipeline | None) -> Card | None:
    """Return how often the reward models order held-out pairs as the annotators did (paper table 7)."""
    rows = list[list[Cell | str]]()
    for stage in pipeline.of("reward.evaluate") if pipeline else ():
        overall = read_json(stage.folder / "accuracy.json").get("overall")
        if isinstance(overall, dict) and is_number(overall.get("accuracy")):
            share = Cell(decimals(overall["accuracy"], 3), spread(overall.get("low"), overall.get("high")))
            rows.append(
                [Cell(stage.reads("checkpoint") or stage.name, strong=True), f"{overall.get('pairs'):,}", share]
            )
    head = ["Reward model", "Held-out pairs", "Accuracy"]
    return (
        Card("Reward models", "share of pairs ordered as the annotators did", table=Table(head, rows)) if rows else None
    )
