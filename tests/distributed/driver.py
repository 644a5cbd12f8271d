"""A fork server: real programs on one rank or several, without paying for an interpreter's start each time.

One process imports everything and runs no tensor operation, so it has one thread and may fork; every rank of every job
is a child of it that enters the program as `python -m` does. Chains of jobs run side by side, the jobs of a chain one
after the other. A job may be hit: when a rank calls a function for the n-th time, it gets a signal first.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import multiprocessing
import os
import pkgutil
import runpy
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from launch.processes import _environments
from launch.programs import PROGRAMS
from llamatrain.config.compose import compose_dict
from llamatrain.watch import EXIT_HUNG

# Seconds of a machine that does nothing else; `_busy` says how many they are on this one.
PATIENCE = 20.0  # for the other ranks after the first has ended; then they are killed, which tests see as -9
LIMIT = 120.0  # for a job
AT_ONCE = 2  # chains
IMPORTED = [
    *(f"llamatrain.{name}" for name in ("engine.learning", "fit", "run", "start", "checkpoint")),
    *("deepspeed", "deepspeed.runtime.zero", "torch._dynamo"),
    *("reward.scoring", "rlhf.learning", "llamatrain.responses.sampling"),
]


@dataclass
class Hit:
    """A signal that a rank gets as it calls a function for the n-th time."""

    function: str  # dotted, where it is looked up
    nth: int = 1
    rank: int = 0
    signal: str = "SIGKILL"


@dataclass
class Job:
    """A program's command line on so many ranks; no file can grow beyond `file_limit` bytes.

    Without a `folder` the arguments are all there is; with `quiet` the output is what stands on standard error. A `plain`
    one may read what its user may, also where that is root; `here` is the folder in which it works.
    """

    program: str
    folder: str  # of the run
    arguments: list[str]
    ranks: int = 1
    hits: list[Hit] = field(default_factory=list)
    file_limit: int | None = None
    quiet: bool = False
    plain: bool = False
    here: str = ""


@dataclass
class Result:
    """The exit code of every rank (minus the signal that killed it), what they printed, and the run's status.json."""

    codes: list[int]
    output: str
    status: dict[str, Any]
    seconds: float


def run(chains: Sequence[Sequence[Job]], repository: Path, imported: Sequence[str] = ()) -> list[list[Result]]:
    """Run chains of jobs in one fork server, with more modules `imported`; return the result of every job."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.distributed.driver", *imported],
        input=json.dumps([[asdict(job) for job in chain] for chain in chains]),
        cwd=repository,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [[Result(**result) for result in chain] for chain in json.loads(done.stdout)]


# --- the server ----------------------------------------------------------------------------------------------------


def main() -> None:
    """Read chains from standard input, run them and write their results to standard output."""
    chains = [[Job(**{**job, "hits": [Hit(**hit) for hit in job["hits"]]}) for job in c] for c in json.load(sys.stdin)]
    os.environ |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):  # what a test that joined a group by itself leaves
        os.environ.pop(name, None)
    for name in (*IMPORTED, *sys.argv[1:]):
        importlib.import_module(name)
    compose_dict("sft")  # Hydra builds its parser
    threads = len(list(Path("/proc/self/task").iterdir()))
    assert threads == 1, f"{threads} threads: a fork would not be safe"
    with multiprocessing.get_context("fork").Pool(AT_ONCE) as pool:
        results = pool.map(_run_chain, chains, chunksize=1)
    json.dump([[asdict(result) for result in chain] for chain in results], sys.stdout)


def _run_chain(chain: list[Job]) -> list[Result]:
    return [_run_job(job) for job in chain]


def _run_job(job: Job) -> Result:
    started = time.monotonic()
    log = os.memfd_create("log", 0)
    running = {_fork(job, rank, environ, log): rank for rank, environ in enumerate(_environments(job.ranks))}
    codes = [0] * job.ranks
    deadline = started + LIMIT * _busy()
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            code = codes[running.pop(pid)] = os.waitstatus_to_exitcode(status)
            deadline = (
                0.0 if code in (-signal.SIGKILL, EXIT_HUNG) else min(deadline, time.monotonic() + PATIENCE * _busy())
            )
        if time.monotonic() > deadline:
            for other in running:
                os.kill(other, signal.SIGKILL)
        time.sleep(0 if pid else 0.005)
    os.lseek(log, 0, os.SEEK_SET)
    said = Path(job.folder or os.devnull) / "status.json"
    with os.fdopen(log) as file:
        return Result(
            codes,
            output=file.read(),
            status=json.loads(said.read_text()) if said.is_file() else {},
            seconds=time.monotonic() - started,
        )


def _busy() -> float:
    """Return how many processes want each core, at least 1: so much longer everything takes."""
    return max(1.0, os.getloadavg()[0] / len(os.sched_getaffinity(0)))


def _fork(job: Job, rank: int, environ: dict[str, str], log: int) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(os.open(os.devnull, os.O_RDWR) if job.quiet else log, 1)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(log, 2)
            os.environ |= environ
            _enter(job, rank)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return pid


def _enter(job: Job, rank: int) -> None:
    """Run the program as `python -m` does, with the job's hits laid for this rank."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start with it ignored
    for hit in job.hits:
        if hit.rank == rank:
            _lay(hit)
    if job.file_limit is not None:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit then fails as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (job.file_limit, job.file_limit))
    if job.here:
        Path(job.here).mkdir(parents=True, exist_ok=True)
        os.chdir(job.here)
    if job.plain:
        _give_up_privileges()
    module, folder = PROGRAMS[job.program].module, Path(job.folder)
    place = [f"run.dir={folder.parent}", f"run.name={folder.name}"] if job.folder else []
    sys.argv = [module, *place, *job.arguments]
    warnings.filterwarnings("ignore", module="runpy")  # of a program that is imported already
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _give_up_privileges() -> None:
    """Drop all of Linux's capabilities: without them root, too, is refused a file that it may not read."""
    version, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset(version, none):
        raise OSError(ctypes.get_errno(), "capset")


def _lay(hit: Hit) -> None:
    owner, name = hit.function.rsplit(".", 1)
    where: Any = pkgutil.resolve_name(owner)
    original, calls = getattr(where, name), 0

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == hit.nth:
            os.kill(os.getpid(), signal.Signals[hit.signal])
        return original(*args, **kwargs)

    setattr(where, name, wrapper)


if __name__ == "__main__":
    main()
