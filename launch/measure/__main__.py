"""Measures every kept checkpoint of a stage as its pipeline measures the last one: sampled, judged, evaluated.

    llamatrain measure runs/demo/ppo

It works while the stage still trains, too. What is known of a checkpoint lies in runs/demo/measured/ppo/<its hash>/,
and is measured once, whoever asks. metrics.jsonl has the metrics of `evaluate`, at the checkpoints' steps.
`measure_kept=[ppo]` makes it a stage of the pipeline, which nothing waits for.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from llamatrain import manifest
from llamatrain.config import program
from llamatrain.errors import UserError
from llamatrain.runs import read_series
from llamatrain.stopping import EXIT_STOPPED

from ..graph import references
from ..plan import Place, Planned, decide
from ..processes import Processes, ended
from ..programs import nearest, quoted, typed, with_keys
from ..ranks import launched
from ..stage import Runner, console, read_plan
from .config import MeasureConfig
from .stages import MEASURED, measuring, of_checkpoint

LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class MeasureError(Exception):
    """A program that measures failed, and has said why."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


@dataclass
class Measuring:
    """How the checkpoints of a stage are measured."""

    stage: str
    place: Place
    stages: dict[str, Planned]
    chosen: dict[str, dict[str, Any]]  # name -> values of those that measure the last checkpoint
    ranks: int
    again: str
    processes: Processes

    @cached_property
    def last(self) -> str:
        """The hash of the stage's final checkpoint; empty where it has none yet."""
        final = self.place.folder / self.stage / "final"
        return manifest.fingerprint(final) if final.exists() else ""

    def measure(self, checkpoint: Path) -> dict[str, float] | None:
        """Run what is not yet known of a checkpoint; return what was found, None where a signal asked to stop."""
        key = manifest.fingerprint(checkpoint)
        folder = self.place.folder / MEASURED / self.stage / key[:16]
        # The pipeline measures the last one itself: as far as it has, that is not done again.
        known = [name for name in self.chosen if key == self.last and self._done(name)]
        beside = [name for name in self.chosen if name not in known]
        place = Place(self.place.name, folder, self.place.presets, None, self.place.seed)
        told = console()
        told.print(f"step {manifest.step_of(checkpoint):,}: {folder}", markup=False, soft_wrap=True)
        width = max(map(len, self.chosen))
        runner = Runner(place, self.ranks, (), math.inf, told, width, self.again, self.processes)
        for name in beside:
            values = self.chosen[name]
            code = runner.run(
                of_checkpoint(self.stages[name], values, checkpoint, f"@{self.stage}/final", beside, self.place)
            )
            if code == EXIT_STOPPED or self.processes.stopped:
                return None
            if code:
                raise MeasureError(f"{name} of step {manifest.step_of(checkpoint)} failed ({ended(code)})", code)
        return {metric: value for name in self._ends for metric, value in _found(folder / name).items()}

    def _done(self, name: str) -> bool:
        """Tell whether the pipeline's own stage measured the last checkpoint alone, and is up to date."""
        one = self.stages[name]
        try:
            return one.values == self.chosen[name] and decide(one, self.place, ()).action == "done"
        except UserError:  # what it reads is not there yet
            return False

    @cached_property
    def _ends(self) -> list[str]:
        """The stages that say what was found: no other measures what they made."""
        read = {name for values in self.chosen.values() for name in references(values)}
        return [name for name in self.chosen if name not in read]


def _found(folder: Path) -> dict[str, float]:
    return {name: points[-1][1] for name, points in read_series(folder).items()}


def measure(cfg: MeasureConfig) -> None:
    """Measure every kept checkpoint, the oldest first, and log what was found at its step."""
    from llamatrain.run import Run

    stage = Path(cfg.checkpoints).absolute()
    stage = stage.parent if stage.name == "checkpoints" else stage
    cfg.run.dir = str(Path(cfg.run.dir).absolute())
    place, planned, content = read_plan(stage.parent)
    stages = {one.name: one for one in planned}
    if stage.name not in stages:
        hint = nearest(stage.name, list(stages))
        raise UserError(f"checkpoints={cfg.checkpoints}: need a stage of the pipeline {place.folder}{hint}")
    chosen = measuring(((one.name, one.program, one.values) for one in planned), f"@{stage.name}/final")
    if not chosen:
        raise UserError(f"checkpoints={cfg.checkpoints}: no stage of {place.folder} measures what {stage.name} makes")
    found = manifest.published(stage / "checkpoints")
    if not found:
        raise UserError(f"checkpoints={cfg.checkpoints}: no checkpoint lies there yet")
    among = launched()
    ranks = among.count if among else content["ranks"]
    for name in LAUNCHER:  # what is started here are ranks of this machine, and this process is none of them
        os.environ.pop(name, None)
    os.chdir(content["working_folder"])
    own = Path(cfg.run.dir) / cfg.run.name
    planned_too = own.name in stages and own.parent == place.folder
    again = typed(["stage", str(place.folder), own.name] if planned_too else ["measure", str(stage)])
    try:
        with Run(cfg.run, "measure", cfg, data={}) as run, Processes() as processes:
            run.resume({})
            way = Measuring(stage.name, place, stages, chosen, ranks, again, processes)
            for checkpoint in found:
                if not checkpoint.exists():
                    run.print(f"{checkpoint} was deleted meanwhile, as run.keep of {stage.name} says")
                    continue
                step, metrics = manifest.step_of(checkpoint), way.measure(checkpoint)
                if metrics is None:
                    run.stop(step, kept="what is known")
                run.log(step, metrics)
    except MeasureError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.code) from None


def main(argv: Sequence[str] | None = None) -> None:
    """Take the stage's folder without its key, and name the run after it: runs/demo/measured/ppo."""
    keyed = with_keys("measure", argv)
    folder = next((one.partition("=")[2].strip("'") for one in keyed if one.startswith("checkpoints=")), "")
    stage = Path(folder).parent if Path(folder).name == "checkpoints" else Path(folder)
    given = {one.partition("=")[0] for one in keyed}
    own = {"run.dir": str(stage.parent), "run.name": f"{MEASURED}/{stage.name}"} if stage.name else {}
    more = [f"{key}={quoted(value)}" for key, value in own.items() if key not in given]
    program.main("measure", MeasureConfig, measure, [*more, *keyed])


if __name__ == "__main__":
    main()
