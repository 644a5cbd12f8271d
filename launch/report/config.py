"""Settings of the program `report`."""

from __future__ import annotations

from dataclasses import dataclass

from llamatrain.settings import check_run_name


@dataclass
class ReportRun:
    """Which pipeline: its folder is dir/name."""

    name: str
    dir: str

    def __post_init__(self) -> None:
        check_run_name(self.name)


@dataclass
class ReportConfig:
    """configs/report.yaml says what each key means."""

    run: ReportRun
    samples: int
