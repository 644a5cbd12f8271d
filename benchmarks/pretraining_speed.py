"""Training speed of one model and batch: llamatrain through DeepSpeed, and whatever else is given, in alternation.

    python benchmarks/pretraining_speed.py --size S --rounds 5 \
        --peer "hf-trainer=peers/bin/python peers.py pretrain --peer hf-trainer --size S --runs 1 --steps 10"

A peer's command prints a JSON line with `runs`, a list of tokens a second. Every round starts each side once, in turn;
a ratio is the median over the rounds of the two rates of one round, because the machine itself drifts. The side `plain`
is our model in a bare PyTorch loop. A peer named `roofline` counts the matrix products alone. A line goes to
results/pretraining_speed.jsonl, as it does with `--profile`, where a step's time goes, on one thread, and with
`--engine-share`, what the engine adds to the bare loop's step, the two in alternation within one process.
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
}
OWN = {
    "llamatrain": ["engine"],
    "llamatrain, compiled": ["engine", "--compile"],
    "llamatrain, compiled, torch's attention": ["engine", "--compile", "--torch-attention"],
    "llamatrain, MKL's products": ["engine", "--kernels", "mkl"],
    "llamatrain, two ranks": ["engine", "--ranks", "2"],
    "plain": ["plain"],
}


def main() -> int:
    """Alternate the sides, record, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="S")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--peer", action="append", default=[], help="NAME=COMMAND")
    parser.add_argument("--only", nargs="*", help="our sides to run")
    parser.add_argument("--worker", choices=["engine", "plain"])
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--torch-attention", action="store_true")
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
    sides = {name: own(options, flags) for name, flags in OWN.items() if not options.only or name in options.only}
    sides |= dict(peer.split("=", 1) for peer in options.peer)
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(options.rounds):
        names = list(sides)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            shown = subprocess.run(shlex.split(sides[name]), capture_output=True, text=True, cwd=ROOT)
            lines = [line for line in shown.stdout.splitlines() if line.startswith("{")]
            if shown.returncode or not lines:
                print(f"{name} failed:\n{shown.stdout[-1000:]}\n{shown.stderr[-3000:]}", file=sys.stderr)
                return 1
            rates[name].append(statistics.median(json.loads(lines[-1])["runs"]))
            print(f"round {number + 1} {name}: {rates[name][-1]:,.0f} tokens/s", flush=True)
    record(options, rates)
    return 0


def own(options: argparse.Namespace, flags: list[str]) -> str:
    """Return the command of one of our own sides."""
    arguments = [__file__, "--size", options.size, "--steps", str(options.steps), "--worker", *flags]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"] if "--ranks" in flags else []
    return shlex.join([sys.executable, *launcher, *arguments])


def work(options: argparse.Namespace) -> None:
    """Train some steps on random tokens and print the tokens a second of each."""
    threads = max(1, len(os.sched_getaffinity(0)) // options.ranks)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    sys.path.insert(0, str(ROOT))
    import torch

    from llamatrain import distributed, kernels
    from llamatrain.model import attention
    from llamatrain.model.config import ModelConfig
    from llamatrain.model.transformer import Transformer

    torch.set_num_threads(threads)
    if options.torch_attention:
        attention._LONGEST = 0
    kernels.choose(options.kernels, {})
    shape = SIZES[options.size]
    config = ModelConfig(
        **shape,  # type: ignore[arg-type]
        n_kv_heads=int(shape["n_heads"]),
        max_seq_len=LENGTH,
        rope_theta=10_000.0,
        norm_eps=1e-5,
        init_std=0.02,
        activation_checkpointing="none",
    )
    distributed.setup()
    share = ROWS // distributed.world_size()
    model = Transformer(config, seed=0)
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
    runs = []
    for _ in range(options.steps):
        given = batch()
        started = time.perf_counter()
        step(given)
        runs.append(ROWS * LENGTH / (time.perf_counter() - started))
    if distributed.is_main():
        print(json.dumps({"runs": runs}))


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
    "products with weights": ("_linear_pointwise", "mkldnn_linear", "aten::mm", "addmm", "to_mkldnn", "to_dense"),
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
    from llamatrain.engine import Engine
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
    """Append the line and print the table: medians, and paired ratios of ours to each side."""
    best = [name for name in rates if name.startswith("llamatrain")]
    line = {
        "tokens_per_second": {name: [round(rate) for rate in values] for name, values in rates.items()},
        "paired_ratio": {
            ours: {
                name: round(statistics.median(a / b for a, b in zip(rates[ours], values, strict=True)), 3)
                for name, values in rates.items()
            }
            for ours in best
        },
    }
    append(options.size, line)
    print(f"| size {options.size} | tokens/s, median | " + " | ".join(f"{ours} over it" for ours in best) + " |")
    print("|---|---|" + "---|" * len(best))
    for name, values in rates.items():
        ratios = " | ".join(f"{line['paired_ratio'][ours][name]:.2f}" for ours in best)  # type: ignore[index]
        print(f"| {name} | {statistics.median(values):,.0f} | {ratios} |")


if __name__ == "__main__":
    sys.exit(main())
