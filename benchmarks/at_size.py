"""Start, checkpoint and resume of a model of 134M parameters on four ranks: seconds, and host memory.

    python benchmarks/at_size.py
    python benchmarks/at_size.py --checkouts ../another-checkout . --rounds 3 --settings stage1

Each round takes a few steps (`--steps`), of which every second is followed by a checkpoint, ends the ranks when the last one
is published, and resumes the run for one step, with one checkout after the other. A line per checkout, setting and round goes to results/at_size.jsonl; `--table` prints the
medians. Ranks are processes of this script that wrap the functions they time:

    stands still   from the end of a step with a checkpoint to the beginning of the next one, less the median of the others
    published      from the end of that step until the checkpoint has its name
    first step     from the start of the process to the end of its first step, which takes time itself
    memory         PSS of all ranks with model and engine made and no step taken; and the most until then
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import runpy
import shutil
import socket
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from chain import RESULTS, ROOT, commit, machine

RANKS = 4
SETTINGS = {
    "stage0": ["zero=stage0"],
    "stage1": ["zero=stage1"],
    "stage1, bfloat16": ["zero=stage1", "zero.dtype=bfloat16"],
    "stage3": ["zero=stage3"],
}
RECORD = RESULTS / "at_size.jsonl"
MEGA = 1e6


def main() -> int:
    """Alternate the checkouts, record, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkouts", nargs="+", type=Path, default=[ROOT])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=5, help="odd; 1: the start alone")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=["stage1"])
    parser.add_argument("--dir", type=Path, default=Path("runs/at_size"), help="folder of the corpus and the runs")
    parser.add_argument("--table", action="store_true", help="only print the recorded lines")
    parser.add_argument("--worker", nargs=argparse.REMAINDER, help="a rank: folder of its record, steps, overrides")
    options = parser.parse_args()
    if options.worker:
        work(Path(options.worker[0]), int(options.worker[1]), options.worker[2:])
        return 0
    folder = options.dir.absolute()
    if not options.table:
        make_corpus(folder)
    for setting in options.settings if not options.table else ():
        for checkout in [path.absolute() for path in options.checkouts] * options.rounds:
            line = {
                "setting": setting,
                "ranks": RANKS,
                "results": measure(checkout, folder, setting, options.steps),
                "commit": commit(checkout),
                "machine": machine(),
                "date": datetime.now(UTC).date().isoformat(),
            }
            with RECORD.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)
    table([json.loads(line) for line in RECORD.read_text().splitlines()])
    return 0


def table(lines: list[dict[str, Any]]) -> None:
    """Print the medians of each setting, a column per commit, as Markdown."""
    for setting in dict.fromkeys(line["setting"] for line in lines):
        own = [line for line in lines if line["setting"] == setting]
        commits = list(dict.fromkeys(line["commit"] for line in own))
        print(f"| {setting} | {' | '.join(commits)} |\n|---|{'---|' * len(commits)}")
        for key in dict.fromkeys(key for line in own for key in line["results"]):
            values = [
                [line["results"][key] for line in own if line["commit"] == c and key in line["results"]]
                for c in commits
            ]
            print(f"| {key} | {' | '.join(f'{statistics.median(v):,.2f}' if v else '' for v in values)} |")


def make_corpus(folder: Path) -> None:
    """Make a small corpus of the toy world, and a tokenizer; the model has embeddings for 32,000 pieces all the same."""
    texts = folder / "world" / "documents.jsonl"
    quiet = ["run.progress=false", "run.wandb.mode=disabled", f"run.dir={folder}"]
    for module, overrides, made in (
        ("toyworld", ["run.name=world", "documents_mb=0.2", "dialogues=10", "prompts=30", "prompts_eval=10"], texts),
        ("pretrain.tokenizer", ["run.name=tokenizer", f"documents=[{texts}]", "vocab_size=400"], folder / "tokenizer"),
        (
            "pretrain.corpus",
            ["run.name=corpus", f"documents=[{texts}]", f"tokenizer={folder}/tokenizer"],
            folder / "corpus",
        ),
    ):
        if not made.exists():
            subprocess.run([sys.executable, "-m", module, *quiet, *overrides], cwd=ROOT, check=True)


