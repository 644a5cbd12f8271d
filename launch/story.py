"""What a pipeline's folder tells: its stages, models, responses and results, read from the files that programs left."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

from llamatrain.replaced import MARK

from .graph import REFERENCE
from .record import Record, known_record
from .runs import Response, Row, is_number, read_json, read_lines, read_series, read_status


class Node(TypedDict):
    """A stage in pipeline.json."""

    program: str
    parents: list[str]


class Described(TypedDict, total=False):
    """What pipeline.json says."""

    name: str
    command: list[str]
    preset: str
    stages: dict[str, Node]


@dataclass(frozen=True)
class StageRun:
    """One stage's run folder."""

    name: str
    program: str
    folder: Path
    parents: list[str]

    @cached_property
    def record(self) -> Record | None:
        """What the stage was made from, where a pipeline made it."""
        return known_record(self.folder)

    @cached_property
    def status(self) -> Row:
        """status.json."""
        return read_status(self.folder)

    @cached_property
    def series(self) -> dict[str, list[tuple[float, float]]]:
        """metrics.jsonl, by metric."""
        return read_series(self.folder)

    @property
    def seconds(self) -> float:
        """How long the stage took, over all attempts."""
        return self.record.seconds if self.record else float(self.status.get("seconds") or 0.0)

    def reads(self, key: str) -> list[str]:
        """Return the stages that its configuration refers to at and below `key`."""
        config = self.record.config if self.record else {}
        values = [str(value) for name, value in config.items() if name == key or name.startswith(f"{key}.")]
        return [reference[1] for value in values if (reference := REFERENCE.match(value))]


class Story:
    """A pipeline's folder (or that of a single run)."""

    def __init__(self, folder: Path, samples: int = 5) -> None:
        """Read a folder; `samples` prompts of each kind are to be shown."""
        self.folder, self.samples = folder, samples
        self.description: Row = read_json(folder / "pipeline.json", Described)
        self.name = str(self.description.get("name") or folder.name)
        self.stages = [stage for stage in _stages(folder, self.description) if stage.status or stage.record]

    def of(self, *programs: str) -> list[StageRun]:
        """Return the stages of these programs, in the pipeline's order."""
        return [stage for stage in self.stages if stage.program in programs]

    @cached_property
    def evaluation(self) -> Row:
        """evaluation.json of the last stage that has one."""
        found = [read_json(stage.folder / "evaluation.json") for stage in self.of("evaluate")]
        return next((content for content in reversed(found) if content), {})

    @cached_property
    def model_of(self) -> dict[str, str]:
        """Stage -> the name of the model it trained or sampled, as the evaluation calls it."""
        names = {}
        for stage in self.of("sample"):
            checkpoint = next(iter(stage.reads("checkpoint")), stage.name)
            names[stage.name] = checkpoint
        for stage in self.of("evaluate"):
            for key, value in (stage.record.config if stage.record else {}).items():
                model, reference = (
                    re.fullmatch(r"models\.(.+)\.(?:checkpoint|responses)", key),
                    REFERENCE.match(str(value)),
                )
                if model and reference:
                    names[reference[1]] = model[1]
        for stage in self.of("sample"):
            if names[stage.name] in names and names[stage.name] != stage.name:
                names[stage.name] = names[names[stage.name]]
        return names

    @cached_property
    def colours(self) -> dict[str, int]:
        """Model -> colour, in the order of the evaluation or of sampling: the base model is grey."""
        models = [*(self.evaluation.get("models") or {}), *self.responses]
        return {model: i % 8 for i, model in enumerate(dict.fromkeys(models))}

    @cached_property
    def responses(self) -> dict[str, list[Row]]:
        """Model -> its responses, with the gold judgement under `judgement` where there is one."""
        judged = {}
        for stage in self.of("judge"):
            source = next(iter(stage.reads("responses")), "")
            judged[source] = list(read_lines(stage.folder / "judgements.jsonl"))
        found = {}
        for stage in self.of("sample"):
            rows = list(read_lines(stage.folder / "responses.jsonl", Response))
            judgements = judged.get(stage.name, [])
            for row, judgement in zip(rows, judgements, strict=False):
                if judgement.get("prompt_id") == row.get("prompt_id"):
                    row["judgement"] = judgement
            if rows:
                found[self.model_of.get(stage.name, stage.name)] = rows
        return found

    def scores(self, key: str, safety: bool) -> dict[str, list[float]]:
        """Return model -> the scores `key` of its responses, to safety prompts or harmless ones where both are there."""
        rows = {model: [row for row in rows if is_number(row.get(key))] for model, rows in self.responses.items()}
        both = {bool(row.get("safety")) for kept in rows.values() for row in kept} == {True, False}
        kept = {
            model: [row for row in rows if not both or bool(row.get("safety")) == safety]
            for model, rows in rows.items()
        }
        return {model: [float(row[key]) for row in rows] for model, rows in kept.items() if rows}

    def side_by_side(self, safety: bool) -> Iterator[tuple[list[Row], dict[str, Row]]]:
        """Yield some prompts (their messages) with every model's first response, spread evenly over all prompts."""
        first: dict[str, dict[str, Row]] = {}
        for model, rows in self.responses.items():
            for row in rows:
                if bool(row.get("safety")) == safety:
                    first.setdefault(str(row.get("prompt_id")), {}).setdefault(model, row)
        widest = max((len(rows) for rows in first.values()), default=0)
        shared = [rows for rows in first.values() if len(rows) == widest]
        count = min(self.samples, len(shared))
        for i in range(count):
            answers = shared[i * len(shared) // count]
            yield next(iter(answers.values())).get("messages") or [], answers


def _stages(folder: Path, description: Row) -> Iterator[StageRun]:
    listed: Any = description.get("stages")
    if isinstance(listed, dict):
        for name, node in listed.items():
            yield StageRun(name, node["program"], folder / name, node["parents"])
        return
    if read_status(folder):
        yield StageRun(folder.name, str(read_status(folder).get("program")), folder, [])
        return
    runs = (
        [(read_status(path), path) for path in folder.iterdir() if path.is_dir() and MARK not in path.name]
        if folder.is_dir()
        else []
    )
    for status, path in sorted(((s, p) for s, p in runs if s), key=lambda run: (run[0].get("started") or 0.0, run[1])):
        yield StageRun(path.name, str(status.get("program")), path, [])
