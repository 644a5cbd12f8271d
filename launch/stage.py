"""Runs one stage of a planned pipeline: `llamatrain stage runs/demo ppo`, as pipelines and cluster jobs do.

It decides again, now that the stage's parents are done, starts the program from its resolved configuration and returns 0
where the run says done. Under a launcher that starts several ranks, rank 0 decides and the others wait for it.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypedDict

from rich.console import Console
from rich.markup import escape

from llamatrain import atomic, runs
from llamatrain.config import program
from llamatrain.config.compose import write_settings
from llamatrain.config.help import DRY_RUN
from llamatrain.config.options import FROM_FILE
from llamatrain.config.renamed import older
from llamatrain.errors import UserError, missing
from llamatrain.exits import EXIT_FAILURE, EXIT_USER
from llamatrain.lock import Lock
from llamatrain.progress import counted, duration
from llamatrain.replaced import bytes_of, move_beside, size
from llamatrain.run_files import STATUS
from llamatrain.runs import headline, read_status
from llamatrain.stopping import EXIT_STOPPED
from llamatrain.text_files import read_json

from .graph import Awaited
from .machine import used
from .plan import Decision, Place, Planned, decide, refuse_costly, refuse_older
from .processes import Processes, ended
from .programs import PROGRAMS, command, nearest, typed, with_keys
from .ranks import Ranks, launched

EXIT_WAITING = 3  # for a file that people make
PLAN = "plan.json"
COLOURS = {"▶": "cyan", "▷": "cyan", "=": "cyan", "✓": "green", "✗": "red", "◇": "yellow", "■": "yellow", "!": "yellow"}


class Where(TypedDict):
    """What plan.json says of the pipeline's place; its folder may have been moved since."""

    name: str
    presets: list[str]
    data_root: str | None
    seed: int | None


class Content(TypedDict):
    """What plan.json holds."""

    place: Where
    working_folder: str  # what relative paths are relative to
    ranks: int
    stages: list[Planned]


def write_plan(place: Place, stages: Sequence[Planned], ranks: int) -> None:
    """Write plan.json: everything that one stage needs to be run alone."""
    content = {
        "place": {**asdict(place), "folder": str(place.folder)},
        "working_folder": str(Path.cwd()),
        "ranks": ranks,
        "stages": [asdict(stage) for stage in stages],
    }
    atomic.write_json(place.folder / PLAN, content)


def read_plan(folder: Path) -> tuple[Place, list[Planned], Content]:
    """Return what `write_plan` wrote."""
    try:
        content: Content = read_json(folder / PLAN, Content, "the same pipeline command writes it again")
    except (FileNotFoundError, NotADirectoryError):
        raise missing(folder / PLAN, "pipeline") from None
    where = content["place"]
    place = Place(where["name"], folder, tuple(where["presets"]), where["data_root"], where["seed"])
    return place, content["stages"], content


