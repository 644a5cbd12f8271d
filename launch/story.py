"""What a pipeline's folder says: its stages, models, responses and results, read from the files that programs left."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

from llamatrain.config.renamed import older
from llamatrain.description import Measures
from llamatrain.energy import Rates
from llamatrain.replaced import MARK
from llamatrain.runs import Judged, Response, Row, is_number, read_json, read_lines, read_status
from llamatrain.spent import default_rates

from .graph import REFERENCE
from .measure.stages import MEASURED
from .stage_run import StageRun


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
    left_out: list[str]


def is_adversarial(row: Row) -> bool:
    """Whether a row is about a prompt that the safety model governs."""
    return bool(row.get("is_adversarial"))


def logit(share: float) -> float:
    """Return a score in (0, 1) as the logit it was, to the six digits that files keep of it."""
    share = min(max(share, 5e-7), 1 - 5e-7)
    return math.log(share / (1 - share))


def gold_score(row: Row, name: str) -> float | None:
    """Return the gold judge's score of a response; None where it has none."""
    value = (row.get("judgement") or {}).get(name)
    return float(value) if is_number(value) else None


def gold(row: Row) -> float | None:
    """Return the gold score that counts for a response: for safety on adversarial prompts, else for helpfulness."""
    return gold_score(row, "safety" if is_adversarial(row) else "helpfulness")


class Story:
    """A pipeline's folder (or that of a single run)."""

    def __init__(self, folder: Path, samples: int = 5, rates: Rates | None = None) -> None:
        """Read a folder; `samples` prompts of each kind are to be shown, and energy and carbon at these rates."""
        self.folder, self.samples, self.rates = folder, samples, rates or default_rates()
        self.description: Row = read_json(folder / "pipeline.json", Described)
        self.name = str(self.description.get("name") or folder.name)
        self.chain = list(_stages(folder, self.description))
        self.stages = [
            stage for stage in self.chain if stage.status or stage.record
        ]  # those that left something to report

    @property
    def older(self) -> str:
        """What shows that an earlier version made it, whose rows had other names; empty where none did."""
        return next(filter(None, (older(stage.program, stage.config) for stage in self.stages)), "")

    @cached_property
    def answered(self) -> list[StageRun]:
        """The stages that had a model answer held-out prompts."""
        return [stage for stage in self.stages if stage.about.answers]

    @cached_property
    def measured(self) -> tuple[Measures, Row]:
        """What the last stage that measured models found, and what there is to know of its numbers."""
        found = [
            (about, read_json(stage.folder / about.file)) for stage in self.stages if (about := stage.about.measures)
        ]
        return next((one for one in reversed(found) if one[1]), (Measures("", {}, {}, {}), {}))

    @property
    def evaluation(self) -> Row:
        """What was found, as it stands in the file."""
        return self.measured[1]

    @cached_property
    def model_of(self) -> dict[str, str]:
        """Stage -> the name of the model it trained or sampled, as the evaluation calls it."""
        names = {}
        for stage in self.answered:
            checkpoint = next(iter(stage.reads("checkpoint")), stage.name)
            names[stage.name] = checkpoint
        for stage in (stage for stage in self.stages if stage.about.measures):
            for key, value in (stage.record.config if stage.record else {}).items():
                model, reference = (
                    re.fullmatch(r"models\.(.+)\.(?:checkpoint|responses)", key),
                    REFERENCE.match(str(value)),
                )
                if model and reference:
                    names[reference[1]] = model[1]
        # Where the evaluation names the stage that trained the model, its sampling goes by that name, too.
        for stage in self.answered:
            if names[stage.name] in names and names[stage.name] != stage.name:
                names[stage.name] = names[names[stage.name]]
        return names

    @cached_property
    def colours(self) -> dict[str, int]:
        """Model -> colour, in the order of the evaluation or of sampling: the base model is grey."""
        models = [*(self.evaluation.get("models") or {}), *self.responses]
        models += [stage.name for stage in self.stages if stage.about.model and stage.name not in self.model_of]
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
        judges = [judge for judge in self.stages if judge.about.judgements and stage in judge.reads("responses")]
        return list(read_lines(judges[-1].folder / judges[-1].about.judgements, Judged)) if judges else []

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
            self.model_of.get(stage.name, stage.name): self.judged(stage, stage.about.answers)
            for stage in self.answered
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
        found, kinds = dict[str, list[Row]](), set[bool]()
        for model in self.tuned:
            found[model] = [row for row in self.responses[model] if is_number(row.get(key))]
            kinds.update(map(is_adversarial, found[model]))
        # Where all prompts are of one kind, they are shown, whichever was asked for.
        if len(kinds) > 1:
            for model, rows in found.items():
                found[model] = [row for row in rows if is_adversarial(row) == adversarial]
        return {model: rows for model, rows in found.items() if rows}

    @cached_property
    def followed(self) -> dict[str, StageRun]:
        """Stage -> the run that measured its kept checkpoints: a stage of the pipeline, or else one started by hand."""
        by_hand = [stage for stage in _stages(self.folder / MEASURED, {}) if stage.about.follows]
        own = [stage for stage in self.stages if stage.about.follows]
        return {stage.name: stage for stage in by_hand} | {
            name: stage for stage in own for name in stage.reads(stage.about.follows)
        }

    @cached_property
    def environments(self) -> list[Row]:
        """With what the stages were made, each different environment once."""
        found = [stage.status.get("environment") for stage in self.stages]
        return list({str(one): one for one in found if isinstance(one, dict)}.values())

    def prompts(self, adversarial: bool) -> list[tuple[list[Row], dict[str, Row]]]:
        """Return the prompts of a kind (their messages) that all models answered, with every model's first response."""
        first: dict[str, dict[str, Row]] = {}  # prompt -> model -> its first response
        for model, rows in self.responses.items():
            for row in rows:
                if is_adversarial(row) == adversarial:
                    first.setdefault(str(row.get("prompt_id")), {}).setdefault(model, row)
        # A model that was sampled on fewer prompts leaves only those to be compared.
        most_models = max((len(answers) for answers in first.values()), default=0)
        found = []
        for answers in first.values():
            if len(answers) == most_models:
                messages = next(iter(answers.values())).get("messages") or []
                found.append((messages, answers))
        return found

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
