"""Random kills in small pipelines of two rounds and PPO: do they end like one that nothing befell, byte for byte?

    python benchmarks/round_kills.py --root runs/kills

Half of the runs are on one rank, half on two. Each begins with the stages up to fine-tuning done, and is killed five times
(SIGKILL), at moments drawn by its number from the time that an undisturbed run takes: all its processes at once, or one rank
alone, and started again by the same command. Then weights, rows and what training keeps for a resume must be the same bytes,
and metrics the same but for times, each step once. A line per run goes to results/round_kills.jsonl; numbers that are there
for this commit are passed over.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chain import commit
from recorded import ROOT, add, lines_of

NAME, KILLS = "round_kills", 5
SETTINGS = [
    *("preset=tests/slurm/tiny.yaml", "run.dir=runs", "rounds=2", "run.progress=false", "run.wandb.mode=disabled"),
    *("compare.chunk_pairs=2", "compare.max_prompts=16", "reward.run.save_every=2"),
    *(
        "rejection_sampling.max_prompts=12",
        "rejection_sampling.samples_per_prompt=4",
        "rejection_sampling.chunk_responses=8",
        "rejection_sampling.steps=12",
        "rejection_sampling.sampling.max_new_tokens=24",
    ),
    *("rejection_sampling.run.save_every=3", "ppo.iterations=8", "ppo.run.save_every=3", "ppo.chunk_responses=2"),
    *(
        "ppo.rollout_prompts=8",
        "ppo.mini_batch_prompts=4",
        "ppo.samples_every=1",
        "ppo.kl.target=1",
        "sample.chunk_responses=4",
    ),
]
TIMES = ("time", "second")  # parts of the names of metrics that are no two times alike


def main() -> int:
    """Run those that are not recorded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--numbers", type=int, nargs="+", default=list(range(12)), help="even: one rank, odd: two")
    options = parser.parse_args()
    root = options.root.resolve()
    known = {line["number"] for line in lines_of(NAME) if line["commit"] == commit()}
    for number in options.numbers:
        if number not in known:
            ranks = 1 + number % 2
            whole, seconds = undisturbed(root, ranks)
            add(NAME, {"number": number, "ranks": ranks, **killed(root, number, ranks, whole, seconds)})
            print(json.dumps(lines_of(NAME)[-1]), flush=True)
    lines = [line for line in lines_of(NAME) if line["commit"] == commit()]
    same, kills = sum(not line["differs"] for line in lines), sum(len(line["kills"]) for line in lines)
    print(f"{kills} kills in {len(lines)} runs, {same} of which ended byte-equal")
    return 0


def pipeline(folder: Path, ranks: int, *more: str) -> subprocess.Popen[bytes]:
    """Start a pipeline in a folder of its own: files that name paths are then the same in each."""
    command = [sys.executable, "-m", "launch", "pipeline", *SETTINGS, f"ranks={ranks}", *more]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "LLAMATRAIN_KERNELS": "mkl"}
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(command, cwd=folder, env=environ, stdout=log, stderr=log, start_new_session=True)


def undisturbed(root: Path, ranks: int) -> tuple[Path, float]:
    """Return the folder of a pipeline that nothing befell, and the seconds of its stages after fine-tuning."""
    begun, whole = root / f"begun_{ranks}", root / f"whole_{ranks}"
    for folder, before, more in ((begun, None, ["until=sft"]), (whole, begun, [])):
        if not (folder / "seconds").exists():
            shutil.rmtree(folder, ignore_errors=True)
            if before is None:
                folder.mkdir(parents=True)
                shutil.copytree(ROOT / "tests" / "slurm", folder / "tests" / "slurm")
            else:
                shutil.copytree(before, folder, symlinks=True)
            started = time.monotonic()
            code = pipeline(folder, ranks, *more).wait()
            if code:
                raise SystemExit(f"{folder}: exit code {code}, see its log")
            (folder / "seconds").write_text(str(time.monotonic() - started))
    return whole, float((whole / "seconds").read_text())


