"""The pipeline: runs a preset's stages one after the other, each as a process of its own, and only those that need it.

A stage that is done and unchanged is skipped; an interrupted one resumes; one whose configuration, data or parents
changed runs again, and it is said why. At the end stands a report (`llamatrain report`).
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from llamatrain import atomic
from llamatrain.config import program
from llamatrain.config.compose import FROM_FILE, write_settings
from llamatrain.config.help import DRY_RUN
from llamatrain.config.presets import load_preset
from llamatrain.config.program import EXIT_FAILURE
from llamatrain.errors import UserError, mistake
from llamatrain.lock import Lock
from llamatrain.progress import duration
from llamatrain.replaced import bytes_of, move_beside, size
from llamatrain.settings import check_run_name
from llamatrain.stopping import EXIT_STOPPED

from . import report
from .answers import side_by_side, three
from .graph import Stage, read_stages, split_overrides
from .plan import Checked, Decision, Place, check_stages, decide, look_outside, plan, refuse_costly
from .processes import Processes, ended
from .programs import NAME, PROGRAMS, command, nearest, typed
from .record import Record, read_record
from .runs import headline, read_status
from .story import TRAINING, Story


@dataclass
class PipelineRun:
    """Where the pipeline's stages lie: dir/name/stage."""

    name: str | None
    dir: str

    def __post_init__(self) -> None:
        if self.name is not None:
            check_run_name(self.name)


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
    confirm_minutes: float
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
        """Check every stage and what it reads; `presets` were named on the command line, `staged` are single stages' overrides."""
        self.cfg, self.console, self.preset = cfg, console, presets[-1]
        name = cfg.run.name or Path(presets[-1]).stem
        self.place = Place(name, Path(cfg.run.dir) / name, tuple(presets), cfg.data.root, cfg.seed)
        self.stages = read_stages(presets[-1], load_preset(presets[-1]), staged)
        names = [stage.name for stage in self.stages]
        for name in [*cfg.rerun, *([cfg.until] if cfg.until else [])]:
            if name not in names:
                raise UserError(f"there is no stage '{name}'{nearest(name, names)}  (stages: {', '.join(names)})")
        self.width = max(map(len, names))
        last = names.index(cfg.until) + 1 if cfg.until else len(names)
        self.checked = check_stages(self.stages, self.place)[:last]
        look_outside(self.checked, self.place)

    def run(self) -> int:
        """Run what needs to be run; return the exit code."""
        if self.cfg.dry_run:
            for decision in self._plan():
                self._tell(decision)
            return 0
        self._plan()
        try:
            self.place.folder.mkdir(parents=True, exist_ok=True)
            lock = Lock(self.place.folder)
        except OSError as error:
            raise UserError(f"run.dir and run.name: cannot write to {self.place.folder} ({error.strerror})") from None
        with lock, Processes() as processes:
            self._write_description()
            code = self._run_stages(processes)
            if code == 0:
                self._summary()
            return code

    def _plan(self) -> list[Decision]:
        decisions = plan(self.checked, self.place, self.cfg.rerun)
        self._refuse_costly(decisions)
        return decisions

    def _refuse_costly(self, decisions: Sequence[Decision]) -> None:
        refuse_costly(decisions, self.place, self.cfg.rerun, self.cfg.confirm_minutes)

    def _tell(self, decision: Decision) -> None:
        """Print what a dry run says of a stage."""
        mark = {"done": "✓", "perhaps": "▷"}.get(decision.action, "▶")
        why = f"[dim]done  {self._result(decision.stage)}[/dim]" if decision.action == "done" else escape(decision.why)
        self._line(mark, "green" if decision.action == "done" else "cyan", decision.stage, why)

    def _run_stages(self, processes: Processes) -> int:
        for number, one in enumerate(self.checked, 1):
            if processes.stopped:
                self._line(
                    "■", "yellow", one.stage, "not started: a signal asked to stop; the same command goes on from here:"
                )
                self._same_command()
                return EXIT_STOPPED
            code = self._run_stage(number, one, processes)
            if code:
                return code
        return 0

    def _run_stage(self, number: int, one: Checked, processes: Processes) -> int:
        """Decide about one stage, now that its parents are done, and run it where needed; return its exit code."""
        stage, folder = one.stage, self.place.folder / one.stage.name
        decision = decide(one, self.place, self.cfg.rerun)
        self._refuse_costly([decision])
        record, old, why = decision.record, decision.old, escape(decision.why)
        if decision.action == "done" and old is not None:
            if (old.source, old.hashed) != (record.source, record.hashed):
                # So that the next start need not compose or hash again.
                replace(
                    old, source=record.source, composed=record.composed, hashed=record.hashed, paths=record.paths
                ).write(folder)
            self._line("✓", "green", stage, f"[dim]done  {self._result(stage)}[/dim]")
            return 0
        if old is not None and (decision.action == "again" or one.run.get("resume") == "never"):
            Lock(folder).release()  # nobody is at work in it
            moved = move_beside(folder, old.key[:12])
            why += f"; the former result ({size(bytes_of(moved))}) is kept in {escape(str(moved))}"
        elif old is not None:
            record.seconds = old.seconds
        self._line("▶", "cyan", stage, f"[dim]{number}/{len(self.stages)}[/dim]  {why}")
        return self._start(one, record, processes)

    def _start(self, one: Checked, record: Record, processes: Processes) -> int:
        """Run the stage's process and keep its record."""
        stage, folder = one.stage, self.place.folder / one.stage.name
        record.ranks = self.cfg.ranks if PROGRAMS[stage.program].parallel else 1
        record.cores, record.gpus = len(os.sched_getaffinity(0)), min(_gpus(), record.ranks)
        record.write(folder)
        settings = folder / "config.yaml"
        write_settings(settings, one.resolved(self.place))
        started = time.monotonic()
        code = processes.run([*command(PROGRAMS[stage.program].module), f"{FROM_FILE}={settings}"], record.ranks)
        seconds = time.monotonic() - started
        record.seconds += seconds
        record.write(folder)
        status = read_status(folder)
        state = status.get("state")
        if state == "done":
            self._line("✓", "green", stage, f"{duration(seconds)}  {self._result(stage)}")
            if code:
                self._line("!", "yellow", stage, f"done, though its process then ended badly ({ended(code)})")
            return 0
        if code == EXIT_STOPPED or processes.stopped:  # a program that had not begun may end by the signal itself
            self._line("■", "yellow", stage, f"stopped after {duration(seconds)}; the same command goes on from there:")
            self._same_command()
            return EXIT_STOPPED
        if code == 0:
            self._line(
                "✗",
                "red",
                stage,
                f"its program ended without finishing the run ({escape(str(folder / 'status.json'))} says {state})",
            )
            return EXIT_FAILURE
        where = "" if code > 128 else ": see its message above"
        self._line("✗", "red", stage, f"failed after {duration(seconds)} ({ended(code)}){where}")
        self.console.print(
            "  Once that is mended, the same command goes on here; finished stages are skipped:", soft_wrap=True
        )
        self._same_command()
        return code

    def _same_command(self) -> None:
        again = typed(["pipeline", *sys.argv[1:]])
        self.console.print(f"  {again}", markup=False, highlight=False, soft_wrap=True)

    def _result(self, stage: Stage) -> str:
        return escape(headline(self.place.folder / stage.name, stage.program))

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
        for stage in (one.stage for one in self.checked):
            record = read_record(self.place.folder / stage.name)
            assert record is not None, "every stage was run or found done"
            total += record.seconds
            result = self._result(stage)
            table.add_row(f"[bold]{stage.name}[/bold]", result, duration(record.seconds))
        table.add_row("", "", f"[bold]{duration(total)}[/bold]")
        self.console.print()
        self.console.print(table)
        try:
            self.console.print("", side_by_side(three(Story(self.place.folder))))
            told = f"the report: {escape(str(report.write(self.place.folder)))}"
        except Exception as error:  # the stages are done whatever becomes of the page about them
            told = f"done, but its report cannot be written: {escape(mistake(error) or repr(error))}"
        self.console.print(
            f"\n[green]✓[/green] [bold]{escape(self.place.name)}[/bold]  {told}", highlight=False, soft_wrap=True
        )
        talker = next(
            (s.name for s in (one.stage for one in reversed(self.checked)) if s.program in TRAINING[1:]), None
        )
        if talker is not None:
            talk = typed(["chat", f"checkpoint={self.place.folder / talker / 'final'}"])
            self.console.print(f"  talk to it: {talk}", markup=False, highlight=False, soft_wrap=True)

    def _write_description(self) -> None:
        """Write pipeline.json: the order of the stages, for the report."""
        content = {
            "name": self.place.name,
            "command": [NAME, "pipeline", *sys.argv[1:]],
            "preset": self.preset,
            "stages": {stage.name: {"program": stage.program, "parents": stage.parents} for stage in self.stages},
        }
        atomic.write_json(self.place.folder / "pipeline.json", content)


