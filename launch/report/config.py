"""Settings of the program `report`."""

from __future__ import annotations

from dataclasses import dataclass

from llamatrain.energy import Rates


@dataclass
class ReportConfig:
    """configs/report.yaml says what each key means."""

    folder: str
    others: list[str]
    samples: int
    output: str | None
    rates: Rates
