"""Answer what only a GPU can answer, in one command of at most ten minutes; on a CPU the same, small.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --only parity zero --out my-gpu.json

Losses, gradients, generation and a PPO update against the CPU's; every ZeRO stage and offload on one device and, over
NCCL, on all there are, with a checkpoint and a resume; which attention kernel ran; what waits for the device; tokens per
second, MFU and memory against the arithmetic of pretraining, SFT, reward, generation and PPO at the largest shape that
fits; a checkpoint written and read. Figures with a bound have a mark, ✓ where it is held; the others are for reading. A line
goes to results/gpu.jsonl, a table to the terminal. The exit code is 1 where a bound is missed or a check has no answer.

On a GPU each check has a process of its own, so that one that runs out of memory ends alone. Without one the checks of one
rank share a process and no time is too long: another's work on the same cores must not fail them.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from chain import RESULTS, ROOT, commit, machine

BUDGET = 600  # seconds of all checks together
ON_CPU = 3600  # of those of a process, where there is no GPU


@dataclass(frozen=True)
class Check:
    """A question, the module and arguments that answer it, and how long it may take."""

    name: str
    given: str  # module,argument,...
    limit: int  # seconds
    ranks: int = 1
    on_cpu: bool = False  # though there is a GPU


def checks(devices: int) -> list[Check]:
    """Return all checks of a machine with so many GPUs (0: the CPU)."""
    many = devices if devices > 1 else 2 if devices == 0 else 0
    found = [
        Check("parity: CPU", "parity,float32,reference", 60, on_cpu=True),
        Check("parity: float32", "parity,float32", 60),
        Check("parity: bfloat16", "parity,bfloat16", 60),
        Check("zero: one device", "zero", 150),
        Check("kernels", "kernels", 60),
        *(Check(f"speed: {what}", f"speed,{what}", 100) for what in ("pretrain", "sft", "reward", "generation", "ppo")),
        Check("checkpoint", "saving", 90),
    ]
    if many:
        found.append(Check(f"zero: {many} ranks", "zero", 150, ranks=many))
    return found


def main() -> int:
    """Run the checks, record, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="beginnings of checks' names")
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu.jsonl", help="file to which the line is appended")
    options = parser.parse_args()
    about, *_ = ask(["about"], {}, ON_CPU)
    if "error" in about:
        parser.error(f"torch does not load: {about['error']}")
    chosen = [one for one in checks(about["count"]) if not options.only or one.name.startswith(tuple(options.only))]
    if not chosen:
        parser.error(
            f"--only {' '.join(options.only)}: need beginnings of {', '.join(c.name for c in checks(about['count']))}"
        )
    print(f"{about['device']}, torch {about['torch']}", flush=True)
    started, answers = time.monotonic(), dict[str, dict[str, Any]]()
    with tempfile.TemporaryDirectory() as folder:
        for group in together(chosen) if not about["count"] else [[one] for one in chosen]:
            left = BUDGET - (time.monotonic() - started)
            limit = min(group[0].limit, left) if about["count"] else ON_CPU
            for check, found in answer(group, Path(folder), limit):
                answers[check.name] = found
                show(check.name, found)
    line = {"date": datetime.now(UTC).date().isoformat(), "commit": commit(), "machine": machine(), **about}
    options.out.parent.mkdir(exist_ok=True)
    with options.out.open("a") as file:
        file.write(json.dumps({**line, "checks": answers}) + "\n")
    rows = [(name, row) for name, found in answers.items() for row in found["rows"]]
    missed = [f"{name}: {row['what']}" for name, row in rows if not row["ok"]]
    held = sum(bool(row["need"]) for _, row in rows)
    print(f"\nwritten to {options.out}; " + (f"missed: {'; '.join(missed)}" if missed else f"all {held} bounds held"))
    return bool(missed)


def together(chosen: Sequence[Check]) -> list[list[Check]]:
    """Return the checks by their number of ranks."""
    counts = dict.fromkeys(one.ranks for one in chosen)
    return [[one for one in chosen if one.ranks == ranks] for ranks in counts]


def answer(group: Sequence[Check], folder: Path, limit: float) -> Iterator[tuple[Check, dict[str, Any]]]:
    """Run checks in a process; yield each with its rows and seconds. One that fails has a row that says so."""
    environ = {"GPU_CHECK_FOLDER": str(folder)}
    if group[0].on_cpu:
        environ["CUDA_VISIBLE_DEVICES"] = ""
    rows, left, error = list[dict[str, Any]](), list(group), "no answer"
    for line in ask([one.given for one in group], environ, limit, group[0].ranks) if limit > 5 else ():
        if "error" in line:
            error = line["error"]
        elif "seconds" in line:
            yield left.pop(0), {**line, "rows": rows or [failed(error)]}
            rows = []
        else:
            rows.append(line)
    for check in left:  # the process ended in the first of them, or was never started
        told = any(row["what"] == "failed" for row in rows)
        yield (
            check,
            {"seconds": 0.0, "rows": rows if told else [*rows, failed(error if limit > 5 else "the time is over")]},
        )
        rows = []


def ask(given: list[str], environ: dict[str, str], limit: float, ranks: int = 1) -> Iterator[dict[str, Any]]:
    """Start a process of checks, or one a rank; yield the JSON of the lines that it prints, at last why it failed if it did."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    module = str(Path(__file__).parent / "gpu_checks" / "__main__.py")
    threads = {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // ranks))}
    environ = {"LLAMATRAIN_KERNELS": "mkl", **threads, **os.environ, **environ, "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryFile("w+") as words:
        process = subprocess.Popen(
            [sys.executable, *launcher, module, *given],
            env=environ,
            stdout=subprocess.PIPE,
            stderr=words,
            text=True,
            start_new_session=True,
        )
        # With its ranks, which would keep their GPUs' memory.
        over = threading.Timer(limit, os.killpg, (process.pid, signal.SIGKILL))
        over.daemon = True
        over.start()
        assert process.stdout is not None
        yield from (json.loads(line) for line in process.stdout if line.startswith("{"))
        late = not over.is_alive()
        over.cancel()
        if process.wait():
            words.seek(0)
            yield {"error": f"not done in {limit:.0f} s" if late else last_words(words.read(), process.returncode)}


def last_words(told: str, code: int) -> str:
    """Return why a process failed: of a launcher's many lines the last of an exception says most."""
    if code < 0:
        return f"killed by signal {-code}, for want of memory perhaps"
    lines = [line.strip() for line in told.splitlines() if line.strip(" =-")]
    return next((line for line in reversed(lines) if "Error:" in line), lines[-1] if lines else "no words")[:300]


def failed(why: str) -> dict[str, Any]:
    """Return the row of a check that has no answer."""
    return {"what": "failed", "value": why, "need": "", "ok": False}


def show(name: str, found: dict[str, Any]) -> None:
    """Print a check's rows."""
    print(f"\n{name}  ({found['seconds']:.0f} s)")
    for row in found["rows"]:
        mark = "✗" if not row["ok"] else "✓" if row["need"] else " "
        print(f"  {mark} {row['what']:<58} {written(row['value']):>14}  {row['need']}".rstrip(), flush=True)


def written(value: float | str) -> str:
    """Write a figure for people: three digits that count, large ones whole."""
    return value if isinstance(value, str) else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


if __name__ == "__main__":
    sys.exit(main())
