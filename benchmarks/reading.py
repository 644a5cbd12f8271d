"""The share of a training step that waits for its batches, in alternation with another checkout; and how fast they are read.

    python benchmarks/reading.py --demo runs/demo --checkouts ../another-checkout . --rounds 3

Each program trains some steps of its stage of a finished demo on two ranks of one thread; the first five steps do not count.
The second table has tokens per second of one core that reads rows of 4,096 tokens as the paper's sizes have them. A
line per checkout goes to results/reading.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from chain import RESULTS, ROOT, commit, machine
from loader import make
from startup import STAGES

from launch.graph import resolve
from launch.plan import Composed, compose
from llamatrain.config.compose import keys_given, write_settings
from llamatrain.config.options import FROM_FILE
from llamatrain.data.batches import Batches
from llamatrain.data.dialogues import DialogueBatches
from llamatrain.data.kinds import DialogueRow
from llamatrain.data.rows import read_rows
from llamatrain.data.sequences import TokenBatches
from llamatrain.tokenizer import Tokenizer

# Program -> (stage whose settings it takes, overrides for some forty steps).
PROGRAMS = {
    "pretrain": ("pretrain", ["tokens=null", "steps=45", "eval_sequences=1"]),
    "sft": ("sft", ["epochs=0.15"]),
    "reward": ("v1_reward_safety", ["epochs=0.3"]),
}
SKIPPED = 5  # steps at the start
RANKS, LENGTH, ROWS = 2, 4096, 16


def main() -> int:
    """Measure in rounds, record, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, default=ROOT / "runs" / "demo")
    parser.add_argument("--checkouts", nargs="+", type=Path, default=[ROOT])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=list(PROGRAMS))
    options = parser.parse_args()
    checkouts, demo = [path.resolve() for path in options.checkouts], options.demo.resolve()
    found: dict[Path, dict[str, list[tuple[float, float]]]] = {root: defaultdict(list) for root in checkouts}
    for number in range(options.rounds):
        for program in options.programs:
            for root in checkouts if number % 2 == 0 else checkouts[::-1]:
                found[root][program].append(measure(program, demo, root))
    print("| program | commit | waiting for a batch, ms per step | step, ms | share |\n|---|---|---|---|---|")
    for root, programs in found.items():
        for program, rounds in programs.items():
            waits, steps = (1000 * statistics.median(column) for column in zip(*rounds, strict=True))
            print(f"| {program} | {commit(root)} | {waits:.2f} | {steps:.1f} | {waits / steps:.2%} |")
    rates = {name: rate(batches) for name, batches in large(demo)}
    print("\n" + "\n".join(f"{name}: {value / 1e6:,.2f} million tokens/s" for name, value in rates.items()))
    for root, programs in found.items():
        about = {"date": datetime.now(UTC).date().isoformat(), "commit": commit(root), "machine": machine()}
        with (RESULTS / "reading.jsonl").open("a") as file:
            file.write(json.dumps({**about, "seconds": programs, "tokens_per_second": rates}) + "\n")
    return 0


def measure(program: str, demo: Path, root: Path) -> tuple[float, float]:
    """Train some steps; return the mean seconds that one waits for its batch, and that it takes in all."""
    stage, more = PROGRAMS[program]
    overrides = (*STAGES[stage].overrides, *more)
    values = resolve(compose(replace(STAGES[stage], overrides=overrides), ["demo"], None, Composed()), demo, None)
    with tempfile.TemporaryDirectory() as folder:
        values["run"] |= {"dir": folder, "name": "job", "given": keys_given(program, more), "log_every": 1}
        values["run"] |= {"eval_every": 0, "save_every": 0, "progress": False}
        values["run"]["wandb"]["mode"] = "disabled"
        settings = Path(folder) / "job.yaml"
        write_settings(settings, values)
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(RANKS)]
        command = [sys.executable, *launcher, "-m", "launch", program, f"{FROM_FILE}={settings}"]
        subprocess.run(command, cwd=root, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)
        lines = [json.loads(line) for line in (Path(folder) / "job" / "metrics.jsonl").read_text().splitlines()]
    rows = [line for line in lines if "train/read_seconds" in line][SKIPPED:]
    return (
        statistics.fmean(row["train/read_seconds"] for row in rows),
        statistics.fmean(row["train/step_seconds"] for row in rows),
    )


def large(demo: Path) -> Iterator[tuple[str, Batches]]:
    """Yield batches of long rows by name: of a corpus, and of packed dialogues."""
    with tempfile.TemporaryDirectory() as folder:
        corpus = make(Path(folder), 2000)
        yield "a corpus", TokenBatches(corpus, seq_len=LENGTH, batch_size=ROWS, micro_batch_size=4, seed=0)
    rows = read_rows(str(demo / "world" / "dialogues.jsonl"), DialogueRow)
    tokenizer = Tokenizer(demo / "tokenizer" / "tokenizer.model")
    yield (
        "dialogues",
        DialogueBatches(rows, tokenizer, max_length=LENGTH, batch_size=ROWS, micro_batch_size=4, seed=0),
    )


def rate(batches: Batches) -> float:
    """Return the tokens per second of reading."""
    batches.batch_at(0)
    started, steps = time.perf_counter(), 20
    for step in range(steps):
        batches.batch_at(step)
    return steps * ROWS * LENGTH / (time.perf_counter() - started)


if __name__ == "__main__":
    sys.exit(main())
