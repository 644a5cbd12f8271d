"""Energy and carbon of runs and pipelines, as in the paper's Table 2: device hours x power x PUE x carbon intensity.

    llamatrain carbon                                   all runs below runs/
    llamatrain carbon runs/demo runs/other              pipelines or runs; a single pipeline stage by stage
    llamatrain carbon "hours={7B: 184320}" rates.gpu_watts=400 format=markdown

Power is what the machines counted while the run was on (once per node; llamatrain/power.py), otherwise what the device
states. As in the paper only the devices that compute are counted, with what cools and feeds them (PUE): no other parts of
the servers, no network, no manufacture. Digits of carbon are cut off, not rounded, as the paper's.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llamatrain.config import program
from llamatrain.energy import Rates, Use, formula, table, tonnes_co2
from llamatrain.errors import UserError
from llamatrain.keys import check_values, one_of
from llamatrain.spent import spent

from .found import Folder, Found, run, runs_in, scan
from .programs import with_keys

FORMATS = ("table", "markdown", "json")
REPLACED = "replaced results"


@dataclass
class CarbonConfig:
    """configs/carbon.yaml says what each key means."""

    folders: list[str]
    hours: dict[str, float] | None
    watts: dict[str, float] | None
    format: str = field(metadata=one_of(FORMATS))
    rates: Rates

    def __post_init__(self) -> None:
        """Check what belongs together."""
        check_values(self)
        for key in ("hours", "watts"):
            for name, value in (getattr(self, key) or {}).items():
                if value <= 0:
                    raise UserError(f"{key}.{name}={value}: need a number above 0")
        for name in self.watts or {}:
            if name not in (self.hours or {}):
                raise UserError(f"watts.{name}: need hours.{name}, too")


# --- what was used -----------------------------------------------------------------------------------------------


def uses(cfg: CarbonConfig, now: float) -> list[Use]:
    """Return a row per run or pipeline, of a single pipeline per stage; or of the hours that are given by hand."""
    if cfg.hours:
        watts = {name: (cfg.watts or {}).get(name, cfg.rates.gpu_watts) for name in cfg.hours}
        lacking = [name for name, value in watts.items() if value is None]
        if lacking:
            raise UserError(f"hours.{lacking[0]}: need the power of a GPU in W, rates.gpu_watts or watts.{lacking[0]}")
        return [Use(name, "GPU", hours, watts[name] or 0.0) for name, hours in cfg.hours.items()]
    there = [_scanned(Path(folder)) for folder in cfg.folders]
    found = [(one, folder) for folder in there for one in runs_in(folder)]
    if not found:
        raise UserError(f"folders={', '.join(cfg.folders)}: no run lies there")
    if len(found) == 1 and found[0][0].stages:
        rows = [(stage.path.name, list(_leaves(stage))) for stage in found[0][0].stages]
    else:
        rows = [(str(one.path), list(_leaves(one))) for one, _ in found]
    rows.append((REPLACED, [run(old) for folder in there for old in folder.replaced]))
    return [use for name, runs in rows for use in _row(name, runs, cfg.rates, now)]


def _scanned(folder: Path) -> Folder:
    if not folder.is_dir():
        raise UserError(f"folders={folder}: there is no such folder")
    return scan(folder)


def _leaves(one: Found) -> Iterator[Found]:
    """Yield the runs of which a pipeline consists, or the run itself."""
    if one.stages:
        for stage in one.stages:
            yield from _leaves(stage)
    else:
        yield one


def _row(name: str, runs: Sequence[Found], rates: Rates, now: float) -> Iterator[Use]:
    """Yield what some runs used together: a row for each kind of device."""
    found: list[Use] = []
    for one in runs:
        taken = spent(one.path, one.state == "running", now)
        use = taken.use(name, rates)
        if use is None:
            raise UserError(f"{one.path}: the power of GPU {taken.gpu!r} is not known; need rates.gpu_watts=WATTS")
        found.append(use)
    for device in ("GPU", "core"):
        own = [use for use in found if use.device == device and use.hours]
        if hours := sum(use.hours for use in own):
            watts = sum(use.kwh for use in own) * 1000 / hours
            yield Use(name, device, hours, watts, all(use.measured for use in own))


# --- the table ---------------------------------------------------------------------------------------------------


def written(found: Sequence[Use], rates: Rates, form: str) -> str:
    """Return the table as it is asked for."""
    if form == "json":
        return json.dumps(as_json(found, rates), indent=1)
    rows = table(found, rates)
    if form == "markdown":
        lines = [f"| {' | '.join(row)} |" for row in rows]
        return "\n".join(
            [lines[0], f"|---|{'---:|' * (len(rows[0]) - 1)}", *lines[1:], "", f"Carbon: {formula(rates)}."]
        )
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.rjust(w) if n else cell.ljust(w) for n, (cell, w) in enumerate(zip(row, wide, strict=True)))
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in [*lines, "", f"carbon = {formula(rates)}"])


def as_json(found: Sequence[Use], rates: Rates) -> dict[str, Any]:
    """Return the rows in full digits."""

    def row(use: Use) -> dict[str, Any]:
        return {**asdict(use), "kwh": use.kwh, "tonnes_co2": tonnes_co2(use.kwh, rates.pue, rates.carbon_intensity)}

    kwh = sum(use.kwh for use in found)
    total = {"kwh": kwh, "tonnes_co2": tonnes_co2(kwh, rates.pue, rates.carbon_intensity)}
    return {"rates": asdict(rates), "rows": [row(use) for use in found], "total": total}


def show(cfg: CarbonConfig) -> None:
    """Print the table."""
    found = uses(cfg, time.time())
    if not found:
        raise UserError(f"folders={', '.join(cfg.folders)}: no run there took any time yet")
    print(written(found, cfg.rates, cfg.format))


def main(argv: Sequence[str] | None = None) -> None:
    """Take folders without their key: `llamatrain carbon runs/demo runs/other`."""
    program.main("carbon", CarbonConfig, show, with_keys("carbon", argv))


if __name__ == "__main__":
    main()
