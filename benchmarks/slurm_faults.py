"""Random faults in a row on a real Slurm of virtual nodes: does every run end like one that nothing befell?

    python benchmarks/slurm_faults.py --count 40 --seed 1      # needs root; Slurm is installed by apt where it is not there

Four small programs run on two nodes each, undisturbed first. Then, one after the other, a program is started as a job
and one fault strikes it at a random moment of its life: it must end with the same weights, rows and metrics, byte by
byte, each step once. A line per fault goes to results/slurm_faults.jsonl; numbers of a seed that are there already are
left out, so that the same command goes on where it was stopped. `--table` prints the recorded lines.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from chain import RESULTS, ROOT, commit, machine

sys.path.insert(0, str(ROOT))
from tests.slurm import faults
from tests.slurm.cluster import Lab, started, why_not
from tests.slurm.faults import Job

RECORD = RESULTS / "slurm_faults.jsonl"
Strike = Callable[[Job, dict[int, int]], None]


def strikes(rng: random.Random) -> dict[str, Strike]:
    """Return what strikes a running job, by its name, with ranks and nodes chosen at random."""
    one = rng.randrange(2)
    return {
        "time limit": faults.warn,
        "preemption": faults.preempt,
        "scancel --signal": partial(faults.ask_to_stop, whom=rng.choice(["", "--batch", "--full"])),
        "scancel, submitted again": faults.cancel,
        "SIGKILL of a rank": partial(faults.kill, rank=one),
        "a rank asleep": partial(faults.put_to_sleep, rank=one),
        "a node switched off": lambda job, pids: faults.cut_power(job, pids, job.nodes()[one]),
        "a full disk": faults.fill_until_it_ends,
        "a crash loop": faults.crash_until_it_gives_up,
    }


# Faults that are there before a job starts.
BAD_NODES = ("full scratch on a node", "a throttled link")
# What ends a job for good: the same command is to go on.
FINAL = ("scancel, submitted again", "a full disk", "a crash loop")


class Night:
    """A lab with undisturbed runs of the programs, and the faults of a seed."""

    def __init__(self, lab: Lab, folder: Path, seed: int) -> None:
        self.lab, self.folder, self.seed = lab, folder, seed
        self.programs = faults.programs(faults.make_world(lab, folder / "world"))
        self.seconds: dict[str, float] = {}  # of an undisturbed run, from its ranks' start
        for name, arguments in self.programs.items():
            job = Job(lab, folder / "whole" / name, arguments)
            job.submit()
            job.until_ranks()
            begun = time.monotonic()
            lab.until(job.over)
            self.seconds[name] = time.monotonic() - begun

    def fault(self, number: int) -> dict[str, Any]:
        """Let the fault of a number happen; return what became of it."""
        rng = random.Random(f"{self.seed} {number}")
        kind = deck(self.seed, number)
        program = rng.choice(list(self.programs))
        # Only there is room to be taken: the other runs lie on this machine's disk.
        home = self.lab.folder / "disk" if kind == "a full disk" else self.folder / "runs"
        job = Job(self.lab, home / f"{program}_{self.seed}_{number}", self.programs[program])
        begun = time.monotonic()
        happened = self.bad_node(job, kind) if kind in BAD_NODES else self.strike(job, kind, rng)
        while happened is None:  # the job was over before the moment came: another one, and another moment
            self.lab.until(job.over)
            job = Job(self.lab, job.run.with_name(f"{job.run.name}_"), job.arguments)
            happened = self.strike(job, kind, rng)
        self.lab.until(job.over)
        again = 0
        while again < 2 and kind in FINAL and job.status.get("state") != "done":
            again += 1
            job.submit()
            self.lab.until(job.over)
        found = faults.differences(job.run, self.folder / "whole" / program)
        status = job.status
        return {
            "seed": self.seed,
            "number": number,
            "fault": kind,
            "program": program,
            **happened,
            "starts": len(job.attempts),
            "submitted_again": again,
            "restarts": status.get("restarts"),
            "repeated": status.get("repeated"),
            "same": not found,
            "differences": found,
            "seconds": round(time.monotonic() - begun, 1),
            "commit": commit(),
            "machine": machine(),
            "date": datetime.now(UTC).date().isoformat(),
        }

    def strike(self, job: Job, kind: str, rng: random.Random) -> dict[str, Any] | None:
        """Submit a job and strike it at a random moment, both ranks standing still as that happens; None where it is over."""
        job.submit(*(["cluster.restarts=1"] if kind == "a crash loop" else []))
        pids = job.until_ranks()
        if (
            kind == "a rank asleep"
        ):  # before its program begins that shows after the ten minutes in which ranks are to meet
            job.until_watched()
        program = job.arguments[0]
        moment = rng.uniform(0, self.seconds[program])
        time.sleep(moment)
        phase = job.phase()
        faults.stand_still(pids)
        if job.ranks() != pids:  # it was faster than the undisturbed one
            faults.wake(pids)
            return None
        step = faults.steps_logged(job.run)
        strikes(rng)[kind](job, pids)
        return {"phase": phase, "moment": round(moment, 1), "step": step}

    def bad_node(self, job: Job, kind: str) -> dict[str, Any]:
        """Submit a job to nodes of which one is bad: it must be found before anything is trained."""
        faults.spoil(self.lab, kind == BAD_NODES[0], job)
        bad = (job.run / "jobs/bad_nodes.txt").read_text().split()
        return {"phase": "preflight", "moment": 0.0, "step": 0, "bad": bad}


def deck(seed: int, number: int) -> str:
    """Return a number's fault: all kinds in turns, each turn in an order of its own."""
    kinds = [*strikes(random.Random(0)), *BAD_NODES]
    turn, place = divmod(number, len(kinds))
    return random.Random(f"{seed} {turn}").sample(kinds, len(kinds))[place]