def measure(checkout: Path, folder: Path, setting: str, steps: int) -> dict[str, float]:
    """Train and resume once; return the figures."""
    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    shutil.rmtree(folder / "records", ignore_errors=True)
    overrides = [
        *("model=stories110m", "model.vocab_size=32000", f"corpus={folder}/corpus", f"tokenizer={folder}/tokenizer"),
        *(f"run.dir={folder}", "run.name=run", "run.progress=false", "run.wandb.mode=disabled", "run.eval_every=0"),
        *("tokens=null", "batch_tokens=256", "seq_len=64", "micro_batch_size=1", "eval_sequences=1", "run.keep=1"),
        *("run.save_every=2", f"steps={steps + 1}", "run.kernels=mkl", *SETTINGS[setting]),
    ]
    first = start(checkout, folder / "records" / "first", steps, overrides)
    again = start(checkout, folder / "records" / "again", 1, overrides) if steps > 1 else None
    shutil.rmtree(run)
    found = {key: value for key, value in first.items() if key.endswith(", s")}
    for name, told in (("", first), (" of the resumed run", again)):
        if told is not None:
            found |= {f"first step{name}, s": told["first"], f"memory{name}, MB": told["memory"]}
            found |= {f"the most memory until then{name}, MB": told["peak"]}
    return {key: round(value, 2) for key, value in found.items()}


def start(checkout: Path, records: Path, steps: int, overrides: list[str]) -> dict[str, float]:
    """Run the ranks of one start; return rank 0's times and the memory of all."""
    records.mkdir(parents=True)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    known = {"WORLD_SIZE": str(RANKS), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    known |= {"PYTHONPATH": str(checkout), "LOCAL_WORLD_SIZE": str(RANKS), "DS_ACCELERATOR": "cpu"}
    command = [sys.executable, str(Path(__file__).resolve()), "--worker", str(records), str(steps), *overrides]
    ranks = [
        subprocess.Popen(
            command,
            cwd=checkout,
            env={**os.environ, **known, "RANK": str(rank), "LOCAL_RANK": str(rank), "BEGUN": str(time.time())},
        )
        for rank in range(RANKS)
    ]
    peak = 0.0
    while any(rank.poll() is None for rank in ranks):
        if not (records / "stepping").exists():
            peak = max(peak, sum(pss(rank.pid) for rank in ranks))
        time.sleep(0.2)
    assert all(rank.returncode == 0 for rank in ranks), [rank.returncode for rank in ranks]
    told = [json.loads((records / f"{rank}.json").read_text()) for rank in range(RANKS)]
    return {**told[0], "memory": sum(rank["memory"] for rank in told), "peak": peak}


def pss(pid: int | str) -> float:
    """Return the share of a process in the machine's memory, in MB."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (OSError, ProcessLookupError):
        return 0.0
    return next((int(line.split()[1]) * 1024 / MEGA for line in lines if line.startswith("Pss:")), 0.0)


def work(records: Path, last: int, overrides: list[str]) -> None:
    """Run `pretrain` as one rank for some steps, and write down when these began and ended."""
    import llamatrain.fit as fit
    from llamatrain import atomic, distributed

    steps: list[tuple[float, float]] = []
    published: list[float] = []
    memory: list[float] = []
    real_step, real_publish = fit.train_step, atomic.publish

    def step(*args: Any, **kwargs: Any) -> Any:
        if not steps:
            memory.append(pss("self"))
            distributed.barrier()
            (records / "stepping").touch()
        begun = time.time()
        result = real_step(*args, **kwargs)
        steps.append((begun, time.time()))
        if len(steps) == last:
            leave()
        return result

    def leave() -> None:
        saves = sum(step % 2 == 0 for step in range(1, last + 1))
        while os.environ["RANK"] == "0" and len(published) < saves:
            time.sleep(0.05)
        write(records, steps, published, memory)
        while not (records / "0.json").exists():
            time.sleep(0.05)
        os._exit(0)

    def publish(*args: Any) -> None:
        real_publish(*args)
        published.append(time.time())

    fit.train_step, atomic.publish = step, publish
    sys.argv = ["pretrain", *overrides]
    runpy.run_module("pretrain", run_name="__main__", alter_sys=True)


def write(records: Path, steps: list[tuple[float, float]], published: list[float], memory: list[float]) -> None:
    """Write a rank's figures."""
    told = {"first": steps[0][1] - float(os.environ["BEGUN"]), "memory": memory[0]}
    saved = range(2, len(steps), 2)
    if saved:
        gaps = [after[0] - before[1] for before, after in itertools.pairwise(steps)]
        took = [end - begin for begin, end in steps]
        ends = [min((t for t in published if t > steps[step - 1][1]), default=0.0) for step in saved]
        others = [gap for step, gap in enumerate(gaps, 1) if step not in saved]
        told |= {
            "stands still, s": statistics.mean(gaps[step - 1] for step in saved) - statistics.median(others),
            "published after, s": statistics.mean(
                end - steps[step - 1][1] for step, end in zip(saved, ends, strict=True)
            ),
            "a step, s": statistics.median(took[step - 1] for step in saved),
            "the step after a checkpoint, s": statistics.mean(took[step] for step in saved),
        }
    (records / f"{os.environ['RANK']}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    sys.exit(main())
