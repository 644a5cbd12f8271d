"""Faults that strike a job of the lab, and how far its run then differs from one that nothing befell."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.slurm.attempts import Attempt, read_attempts
from llamatrain.run_files import BEATS
from tests.checkpoints import read_jsonl

from .cluster import Lab

# A time limit of some minutes, as Slurm counts in minutes, and a warning that comes at its next look, every 30 s, once
# the limit is brought to less than two minutes from now (`warn`). Hangs are found in 20 s.
CLUSTER = ("cluster=cpu", "cluster.cpus_per_rank=1", "cluster.time=10:00", "cluster.warning_seconds=90")
RUN = ("run.hang_minutes=0.3", "cluster.restarts=3", 'cluster.srun=["--wait=5"]')
FILES = ("final/model.safetensors", "best.jsonl", "responses.jsonl", "comparisons.jsonl", "samples.jsonl")
PRESET = "preset=tests/slurm/tiny.yaml"
# In which phase a rank is: the first of these whose function of that file is on its stack.
PHASES = (
    ("save", r"llamatrain/saver\.py", "save|wait|_write"),
    ("resume", r"llamatrain/run\.py", "resume|go_back"),
    ("evaluate", r"(?:llamatrain/fit|rlhf/held_out)\.py", "evaluate_loss|measure"),
    ("train", r"llamatrain/fit\.py", "fit"),
    ("act", r"rlhf/kept\.py", "act"),
    ("judge", r"rlhf/kept\.py", "judge_all"),
    ("learn", r"rlhf/learning\.py", "learn"),
    ("credit", r"rlhf/(experience|critic)\.py", "credit|rescale"),
    ("score", r"llamatrain/responses/scoring\.py", "score"),
    ("sample", r"llamatrain/responses/chunks\.py", "make"),
    ("preflight", r"llamatrain/preflight\.py", "check"),
    ("finish", r"llamatrain/run\.py", "__exit__|finish"),
)


def read(path: Path) -> Any:
    return json.loads(path.read_text())


@dataclass(frozen=True)
class Job:
    """A program's run as a job on two ranks: how it is submitted, and who works for it."""

    lab: Lab
    run: Path
    arguments: Sequence[str]  # of `llamatrain slurm`

    def submit(self, *more: str) -> str:
        """Submit it; return what is said."""
        where = (f"run.dir={self.run.parent}", f"run.name={self.run.name}")
        return self.lab.llamatrain("slurm", *self.arguments, *CLUSTER, *RUN, *where, *more)

    @property
    def number(self) -> str:
        """The job's id."""
        (submitted,) = read(self.run / "jobs/jobs.json").values()
        return str(submitted["job"])

    def until_watched(self) -> None:
        """Wait until its ranks watch over one another."""
        self.lab.until(lambda: len(list((self.run / BEATS).glob("rank_*.json"))) == 2 or self.over())

    @property
    def attempts(self) -> list[Attempt]:
        """Every start so far, of all its jobs."""
        return read_attempts(self.run / "jobs")

    @property
    def status(self) -> dict[str, Any]:
        """What the run says of itself; nothing before it began."""
        with suppress(OSError):
            return dict(read(self.run / "status.json"))
        return {}

    def over(self) -> bool:
        """Tell whether no job of the run waits or runs."""
        return not self.lab.ask("squeue", "--noheader", f"--jobs={self.number}")

    def nodes(self) -> list[int]:
        """Return the numbers of the nodes that it runs on, the first rank's first."""
        names = self.lab.ask("squeue", "--noheader", f"--jobs={self.number}", "--format=%N").strip()
        return [int(name.removeprefix("node")) for name in self.lab.ask("scontrol", "show", "hostnames", names).split()]

    def ranks(self) -> dict[int, int]:
        """Return the process of each rank, as this machine numbers it."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                command, environ = ((folder / name).read_bytes().split(b"\0") for name in ("cmdline", "environ"))
            except OSError:
                continue
            ours = f"run.name={self.run.name}".encode() in command and b"launch" not in command
            if ours and f"MOMENT={self.lab.environ['MOMENT']}".encode() in environ:
                rank = next(entry for entry in environ if entry.startswith(b"SLURM_PROCID="))
                found[int(rank.partition(b"=")[2])] = int(folder.name)
        return found

    def until_ranks(self) -> dict[int, int]:
        """Wait until both ranks are there; return their processes."""
        self.lab.until(lambda: len(self.ranks()) == 2)
        return self.ranks()

    def until_again(self, attempts: int) -> None:
        """Wait until it has started so many times, or has come to its end."""
        self.lab.until(lambda: len(self.attempts) >= attempts or self.over())

    def phase(self) -> str:
        """Return in which phase rank 0 is."""
        return where(self.lab, 0, self.ranks().get(0))


def where(lab: Lab, rank: int, pid: int | None) -> str:
    """Ask a rank's process where it stands."""
    try:
        inside = re.findall(r"NSpid:.*\t(\d+)", Path(f"/proc/{pid}/status").read_text())[0]
        told = Path(f"{lab.environ['MOMENT']}.{rank}.{inside}")
        before = told.stat().st_size
        os.kill(pid or 0, signal.SIGUSR2)
        deadline = time.monotonic() + 0.5
        while told.stat().st_size == before and time.monotonic() < deadline:
            time.sleep(0.002)
        lines = told.read_bytes()[before:].decode().splitlines()
    except (OSError, IndexError):
        return "start"
    for phase, file, function in PHASES:
        if any(re.search(rf"{file}\", line \d+ in ({function})$", line) for line in lines):
            return phase
    return "start"


