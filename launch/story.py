"""What a pipeline's folder tells: its stages, models, responses and results, read from the files that programs left."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

from llamatrain.description import Program
from llamatrain.errors import UserError
from llamatrain.keys import flatten
from llamatrain.replaced import MARK
from llamatrain.yaml_files import read_yaml

from .graph import DATA, REFERENCE
from .programs import PROGRAMS
from .record import VALUE, Record, known_record
from .runs import Judged, Response, Row, is_number, read_json, read_lines, read_series, read_status


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


UNKNOWN = Program("", "", "")  # of a folder that no known program made


def is_adversarial(row: Row) -> bool:
    """Whether a row is about a prompt that the safety model governs."""
    return bool(row.get("safety"))


def logit(share: float) -> float:
    """Return a score in (0, 1) as the logit it was, to the six digits that files keep of it."""
    share = min(max(share, 5e-7), 1 - 5e-7)
    return math.log(share / (1 - share))


def mark(row: Row, name: str) -> float | None:
    """Return the gold judge's mark of a response; None where it has none."""
    value = (row.get("judgement") or {}).get(name)
    return float(value) if is_number(value) else None


def gold(row: Row) -> float | None:
    """Return the gold judge's mark that counts for a response: for safety on adversarial prompts, else for helpfulness."""
    return mark(row, "safety" if is_adversarial(row) else "helpfulness")


@dataclass(frozen=True)
class StageRun:
    """One stage's run folder."""

    name: str
    program: str
    folder: Path
    parents: list[str]

    @property
    def about(self) -> Program:
        """What its program says of itself."""
        return PROGRAMS.get(self.program, UNKNOWN)

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

    @cached_property
    def config(self) -> dict[str, Any]:
        """Its configuration, flat: with references to other stages where a pipeline made it."""
        if self.record:
            return self.record.config
        try:
            found = read_yaml(self.folder / "config.yaml")
        except (UserError, OSError):
            return {}
        return dict(flatten(found)) if isinstance(found, dict) else {}

    def values(self, key: str) -> dict[str, str]:
        """Return what its configuration has at and below `key`."""
        return {name: str(value) for name, value in self.config.items() if name == key or name.startswith(f"{key}.")}

    def reads(self, key: str) -> list[str]:
        """Return the stages that its configuration refers to at and below `key`."""
        return [reference[1] for value in self.values(key).values() if (reference := REFERENCE.match(value))]

    def sources(self, key: str) -> list[str]:
        """Return the data at and below `key`, as sources that `read_rows` takes."""
        return [self._source(name, value) for name, value in self.values(key).items() if value]

    def _source(self, key: str, value: str) -> str:
        parts = VALUE.fullmatch(value)
        if parts is None:
            return value
        path, reference = parts["path"], REFERENCE.fullmatch(parts["path"])
        if reference and reference[1] != DATA:
            path = f"{self.folder.parent / reference[1]}{reference[2]}"
        elif self.record:
            path = self.record.paths.get(key, path)
        return f"{parts['adapter'] or ''}{path}{parts['part'] or ''}"


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
    def trained(self) -> dict[str, StageRun]:
        """Model -> the stage that trained it."""
        stages = {stage.name: stage for stage in self.stages}
        names = {model: stage for stage, model in self.model_of.items() if stage in stages}
        found = {model: stages[name] for model, name in names.items() if stages[name].about.model}
        known = {model: found.get(model) or stages.get(model) for model in self.colours}
        return {model: stage for model, stage in known.items() if stage is not None and stage.about.model}

    def judgements(self, stage: str) -> list[Row]:
        """Return the gold judgements of what a stage made, in the order of its rows."""
        judges = [judge for judge in self.of("judge") if stage in judge.reads("responses")]
        return list(read_lines(judges[-1].folder / "judgements.jsonl", Judged)) if judges else []

    def judged(self, stage: StageRun, file: str) -> list[Row]:
        """Return a stage's rows of responses, each with its gold judgement under `judgement` where there is one."""
        rows = list(read_lines(stage.folder / file, Response))
        for row, judgement in zip(rows, self.judgements(stage.name), strict=False):
            if judgement.get("prompt_id") == row.get("prompt_id"):
                row["judgement"] = judgement
        return rows

    @cached_property
    def responses(self) -> dict[str, list[Row]]:
        """Model -> its responses to held-out prompts."""
        found = {
            self.model_of.get(stage.name, stage.name): self.judged(stage, "responses.jsonl")
            for stage in self.of("sample")
        }
        return {model: rows for model, rows in found.items() if rows}

    @cached_property
    def tuned(self) -> list[str]:
        """The models that reward models can compare: those saw only what fine-tuned models answer."""
        return [model for model in self.responses if model not in self.pretrained]

    @cached_property
    def pretrained(self) -> set[str]:
        """The models that were pretrained only."""
        return {model for model, stage in self.trained.items() if not stage.about.chats}

    def scored(self, key: str, adversarial: bool) -> dict[str, list[Row]]:
        """Return tuned model -> its responses with a score `key`, to one kind of prompts where both kinds are there."""
        rows = {model: [row for row in self.responses[model] if is_number(row.get(key))] for model in self.tuned}
        both = {is_adversarial(row) for kept in rows.values() for row in kept} == {True, False}
        kept = {
            model: [row for row in rows if not both or is_adversarial(row) == adversarial]
            for model, rows in rows.items()
        }
        return {model: rows for model, rows in kept.items() if rows}

    @cached_property
    def environments(self) -> list[Row]:
        """With what the stages were made, each different environment once."""
        found = [stage.status.get("environment") for stage in self.stages]
        return list({str(one): one for one in found if isinstance(one, dict)}.values())

    def prompts(self, adversarial: bool) -> list[tuple[list[Row], dict[str, Row]]]:
        """Return the prompts of a kind (their messages) that all models answered, with every model's first response."""
        first: dict[str, dict[str, Row]] = {}
        for model, rows in self.responses.items():
            for row in rows:
                if is_adversarial(row) == adversarial:
                    first.setdefault(str(row.get("prompt_id")), {}).setdefault(model, row)
        widest = max((len(rows) for rows in first.values()), default=0)
        shared = [answers for answers in first.values() if len(answers) == widest]
        return [(next(iter(answers.values())).get("messages") or [], answers) for answers in shared]

    def side_by_side(self, adversarial: bool) -> list[tuple[list[Row], dict[str, Row]]]:
        """Return some of the prompts of a kind, spread evenly over all."""
        shared = self.prompts(adversarial)
        count = min(self.samples, len(shared))
        return [shared[i * len(shared) // count] for i in range(count)]


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
