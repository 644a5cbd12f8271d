"""Settings of the program `report`."""

from __future__ import annotations

from dataclasses import dataclass, field

from llamatrain.energy import Rates
from llamatrain.keys import check_values, one_of


@dataclass
class ReportConfig:
    """configs/report.yaml says what each key means."""

    folder: str
    others: list[str]
    samples: int
    output: str | None
    wandb: str | None = field(metadata=one_of(("offline", "online")))
    rates: Rates

    def __post_init__(self) -> None:
        """Check values."""
        check_values(self)
