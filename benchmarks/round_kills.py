"""Kills in every phase of small pipelines of two rounds and PPO: do they end like one that nothing befell, byte for byte?

    python benchmarks/round_kills.py --root runs/kills

Half of the runs are on one rank, half on two. Each begins with the stages up to fine-tuning done, and is killed five times
(SIGKILL): all its processes at once, or one rank alone, and started again by the same command. Where it stands is told from
outside (places/sitecustomize.py). The undisturbed run shows which phases which programs have; they take turns, run after
run, and a kill strikes at a moment in its phase that is drawn by the run's number. Where the phase was over too soon, it
strikes at once. Then weights, rows and what training keeps for a resume must be the same bytes, and metrics the same but
for times, each step once. A line per run goes to results/round_kills.jsonl; numbers that are there for this commit are
passed over.
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
from collections import Counter
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from chain import commit
from recorded import ROOT, add, lines_of

NAME, KILLS, BETWEEN = "round_kills", 5, "between stages"
PLACES = ROOT / "benchmarks" / "places"
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
        "ppo.hold_out=2",
        "ppo.run.eval_every=2",
        "ppo.kl.target=1",
        "sample.chunk_responses=4",
    ),
]
TIMES = ("time", "second")  # parts of the names of metrics that are no two times alike


@dataclass(frozen=True)
class Place:
    """Which phase of which stage a pipeline is in."""

    program: str
    stage: str
    phase: str


def main() -> int:
    """Run those that are not recorded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--numbers", type=int, nargs="+", default=list(range(12)), help="even: one rank, odd: two")
    options = parser.parse_args()
    # What is held against each other is of one commit: another may round otherwise.
    root = options.root.resolve() / commit()
    known = {line["number"] for line in lines_of(NAME) if line["commit"] == commit()}
    for number in options.numbers:
        if number not in known:
            ranks = 1 + number % 2
            whole, seen = undisturbed(root, ranks)
            add(NAME, {"number": number, "ranks": ranks, **killed(root, number, ranks, whole, seen)})
            print(json.dumps(lines_of(NAME)[-1]), flush=True)
    lines = lines_of(NAME)
    same, kills = sum(not line["differs"] for line in lines), sum(len(line["kills"]) for line in lines)
    print(f"{kills} kills in {len(lines)} runs, {same} of which ended byte-equal")
    return 0


def pipeline(folder: Path, ranks: int, *more: str) -> subprocess.Popen[bytes]:
    """Start a pipeline in a folder of its own: files that name paths are then the same in each."""
    command = [sys.executable, "-m", "launch", "pipeline", *SETTINGS, f"ranks={ranks}", *more]
    shutil.rmtree(folder / "places", ignore_errors=True)
    (folder / "places").mkdir()
    environ = {**os.environ, "PYTHONPATH": f"{ROOT}:{PLACES}", "PLACES": str(folder / "places")}
    environ |= {"OMP_NUM_THREADS": "1", "LLAMATRAIN_KERNELS": "mkl"}
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(command, cwd=folder, env=environ, stdout=log, stderr=log, start_new_session=True)


def undisturbed(root: Path, ranks: int) -> tuple[Path, dict[Place, int]]:
    """Return the folder of a pipeline that nothing befell, and how often its stages after fine-tuning were seen where."""
    begun, whole = root / f"begun_{ranks}", root / f"whole_{ranks}"
    for folder, before, more in ((begun, None, ["until=sft"]), (whole, begun, [])):
        if not (folder / "seen").exists():
            shutil.rmtree(folder, ignore_errors=True)
            if before is None:
                folder.mkdir(parents=True)
                shutil.copytree(ROOT / "tests" / "slurm", folder / "tests" / "slurm")
            else:
                shutil.copytree(before, folder, symlinks=True)
                (folder / "seen").unlink()
            running = pipeline(folder, ranks, *more)
            seen = Counter(place for place, _ in followed(running, folder))
            if code := running.wait():
                raise SystemExit(f"{folder}: exit code {code}, see its log")
            (folder / "seen").write_text(json.dumps([[*astuple(place), count] for place, count in seen.items()]))
    return whole, {Place(*place): count for *place, count in json.loads((whole / "seen").read_text())}


