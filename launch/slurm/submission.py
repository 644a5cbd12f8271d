"""Submits jobs: one program, or a pipeline's plan with one job per stage, each after those whose files it reads.

Beside the scripts, jobs.json says which job was submitted for what; a run whose jobs still wait or run is not submitted twice.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict

from rich.console import Console
from rich.markup import escape

from llamatrain import atomic
from llamatrain.config.compose import compose
from llamatrain.config.presets import preset_overrides
from llamatrain.errors import UserError
from llamatrain.given import Given
from llamatrain.keys import files_read
from llamatrain.lock import Lock
from llamatrain.text_files import DamagedFileError, read_json

from ..estimate.chain import given_of, of_stages
from ..estimate.fit import unfit
from ..outside import look
from ..pipeline import Pipeline, PipelineConfig, divided
from ..plan import Decision, Planned
from ..programs import NAME, PROGRAMS, find, nearest, schema_of
from ..stage import console, read_plan
from . import queue
from .arguments import key_of, of_slurm
from .config import SlurmConfig, asked_of, need, need_of
from .queue import ClusterError, Queued
from .script import Job, render

JOBS, JOBS_FILE, REPORT = "jobs", "jobs.json", "report"


class Submitted(TypedDict):
    """What jobs.json says of a stage or program."""

    job: str
    after: list[str]
    time: float


def read_jobs(folder: Path) -> dict[str, Submitted]:
    """Return what was submitted last for each stage, or for a run's program."""
    try:
        return read_json(folder / JOBS / JOBS_FILE, dict[str, Submitted])
    except (OSError, DamagedFileError):  # what it says is asked of the queue, too
        return {}


def submit(cfg: SlurmConfig, what: str, theirs: Sequence[str], written_by: str) -> None:
    """Submit a program or a pipeline, or print its scripts; ClusterError where the cluster refuses."""
    typed = [one for one in theirs if one.partition("=")[0] == "ranks"]
    if typed:
        raise UserError(
            f"{typed[0]}: in Slurm the ranks follow from cluster.nodes and cluster.gpus_per_node, or cluster.ranks_per_node"
        )
    _check_partitions(cfg)
    if what == "pipeline":
        _pipeline(cfg, theirs, written_by)
    else:
        _program(cfg, what, theirs, written_by)


def _check_partitions(cfg: SlurmConfig) -> None:
    asked = {"cluster.partition": cfg.cluster.partition, "cluster.cpu_partition": cfg.cluster.cpu_partition}
    asked |= {f"resources.{name}.partition": one.partition for name, one in cfg.resources.items()}
    for key, name in asked.items():
        if name is not None and not cfg.dry_run:
            queue.check_partition(key, name)


# --- one program -------------------------------------------------------------------------------------------------


def _program(cfg: SlurmConfig, name: str, theirs: Sequence[str], written_by: str) -> None:
    program = find(name)
    if program is None or PROGRAMS[program].schema is None:
        able = [known for known, one in PROGRAMS.items() if one.schema is not None]
        raise UserError(
            f"program={name}: need pipeline or one of {', '.join(able)}{nearest(name, ['pipeline', *able])}"
        )
    settings: Any = compose(program, schema_of(program), theirs)
    if settings.run.resume == "never":
        raise UserError("run.resume=never: a job that is restarted would start from scratch; choose another run.name")
    for key, metadata, value in files_read(settings):
        try:
            look(metadata["reads"], value, metadata["made_by"], getattr(settings, "bad_rows", "stop") == "skip")
        except UserError as error:
            raise UserError(f"{key}: {error}") from None
    _check_names(cfg, {program}, theirs)
    run = (Path(settings.run.dir) / settings.run.name).absolute()
    job = _job(cfg, run / JOBS, run, run.name, program, program, [program, *theirs])
    render(job, cfg.cluster, written_by)  # what it refuses is said before anything is written
    told = console()
    _check_home(cfg, run)
    if cfg.dry_run:
        _show([job], cfg, written_by)
    _check_fit(cfg, [(program, program, settings)], given_of(theirs), told)
    if cfg.dry_run:
        return
    queue.reach()
    try:
        (run / JOBS).mkdir(parents=True, exist_ok=True)
        lock = Lock(run / JOBS)
    except OSError as error:
        raise UserError(f"run.dir and run.name: cannot write to {run} ({error.strerror})") from None
    with _clean(lock):
        queued = _queued(queue.jobs(), run, read_jobs(run).get(program))
        if queued is not None:
            _line(told, "=", program, f"job {queued.number} is queued already ({_state(queued)})")
            return
        _write([job], cfg, written_by)
        try:
            number = queue.submit(job.script, [])
        except ClusterError as error:
            raise ClusterError(f"{error}; its script is {job.script}") from None
        _note(run, {program: Submitted(job=number, after=[], time=time.time())})
        _line(told, "▶", program, f"job {number}  {job.need}; logs in {job.folder}")


