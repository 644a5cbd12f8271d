"""Training speed of one model and batch: llamatrain through DeepSpeed, and whatever else is given, in alternation.

    python benchmarks/pretraining_speed.py --size S --rounds 15 --peer "litgpt=peers/bin/python benchmarks/peer_steps.py litgpt --size S"

Every side is a process of its own that warms up, waits, and takes `--steps` steps each time it is its turn: a line on its
standard input is answered by a line of JSON with the `seconds` they took. The machine itself drifts, so a ratio is of
the two rates of one round; the median and the quartiles over the rounds are told. The side `plain` is our model in a
bare PyTorch loop. A line goes to results/pretraining_speed.jsonl, as it does with `--profile`, where a step's time goes,
on one thread, and with `--engine-share`, what the engine adds to the bare loop's step, in turn within one process.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results" / "pretraining_speed.jsonl"
ROWS, LENGTH = 16, 256
SIZES = {
    "S": {"dim": 128, "n_layers": 4, "n_heads": 4, "hidden_dim": 352, "vocab_size": 1024, "tie_embeddings": False},
    "M4k": {"dim": 288, "n_layers": 6, "n_heads": 6, "hidden_dim": 768, "vocab_size": 4096, "tie_embeddings": True},
    "G": {
        "dim": 256,
        "n_layers": 4,
        "n_heads": 8,
        "n_kv_heads": 2,
        "hidden_dim": 688,
        "vocab_size": 2048,
        "tie_embeddings": False,
    },
}
OWN = {
    "llamatrain": ["engine"],
    "llamatrain, MKL alone": ["engine", "--kernels", "mkl"],
    "llamatrain, oneDNN alone": ["engine", "--kernels", "onednn"],
    "llamatrain, compiled": ["engine", "--compile"],
    "llamatrain, compiled, MKL alone": ["engine", "--compile", "--kernels", "mkl"],
    "llamatrain, two ranks": ["engine", "--ranks", "2"],
    "plain": ["plain"],
}


def main() -> int:
    """Alternate the sides, record, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="S")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--peer", action="append", default=[], help="NAME=COMMAND")
    parser.add_argument("--only", nargs="*", help="our sides to run")
    parser.add_argument("--worker", choices=["engine", "plain"])
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--kernels", choices=["auto", "mkl", "onednn"], default="auto")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--engine-share", action="store_true")
    options = parser.parse_args()
    if options.profile:
        options.worker, options.ranks = options.worker or "engine", len(os.sched_getaffinity(0))  # one thread
    if options.worker or options.engine_share:
        work(options)
        return 0
    commands = {name: own(options, flags) for name, flags in OWN.items() if not options.only or name in options.only}
    commands |= dict(peer.split("=", 1) for peer in options.peer)
    sides = {}
    for name, command in commands.items():  # one after the other, so that none warms up while another does
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
        sides[name] = subprocess.Popen(shlex.split(command), **pipes)  # type: ignore[call-overload]
        print(f"{name}: {seconds(sides[name], 1):.2f} s a step", flush=True)
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(options.rounds):
        names = list(sides)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            took = seconds(sides[name], options.steps)
            rates[name].append(options.steps * ROWS * LENGTH / took)
        print(f"round {number + 1}: " + ", ".join(f"{name} {rates[name][-1]:,.0f}" for name in names), flush=True)
    for side in sides.values():
        side.stdin.close()
        side.wait()
    record(options, rates)
    return 0


def seconds(side: Any, steps: int) -> float:
    """Let a side take some steps; return the seconds that it says."""
    side.stdin.write(f"{steps}\n")
    side.stdin.flush()
    for line in side.stdout:
        if line.startswith("{"):
            return float(json.loads(line)["seconds"])
    raise SystemExit(f"a side ended: {side.args}")


def own(options: argparse.Namespace, flags: list[str]) -> str:
    """Return the command of one of our own sides."""
    arguments = [__file__, "--size", options.size, "--worker", *flags]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"] if "--ranks" in flags else []
    return shlex.join([sys.executable, *launcher, *arguments])


