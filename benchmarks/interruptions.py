"""Kill a tiny real run at seeded times until it is done, many times over, and compare with the simulation and the closed form.

    python benchmarks/interruptions.py --trials 20 --mean 3

A run of some milliseconds a step is killed (SIGKILL) at exponential times and started again at once, from its checkpoints.
Times of a step, a checkpoint and a start-up are those of the killed runs themselves (medians); `launch.simulation` plays the same
job. Processes are forked from one that has imported everything. Run it on a quiet machine: other work is no part of the model.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from chain import RESULTS, ROOT, commit, machine
from torch import Tensor

sys.path.insert(0, str(ROOT))
import llamatrain.checkpoint  # noqa: F401  (imported before the fork)
from launch.simulation import simulate
from llamatrain.engine.learning import Engine
from llamatrain.fit import LossFn, fit
from llamatrain.interruptions import DAY, Job, expected
from llamatrain.losses import Batch, language_model_loss
from llamatrain.model.config import ModelConfig
from llamatrain.model.transformer import Transformer
from llamatrain.run import Run
from llamatrain.settings import OptimConfig, ZeroConfig
from llamatrain.tokenizer import Tokenizer
from tests.llamatrain.test_run import Toy, run_config

STEPS, SAVE_EVERY = 120, 20
MODEL = ModelConfig(
    vocab_size=400,
    dim=32,
    n_layers=2,
    n_heads=4,
    n_kv_heads=2,
    hidden_dim=48,
    max_seq_len=64,
    rope_theta=10000.0,
    norm_eps=1e-5,
    tie_embeddings=False,
    init_std=0.02,
    activation_checkpointing="none",
)
OPTIM = OptimConfig(1e-3, [0.9, 0.95], 1e-5, 0.1, 1.0, "cosine", 2, 0.0, 0.1)


def noting(path: Path) -> LossFn:
    """Return a loss that notes when each step begins, at once: a kill takes nothing back."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def loss(engine: Engine, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        os.write(file, f"{engine.steps_done} {time.time()}\n".encode())
        time.sleep(0.02)  # so that a step is longer than what it costs to note it
        return language_model_loss(engine, batch)

    return loss


def attempt(folder: Path, tokenizer: Path, number: int, seconds: float) -> tuple[bool, float, list[tuple[int, float]]]:
    """Fork one attempt and kill it after so many seconds; return whether it ended, its time, and when which step began."""
    notes, started = folder / f"attempt_{number}.txt", time.time()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            zero = ZeroConfig(stage=0, dtype="float32", offload_optimizer=False, offload_parameters=False)
            config = run_config(folder, save_every=SAVE_EVERY, eval_every=0)
            with Run(config, "test", {"run": {"seed": 0}}, data={"train": "x"}) as run:
                engine = Engine(Transformer(MODEL, seed=0), OPTIM, zero, STEPS)
                fit(engine, Toy(), noting(notes), run, STEPS, Tokenizer(tokenizer))
            code = 0
        finally:
            os._exit(code)
    ended = 0
    while ended == 0 and time.time() - started < seconds:
        ended, status = os.waitpid(child, os.WNOHANG)
        time.sleep(0.002)
    if ended == 0:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    elif status:
        raise SystemExit("an attempt failed by itself")
    lines = [line.split() for line in notes.read_text().splitlines()] if notes.exists() else []
    return ended != 0, time.time() - started, [(int(step), float(at) - started) for step, at in lines]


def main() -> None:
    """Kill, count, simulate, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--mean", type=float, default=3.0, help="seconds between failures")
    parser.add_argument("--tokenizer", type=Path, required=True, help="a tokenizer.model of at most 400 pieces")
    options = parser.parse_args()
    draw, rows = random.Random(0), []
    steps, saves, starts = list[float](), list[float](), list[float]()
    for _ in range(options.trials):
        kills, repeated, held, done = 0, 0, 0.0, False
        with tempfile.TemporaryDirectory() as name:
            number = 0
            while not done:
                done, took, begun = attempt(Path(name), options.tokenizer, number, draw.expovariate(1 / options.mean))
                number, held, kills = number + 1, held + took, kills + (not done)
                starts += [begun[0][1]] if begun else []
                for (step, at), (following, then) in itertools.pairwise(begun):
                    (saves if following % SAVE_EVERY == 0 else steps).append(then - at)
                    assert following == step + 1
                repeated += max(0, len(begun) - (not done))
        rows.append((held, kills, repeated - STEPS))
    step = statistics.median(steps)
    job = Job(
        STEPS, step, 1, DAY / options.mean, SAVE_EVERY, statistics.median(saves) - step,
        start_seconds=statistics.median(starts), gpus_per_node=0,
    )  # fmt: skip
    played, exact = simulate(job, 20_000), expected(job)
    found = {}
    for name, values, simulated in (
        ("seconds", [row[0] for row in rows], played.held_seconds),
        ("interruptions", [float(row[1]) for row in rows], played.interruptions),
        ("steps taken again", [float(row[2]) for row in rows], played.repeated_steps),
    ):
        error = statistics.stdev(values) / len(values) ** 0.5
        found[name] = {
            "killed": round(statistics.mean(values), 3),
            "error": round(error, 3),
            "simulated": round(float(simulated.mean()), 3),
        }
        print(
            f"{name:<18} killed runs {statistics.mean(values):8.2f} ± {error:.2f}   simulated {simulated.mean():8.2f}"
        )
    print(f"closed form: {exact.held_seconds:.2f} s, {exact.interruptions:.2f} interruptions; {job}")
    line = {"date": f"{datetime.now(UTC):%F}", "commit": commit(), "machine": machine(), "trials": options.trials,
            "mean": options.mean, "job": vars(job), "results": found,
            "closed_form": {"seconds": exact.held_seconds, "interruptions": exact.interruptions}}  # fmt: skip
    with (RESULTS / "interruptions.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