def programs(world: Path) -> dict[str, list[str]]:
    """Return what `llamatrain slurm` gets for a program on two nodes; it reads what `make_world` made.

    Checkpoints are some seconds apart, so that a crash repeats little.
    """
    prompts = f"prompts=[{world / 'world/prompts.jsonl'}]"
    scored = [f"{kind}={world / f'v1_reward_{kind}/final'}" for kind in ("helpfulness", "safety")]
    given = {
        "pretrain": [f"corpus={world / 'corpus'}", f"tokenizer={world / 'tokenizer'}"],
        "sft": [
            f"checkpoint={world / 'pretrain/final'}",
            f"train=[{world / 'world/dialogues.jsonl'}]",
            *("epochs=40", "run.save_every=100", "run.eval_every=100"),
        ],
        "ppo": [
            *(f"checkpoint={world / 'sft/final'}", prompts, *scored, "chunk_responses=4"),
            *(
                "iterations=16",
                "rollout_prompts=16",
                "mini_batch_prompts=4",
                "sampling.max_new_tokens=24",
                "run.save_every=4",
                "run.eval_every=8",
                f"prompts_eval=[{world / 'world/prompts_eval.jsonl'}]",
            ),
        ],
        "sample": [
            *(f"checkpoint={world / 'sft/final'}", prompts, *scored, "max_prompts=null", "chunk_responses=4"),
            *("samples_per_prompt=16", "sampling.max_new_tokens=48"),
        ],
    }
    return {name: [name, PRESET, *values, f"resources.{name}.nodes=2"] for name, values in given.items()}


def make_world(lab: Lab, folder: Path) -> Path:
    """Make what the programs read: the small demo up to its reward models."""
    for kind in ("helpfulness", "safety"):
        lab.llamatrain("slurm", "pipeline", PRESET, f"run.dir={folder}", f"until=v1_reward_{kind}")
    lab.until_empty()
    return folder / "tiny"


# --- moments -----------------------------------------------------------------------------------------------------


def stop_at(lab: Lab, function: str, nth: int) -> None:
    """Let the ranks that start from now on stop as they call a function (`module:name`) for the nth time."""
    Path(lab.environ["MOMENT"]).write_text(json.dumps({"function": function, "nth": nth}))


def until_stopped(job: Job, both: bool = False) -> dict[int, int]:
    """Wait until both ranks stand there, and return their processes; ranks that start later do not stop.

    One may not get there, as it waits for the other: it stands where it is, unless `both` are known to get there.
    """
    moment = Path(job.lab.environ["MOMENT"])
    marks = [moment.with_name(f"{moment.name}.{rank}") for rank in (0, 1)]
    job.lab.until(lambda: (all if both else any)(mark.exists() for mark in marks))
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline and not all(mark.exists() for mark in marks):
        time.sleep(0.02)
    pids = job.until_ranks()
    stand_still(pids)
    for path in (moment, *marks):
        path.unlink(missing_ok=True)
    return pids


