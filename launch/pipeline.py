"""The pipeline: from text to a chat model, each stage in its own process, and only the stages that need to run.

The method is a graph (`launch.graphs`), a preset sets values by size, and `data` assigns files to roles; they combine
freely. A stage that is done and unchanged is skipped; an interrupted one resumes; one whose configuration, data or
parents changed reruns, with the reason printed. A report is written at the end (`llamatrain report`).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.markup import escape
from rich.table import Table

from llamatrain import atomic
from llamatrain.config import program
from llamatrain.config.help import DRY_RUN
from llamatrain.config.meanings import meanings
from llamatrain.config.presets import preset_overrides
from llamatrain.errors import UserError, mistake, show
from llamatrain.lock import Lock
from llamatrain.progress import duration
from llamatrain.runs import read_json
from llamatrain.settings import check_run_name
from llamatrain.yaml_files import read_yaml

from .answers import side_by_side, three
from .estimate.brief import brief
from .graph import Graph, Stage, distributed, split_overrides
from .graphs.absent import why_absent
from .graphs.chat import Chat, Data, refuse_other_start, with_files_to_come
from .graphs.methods import build
from .local import run_stages
from .plan import Decision, Place, Planned, plan, plan_stages, refuse_costly, refuse_older
from .processes import Processes
from .programs import NAME, PROGRAMS, nearest, quoted, typed
from .record import read_record
from .report import page
from .stage import Runner, console, write_plan
from .story import Story

OWN = ("run", "data", "mix_share", "replay")  # keys of the pipeline that have keys of their own
EITHER = {"preferences": " (or data.ratings)", "ratings": " (or data.preferences)"}  # roles of which one will do


@dataclass
class PipelineRun:
    """Where the pipeline's stages lie: dir/name/stage."""

    name: str | None
    dir: str

    def __post_init__(self) -> None:
        if self.name is not None:
            check_run_name(self.name)


@dataclass
class PipelineConfig(Chat):
    """configs/pipeline.yaml says what each key means."""

    run: PipelineRun
    data: Data
    ranks: int
    seed: int | None
    rerun: list[str]
    confirm_minutes: float
    until: str | None
    dry_run: bool
    graph: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ranks < 1:
            raise UserError(f"ranks={self.ranks}: need 1 or more")