def killed(root: Path, number: int, ranks: int, whole: Path, seen: dict[Place, int]) -> dict[str, Any]:
    """Kill a pipeline where it is this run's turn, let it end, and hold it against the undisturbed one."""
    rng, folder = random.Random(number), root / f"killed_{number}"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(root / f"begun_{ranks}", folder, symlinks=True)
    kills = []
    for target in targets(number, seen):
        running, left = pipeline(folder, ranks), rng.uniform(0, 0.5) * seen[target]
        for place, told in followed(running, folder):
            left -= place == target
            if left < 0 or (place.stage != target.stage and state(folder, target.stage) == "done"):
                kills.append(f"{told}, {strike(running, rng)}")
                break
        running.wait()
        while at_work(folder):  # a rank that was started in that moment ends with its parent, by a signal of its own
            time.sleep(0.1)
    code = pipeline(folder, ranks).wait()
    differs = [f"exit code {code}"] if code else sorted(compare(folder / "runs", whole / "runs"))
    if not differs:
        shutil.rmtree(folder)
    return {"kills": kills, "differs": differs}


def targets(number: int, seen: dict[Place, int]) -> list[Place]:
    """Return where a run is killed, in the pipeline's order: phases of programs take turns, and so do the stages of each."""
    phases: dict[tuple[str, str], list[Place]] = {}
    last = [place.stage for place in seen if place.phase != BETWEEN][-1]
    for place in seen:  # not in the last stage, after which nothing is left to strike
        if place.stage != last:
            phases.setdefault((place.program, place.phase), []).append(place)
    turns = sorted(phases, key=lambda phase: random.Random(str(phase)).random())
    rounds = (divmod(turn, len(turns)) for turn in range(KILLS * number, KILLS * (number + 1)))
    chosen = [places[nth % len(places)] for nth, turn in rounds for places in [phases[turns[turn]]]]
    return sorted(chosen, key=list(seen).index)


def followed(running: subprocess.Popen[bytes], folder: Path) -> Iterator[tuple[Place, str]]:
    """Yield where a pipeline is, also in words, a hundred times a second until it ends."""
    while running.poll() is None:
        yield where(running.pid, folder)
        time.sleep(0.01)


def where(pid: int, folder: Path) -> tuple[Place, str]:
    """Return where a pipeline is, by word of its first rank; between stages by the last one that was at work."""
    for rank in descendants(pid):
        with contextlib.suppress(OSError, ValueError):
            told = json.loads((folder / "places" / str(rank)).read_text())
            place = Place(told["program"], told["stage"], told["phase"])
            return place, f"{place.stage}, step {told['step']}, {place.phase} {told['doing']}"
    known = (folder / "runs").glob("*/*/status.json")
    newest = max(known, key=lambda path: path.stat().st_mtime, default=folder / "start" / "status.json")
    return Place("launch", newest.parent.name, BETWEEN), BETWEEN


def state(folder: Path, stage: str) -> str:
    """Return the state of a stage; nothing of one that has not begun."""
    found = [json.loads(path.read_text())["state"] for path in (folder / "runs").glob(f"*/{stage}/status.json")]
    return found[0] if found else ""


def strike(running: subprocess.Popen[bytes], rng: random.Random) -> str:
    """Kill everything, or one rank of the stage at hand alone; return which."""
    children = descendants(running.pid)
    ranks = [pid for pid in children if b"launch" not in command(pid)]
    chosen = [rng.choice(ranks)] if ranks and rng.random() < 0.5 else [running.pid, *children]
    for pid in chosen:
        with contextlib.suppress(ProcessLookupError):  # it ended by itself
            os.kill(pid, signal.SIGKILL)
    return "one rank" if len(chosen) == 1 and ranks else "all"


def at_work(folder: Path) -> bool:
    """Tell whether a process still works in a folder."""
    for link in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):
            if link.readlink() == folder:
                return True
    return False


def descendants(pid: int) -> list[int]:
    """Return the processes that a process started, and those that they did."""
    found = list[int]()
    with contextlib.suppress(OSError):  # it ends as it is looked at
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return [*found, *(more for child in found for more in descendants(child))]


def command(pid: int) -> bytes:
    """Return a process's command line; nothing of one that is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b"launch"


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
