"""Submits a program as one job, or hands a pipeline on; a run whose job still waits or runs is not submitted twice."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape

from llamatrain.config.compose import compose
from llamatrain.errors import UserError
from llamatrain.keys import files_read
from llamatrain.lock import Lock

from ..estimate.chain import given_of
from ..outside import look
from ..programs import PROGRAMS, find, nearest, schema_of
from ..stage import console, line
from . import chain, queue
from .checks import check_fit, check_home, check_names, check_partitions, check_ranks
from .config import SlurmConfig, need_of
from .queue import ClusterError
from .script import Job, render, show, write
from .submitted import JOBS, Submitted, clean, note, read_jobs, still_queued


def submit(cfg: SlurmConfig, what: str, theirs: Sequence[str], written_by: str) -> None:
    """Submit a program or a pipeline, or print its scripts; ClusterError where the cluster refuses."""
    check_ranks(theirs)
    check_partitions(cfg)
    if what == "pipeline":
        chain.submit(cfg, theirs, written_by)
    else:
        _program(cfg, what, theirs, written_by)


def _program(cfg: SlurmConfig, name: str, theirs: Sequence[str], written_by: str) -> None:
    program = find(name)
    if program is None or PROGRAMS[program].schema is None:
        able = [known for known, one in PROGRAMS.items() if one.schema is not None]
        raise UserError(
            f"program={name}: need pipeline or one of {', '.join(able)}{nearest(name, ['pipeline', *able])}"
        )
    settings = _settings(program, theirs)
    check_names(cfg, {program}, theirs)
    run = (Path(settings.run.dir) / settings.run.name).absolute()
    need = need_of(cfg.cluster, cfg.resources, program, program)
    job = Job(run.name, run / JOBS, run, Path.cwd(), [program, *theirs], need)
    render(job, cfg.cluster, written_by)  # what it refuses is said before anything is written
    told = console()
    check_home(cfg, run)
    if cfg.dry_run:
        show([job], cfg.cluster, written_by)
        line(told, "▶", program, str(need))
    check_fit(cfg, [(program, program, settings)], given_of(theirs), told)
    if cfg.dry_run:
        return
    queue.reach()
    with clean(_held(run)):
        queued = still_queued(queue.jobs(), run, read_jobs(run).get(program))
        if queued is not None:
            line(told, "=", program, f"job {queued.number} is queued already ({queued.standing})")
            return
        write([job], cfg.cluster, written_by)
        try:
            number = queue.submit(job.script, [])
        except ClusterError as error:
            raise ClusterError(f"{error}; its script is {job.script}") from None
        note(run, {program: Submitted(job=number, after=[], time=time.time())})
        line(told, "▶", program, f"job {number}  {need}; logs in {escape(str(job.folder))}")


def _settings(program: str, theirs: Sequence[str]) -> Any:
    """Return a program's checked settings; UserError also where it could not go on after a restart, or a file is not there."""
    settings: Any = compose(program, schema_of(program), theirs)
    if settings.run.resume == "never":
        raise UserError("run.resume=never: a job that is restarted would start from scratch; choose another run.name")
    for key, metadata, value in files_read(settings):
        try:
            look(metadata["reads"], value, metadata["made_by"], getattr(settings, "bad_rows", "stop") == "skip")
        except UserError as error:
            raise UserError(f"{key}: {error}") from None
    return settings


def _held(run: Path) -> Lock:
    """Make the folder of a program's job, and hold it."""
    try:
        (run / JOBS).mkdir(parents=True, exist_ok=True)
        return Lock(run / JOBS)
    except OSError as error:
        raise UserError(f"run.dir and run.name: cannot write to {run} ({error.strerror})") from None
