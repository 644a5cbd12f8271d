"""A pipeline's run folders as the card reads them: stages in their order, what each was made from, took and made."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from llamatrain.energy import Rates, Use
from llamatrain.errors import UserError, missing
from llamatrain.keys import flatten
from llamatrain.replaced import NAME as REPLACED
from llamatrain.run_files import STAGE, STATUS
from llamatrain.runs import Row, parameters, read_json, read_status
from llamatrain.spent import spent
from llamatrain.yaml_files import read_yaml

REFERENCE = re.compile(
    r"(?:\w+:)?@(\w+)(/[^@]*)?(?:@.*)?"
)  # in stage.json: what another stage made, with an adapter and a part
BASE, CHATS = (
    ("pretrain",),
    ("sft", "rejection_sampling", "ppo"),
)  # programs whose models write text, and those that chat


@dataclass(frozen=True)
class Stage:
    """A run folder."""

    name: str
    program: str
    folder: Path

    @cached_property
    def status(self) -> Row:
        """What status.json says."""
        return read_status(self.folder)

    @cached_property
    def made(self) -> Row:
        """What stage.json says, where a pipeline made it."""
        return read_json(self.folder / STAGE)

    @cached_property
    def config(self) -> dict[str, Any]:
        """Its configuration, flat; in a pipeline with references to other stages."""
        if isinstance(self.made.get("config"), dict):
            return dict(self.made["config"])
        try:
            found = read_yaml(self.folder / "config.yaml")
        except (UserError, OSError):
            return {}
        return dict(flatten(found)) if isinstance(found, dict) else {}

    @cached_property
    def model(self) -> Row:
        """config.json of the model that it made; nothing where it made none."""
        return read_json(self.folder / "final" / "config.json")

    @property
    def is_language_model(self) -> bool:
        """Whether it made a model that writes text."""
        return "LlamaForCausalLM" in (self.model.get("architectures") or [])

    @cached_property
    def parameters(self) -> int:
        """Of the model that it made; 0 where they cannot be counted."""
        return parameters(self.folder / "final")

    def files(self, key: str) -> Iterator[Path]:
        """Yield the files that its configuration names at and below `key`."""
        for name, value in self.config.items():
            if (name == key or name.startswith(f"{key}.")) and isinstance(value, str):
                reference = REFERENCE.fullmatch(value)
                if reference and reference[1] != "data":
                    yield self.folder.parent / f"{reference[1]}{reference[2] or ''}"
                elif path := (self.made.get("paths") or {}).get(name, value):
                    yield Path(path)

    def reads(self, key: str) -> str | None:
        """Return the name of the stage that its configuration refers to as `key`."""
        reference = REFERENCE.fullmatch(str(self.config.get(key)))
        return reference[1] if reference else None


@dataclass(frozen=True)
class Pipeline:
    """A pipeline's folder, or that of one run."""

    folder: Path

    @cached_property
    def name(self) -> str:
        """The pipeline's name."""
        return str(read_json(self.folder / "pipeline.json").get("name") or self.folder.resolve().name)

    @cached_property
    def stages(self) -> list[Stage]:
        """The stages that left something, in their order; without pipeline.json every run in the folder."""
        listed = read_json(self.folder / "pipeline.json").get("stages")
        if isinstance(listed, dict):
            found = [Stage(name, str(about.get("program")), self.folder / name) for name, about in listed.items()]
            return [stage for stage in found if stage.status]
        folders = [self.folder, *sorted(path.parent for path in self.folder.glob(f"*/{STATUS}"))]
        runs = [Stage(path.name, str(read_status(path).get("program")), path) for path in folders if read_status(path)]
        runs = [one for one in runs if not REPLACED.fullmatch(one.name)]
        return sorted(runs, key=lambda one: one.status.get("started") or 0.0)

    @cached_property
    def models(self) -> list[Stage]:
        """The stages that made a model which writes text."""
        return [stage for stage in self.stages if stage.is_language_model]

    def of(self, program: str) -> list[Stage]:
        """Return the stages of a program."""
        return [stage for stage in self.stages if stage.program == program]

    def subject(self, name: str | None) -> Stage:
        """Return the stage whose model the card is of; UserError where it made none."""
        named = [stage.name for stage in self.models]
        if name is not None:
            found = next((stage for stage in self.models if stage.name == name), None)
            if found is None:
                raise UserError(
                    f"stage={name}: need one that made a model, of {', '.join(named) or 'which there is none'}"
                )
            return found
        if not self.models:
            raise UserError(f"folder={self.folder}: no finished run there made a model that writes text")
        chats = [stage for stage in self.models if stage.program in CHATS]
        return (chats or self.models)[-1]

    def uses(self, rates: Rates) -> list[Use] | None:
        """Return what training each model took, then all other stages together, then results that were replaced.

        None where the power of a GPU is not known.
        """
        trained = [stage for stage in self.stages if stage.model]
        others = [stage.folder for stage in self.stages if not stage.model]
        measured = [path.parent for path in self.folder.glob(f"measured/**/{STATUS}")]
        replaced = [path for path in self.folder.glob("*") if REPLACED.fullmatch(path.name)]
        rows = [(stage.name, [stage.folder]) for stage in trained]
        rows += [("data, sampling and measuring", [*others, *measured]), ("replaced results", replaced)]
        found = list[Use]()
        for name, folders in rows:
            uses = [spent(folder).use(name, rates) for folder in folders]
            if None in uses:
                return None
            for device in ("GPU", "core"):
                own = [use for use in uses if use is not None and use.device == device and use.hours]
                if hours := sum(use.hours for use in own):
                    watts = sum(use.kwh for use in own) * 1000 / hours
                    found.append(Use(name, device, hours, watts, all(use.measured for use in own)))
        return found


def read_pipeline(path: str) -> Pipeline:
    """Return a pipeline's folder; UserError where no run lies there."""
    folder = Path(path)
    if not folder.is_dir():
        raise missing(folder, "pipeline")
    if not (found := Pipeline(folder)).stages:
        raise UserError(f"folder={folder}: no run folder there, or below it, has a {STATUS}")
    return found


def rows_of(path: Path) -> int | None:
    """Return how many rows a file of JSON lines holds; None where it is not there any more."""
    if path.suffix != ".jsonl" or not path.is_file():
        return None
    with path.open("rb") as file:
        return sum(1 for _ in file)


def lineage(folder: Path) -> Row:
    """Return llamatrain.json of a checkpoint."""
    try:
        return dict(json.loads((folder / "llamatrain.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}
