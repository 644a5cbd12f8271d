"""Settings of the programs `card` and `publish`. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from llamatrain.description import Program
from llamatrain.energy import Rates
from llamatrain.errors import UserError


@dataclass
class CardConfig:
    """configs/card.yaml says what each key means."""

    folder: str | None
    stage: str | None
    words: str | None
    init: bool
    results: list[str]
    output: str | None
    license: str | None
    license_file: str | None
    rates: Rates

    def __post_init__(self) -> None:
        """Check what belongs together."""
        if self.folder is None and self.words is None:
            raise UserError("folder=null: need a pipeline's folder, or words=FILE with figures by hand")
        if self.folder is None and self.output is None and not self.init:
            raise UserError("output=null: need a folder for the card where it is of no run")


@dataclass
class PublishConfig:
    """configs/publish.yaml says what each key means."""

    checkpoint: str
    repo: str
    to: str | None


PROGRAMS = {
    "card": Program(
        "evaluation.card",
        "Measuring",
        "a model card in the form of Llama 2's own, from the runs and what people say of them",
        schema=CardConfig,
        positional=("folder",),
    ),
    "publish": Program(
        "evaluation.card.publish",
        "Measuring",
        "a checkpoint, checked for its upload; a clean copy and the command, nothing is uploaded",
        schema=PublishConfig,
        positional=("checkpoint",),
    ),
}