# --- a pipeline --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chain:
    """What of a pipeline is submitted: its jobs, those that wait or run already, and what is held back."""

    jobs: dict[str, Job]
    queued: dict[str, Queued]
    parents: Mapping[str, Sequence[str]]


def _pipeline(cfg: SlurmConfig, theirs: Sequence[str], written_by: str) -> None:
    presets = [argument.partition("=")[2] for argument in theirs if argument.startswith("preset=")]
    if not presets:
        raise UserError("which pipeline? Need preset=<name>, for example preset=demo")
    from_presets = [override for name in presets for override in preset_overrides("pipeline", name)]
    own, staged = divided([*from_presets, *(one for one in theirs if not one.startswith("preset="))])
    settings = compose("pipeline", PipelineConfig, [*own, f"dry_run={str(cfg.dry_run).lower()}"])
    if settings.graph:
        raise UserError("graph=true: submits nothing; `llamatrain pipeline` prints the graph")
    pipeline = Pipeline(settings, presets, staged)
    planned, decisions = pipeline.planned()
    names = {REPORT, *(name for one in planned for name in (one.name, one.program))}
    _check_names(cfg, names, theirs, pipeline.why_absent)
    folder = pipeline.place.folder.absolute()
    told = pipeline.console
    for line in pipeline.not_yet():
        told.print(f"[yellow]–[/yellow] {escape(line)}", soft_wrap=True)
    jobs = _jobs(cfg, pipeline, planned, settings)
    parents: dict[str, Sequence[str]] = {one.name: one.parents for one in planned}
    parents[REPORT] = list(parents)
    for one in planned[: pipeline.last]:
        render(jobs[one.name], cfg.cluster, written_by)  # what it refuses is said before anything is written
    _check_home(cfg, folder)
    if cfg.dry_run:
        _show_chain(cfg, pipeline, _to_submit(decisions, told, pipeline), jobs, parents, written_by)
    _check_fit(cfg, of_stages(planned[: pipeline.last], pipeline.place.data_root), Given(), told)
    if cfg.dry_run:
        return
    queue.reach()
    with _clean(pipeline.held()):
        noted = read_jobs(folder)
        active = queue.jobs()
        runs = {name: job.run for name, job in jobs.items()} | {one.name: folder / one.name for one in planned}
        queued = {name: job for name, run in runs.items() if (job := _queued(active, run, noted.get(name)))}
        _refuse_other_plan(folder, planned, queued)
        chosen = _to_submit(decisions, told, pipeline)
        if {*chosen} - {*queued, REPORT}:  # a report that is queued would not wait for these
            queued.pop(REPORT, None)
        _write([jobs[name] for name in chosen if name not in queued], cfg, written_by)
        pipeline.describe(planned, ["slurm", *sys.argv[1:]])
        count = _submit_chain(
            Chain({name: jobs[name] for name in chosen}, queued, parents), folder, told, pipeline.width
        )
    told.print(
        f"{count} submitted; follow them with: {NAME} status {pipeline.place.folder}", markup=False, soft_wrap=True
    )


