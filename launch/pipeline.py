"""The pipeline: runs a preset's stages one after the other, each as a process of its own, and only those that need it.

A stage that is done and unchanged is skipped; an interrupted one resumes; one whose configuration, data or parents
changed runs again, and it is said why. At the end stands a report (`llamatrain report`).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from llamatrain import atomic, config
from llamatrain.errors import UserError, mistake
from llamatrain.lock import Lock
from llamatrain.progress import duration
from llamatrain.stopping import EXIT_STOPPED

from . import report
from .graph import Stage, read_stages, split_overrides
from .processes import Processes
from .programs import NAME, PROGRAMS, command, nearest, typed
from .record import Record, configs_hash, digest, flatten, make_record, read_record
from .runs import headline, read_status

RESUME = "resumes where it was interrupted"


@dataclass
class PipelineRun:
    """Where the pipeline's stages lie: dir/name/stage."""

    name: str | None
    dir: str

    def __post_init__(self) -> None:
        if self.name is not None and not re.fullmatch(r"[\w.+-]+(/[\w.+-]+)*", self.name):
            raise UserError(f"run.name={self.name}: need letters, digits and ._+-")


@dataclass
class DataConfig:
    """The user's own data."""

    root: str | None


@dataclass
class PipelineConfig:
    """configs/pipeline.yaml says what each key means."""

    run: PipelineRun
    data: DataConfig
    ranks: int
    seed: int | None
    rerun: list[str]
    until: str | None
    dry_run: bool

    def __post_init__(self) -> None:
        if self.ranks < 1:
            raise UserError(f"ranks={self.ranks}: need 1 or more")