@dataclass
class Runner:
    """Runs stages on this machine, and prints a line for each."""

    place: Place
    ranks: int
    rerun: Sequence[str]
    confirm_minutes: float
    console: Console
    width: int  # of the stages' names
    again: str  # the command that goes on
    processes: Processes
    among: Ranks | None = None  # the ranks of a launcher, of which this is the first
    waiting: dict[str, dict[str, Awaited]] = field(default_factory=dict)  # stage -> files of people that it waits for

    def run(self, one: Planned, number: str = "") -> int:
        """Decide about a stage whose parents are done, and run it where needed; return its exit code."""
        decision = decide(one, self.place, self.rerun)
        refuse_costly([decision], self.place, self.rerun, self.confirm_minutes)
        if decision.action == "done":
            self._keep(decision)
            self.line("✓", one, f"[dim]done  {self.result(one)}[/dim]")
            return self._nothing_to_start(one, 0)
        if decision.action == "wait":
            self._wait(decision)
            return self._nothing_to_start(one, EXIT_WAITING)
        if code := self._refused(decision):
            return self._nothing_to_start(one, code)
        why = escape(decision.why) + self._make_room(decision, one.run.get("resume") == "never")
        self.line("▶", one, f"[dim]{number}[/dim]  {why}".strip())
        return self._start(decision)

    def _refused(self, decision: Decision) -> int:
        """Return the exit code of a training program that refuses its data, before its former result makes room; else 0."""
        one = decision.stage
        if decision.old is None or PROGRAMS[one.program].group != "Training" or decision.action != "again":
            return 0
        with tempfile.TemporaryDirectory() as folder:
            settings = Path(folder) / "config.yaml"
            write_settings(settings, one.resolved(self.place))
            ranks = self.among.count if self.among else self.ranks
            start = [*command(PROGRAMS[one.program].module), f"{FROM_FILE}={settings}", f"{DRY_RUN}={ranks}"]
            code = self.processes.run(start, aside=True)
        if code:
            self.line(
                "✗",
                one,
                f"{escape(decision.why)}: refused, see its message above; the former result was not touched",
            )
        return code

    def _keep(self, decision: Decision) -> None:
        """Write into a done stage's record what spares composing and hashing at the next start."""
        record, old = decision.record, decision.old
        assert old is not None, "what is done has a record"
        # Not the whole record: seconds, ranks and the configuration are those of the run that made the result.
        if (old.source, old.hashed) != (record.source, record.hashed):
            old.source, old.composed = record.source, record.composed
            old.hashed, old.paths = record.hashed, record.paths
            old.write(self.place.folder / decision.stage.name)

    def _nothing_to_start(self, one: Planned, code: int) -> int:
        """Return an exit code, to a launcher's other ranks as well."""
        if self.among:
            self.among.tell(meeting(self.place.folder / one.name), code)
        return code

    def _wait(self, decision: Decision) -> None:
        folder = self.place.folder / decision.stage.name
        if decision.old is None:  # a finished run's own status stays
            folder.mkdir(parents=True, exist_ok=True)
            status = {"state": "waiting", "program": decision.stage.program, "reason": decision.why}
            atomic.write_json(folder / STATUS, {**status, "updated": time.time()})
        files, told = (
            decision.stage.missing(self.place),
            {file for known in self.waiting.values() for file in known},
        )
        why = f"waits for {' and '.join(files)}" if told.issuperset(files) else decision.why  # what is to be in it once
        self.waiting[decision.stage.name] = files
        self.line("◇", decision.stage, escape(why))

    def waited(self, count: int) -> int:
        """Say for which files of people so many stages wait, and how to resume; return the exit code."""
        files = {file: one for known in self.waiting.values() for file, one in known.items()}
        pages = [page for one in files.values() if (page := one.command(self.place.folder))]
        what = f"{counted(count, 'stage')} wait{'s' if count == 1 else ''} for {' and '.join(files)}"
        then = f"Once {'it exists' if len(files) == 1 else 'they exist'}, resume with:"
        if pages:
            self.console.print(f"[yellow]◇[/yellow] {escape(what)}. People rate on the page of:", soft_wrap=True)
            for page in pages:
                self.console.print(f"  {page}", markup=False, highlight=False, soft_wrap=True)
            self.console.print(then)
        else:
            self.console.print(f"[yellow]◇[/yellow] {escape(what)}. {then}", soft_wrap=True)
        self._same_command()
        return EXIT_WAITING

    def _make_room(self, decision: Decision, anew: bool) -> str:
        """Move what the stage's folder holds beside it, where it is not gone on with; return words for it."""
        folder, old = self.place.folder / decision.stage.name, decision.old
        if old is None:
            (folder / STATUS).unlink(missing_ok=True)  # of a stage that waited
        elif decision.action == "again" or anew:
            Lock(folder).release()  # nobody is at work in it
            moved = move_beside(folder, old.key[:12])
            return f"; the former result ({size(bytes_of(moved))}) is kept in {escape(str(moved))}"
        else:
            decision.record.seconds = old.seconds
        return ""

    def _start(self, decision: Decision) -> int:
        """Run the stage's processes and keep its record."""
        one, record = decision.stage, decision.record
        folder, module = self.place.folder / one.name, PROGRAMS[one.program].module
        alone = self.ranks if PROGRAMS[one.program].parallel else 1
        record.ranks = self.among.count if self.among else alone
        record.cores, record.gpus = used(record.ranks, self.among is not None)
        record.write(
            folder
        )  # before the start: a stage that is killed must be known to resume, not to be somebody else's
        settings = folder / "config.yaml"
        write_settings(settings, one.resolved(self.place))
        started = time.monotonic()
        start = [*command(module), f"{FROM_FILE}={settings}"]
        if self.among:
            self.among.tell(meeting(folder), start, lambda: self.processes.stopped)
        code = self.processes.run(start, 1 if self.among else record.ranks)
        seconds = time.monotonic() - started
        record.seconds += seconds
        record.write(folder)
        return self._end(one, code, seconds)

    def _end(self, one: Planned, code: int, seconds: float) -> int:
        """Say how a stage ended, by its status and its exit code, and return what that means."""
        folder = self.place.folder / one.name
        state = read_status(folder).get("state")
        # The status first: it is written when the result is, and some launchers and libraries spoil exit codes.
        if state == "done":
            self.line("✓", one, f"{duration(seconds)}  {self.result(one)}")
            if code:
                self.line("!", one, f"done, but its process failed while exiting ({ended(code)})")
            return 0
        if code == EXIT_STOPPED or self.processes.stopped:  # what had not begun may end by the signal itself
            self.line("■", one, f"interrupted after {duration(seconds)}; resume with:")
            self._same_command()
            return EXIT_STOPPED
        if code == 0:
            says = f"{escape(str(folder / STATUS))} says {state}"
            self.line("✗", one, f"its program ended without finishing the run ({says})")
            return EXIT_FAILURE
        where = "" if code > 128 else ": see its message above"
        self.line("✗", one, f"failed after {duration(seconds)} ({ended(code)}){where}")
        told = "  After fixing it, rerun (finished stages are skipped):"
        self.console.print(told, soft_wrap=True)
        self._same_command()
        return code

    def not_started(self, one: Planned) -> int:
        """Say that a signal asked to stop before a stage began."""
        self.line("■", one, "not started: interrupted; resume with:")
        self._same_command()
        return EXIT_STOPPED

    def result(self, one: Planned) -> str:
        """Return a stage's result in a few words."""
        return escape(headline(self.place.folder / one.name, PROGRAMS[one.program].headline))

    def line(self, mark: str, one: Planned, text: str) -> None:
        """Print a line about a stage."""
        line(self.console, mark, one.name.ljust(self.width), text)

    def _same_command(self) -> None:
        self.console.print(f"  {self.again}", markup=False, highlight=False, soft_wrap=True)