def work(options: argparse.Namespace) -> None:
    """Train on random tokens, as many steps at a time as a line of standard input says; print the seconds they took."""
    threads = max(1, len(os.sched_getaffinity(0)) // options.ranks)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    sys.path.insert(0, str(ROOT))
    import torch

    from llamatrain import distributed, kernels
    from llamatrain.model.config import ModelConfig
    from llamatrain.model.transformer import Transformer

    torch.set_num_threads(threads)
    kernels.choose(options.kernels, {})
    shape = {"n_kv_heads": SIZES[options.size]["n_heads"], **SIZES[options.size]}
    config = ModelConfig(
        **shape,  # type: ignore[arg-type]
        max_seq_len=LENGTH,
        rope_theta=10_000.0,
        norm_eps=1e-5,
        init_std=0.02,
        activation_checkpointing="none",
    )
    distributed.setup()
    share = ROWS // distributed.world_size()
    model = Transformer(config, seed=0)
    kernels.measure(config)
    step = plain_step(model) if options.worker == "plain" else engine_step(model, options.compile)
    generator = torch.Generator().manual_seed(distributed.rank())

    def batch() -> Any:
        ids = torch.randint(3, config.vocab_size or 0, (share, LENGTH), generator=generator)
        mask = torch.ones(share, LENGTH, dtype=torch.bool)
        mask[:, 0] = False
        return {
            "input_ids": ids,
            "position_ids": torch.arange(LENGTH).expand(share, LENGTH),
            "segment_ids": torch.ones(share, LENGTH, dtype=torch.int64),
            "loss_mask": mask,
            "weight": mask.sum().float(),
        }

    for _ in range(3):  # compile and warm up
        step(batch())
    if options.profile:
        profile(torch, step, batch, options.size)
        return
    if options.engine_share:
        engine_share(step, plain_step(Transformer(config, seed=0)), batch, options)
        return
    while asked := distributed.broadcast_object(sys.stdin.readline() if distributed.is_main() else ""):
        given = [batch() for _ in range(int(asked))]
        started = time.perf_counter()
        for one in given:
            step(one)
        if distributed.is_main():
            print(json.dumps({"seconds": time.perf_counter() - started}), flush=True)


def engine_share(engine: Any, plain: Any, batch: Any, options: argparse.Namespace) -> None:
    """Print the median over pairs of steps, in turn the one and the other first, of what the engine adds."""
    shares = []
    for number in range(-3, options.steps):
        seconds, given = {}, batch()
        for step in (engine, plain) if number % 2 else (plain, engine):
            started = time.perf_counter()
            step(given)
            seconds[step] = time.perf_counter() - started
        if number >= 0:
            shares.append(seconds[engine] / seconds[plain] - 1)
    low, middle, high = statistics.quantiles(shares, n=4)
    append(options.size, {"engine_adds": [round(share, 3) for share in (low, middle, high)], "pairs": options.steps})
    print(f"the engine adds {middle:+.1%} to a step (quartiles {low:+.1%} to {high:+.1%}, {options.steps} pairs)")


KINDS = {  # of operations, by what their names hold; the first that fits
    "products with weights": ("_linear_pointwise", "aten::mm", "addmm"),
    "attention": ("bmm", "baddbmm", "softmax", "scaled_dot"),
    "loss": ("log_softmax", "exp_", "gather", "scatter"),
    "optimizer, norm": ("adam", "foreach", "norm_"),
    "engine": ("flatten", "c10d", "all_reduce"),
}


def profile(torch: Any, step: Any, batch: Any, size: str) -> None:
    """Print the shares of five steps' time by kind of operation."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        for _ in range(5):
            step(batch())
    shares: dict[str, float] = {}
    for event in profiler.key_averages():
        name = event.key.lower()
        fits = [kind for kind, parts in KINDS.items() if any(part in name for part in parts)]
        kind = "loss" if "log_softmax" in name else fits[0] if fits else "elementwise, copies and calls"
        shares[kind] = shares.get(kind, 0.0) + event.self_cpu_time_total
    total = sum(shares.values())
    append(size, {"profile": {kind: round(share / total, 3) for kind, share in shares.items()}})
    for kind, share in sorted(shares.items(), key=lambda pair: -pair[1]):
        print(f"| {kind} | {share / total:.0%} |")


def engine_step(model: Any, compiled: bool) -> Any:
    """Return our own step: DeepSpeed's engine as the programs use it."""
    from llamatrain.engine.learning import Engine
    from llamatrain.fit import train_step
    from llamatrain.losses import language_model_loss
    from llamatrain.settings import OptimConfig, ZeroConfig

    optim = OptimConfig(3e-4, [0.9, 0.95], 1e-5, 0.1, 1.0, "constant", 0, 0.0, 1.0)
    engine = Engine(model, optim, ZeroConfig(0, "float32", False, False), 1000, compiled=compiled)
    return lambda batch: train_step(engine, [batch], language_model_loss)


def plain_step(model: Any) -> Any:
    """Return the step of a bare loop around the same model."""
    import torch

    from llamatrain.losses import language_model_loss

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)

    def step(batch: Any) -> None:
        loss, _ = language_model_loss(model, batch)
        (loss / batch["weight"]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def append(size: str, found: dict[str, Any]) -> None:
    """Add a line to the results."""
    sys.path.insert(0, str(Path(__file__).parent))
    from chain import commit, machine

    day = datetime.now(UTC).date().isoformat()
    line = {"date": day, "commit": commit(), "machine": machine(), "size": size, **found}
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a") as file:
        file.write(json.dumps(line) + "\n")


def record(options: argparse.Namespace, rates: dict[str, list[float]]) -> None:
    """Append the line and print the table: medians, and quartiles of the paired ratios of ours to each side."""
    best = [name for name in rates if name.startswith("llamatrain")]
    ratios = {ours: {name: quartiles(rates[ours], rates[name]) for name in rates} for ours in best}
    speeds = {name: [round(rate) for rate in values] for name, values in rates.items()}
    append(options.size, {"steps": options.steps, "tokens_per_second": speeds, "paired_ratio": ratios})
    print(f"| size {options.size} | tokens/s, median | " + " | ".join(f"{ours} over it" for ours in best) + " |")
    print("|---|---|" + "---|" * len(best))
    for name, values in rates.items():
        told = " | ".join("{1:.2f} ({0:.2f} to {2:.2f})".format(*ratios[ours][name]) for ours in best)
        print(f"| {name} | {statistics.median(values):,.0f} | {told} |")


def quartiles(ours: list[float], theirs: list[float]) -> list[float]:
    """Return the quartiles of the ratios of one round each."""
    return [round(x, 3) for x in statistics.quantiles((a / b for a, b in zip(ours, theirs, strict=True)), n=4)]


if __name__ == "__main__":
    sys.exit(main())