def _jobs(cfg: SlurmConfig, pipeline: Pipeline, planned: Sequence[Planned], settings: PipelineConfig) -> dict[str, Job]:
    """Return the job of each stage that is asked for, by name, and that of the report, which comes last."""
    folder, name = pipeline.place.folder.absolute(), pipeline.place.name
    jobs = {}
    for one in planned[: pipeline.last]:
        rerun = [f"rerun=[{one.name}]"] if one.name in settings.rerun else []
        command = ["stage", str(folder), one.name, *rerun, f"confirm_minutes={settings.confirm_minutes:g}"]
        place, run, title = folder / JOBS / one.name, folder / one.name, f"{name}/{one.name}"
        jobs[one.name] = _job(cfg, place, run, title, one.program, one.name, command)
    # As on one machine, where all stages are done: after a failed one it is cancelled with what stands behind.
    asked = need(cfg.cluster, False, False, asked_of(cfg.resources, REPORT, REPORT))
    place, page = folder / JOBS / REPORT, folder / "report.html"
    jobs[REPORT] = Job(f"{name}/{REPORT}", place, page, Path.cwd(), [REPORT, str(folder)], asked)
    return jobs


def _show_chain(
    cfg: SlurmConfig,
    pipeline: Pipeline,
    chosen: Sequence[str],
    jobs: Mapping[str, Job],
    parents: Mapping[str, Sequence[str]],
    written_by: str,
) -> None:
    """Show the scripts of the chosen jobs, then a line for each: the scripts are long, and the end stays on the screen."""
    _show([jobs[name] for name in chosen], cfg, written_by)
    for name in chosen:
        after = [parent for parent in parents[name] if parent in chosen]
        _line(pipeline.console, "▶", name.ljust(pipeline.width), f"{jobs[name].need}{_behind(name, after)}")


def _to_submit(decisions: Sequence[Decision], told: Console, pipeline: Pipeline) -> list[str]:
    """Return which stages get a job, and say of the others why not: they are done, or wait for people."""
    held: set[str] = set()
    chosen = []
    for decision in decisions:
        one = decision.stage
        if decision.action == "done":
            _line(told, "✓", one.name.ljust(pipeline.width), "done")
        elif decision.action == "wait" or held.intersection(one.parents):
            held.add(one.name)
            why = decision.why if decision.action == "wait" else f"waits with {held.intersection(one.parents).pop()}"
            _line(told, "◇", one.name.ljust(pipeline.width), f"{why}; once it exists, the same command goes on")
        else:
            chosen.append(one.name)
    return [*chosen, REPORT] if chosen and not held else chosen


def _submit_chain(chain: Chain, folder: Path, told: Console, width: int) -> int:
    """Submit the jobs in their order and return how many; where the cluster refuses one, none of this call's stays."""
    numbers = {name: job.number for name, job in chain.queued.items()}
    made: dict[str, Submitted] = {}
    for name, job in chain.jobs.items():
        if name in chain.queued:
            _line(told, "=", name.ljust(width), f"job {numbers[name]} is queued already ({_state(chain.queued[name])})")
            continue
        after = [parent for parent in chain.parents[name] if parent in numbers]
        try:
            numbers[name] = queue.submit(job.script, [numbers[parent] for parent in after])
        except (ClusterError, UserError) as error:
            if made:
                queue.cancel([one["job"] for one in made.values()])
            raise ClusterError(
                f"{name}: {error}; nothing of this call stays queued; its script is {job.script}"
            ) from None
        made[name] = Submitted(job=numbers[name], after=[numbers[parent] for parent in after], time=time.time())
        _line(told, "▶", name.ljust(width), f"job {numbers[name]}  {job.need}{_behind(name, after)}")
    _note(folder, made)
    return len(made)