@dataclass
class StageConfig:
    """configs/stage.yaml says what each key means."""

    pipeline: str
    stage: str
    rerun: list[str]
    confirm_minutes: float


def run_stage(cfg: StageConfig) -> None:
    """Run one stage, on the ranks that its pipeline has or that a launcher started."""
    folder = Path(cfg.pipeline).absolute()
    place, stages, content = read_plan(folder)
    names = [stage.name for stage in stages]
    if cfg.stage not in names:
        raise UserError(f"stage={cfg.stage}: no such stage{nearest(cfg.stage, names)}  (stages: {', '.join(names)})")
    one = stages[names.index(cfg.stage)]
    if found := older(one.program, one.values):
        raise UserError(
            f"{folder / PLAN} was made by an earlier version (of '{one.name}' {found}): its pipeline's command plans it again"
        )
    if not Path(content["working_folder"]).is_dir():
        raise UserError(f"{folder / PLAN}: its paths are relative to {content['working_folder']}, which does not exist")
    os.chdir(content["working_folder"])
    among, place_of_meeting = launched(), meeting(folder / one.name)
    with Processes() as processes:
        if among and among.rank > 0:
            answer = among.ask(place_of_meeting)
            raise SystemExit(answer if isinstance(answer, int) else processes.run(answer))
        if among:
            among.decide(place_of_meeting)
        again = typed(_again(folder, one.name))
        runner = Runner(
            place, content["ranks"], cfg.rerun, cfg.confirm_minutes, console(), len(one.name), again, processes, among
        )
        try:
            refuse_older([one], place, cfg.rerun)
            code = runner.run(one)
            code = runner.waited(1) if runner.waiting else code
        except UserError:
            if among:
                among.tell(place_of_meeting, EXIT_USER)
            raise
        raise SystemExit(code)


def _again(folder: Path, stage: str) -> list[str]:
    """Return the arguments of the command that goes on: in a job those that submitted it."""
    command = runs.read_json(folder / "pipeline.json").get("command", [])
    in_job = "SLURM_JOB_ID" in os.environ and command[1:2] == ["slurm"]
    return list(command[1:]) if in_job else ["stage", str(folder), stage]


def line(told: Console, mark: str, name: str, text: str) -> None:
    """Print a line about a stage, its text as markup; the mark has its colour."""
    colour = COLOURS[mark]
    told.print(f"[{colour}]{mark}[/{colour}] [bold]{name}[/bold]  {text}", highlight=False, soft_wrap=True)


def meeting(folder: Path) -> Path:
    """Return the hidden folder in which a launcher's ranks meet before a stage starts."""
    return folder.with_name(f".{folder.name}.ranks")


def console() -> Console:
    """Return where lines about stages are printed."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 120)


def main(argv: Sequence[str] | None = None) -> None:
    """Take pipeline and stage without their keys: `llamatrain stage runs/demo ppo`."""
    program.main("stage", StageConfig, run_stage, with_keys("stage", argv))


if __name__ == "__main__":
    main()