def main() -> str | None:
    """Run, record, print; 1 where a run ended otherwise than an undisturbed one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, nargs="*", help="numbers of faults, recorded or not")
    parser.add_argument("--record", type=Path, default=RECORD)
    parser.add_argument("--table", action="store_true", help="only print the recorded lines")
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.record.read_text().splitlines()] if options.record.exists() else []
    done = {(row["seed"], row["number"]) for row in rows}
    numbers = options.only or [n for n in range(options.count) if (options.seed, n) not in done]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # not without stopping the lab
    if not options.table and numbers:
        if reason := why_not():
            return f"no Slurm here: {reason}"
        with started(nodes=4, disk=300) as lab, tempfile.TemporaryDirectory(prefix="faults-") as folder:
            night = Night(lab, Path(folder), options.seed)
            for number in numbers:
                row = night.fault(number)
                rows.append(row)
                with options.record.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(", ".join(f"{key} {row[key]}" for key in list(row)[1:-3]), flush=True)
    table([row for row in rows if row["seed"] == options.seed])
    return None if all(row["same"] for row in rows) else "a run ended otherwise than an undisturbed one"


def table(rows: list[dict[str, Any]]) -> None:
    """Print a line per kind of fault."""
    print("| fault | times | struck in | starts | submitted again | steps repeated | same bytes | seconds |")
    print("|" + "---|" * 8)
    for kind in dict.fromkeys(row["fault"] for row in rows):
        own = [row for row in rows if row["fault"] == kind]
        struck = ", ".join(sorted({f"{row['program']} ({row['phase']})" for row in own}))
        starts, again, repeated = (
            sum(row[key] or 0 for row in own) for key in ("starts", "submitted_again", "repeated")
        )
        same = f"{sum(row['same'] for row in own)} of {len(own)}"
        seconds = median(row["seconds"] for row in own)
        print(f"| {kind} | {len(own)} | {struck} | {starts} | {again} | {repeated} | {same} | {seconds:.0f} |")


if __name__ == "__main__":
    sys.exit(main())