def _refuse_other_plan(folder: Path, planned: Sequence[Planned], queued: Mapping[str, Queued]) -> None:
    """Refuse to change the plan under jobs that wait or run: they would read the new one."""
    if not queued:
        return
    with suppress(UserError):
        _, before, _ = read_plan(folder)
        if [asdict(one) for one in before] == [asdict(one) for one in planned]:
            return
    numbers = " ".join(job.number for job in queued.values())
    raise UserError(
        f"jobs of {folder} are queued with other settings: wait for them, choose another run.name, or `scancel {numbers}`"
    )


# --- both --------------------------------------------------------------------------------------------------------


def _job(
    cfg: SlurmConfig, folder: Path, run: Path, name: str, program: str, stage: str, arguments: Sequence[str]
) -> Job:
    return Job(name, folder, run, Path.cwd(), arguments, need_of(cfg.cluster, cfg.resources, program, stage))


def _check_names(
    cfg: SlurmConfig, names: set[str], theirs: Sequence[str], why_absent: Callable[[str], str] = lambda name: ""
) -> None:
    """Refuse resources of what is not submitted, but those of a preset: it speaks of all stages that there may be."""
    known = {name.replace(".", "_") for name in names}
    of_presets = {one.split(".")[1] for one in of_slurm(theirs) if key_of(one) == "resources"}
    for name in cfg.resources:
        if name not in known | of_presets:
            unknown = f"there is no such stage or program here{nearest(name, sorted(known))}"
            raise UserError(f"resources.{name}: {why_absent(name) or unknown}")


def _check_fit(cfg: SlurmConfig, stages: Iterable[tuple[str, str, Any]], given: Given, told: Console) -> None:
    """Refuse what cannot fit the memory of GPUs and nodes, at the end of a dry run, too; or say so."""
    for line in unfit(stages, given, cfg.cluster, cfg.resources, cfg.check_fit):
        _line(told, "!", "", line)


def _check_home(cfg: SlurmConfig, folder: Path) -> None:
    home = cfg.cluster.shared
    if home is not None and not folder.resolve().is_relative_to(Path(home).resolve()):
        raise UserError(f"run.dir: {folder} does not lie below cluster.shared={home}, which all nodes see")


@contextmanager
def _clean(lock: Lock) -> Iterator[None]:
    """Hold a folder while jobs are submitted; where that fails no empty lock stays in it."""
    with lock:
        try:
            yield
        except BaseException:
            lock.release(remove=True)
            raise


def _queued(active: Sequence[Queued], run: Path, noted: Submitted | None) -> Queued | None:
    """Return the job that makes a run, where one waits or runs: by its comment, or by what was noted."""
    return next((job for job in active if job.run == str(run) or (noted and job.number == noted["job"])), None)


def _behind(name: str, after: Sequence[str]) -> str:
    told = "all of them" if name == REPORT else ", ".join(after)
    return f", after {told}" if after else ""


def _state(job: Queued) -> str:
    return job.state.lower() + (f", {job.reason}" if job.state == "PENDING" and job.reason != "None" else "")


def _write(jobs: Sequence[Job], cfg: SlurmConfig, written_by: str) -> None:
    """Write the scripts of jobs, all rendered before the first is written."""
    scripts = [(job, render(job, cfg.cluster, written_by)) for job in jobs]
    for job, text in scripts:
        job.folder.mkdir(parents=True, exist_ok=True)
        atomic.write_text(job.script, text)


def _show(jobs: Sequence[Job], cfg: SlurmConfig, written_by: str) -> None:
    for job in jobs:
        print(f"##### {job.script}\n{render(job, cfg.cluster, written_by)}")


def _note(folder: Path, made: Mapping[str, Submitted]) -> None:
    atomic.write_json(folder / JOBS / JOBS_FILE, {**read_jobs(folder), **made})


def _line(told: Console, mark: str, name: str, text: str) -> None:
    colour = {"✓": "green", "◇": "yellow", "▶": "cyan", "=": "cyan", "!": "yellow"}[mark]
    told.print(f"[{colour}]{mark}[/{colour}] [bold]{name}[/bold]  {escape(text)}", highlight=False, soft_wrap=True)
