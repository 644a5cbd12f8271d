"""The batch script of a job: rendered from templates/job.sh, the only one there is."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from llamatrain import atomic
from llamatrain.errors import UserError

from ..programs import PREFIX, ROOT, command
from .attempts import EXIT_GAVE_UP
from .config import Cluster, Need

SCRIPT = "job.sh"
TO_NOTE = 600  # seconds in which a start has to be noted: a process that sleeps is nobody else's to see
TO_FOLLOW = 30  # seconds that ranks have to end after the first has
QUIET = {"OMP_WAIT_POLICY": "PASSIVE", "PYTHONUTF8": "1"}  # as `programs.environment` sets them on one machine


@dataclass(frozen=True)
class Job:
    """What runs as one job, and what it needs."""

    name: str  # as squeue shows it
    folder: Path  # of its script and logs
    run: Path  # what it makes
    working_folder: Path
    arguments: Sequence[str]  # of `llamatrain`
    need: Need

    @property
    def script(self) -> Path:
        """Where its script lies."""
        return self.folder / SCRIPT


def render(job: Job, cluster: Cluster, written_by: str) -> str:
    """Return the script of a job; UserError where the cluster's settings do not fit it."""
    written_by = " ".join(written_by.split("\n"))  # it is a comment's line
    if "\n" in f"{job.name}{job.folder}{job.run}{job.working_folder}":
        raise UserError(f"run.dir and run.name: found a line break in {str(job.run)!r}, need one line for a script")
    seconds, lead = seconds_of(job.need.time), cluster.warning_seconds
    if lead >= seconds:
        raise UserError(f"cluster.warning_seconds={lead}: need less than the {seconds} s of time={job.need.time}")
    inside, apptainer = _container(job, cluster)
    quoted = {**QUIET, "OMP_NUM_THREADS": str(job.need.cpus_per_rank), **cluster.environment, **cluster.nccl}
    environment = [(name, shlex.quote(str(value))) for name, value in quoted.items()]
    if not PREFIX and cluster.container.kind == "none":
        environment.append(("PYTHONPATH", f"{shlex.quote(str(ROOT))}${{PYTHONPATH:+:$PYTHONPATH}}"))
    attempt = ["slurm.attempt", f"folder={job.folder}", f"run_folder={job.run}", f"restarts={cluster.restarts}"]
    # In an image the command is what it is called there.
    start = ["llamatrain"] if cluster.container.kind != "none" else command("launch")
    return _template().render(
        title=f"{job.name}: {job.need}",
        written_by=written_by,
        path=shlex.quote(str(job.script)),
        options=list(_options(job, cluster)),
        modules=[shlex.quote(module) for module in cluster.modules],
        setup=cluster.setup,
        environment=environment,
        scratch=cluster.scratch,
        logs=shlex.quote(str(job.folder)),
        run=shlex.quote(str(job.run)),
        exclude=shlex.quote(f"{cluster.exclude},") if cluster.exclude else "",
        restarts=cluster.restarts,
        attempt=shlex.join([*apptainer, *start, *attempt]),
        command=shlex.join([*apptainer, *start, *job.arguments]),
        gave_up=EXIT_GAVE_UP,
        to_note=TO_NOTE,
        wait=TO_FOLLOW,
        ranks=_ranks(job.need),
        cpus=job.need.cpus_per_rank,
        inside="".join(f" {option}" for option in inside),
        srun="".join(f" {option}" for option in cluster.srun),
    )


def write(jobs: Sequence[Job], cluster: Cluster, written_by: str) -> None:
    """Write the scripts of jobs, all rendered before the first is written."""
    scripts = [(job, render(job, cluster, written_by)) for job in jobs]
    for job, text in scripts:
        job.folder.mkdir(parents=True, exist_ok=True)
        atomic.write_text(job.script, text)


def show(jobs: Sequence[Job], cluster: Cluster, written_by: str) -> None:
    """Print the scripts of jobs."""
    for job in jobs:
        print(f"##### {job.script}\n{render(job, cluster, written_by)}")


def _options(job: Job, cluster: Cluster) -> Iterator[str]:
    """Yield sbatch's options, each of which has a line of the script."""
    need = job.need
    yield from (f"--job-name={_word(job.name)}", f"--comment={_word(str(job.run))}")
    given = {
        "partition": need.partition,
        "account": cluster.account,
        "qos": cluster.qos,
        "constraint": cluster.constraint,
        "exclude": cluster.exclude,
    }
    yield from (f"--{name}={value}" for name, value in given.items() if value is not None)
    if need.min_nodes:
        # Slurm makes a number of tasks of tasks per node as the job starts, and would need as many nodes at each restart.
        yield f"--nodes={need.min_nodes}-{need.nodes} --mincpus={need.ranks_per_node * need.cpus_per_rank}"
    else:
        yield f"--nodes={need.nodes} --ntasks-per-node={need.ranks_per_node} --cpus-per-task={need.cpus_per_rank}"
    if need.gpus_per_node:
        yield f"--gpus-per-node={f'{cluster.gpu_type}:' if cluster.gpu_type else ''}{need.gpus_per_node}"
    if need.memory is not None:
        yield f"--mem={need.memory}"
    if cluster.exclusive and need.gpus_per_node:
        yield "--exclusive"
    yield f"--time={need.time}"
    if cluster.warning_seconds:
        yield f"--signal=B:USR1@{cluster.warning_seconds}"
    yield "--requeue --open-mode=append"
    yield f"--chdir={_word(str(job.working_folder))}"
    yield f"--output={_word(str(job.folder / 'job.log'))}"
    yield from cluster.sbatch


def _ranks(need: Need) -> str:
    """Return how many tasks srun starts, as its option has it: on as many nodes as there are, where that is not said."""
    each = need.ranks_per_node
    return f"$((SLURM_JOB_NUM_NODES * {each})) --ntasks-per-node={each}" if need.min_nodes else str(need.ranks)


def _word(text: str) -> str:
    """Return a text as sbatch reads it from a line of the script, where only quotes hold blanks together."""
    return (
        text
        if not any(sign in text for sign in " '\"\t#")
        else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    )


def _container(job: Job, cluster: Cluster) -> tuple[list[str], list[str]]:
    """Return srun's options for pyxis, and the command that apptainer puts before a program."""
    own = cluster.container
    if own.kind == "none":
        return [], []
    assert own.image is not None
    mounts = list(dict.fromkeys([str(job.working_folder), str(job.run.parent), str(job.folder), *own.mounts]))
    if own.kind == "pyxis":
        both = [mount if ":" in mount else f"{mount}:{mount}" for mount in mounts]
        options = ["image=" + own.image, "mounts=" + ",".join(both), f"workdir={job.working_folder}"]
        return [f"--container-{shlex.quote(option)}" for option in options], []
    gpus = ["--nv"] if job.need.gpus_per_node else []
    binds = [part for mount in mounts for part in ("--bind", mount)]
    return [], ["apptainer", "exec", *gpus, *binds, "--pwd", str(job.working_folder), own.image]


def seconds_of(time: str) -> int:
    """Return the seconds of a time limit: [days-]hours:minutes[:seconds], but minutes:seconds where it has one colon alone."""
    days, dash, rest = time.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if len(parts) == 2:  # as sbatch reads it
        parts = [*parts, 0] if dash else [0, *parts]
    hours, minutes, seconds = parts
    return int(days or 0) * 86400 + hours * 3600 + minutes * 60 + seconds


@cache
def _template() -> Template:
    loader = FileSystemLoader(Path(__file__).parent / "templates")
    return Environment(
        loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    ).get_template(SCRIPT)