class Pipeline:
    """The stages of a graph, with a preset's values, below one folder."""

    def __init__(self, cfg: PipelineConfig, presets: Sequence[str], staged: Sequence[str]) -> None:
        """Build the graph; `presets` were named on the command line, `staged` are overrides of stages."""
        self.cfg, self.console, self.preset = cfg, console(), presets[-1]
        name = cfg.run.name or Path(presets[-1]).stem
        self.place = Place(name, Path(cfg.run.dir) / name, tuple(presets), cfg.data.root, cfg.seed)
        self.graph = Graph()
        data, to_come = with_files_to_come(cfg, cfg.data) if cfg.dry_run or cfg.graph else (cfg.data, [])
        self.to_come = [
            f"data.{role}{EITHER.get(role, '')}: {meanings('pipeline').get(f'data.{role}', '')}" for role in to_come
        ]
        build(self.graph, cfg, data)
        self.why_absent = why_absent(build, cfg, data)
        self.stages = distributed(list(self.graph.stages.values()), staged, self.why_absent)
        refuse_other_start(self.stages, presets)
        names = [stage.name for stage in self.stages]
        asked = [*cfg.rerun, cfg.until] if cfg.until else cfg.rerun
        for name in asked:
            if name not in names:
                unknown = f"there is no stage '{name}'{nearest(name, names)}  (stages: {', '.join(names)})"
                raise UserError(self.why_absent(name) or unknown)
        self.width = max(map(len, names))
        self.last = names.index(cfg.until) + 1 if cfg.until else len(names)

    def run(self) -> int:
        """Run what needs to be run; return the exit code."""
        if self.cfg.graph:
            sys.stdout.write("".join([*(f"# {line}\n" for line in self.not_yet()), *map(drawn, self.stages)]))
            return 0
        planned, decisions = self.planned()
        for line in self.not_yet():
            self.console.print(f"[yellow]–[/yellow] {escape(line)}", soft_wrap=True)
        with Processes() as processes:
            again = typed(["pipeline", *sys.argv[1:]])
            runner = Runner(
                self.place,
                self.cfg.ranks,
                self.cfg.rerun,
                self.cfg.confirm_minutes,
                self.console,
                self.width,
                again,
                processes,
            )
            if self.cfg.dry_run:
                for decision in decisions:
                    tell(runner, decision)
                own = [decision.stage.name for decision in decisions if decision.action != "done"]
                for line in brief(planned[: self.last], self.place.data_root, self.cfg.ranks, own):
                    self.console.print(f"  [dim]{escape(line)}[/dim]", soft_wrap=True)
                return 0
            to_run = [decision.stage.name for decision in decisions if decision.action not in ("done", "wait")]
            return self._run_stages(runner, planned, to_run)

    def not_yet(self) -> list[str]:
        """Say in lines which roles have no file yet, and what is not done for lack of them."""
        return [
            *(f"no file yet: {line}" for line in self.to_come),
            *(f"left out: {line}" for line in self.graph.left_out),
        ]

    def planned(self) -> tuple[list[Planned], list[Decision]]:
        """Compose and check every stage, also those after `until`, and decide about those up to it. Touches nothing."""
        self._refuse_older_names()
        refuse_older(self.stages, self.place, self.cfg.rerun)
        # Those after `until` too: the report names them, and they may follow later.
        planned = plan_stages(self.stages, self.graph.awaited, self.place)
        decisions = plan(planned[: self.last], self.place, self.cfg.rerun)
        refuse_costly(decisions, self.place, self.cfg.rerun, self.cfg.confirm_minutes)
        return planned, decisions

    def _run_stages(self, runner: Runner, planned: Sequence[Planned], to_run: Sequence[str]) -> int:
        with self.held():
            self.describe(planned, ["pipeline", *sys.argv[1:]])
            code = run_stages(runner, planned[: self.last], len(planned), to_run)
            if code == 0:
                self._summary(runner, planned[: self.last])
            return code

    def held(self) -> Lock:
        """Make the pipeline's folder, and hold it."""
        try:
            self.place.folder.mkdir(parents=True, exist_ok=True)
            return Lock(self.place.folder)
        except OSError as error:
            raise UserError(f"run.dir and run.name: cannot write to {self.place.folder} ({error.strerror})") from None

    def _refuse_older_names(self) -> None:
        """Refuse a folder whose stages bear the names of an earlier version: all would run again beside them."""
        described = read_json(self.place.folder / "pipeline.json")
        if described and "graph" not in described:
            raise UserError(
                f"{self.place.folder} was made by an earlier version, whose stages had other names (those of round 1 now "
                f"begin with v1_): choose another run.name; nothing was touched"
            )

    def describe(self, planned: Sequence[Planned], command: Sequence[str]) -> None:
        """Write what others read: plan.json, for one stage alone, and pipeline.json, for the report and those who ask."""
        write_plan(self.place, planned, self.cfg.ranks)
        content = {
            "name": self.place.name,
            "command": [NAME, *command],
            "preset": self.preset,
            "graph": self.cfg.method,
            "stages": {one.name: {"program": one.program, "parents": one.parents} for one in planned},
            "left_out": self.graph.left_out,
        }
        atomic.write_json(self.place.folder / "pipeline.json", content)

    def _summary(self, runner: Runner, planned: Sequence[Planned]) -> None:
        """Print a line per stage with its result and time, and where the report is."""
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
        table.add_column("stage")
        table.add_column("result")
        table.add_column("time", justify="right")
        total = 0.0
        for one in planned:
            record = read_record(self.place.folder / one.name)
            assert record is not None, "every stage was run or found done"
            total += record.seconds
            table.add_row(f"[bold]{one.name}[/bold]", runner.result(one), duration(record.seconds))
        table.add_row("", "", f"[bold]{duration(total)}[/bold]")
        self.console.print()
        self.console.print(table)
        try:
            self.console.print("", side_by_side(three(Story(self.place.folder))))
            told = f"the report: {escape(str(page.write(self.place.folder)))}"
        except Exception as error:  # the stages are done whatever becomes of the page about them
            told = f"done, but its report cannot be written: {escape(mistake(error) or repr(error))}"
        self.console.print(
            f"\n[green]✓[/green] [bold]{escape(self.place.name)}[/bold]  {told}", highlight=False, soft_wrap=True
        )
        line = how_to_talk({one.name: one.program for one in planned}, self.place.folder)
        if line:
            self.console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
        for line in self.graph.further():
            self.console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)


