"""Submits a pipeline's plan with one job per stage, each after those whose files it reads, and the report after all of them.

What is done gets no job, nor what waits for people; what is queued is named, and refused with other settings.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from llamatrain.config.compose import compose
from llamatrain.config.presets import preset_overrides
from llamatrain.errors import UserError
from llamatrain.given import Given

from ..estimate.chain import of_stages
from ..pipeline import Pipeline, PipelineConfig, divided
from ..plan import Decision, Planned
from ..programs import NAME
from ..stage import line, read_plan
from . import queue
from .checks import check_fit, check_home, check_names
from .config import SlurmConfig, asked_of, need, need_of
from .queue import ClusterError, Queued
from .script import Job, render, show, write
from .submitted import JOBS, REPORT, Submitted, clean, note, read_jobs, still_queued


def submit(cfg: SlurmConfig, theirs: Sequence[str], written_by: str) -> None:
    """Submit what of a pipeline is neither done nor queued nor held back, or print its scripts."""
    pipeline = _asked(cfg, theirs)
    planned, decisions = pipeline.planned()
    names = {REPORT, *(name for one in planned for name in (one.name, one.program))}
    check_names(cfg, names, theirs, pipeline.why_absent)
    folder, told = pipeline.place.folder.absolute(), pipeline.console
    for text in pipeline.not_yet():
        told.print(f"[yellow]–[/yellow] {escape(text)}", soft_wrap=True)
    jobs = _jobs(cfg, pipeline, planned)
    parents: dict[str, Sequence[str]] = {one.name: one.parents for one in planned}
    parents[REPORT] = list(parents)
    for one in planned[: pipeline.last]:
        render(jobs[one.name], cfg.cluster, written_by)  # what it refuses is said before anything is written
    check_home(cfg, folder)
    if cfg.dry_run:
        chosen = _to_submit(decisions, pipeline)
        show([jobs[name] for name in chosen], cfg.cluster, written_by)
        for name in chosen:  # the scripts are long, and the end stays on the screen
            after = [parent for parent in parents[name] if parent in chosen]
            line(told, "▶", name.ljust(pipeline.width), f"{jobs[name].need}{_behind(name, after)}")
    check_fit(cfg, of_stages(planned[: pipeline.last], pipeline.place.data_root), Given(), told)
    if cfg.dry_run:
        return
    queue.reach()
    with clean(pipeline.held()):
        queued = _queued(folder, planned, jobs)
        _refuse_other_plan(folder, planned, queued)
        chosen = _to_submit(decisions, pipeline)
        if {*chosen} - {*queued, REPORT}:  # a report that is queued would not wait for these
            queued.pop(REPORT, None)
        write([jobs[name] for name in chosen if name not in queued], cfg.cluster, written_by)
        pipeline.describe(planned, ["slurm", *sys.argv[1:]])
        made = _submit({name: jobs[name] for name in chosen}, queued, parents, told, pipeline.width)
        note(folder, made)
    told.print(
        f"{len(made)} submitted; follow them with: {NAME} status {pipeline.place.folder}", markup=False, soft_wrap=True
    )


def _asked(cfg: SlurmConfig, theirs: Sequence[str]) -> Pipeline:
    """Return the pipeline that a command line describes, all of its stages composed and checked."""
    presets = [argument.partition("=")[2] for argument in theirs if argument.startswith("preset=")]
    if not presets:
        raise UserError("which pipeline? Need preset=<name>, for example preset=demo")
    from_presets = [override for name in presets for override in preset_overrides("pipeline", name)]
    own, staged = divided([*from_presets, *(one for one in theirs if not one.startswith("preset="))])
    settings = compose("pipeline", PipelineConfig, [*own, f"dry_run={str(cfg.dry_run).lower()}"])
    if settings.graph:
        raise UserError("graph=true: submits nothing; `llamatrain pipeline` prints the graph")
    return Pipeline(settings, presets, staged)


def _jobs(cfg: SlurmConfig, pipeline: Pipeline, planned: Sequence[Planned]) -> dict[str, Job]:
    """Return the job of each stage that is asked for, by name, and that of the report, which comes last."""
    folder, name, here, settings = pipeline.place.folder.absolute(), pipeline.place.name, Path.cwd(), pipeline.cfg
    jobs = {}
    for one in planned[: pipeline.last]:
        rerun = [f"rerun=[{one.name}]"] if one.name in settings.rerun else []
        command = ["stage", str(folder), one.name, *rerun, f"confirm_minutes={settings.confirm_minutes:g}"]
        asked = need_of(cfg.cluster, cfg.resources, one.program, one.name)
        jobs[one.name] = Job(f"{name}/{one.name}", folder / JOBS / one.name, folder / one.name, here, command, asked)
    # As on one machine, where all stages are done: after a failed one it is cancelled with what stands behind.
    asked = need(cfg.cluster, False, False, asked_of(cfg.resources, REPORT, REPORT))
    place, page = folder / JOBS / REPORT, folder / "report.html"
    jobs[REPORT] = Job(f"{name}/{REPORT}", place, page, here, [REPORT, str(folder)], asked)
    return jobs


def _to_submit(decisions: Sequence[Decision], pipeline: Pipeline) -> list[str]:
    """Return which stages get a job, and say of the others why not: they are done, or wait for people."""
    held: set[str] = set()
    chosen = []
    for decision in decisions:
        one, padded = decision.stage, decision.stage.name.ljust(pipeline.width)
        if decision.action == "done":
            line(pipeline.console, "✓", padded, "done")
        elif decision.action == "wait" or held.intersection(one.parents):
            held.add(one.name)
            why = decision.why if decision.action == "wait" else f"waits with {held.intersection(one.parents).pop()}"
            line(pipeline.console, "◇", padded, escape(f"{why}; once it exists, the same command goes on"))
        else:
            chosen.append(one.name)
    return [*chosen, REPORT] if chosen and not held else chosen


def _queued(folder: Path, planned: Sequence[Planned], jobs: Mapping[str, Job]) -> dict[str, Queued]:
    """Return the jobs of the pipeline that wait or run, by stage, those of stages that are not asked for among them."""
    noted, active = read_jobs(folder), queue.jobs()
    runs = {name: job.run for name, job in jobs.items()} | {one.name: folder / one.name for one in planned}
    return {name: job for name, run in runs.items() if (job := still_queued(active, run, noted.get(name)))}


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


def _submit(
    jobs: Mapping[str, Job],
    queued: Mapping[str, Queued],
    parents: Mapping[str, Sequence[str]],
    told: Console,
    width: int,
) -> dict[str, Submitted]:
    """Submit jobs in their order, but those that are queued; where the cluster refuses one, none of this call's stays."""
    numbers = {name: job.number for name, job in queued.items()}
    made: dict[str, Submitted] = {}
    for name, job in jobs.items():
        if name in queued:
            line(told, "=", name.ljust(width), f"job {numbers[name]} is queued already ({queued[name].standing})")
            continue
        after = [parent for parent in parents[name] if parent in numbers]
        try:
            numbers[name] = queue.submit(job.script, [numbers[parent] for parent in after])
        except (ClusterError, UserError) as error:
            if made:
                queue.cancel([one["job"] for one in made.values()])
            raise ClusterError(
                f"{name}: {error}; nothing of this call stays queued; its script is {job.script}"
            ) from None
        made[name] = Submitted(job=numbers[name], after=[numbers[parent] for parent in after], time=time.time())
        line(told, "▶", name.ljust(width), f"job {numbers[name]}  {job.need}{_behind(name, after)}")
    return made


def _behind(name: str, after: Sequence[str]) -> str:
    told = "all of them" if name == REPORT else ", ".join(after)
    return f", after {told}" if after else ""