def _gpus() -> int:
    """Return how many GPUs this machine lets us see (without asking torch, which takes seconds)."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip() not in ("", "-1")])
    folder = Path("/proc/driver/nvidia/gpus")
    return len(list(folder.iterdir())) if folder.is_dir() else 0


def _spelt(argument: str) -> list[str]:
    """Return what `--dry-run[=RANKS]`, the programs' other spelling, means here; any other argument as it is."""
    option, equals, ranks = argument.partition("=")
    if option != DRY_RUN:
        return [argument]
    return ["dry_run=true", *([f"ranks={ranks}"] if equals else [])]


def main(argv: Sequence[str] | None = None) -> None:
    """Divide the command line among the pipeline and its stages, and run."""
    arguments = list(itertools.chain.from_iterable(map(_spelt, sys.argv[1:] if argv is None else argv)))
    presets = [argument.partition("=")[2] for argument in arguments if argument.startswith("preset=")]
    try:
        names = list(load_preset(presets[-1]).get("stages") or {}) if presets else []
    except UserError:
        names = []  # composing says it
    sweep = {"--multirun", "-m"} & set(arguments)
    wrong: UserError | None = None
    try:
        own, staged = split_overrides([argument for argument in arguments if argument not in sweep], names)
    except UserError as error:
        own, staged, wrong = [], {}, error

    def pipeline(cfg: PipelineConfig) -> None:
        if wrong is not None:
            raise wrong
        if sweep:
            raise UserError(
                f"{sweep.pop()} is for single programs: start a pipeline a value, each with its own run.name"
            )
        if not presets:
            raise UserError("which pipeline? Need preset=<name>, for example preset=demo")
        console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
        raise SystemExit(Pipeline(cfg, presets, staged, console).run())

    program.main("pipeline", PipelineConfig, pipeline, [] if sweep else own)


if __name__ == "__main__":
    main()
