"""Settings of the program `measure`. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from llamatrain.keys import reads
from llamatrain.settings import RunConfig


@dataclass
class MeasureConfig:
    """configs/measure.yaml says what each key means."""

    run: RunConfig
    checkpoints: str = field(metadata=reads("file"))
    after: list[str] = field(metadata=reads("file"))