def how_to_talk(stages: Mapping[str, str], folder: Path) -> str:
    """Return how to talk to the last model of stages (name -> program) in a pipeline's folder; empty where none is."""
    chats = [name for name, one in stages.items() if PROGRAMS[one].chats]
    bases = [name for name, one in stages.items() if one == "pretrain"]
    if not chats and not bases:
        return ""
    what = "talk to it" if chats else "try it (a base model: it continues text rather than answers)"
    made = folder / (chats or bases)[-1] / "final"
    return f"{what}: {typed(['chat', f'checkpoint={made}'])}"


def drawn(stage: Stage) -> str:
    """Return a stage as the graph has it, as YAML: its program, what the graph sets, what was typed."""
    node: dict[str, Any] = {"program": stage.program, **stage.settings}
    if stage.overrides:
        node["overrides"] = list(stage.overrides)
    return yaml.safe_dump({stage.name: node}, sort_keys=False, width=1000)


def tell(runner: Runner, decision: Decision) -> None:
    """Print what a dry run says of a stage."""
    one, why = decision.stage, escape(decision.why)
    if decision.action == "done":
        runner.line("✓", one, f"[dim]done  {runner.result(one)}[/dim]")
    else:
        runner.line({"perhaps": "▷", "wait": "◇"}.get(decision.action, "▶"), one, why)


# --- the command line --------------------------------------------------------------------------------------------


def divided(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Divide overrides into the pipeline's own and those of its stages; of several `data=` the last one counts, alone."""
    data = [argument for argument in arguments if argument.startswith("data=")]
    rest = [argument for argument in arguments if argument not in data]
    return split_overrides([spelt for one in (*data[-1:], *rest) for spelt in _spelt(one)], OWN)


def _spelt(argument: str) -> list[str]:
    """Return what other spellings of an argument mean here: `--dry-run[=RANKS]`, as programs have it, and data=FILE."""
    option, equals, value = argument.partition("=")
    if option == DRY_RUN:
        return ["dry_run=true", *([f"ranks={value}"] if equals else [])]
    if option == "data" and value.endswith((".yaml", ".yml")):
        return ["data=mine", *data_overrides(Path(value))]
    return [argument]


def data_overrides(path: Path) -> list[str]:
    """Return the overrides that a data file of the user's own stands for; UserError where it is none."""
    try:
        roles = read_yaml(path)
    except FileNotFoundError:
        raise UserError(f"data={path}: there is no such file") from None
    if not isinstance(roles, dict):
        raise UserError(f"data={path}: found {show(roles)}, need `role: files`, as in configs/data/mine.yaml")
    found = []
    for role, value in roles.items():
        parts = {f"data.{role}.{kind}": one for kind, one in value.items()} if isinstance(value, dict) else {}
        found += [f"{key}={_override(one)}" for key, one in (parts or {f"data.{role}": value}).items()]
    return found


def _override(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(_override, value))}]"
    return quoted(value) if isinstance(value, str) else str(yaml.safe_dump(value).splitlines()[0])


def main(argv: Sequence[str] | None = None) -> None:
    """Divide the command line among the pipeline and its stages, and run."""
    given = list(sys.argv[1:] if argv is None else argv)
    sweep = {"--multirun", "-m"} & set(given)
    wrong: Exception | None = None
    presets = [argument.partition("=")[2] for argument in given if argument.startswith("preset=")]
    own, staged = list[str](), list[str]()
    try:
        theirs = [override for name in presets for override in preset_overrides("pipeline", name)]
        typed_here = [one for one in given if one not in sweep and not one.startswith("preset=")]
        own, staged = divided([*theirs, *typed_here])
    except (UserError, OSError) as error:  # said where a program's mistakes are
        wrong = error

    def pipeline(cfg: PipelineConfig) -> None:
        if wrong is not None:
            raise wrong
        if sweep:
            raise UserError(
                f"{sweep.pop()} is for single programs: start a pipeline a value, each with its own run.name"
            )
        if not presets:
            raise UserError("which pipeline? Need preset=<name>, for example preset=demo")
        raise SystemExit(Pipeline(cfg, presets, staged).run())

    program.main("pipeline", PipelineConfig, pipeline, [] if sweep else own)


if __name__ == "__main__":
    main()