class Pipeline:
    """The stages of one preset below one folder."""

    def __init__(
        self, cfg: PipelineConfig, presets: Sequence[str], staged: dict[str, list[str]], console: Console
    ) -> None:
        """Read the graph; `presets` are the names given on the command line, `staged` the overrides for single stages."""
        self.cfg, self.console = cfg, console
        self.presets = [f"preset={name}" for name in presets]
        self.name = cfg.run.name or Path(presets[-1]).stem
        self.folder = Path(cfg.run.dir) / self.name
        self.stages = read_stages(presets[-1], config.load_preset(presets[-1]), staged)
        names = [stage.name for stage in self.stages]
        for name in [*cfg.rerun, *([cfg.until] if cfg.until else [])]:
            if name not in names:
                raise UserError(f"there is no stage '{name}'{nearest(name, names)}  (stages: {', '.join(names)})")
        for stage in self.stages:
            stage.resolved(self.folder, cfg.data.root)  # a path that cannot be is better said now than in hours
        self.width = max(map(len, names))
        self.last = names.index(cfg.until) + 1 if cfg.until else len(names)
        self.rerun = set(cfg.rerun)
        own = [Path(name) for name in presets if Path(name).is_file()]
        self.configs = configs_hash(config.config_folder(), own)
        # A key that cannot be is better said now than in hours; what is composed here need not be composed again.
        self.composed = {stage.name: self._compose(stage) for stage in self.stages}
        self.pending: set[str] = set()  # in a dry run: stages that would run, whose results are not known yet

    def run(self) -> int:
        """Run what needs to be run; return the exit code."""
        if self.cfg.dry_run:
            return self._run_stages(Processes())
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = Lock(self.folder)
        except OSError as error:
            raise UserError(f"run.dir and run.name: cannot write to {self.folder} ({error.strerror})") from None
        with lock, Processes() as processes:
            self._write_description()
            code = self._run_stages(processes)
            if code == 0:
                self._summary()
            return code

    def _run_stages(self, processes: Processes) -> int:
        for number, stage in enumerate(self.stages[: self.last], 1):
            if processes.stopped:
                self._line(
                    "■", "yellow", stage, "not started: a signal asked to stop; the same command goes on from here:"
                )
                self._same_command()
                return EXIT_STOPPED
            code = self._run_stage(number, stage, processes)
            if code:
                return code
        return 0

    def _run_stage(self, number: int, stage: Stage, processes: Processes) -> int:
        """Decide about one stage, run it where needed, and say both; return its exit code."""
        folder = self.folder / stage.name
        waits_for = [parent for parent in stage.parents if parent in self.pending]
        if waits_for:
            self.pending.add(stage.name)
            self._line("▷", "cyan", stage, f"if {' or '.join(waits_for)} comes out differently")
            return 0
        old = read_record(folder)
        composed, source = self.composed[stage.name]
        record = make_record(stage.program, composed, self.folder, self.cfg.data.root, old)
        record.parents, record.source = stage.parents, source
        done, why = self._decide(stage, record, old)
        if done and old is not None:
            if (old.source, old.hashed) != (source, record.hashed) and not self.cfg.dry_run:
                # So that the next start need not compose or hash again.
                replace(old, source=source, composed=composed, hashed=record.hashed, paths=record.paths).write(folder)
            self._line("✓", "green", stage, f"[dim]done  {self._result(stage)}[/dim]")
            return 0
        if self.cfg.dry_run:
            self.pending.add(stage.name)
            self._line("▶", "cyan", stage, why)
            return 0
        if old is not None and why != RESUME:
            shutil.rmtree(folder)  # all of it was made by this stage
            why += "; what the stage had made is deleted"
        record.seconds = old.seconds if old is not None and why == RESUME else 0.0
        self._line("▶", "cyan", stage, f"[dim]{number}/{len(self.stages)}[/dim]  {why}")
        return self._start(stage, record, processes)

    def _decide(self, stage: Stage, record: Record, old: Record | None) -> tuple[bool, str]:
        """Return whether the stage is done, and otherwise why it runs."""
        folder = self.folder / stage.name
        if old is None:
            if folder.exists() and any(folder.iterdir()):
                raise UserError(f"{folder} was not made by a pipeline: move it away, or choose another run.name")
            return False, "new"
        changes = record.changes(old)
        if changes:
            more = f" (and {len(changes) - 3} more)" if len(changes) > 3 else ""
            return False, escape("; ".join(changes[:3])) + more
        if read_status(folder).get("state") != "done":
            return False, RESUME
        if stage.name in self.rerun:
            return False, "as asked by rerun"
        return True, ""

    def _compose(self, stage: Stage) -> tuple[dict[str, Any], str]:
        """Return the stage's configuration, flat and with `@` references in place, and the hash of what it came from."""
        overrides = [*self.presets, *stage.overrides]
        source = digest(json.dumps([stage.program, overrides, self.cfg.seed, self.configs]))
        old = read_record(self.folder / stage.name)
        if old is not None and old.source == source:
            return old.composed, source
        try:
            composed = dict(flatten(config.compose_dict(stage.program, overrides)))
            seeds = self._seeds(composed)
            if seeds:
                overrides = [*self.presets, *seeds, *stage.overrides]
                composed = dict(flatten(config.compose_dict(stage.program, overrides)))
        except UserError as error:
            raise UserError(f"stage '{stage.name}': {error}") from None
        return composed, source

    def _seeds(self, composed: dict[str, Any]) -> list[str]:
        """Return the overrides that `seed` means: of the run, and of a world; a stage's own overrides may say otherwise."""
        if self.cfg.seed is None:
            return []
        return [f"{key}={self.cfg.seed}" for key in ("run.seed", "seed") if key in composed]

    def _start(self, stage: Stage, record: Record, processes: Processes) -> int:
        """Run the stage's process and keep its record."""
        folder = self.folder / stage.name
        record.ranks = self.cfg.ranks if PROGRAMS[stage.program].parallel else 1
        record.cores, record.gpus = len(os.sched_getaffinity(0)), min(_gpus(), record.ranks)
        record.write(folder)
        overrides = [*self.presets, *self._seeds(record.composed), *stage.resolved(self.folder, self.cfg.data.root)]
        place = [f"run.dir='{self.folder}'", f"run.name={stage.name}"]
        if record.composed.get("run.wandb.group", "") is None:
            place.append(f"run.wandb.group='{self.name}'")
        started = time.monotonic()
        code = processes.run([*command(PROGRAMS[stage.program].module), *overrides, *place], record.ranks)
        seconds = time.monotonic() - started
        record.seconds += seconds
        record.write(folder)
        status = read_status(folder)
        state = status.get("state")
        if code == 0 and state == "done":
            self._line("✓", "green", stage, f"{duration(seconds)}  {self._result(stage)}")
            return 0
        if code == EXIT_STOPPED or (code == 0 and processes.stopped):
            self._line("■", "yellow", stage, f"stopped after {duration(seconds)}; the same command goes on from there:")
            self._same_command()
            return EXIT_STOPPED
        if code == 0:
            self._line(
                "✗",
                "red",
                stage,
                f"its program ended without finishing the run ({folder / 'status.json'} says {state})",
            )
            return config.EXIT_FAILURE
        self._line("✗", "red", stage, f"failed after {duration(seconds)} (exit code {code}): its message stands above")
        self.console.print(
            "  Once that is mended, the same command goes on here; finished stages are skipped:", soft_wrap=True
        )
        self._same_command()
        return code

    def _same_command(self) -> None:
        again = typed(["pipeline", *sys.argv[1:]])
        self.console.print(f"  {again}", markup=False, highlight=False, soft_wrap=True)

    def _result(self, stage: Stage) -> str:
        return escape(headline(self.folder / stage.name, stage.program))

    def _line(self, mark: str, colour: str, stage: Stage, text: str) -> None:
        name = stage.name.ljust(self.width)
        self.console.print(f"[{colour}]{mark}[/{colour}] [bold]{name}[/bold]  {text}", highlight=False, soft_wrap=True)

    def _summary(self) -> None:
        """Print a line a stage with its result and time, and where the report is."""
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
        table.add_column("stage")
        table.add_column("result")
        table.add_column("time", justify="right")
        total = 0.0
        for stage in self.stages[: self.last]:
            record = read_record(self.folder / stage.name)
            assert record is not None, "every stage was run or found done"
            total += record.seconds
            result = self._result(stage)
            table.add_row(f"[bold]{stage.name}[/bold]", result, duration(record.seconds))
        table.add_row("", "", f"[bold]{duration(total)}[/bold]")
        self.console.print()
        self.console.print(table)
        try:
            told = f"the report: {escape(str(report.write(self.folder)))}"
        except Exception as error:  # the stages are done whatever becomes of the page about them
            told = f"done, but its report cannot be written: {escape(mistake(error) or repr(error))}"
        self.console.print(
            f"\n[green]✓[/green] [bold]{escape(self.name)}[/bold]  {told}", highlight=False, soft_wrap=True
        )

    def _write_description(self) -> None:
        """Write pipeline.json: the order of the stages, for the report."""
        content = {
            "name": self.name,
            "command": [NAME, "pipeline", *sys.argv[1:]],
            "preset": self.presets[-1].split("=", 1)[1],
            "stages": {stage.name: {"program": stage.program, "parents": stage.parents} for stage in self.stages},
        }
        atomic.write_json(self.folder / "pipeline.json", content)


def _gpus() -> int:
    """Return how many GPUs this machine lets us see (without asking torch, which takes seconds)."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip() not in ("", "-1")])
    folder = Path("/proc/driver/nvidia/gpus")
    return len(list(folder.iterdir())) if folder.is_dir() else 0


def main(argv: Sequence[str] | None = None) -> None:
    """Divide the command line among the pipeline and its stages, and run."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    presets = [argument.partition("=")[2] for argument in arguments if argument.startswith("preset=")]
    try:
        names = list(config.load_preset(presets[-1]).get("stages") or {}) if presets else []
    except UserError:
        names = []  # composing says it
    sweep = {"--multirun", "-m"} & set(arguments)
    own, staged = split_overrides([argument for argument in arguments if argument not in sweep], names)

    def pipeline(cfg: PipelineConfig) -> None:
        if sweep:
            raise UserError(
                f"{sweep.pop()} is for single programs: start a pipeline a value, each with its own run.name"
            )
        if not presets:
            raise UserError("which pipeline? Need preset=<name>, for example preset=demo")
        console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
        raise SystemExit(Pipeline(cfg, presets, staged, console).run())

    config.main("pipeline", PipelineConfig, pipeline, [] if sweep else own)


if __name__ == "__main__":
    main()