def send(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def stand_still(pids: dict[int, int]) -> None:
    """Stop the ranks where they are; each fault wakes those that it leaves alive."""
    send(list(pids.values()), signal.SIGSTOP)


def wake(pids: dict[int, int]) -> None:
    """Let the ranks go on."""
    send(list(pids.values()), signal.SIGCONT)


# --- faults, of which each strikes a job whose ranks are there -------------------------------------------------------


def warn(job: Job, pids: dict[int, int]) -> None:
    """Bring the time limit near, so that Slurm warns; the ranks stand still until they have been told."""
    stand_still(pids)
    seen = re.search(r"RunTime=(\d+):(\d+):(\d+)", job.lab.ask("scontrol", "show", "job", job.number))
    assert seen is not None
    hours, minutes, seconds = map(int, seen.groups())
    passed = 60 * hours + minutes + (seconds > 0)
    job.lab.ask("scontrol", "update", f"JobId={job.number}", f"TimeLimit={passed + 1}")
    job.lab.until(lambda: all(told(pid) for pid in pids.values()))
    job.lab.ask("scontrol", "update", f"JobId={job.number}", "TimeLimit=10")  # of the next attempts
    wake(pids)


def told(pid: int) -> bool:
    """Tell whether USR1 waits for a process, or it is gone."""
    try:
        pending = re.findall(r"(?:Sig|Shd)Pnd:\t(\w+)", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return True
    return any(int(mask, 16) >> (signal.SIGUSR1 - 1) & 1 for mask in pending)


def preempt(job: Job, pids: dict[int, int]) -> None:
    """Let a job of a partition with a higher priority take all nodes for a moment."""
    nodes = job.lab.environ["LAB_NODES"]
    job.lab.ask("sbatch", "--partition=high", f"--nodes={nodes}", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    wake(pids)


def ask_to_stop(job: Job, pids: dict[int, int], whom: str = "") -> None:
    """Send the signal by hand: to the steps, or to whom an option of scancel's says."""
    job.lab.ask("scancel", "--signal=USR1", *([whom] if whom else []), job.number)
    wake(pids)


def kill(job: Job, pids: dict[int, int], rank: int) -> None:
    """Kill a rank."""
    send([pids[rank]], signal.SIGKILL)
    wake(pids)


def put_to_sleep(job: Job, pids: dict[int, int], rank: int) -> None:
    """Stop a rank for ever."""
    send([pids[rank]], signal.SIGSTOP)
    send([pid for other, pid in pids.items() if other != rank], signal.SIGCONT)


def cut_power(job: Job, pids: dict[int, int], node: int) -> None:
    """Switch a node off, and on again once the job has gone elsewhere."""
    starts = len(job.attempts)
    job.lab.node("node-kill", node)
    wake(pids)
    job.until_again(starts + 1)
    job.lab.node("node-up", node)


def cancel(job: Job, pids: dict[int, int]) -> None:
    """Cancel the job, which is not queued again then."""
    job.lab.ask("scancel", job.number)
    wake(pids)


def fill_until_it_ends(job: Job, pids: dict[int, int]) -> None:
    """Fill the lab's disk, on which the run lies, to the last byte, until the job has ended."""
    path = job.lab.folder / "disk/filling"
    with suppress(OSError), path.open("wb", buffering=0) as file:
        for size in (1 << 16, 1):
            with suppress(OSError):
                while file.write(bytes(size)):
                    pass
    wake(pids)
    job.lab.until(job.over)
    path.unlink()


def crash_until_it_gives_up(job: Job, pids: dict[int, int]) -> None:
    """Kill a rank at every start."""
    kill(job, pids, 1)
    dead = set(pids.values())
    while not job.over():
        found = job.ranks()
        if len(found) == 2 and not dead & set(found.values()):
            kill(job, found, 1)
            dead |= set(found.values())
        time.sleep(0.05)


def spoil(lab: Lab, scratch: bool, job: Job) -> None:
    """Submit a job while the first node has a small disk for temporary files, or a slow link; mend it once that is found."""
    lab.node(*(("scratch", 1, 20) if scratch else ("throttle", 1, "16mbit")))
    job.submit("run.preflight=true", f"cluster.scratch={lab.folder / 'scratch'}")
    job.until_again(2)
    for command in ("node-kill", "node-up") if scratch else ("unthrottle",):
        lab.node(command, 1)


# --- what became of it -----------------------------------------------------------------------------------------------


def steps_logged(run: Path) -> int:
    """Return how many lines of metrics are on the disk so far."""
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def metrics(run: Path) -> list[dict[str, Any]]:
    """Return what was logged, but for times."""
    rows = read_jsonl(run / "metrics.jsonl")
    return [{key: value for key, value in row.items() if key != "time" and "second" not in key} for row in rows]


def differences(run: Path, whole: Path) -> list[str]:
    """Return in which respects a run on as many ranks differs from one that nothing befell; empty where in none."""
    found = [f"state is {state}" for state in [read(run / "status.json")["state"]] if state != "done"]
    for file in FILES:
        if (run / file).exists() != (whole / file).exists():
            found.append(f"{file} is there in one of them")
        elif (whole / file).exists() and (run / file).read_bytes() != (whole / file).read_bytes():
            found.append(f"{file} differs")
    own, others = metrics(run), metrics(whole)
    steps = [row["step"] for row in own]
    if steps != [row["step"] for row in others]:
        missing, double = (
            {row["step"] for row in others} - set(steps),
            {step for step in steps if steps.count(step) > 1},
        )
        found.append(f"steps missing: {sorted(missing)}, double: {sorted(double)}")
    elif own != others:
        found.append(
            f"metrics differ from step {next(a['step'] for a, b in zip(own, others, strict=True) if a != b)} on"
        )
    return found + [f"left: {path.name}" for path in run.rglob("*.tmp*")]


def loss_difference(run: Path, whole: Path) -> float:
    """Return by how much the losses of a run differ at most, on whatever ranks; infinity where steps do."""
    own, others = metrics(run), metrics(whole)
    if [row["step"] for row in own] != [row["step"] for row in others]:
        return float("inf")
    pairs = (
        (row[key], other[key])
        for row, other in zip(own, others, strict=True)
        for key in row.keys() & other.keys()
        if "loss" in key
    )
    return max((abs(a - b) for a, b in pairs), default=0.0)