def killed(root: Path, number: int, ranks: int, whole: Path, seconds: float) -> dict[str, Any]:
    """Kill a pipeline at random moments, let it end, and hold it against the undisturbed one."""
    rng, folder = random.Random(number), root / f"killed_{number}"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(root / f"begun_{ranks}", folder, symlinks=True)
    kills, starts = list[str](), 0
    while True:
        running, starts = pipeline(folder, ranks), starts + 1
        if len(kills) == KILLS or not wait(running, rng.uniform(0.06, 0.4) * seconds):
            break
        kills.append(strike(running, folder, rng))
        running.wait()
        while at_work(folder):  # a rank that was started in that moment ends with its parent, by a signal of its own
            time.sleep(0.1)
    code = running.wait()
    differs = [f"exit code {code}"] if code else sorted(compare(folder / "runs", whole / "runs"))
    if not differs:
        shutil.rmtree(folder)
    return {"kills": kills, "starts": starts, "differs": differs}


def wait(running: subprocess.Popen[bytes], seconds: float) -> bool:
    """Wait so long; tell whether the process still runs then."""
    try:
        running.wait(seconds)
    except subprocess.TimeoutExpired:
        return True
    return False


def strike(running: subprocess.Popen[bytes], folder: Path, rng: random.Random) -> str:
    """Kill everything, or one rank of the stage at hand alone; return where it stood."""
    place, children = where(folder), descendants(running.pid)
    ranks = [pid for pid in children if b"launch" not in command(pid)]
    chosen = [rng.choice(ranks)] if ranks and rng.random() < 0.5 else [running.pid, *children]
    for pid in chosen:
        with contextlib.suppress(ProcessLookupError):  # it ended by itself
            os.kill(pid, signal.SIGKILL)
    return f"{place}, {'one rank' if len(chosen) == 1 and ranks else 'all'}"


def at_work(folder: Path) -> bool:
    """Tell whether a process still works in a folder."""
    for link in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):
            if link.readlink() == folder:
                return True
    return False


def descendants(pid: int) -> list[int]:
    """Return the processes that a process started, and those that they did."""
    found = [
        int(child) for task in Path(f"/proc/{pid}/task").glob("*") for child in (task / "children").read_text().split()
    ]
    return [*found, *(more for child in found for more in descendants(child))]


def command(pid: int) -> bytes:
    """Return a process's command line; nothing of one that is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b"launch"


def where(folder: Path) -> str:
    """Return which stage a pipeline is at, at which step, and in which phase as far as its ranks say."""
    states = {path.parent: json.loads(path.read_text()) for path in (folder / "runs").glob("*/*/status.json")}
    running = {stage: state for stage, state in states.items() if state["state"] == "running"}
    if not running:
        return "between stages"
    stage, state = max(running.items(), key=lambda item: item[1]["updated"])
    for path in sorted((stage / ".beats").glob("rank_*.json")):
        try:
            beat = json.loads(path.read_text())
        except ValueError:
            continue
        return f"{stage.name}, step {beat.get('step', state['step'])}, {beat.get('phase', '')} {beat.get('doing', '')}".rstrip()
    return f"{stage.name}, step {state['step']}"


# --- what is the same --------------------------------------------------------------------------------------------


def compare(ours: Path, theirs: Path) -> Iterator[str]:
    """Yield the files that differ: of checkpoints and rows in any byte, of metrics in more than times."""
    first, second = ({path.relative_to(root): path for path in files(root)} for root in (ours, theirs))
    for name in first.keys() ^ second.keys():
        yield f"{name}: {'only in the killed run' if name in first else 'missing'}"
    for name in first.keys() & second.keys():
        if content(first[name], ours) != content(second[name], theirs):
            yield str(name)


def files(root: Path) -> Iterator[Path]:
    """Yield what a pipeline leaves: checkpoints, rows and metrics."""
    for path in root.rglob("*"):
        inner = path.relative_to(root).parts
        if (
            path.is_file()
            and not path.is_symlink()
            and path.name != "MANIFEST.json"  # hashes of the others, one of which names paths
            and ("checkpoints" in inner or "final" in inner or path.suffix == ".jsonl" or ".tmp" in path.name)
        ):
            yield path


def content(path: Path, root: Path) -> Any:
    """Return what must be the same of a file; what it was made from is named by where it lies."""
    if path.name == "llamatrain.json":
        return path.read_text().replace(str(root), "")
    if path.name == "metrics.jsonl":
        rows = map(json.loads, path.read_text().splitlines())
        return [{k: v for k, v in row.items() if not any(word in k for word in TIMES)} for row in rows]
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
