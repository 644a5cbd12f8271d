"""Answer what only a GPU can answer, in one command of at most ten minutes; on a CPU the same, small.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --only parity zero --out my-gpu.json

Checks, each in a process of its own, so that one that runs out of memory ends alone: losses, gradients, generation and
a PPO update against the CPU's; every ZeRO stage and offload on one device and, over NCCL, on all there are, with a
checkpoint and a resume; which attention kernel ran; what waits for the device; tokens per second, MFU and memory
against the arithmetic of pretraining, SFT, reward, generation and PPO at the largest shape that fits; a checkpoint
written and read. A line goes to results/gpu.jsonl, a table to the terminal. The exit code is 1 where a bound is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from chain import RESULTS, ROOT, commit, machine

BUDGET = 600  # seconds of all checks together


@dataclass(frozen=True)
class Check:
    """A question, the module and arguments that answer it, and how long it may take."""

    name: str
    arguments: tuple[str, ...]
    limit: int  # seconds
    ranks: int = 1
    on_cpu: bool = False  # though there is a GPU


def checks(devices: int) -> list[Check]:
    """Return all checks of a machine with so many GPUs (0: the CPU)."""
    many = devices if devices > 1 else 2 if devices == 0 else 0
    found = [
        Check("parity: CPU", ("parity", "float32", "reference"), 60, on_cpu=True),
        Check("parity: float32", ("parity", "float32"), 60),
        Check("parity: bfloat16", ("parity", "bfloat16"), 60),
        Check("zero: one device", ("zero",), 150),
        Check("kernels", ("kernels",), 60),
        *(Check(f"speed: {what}", ("speed", what), 100) for what in ("pretrain", "sft", "reward", "generation", "ppo")),
        Check("checkpoint", ("saving",), 90),
    ]
    if many:
        found.insert(4, Check(f"zero: {many} ranks", ("zero",), 150, ranks=many))
    return found


def main() -> int:
    """Run the checks, record, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="beginnings of checks' names")
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu.jsonl", help="file to which the line is appended")
    options = parser.parse_args()
    about = json.loads(ask(["about"], {}, 60)[0])
    print(f"{about['device']}, torch {about['torch']}", flush=True)
    started, answers = time.monotonic(), {}
    with tempfile.TemporaryDirectory() as folder:
        for check in checks(about["count"]):
            if options.only and not any(check.name.startswith(name) for name in options.only):
                continue
            left = BUDGET - (time.monotonic() - started)
            answers[check.name] = answer(check, Path(folder), min(check.limit, left))
            show(check.name, answers[check.name])
    line = {"date": datetime.now(UTC).date().isoformat(), "commit": commit(), "machine": machine(), **about}
    options.out.parent.mkdir(exist_ok=True)
    with options.out.open("a") as file:
        file.write(json.dumps({**line, "checks": answers}) + "\n")
    missed = [name for name, found in answers.items() if not all(row["ok"] for row in found["rows"])]
    print(f"\n{'all bounds held' if not missed else 'missed: ' + ', '.join(missed)}; written to {options.out}")
    return bool(missed)


def answer(check: Check, folder: Path, limit: float) -> dict[str, Any]:
    """Run a check; return its rows and seconds. One that fails has a row that says so."""
    environ = {"GPU_CHECK_FOLDER": str(folder)}
    if check.on_cpu:
        environ["CUDA_VISIBLE_DEVICES"] = ""
    started = time.monotonic()
    if limit < 5:
        return {"seconds": 0.0, "rows": [failed("not run: the time is over")]}
    try:
        lines = ask(list(check.arguments), environ, limit, check.ranks)
        rows = [json.loads(line) for line in lines]
    except subprocess.TimeoutExpired:
        rows = [failed(f"not done in {limit:.0f} s")]
    except subprocess.CalledProcessError as error:
        rows = [failed(((error.stderr or "").strip().splitlines() or ["no words"])[-1][:300])]
    return {"seconds": round(time.monotonic() - started, 1), "rows": rows or [failed("no answer")]}


def ask(arguments: list[str], environ: dict[str, str], limit: float, ranks: int = 1) -> list[str]:
    """Start a check's process, or one a rank; return the lines of JSON that it prints."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    module = str(Path(__file__).parent / "gpu_checks" / "__main__.py")
    threads = {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // ranks))}
    done = subprocess.run(
        [sys.executable, *launcher, module, *arguments],
        env={"LLAMATRAIN_KERNELS": "mkl", **os.environ, **threads, **environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=limit,
    )
    return [line for line in done.stdout.splitlines() if line.startswith("{")]


def failed(why: str) -> dict[str, Any]:
    """Return the row of a check that has no answer."""
    return {"what": "failed", "value": why, "need": "", "ok": False}


def show(name: str, found: dict[str, Any]) -> None:
    """Print a check's rows."""
    print(f"\n{name}  ({found['seconds']:.0f} s)")
    for row in found["rows"]:
        value = row["value"] if isinstance(row["value"], str) else f"{row['value']:,.4g}"
        print(f"  {'✓' if row['ok'] else '✗'} {row['what']:<52} {value:>14}  {row['need']}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
