"""Generation speed of one model: llamatrain, an earlier checkout of it, and transformers' `generate`, in alternation.

    python benchmarks/generation_speed.py --size S --rounds 9 --against ../before
    python benchmarks/generation_speed.py --size S --count          # operations and host reads per token, no times
    python benchmarks/generation_speed.py --size 70B --count        # of so many layers, which the counts depend on, but narrow
    python benchmarks/generation_speed.py --size S --answers        # answers that end by themselves

All sides have the same weights. By default 64 prompts of 32 tokens get 128 new tokens each, none of which ends a response;
with `--answers` 192 prompts of 16 to 48 tokens get responses that end, 64 at a time. Every side is a process of its own
with one thread per core that warms up, waits, and generates once each time it is its turn. The machine drifts, so a ratio
is of the two rates of one round. A line goes to results/generation_speed.jsonl.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pretraining_speed import SIZES as TRAINED
from pretraining_speed import quartiles, seconds
from random_models import end_by_chance

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results" / "generation_speed.jsonl"
NARROW = {"dim": 64, "n_heads": 4, "hidden_dim": 176, "vocab_size": 1024}
SIZES: dict[str, dict[str, int]] = {
    **TRAINED,
    "7B": {**NARROW, "n_layers": 32},
    "70B": {**NARROW, "n_layers": 80, "n_kv_heads": 2},
}
ROWS, PROMPT, NEW, EOS, ANSWER = 64, 32, 128, 2, 40
PEERS = ("transformers", "transformers, static cache", "transformers, static cache, compiled")


def main() -> None:
    """Alternate the sides, record, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="S")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--answers", action="store_true")
    parser.add_argument("--against", help="an earlier checkout")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=PEERS)
    parser.add_argument("--count", action="store_true")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--worker", help="a checkout, or a peer")
    options = parser.parse_args()
    if options.worker:
        work(options)
    elif options.count:
        count(options)
    else:
        alternate(options)


def alternate(options: argparse.Namespace) -> None:
    """Let the sides take turns, from another one on in each round."""
    workers = {"llamatrain": str(ROOT), **({"before": options.against} if options.against else {})}
    workers |= {peer: peer for peer in options.peers}
    sides: dict[str, Any] = {}
    for name, worker in workers.items():  # one after the other, so that none warms up while another does
        command = [
            sys.executable,
            __file__,
            "--size",
            options.size,
            "--threads",
            str(options.threads),
            "--worker",
            worker,
        ]
        command += ["--answers"] if options.answers else []
        sides[name] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        print(f"{name}: {seconds(sides[name], 1):.2f} s per 1,000 tokens", flush=True)
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(options.rounds):
        names = list(sides)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            rates[name].append(1000 / seconds(sides[name], 1))
        print(f"round {number + 1}: " + ", ".join(f"{name} {rates[name][-1]:,.0f}" for name in names), flush=True)
    for side in sides.values():
        side.stdin.close()
        side.wait()
    ratios = {name: quartiles(rates["llamatrain"], own) for name, own in rates.items() if name != "llamatrain"}
    speeds = {name: [round(rate) for rate in own] for name, own in rates.items()}
    append(options, {"tokens_per_second": speeds, "paired_ratio": ratios})
    print(f"| size {options.size} | tokens/s, median | llamatrain over it |\n|---|---|---|")
    for name, own in rates.items():
        told = "{1:.2f} ({0:.2f} to {2:.2f})".format(*ratios[name]) if name in ratios else ""
        print(f"| {name} | {statistics.median(own):,.0f} | {told} |")


def work(options: argparse.Namespace) -> None:
    """Generate once for each line of standard input; print the seconds per 1,000 tokens of the responses."""
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    sys.path.insert(0, str(ROOT) if options.worker in PEERS else options.worker)
    import torch

    torch.set_num_threads(options.threads)
    model, prompts = model_of(options), prompts_of(options)
    sample = (
        transformers_side(model, prompts, options) if options.worker in PEERS else own_side(model, prompts, options)
    )
    for _ in range(2):
        sample(0)
    for number, _ in enumerate(sys.stdin, 1):
        started = time.perf_counter()
        tokens = sample(number)
        print(json.dumps({"seconds": 1000 * (time.perf_counter() - started) / tokens}), flush=True)


def model_of(options: argparse.Namespace) -> Any:
    """Return a random model; for answers one that ends them after ANSWER tokens on average."""
    from llamatrain.model.config import ModelConfig
    from llamatrain.model.transformer import Transformer

    shape = {"n_kv_heads": SIZES[options.size]["n_heads"], **SIZES[options.size], "tie_embeddings": False}
    config = ModelConfig(
        **shape,  # type: ignore[arg-type]
        max_seq_len=256,
        rope_theta=10_000.0,
        norm_eps=1e-5,
        init_std=0.02,
        activation_checkpointing="none",
    )
    model = Transformer(config, seed=0).eval()
    if options.answers:
        chance = 1 / ANSWER
        end_by_chance(model, EOS, math.log(chance / (1 - chance) * (config.vocab_size - 1)))
    return model


def prompts_of(options: argparse.Namespace) -> list[list[int]]:
    """Return random prompts."""
    chance, vocabulary = random.Random(0), int(SIZES[options.size]["vocab_size"])
    lengths = [chance.randint(16, 48) for _ in range(3 * ROWS)] if options.answers else [PROMPT] * ROWS
    return [[chance.randrange(3, vocabulary) for _ in range(length)] for length in lengths]


def own_side(model: Any, prompts: list[list[int]], options: argparse.Namespace) -> Callable[[int], int]:
    """Return llamatrain's generation, which gives the number of tokens."""
    from llamatrain import kernels
    from llamatrain.generation import generate
    from llamatrain.settings import Sampling

    kernels.choose("auto", {})  # as a run does
    kernels.measure(model.config)
    keys, eos_id = [(str(i), 0) for i in range(len(prompts))], EOS if options.answers else -1

    def sample(number: int) -> int:
        made = generate(model, prompts, keys, Sampling(1.0, 1.0, NEW, number), eos_id, ROWS)
        return sum(len(response.tokens) for response in made)

    return sample


def transformers_side(model: Any, prompts: list[list[int]], options: argparse.Namespace) -> Callable[[int], int]:
    """Return transformers' generation from the same weights, which gives the number of tokens."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.generation.configuration_utils import CompileConfig

    theirs = LlamaForCausalLM(LlamaConfig(**model.config.to_hf(scalar_head=False), attn_implementation="sdpa")).eval()
    theirs.load_state_dict(model.state_dict())
    theirs.generation_config.eos_token_id = EOS if options.answers else None
    given: dict[str, Any] = {"max_new_tokens": NEW, "do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    if "static" in options.worker:
        given |= {"cache_implementation": "static", "disable_compile": "compiled" not in options.worker}
    if "compiled" in options.worker:
        given["compile_config"] = CompileConfig(fullgraph=False, dynamic=False, mode="default")
        given["compile_config"]._compile_all_devices = True

    def sample(number: int) -> int:
        torch.manual_seed(number)
        tokens = 0
        for start in range(0, len(prompts), ROWS):
            rows = prompts[start : start + ROWS]
            width = max(map(len, rows))
            ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])  # padded on the left, as it wants them
            mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
            with torch.inference_mode():
                made = theirs.generate(input_ids=ids, attention_mask=mask, pad_token_id=0, **given)[:, width:]
            # Behind a response's end stands padding, which no prompt or response holds otherwise.
            tokens += int((made != 0).sum()) if options.answers else made.numel()
        return tokens

    return sample


def count(options: argparse.Namespace) -> None:
    """Print how many operations, and reads by the host, a token of 64 rows takes: proxies of a GPU's launches and waits."""
    checkouts = {"before": options.against} if options.against else {}
    for name, checkout in {**checkouts, "llamatrain": str(ROOT)}.items():
        code = f"""
import sys; sys.argv = {["", "--size", options.size]!r}; sys.path[:0] = [{checkout!r}, {str(Path(__file__).parent)!r}]
import generation_speed; generation_speed.print_counts({options.size!r})
"""
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=checkout)
        line = json.loads(found.stdout.splitlines()[-1])
        append(options, {"side": name, "per_token": line})
        print(name, ", ".join(f"{what} {number:,.2f}" for what, number in line.items()))


def print_counts(size: str) -> None:
    """Print a token's calls as JSON: the difference of 65 tokens and one, divided by 64."""
    import torch
    from torch.profiler import ProfilerActivity
    from torch.utils._python_dispatch import TorchDispatchMode

    from llamatrain import generation
    from llamatrain.settings import Sampling

    class Launches(TorchDispatchMode):
        """Counts operations that would start a kernel: no views, and no allocations."""

        def __init__(self) -> None:
            super().__init__()
            self.count = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.count += not (func.is_view or "empty" in str(func))
            return func(*args, **(kwargs or {}))

    reads = 0

    def counted(method: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal reads
            reads += 1
            return method(*args, **kwargs)

        return call

    for name in ("tolist", "item", "__bool__", "__int__", "__float__", "nonzero", "cpu", "numpy"):
        setattr(torch.Tensor, name, counted(getattr(torch.Tensor, name)))
    made = torch.tensor

    def moved(data: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal reads
        reads += 1
        return made(data, *args, **kwargs)

    torch.tensor = moved
    if hasattr(generation, "_LOOK"):
        generation._LOOK["cpu"] = generation._LOOK["cuda"]  # as on a GPU
    with suppress(ImportError):  # an earlier checkout's
        vars(importlib.import_module("llamatrain.model.decoding"))["_by_products"] = lambda weight: False
    options = argparse.Namespace(size=size, answers=False)
    model, prompts = model_of(options), prompts_of(options)
    keys = [(str(i), 0) for i in range(len(prompts))]

    def run(new: int) -> tuple[int, int, int]:
        nonlocal reads
        reads = 0
        sampling = Sampling(1.0, 1.0, new, 0)
        with Launches() as launches:
            generation.generate(model, prompts, keys, sampling, -1, ROWS)
        exchanged = reads
        with torch.profiler.profile(activities=[ProfilerActivity.CPU]) as profile:
            generation.generate(model, prompts, keys, sampling, -1, ROWS)
        return sum(event.count for event in profile.key_averages()), launches.count, exchanged

    names = ("operators called", "of them kernels", "exchanges with the host")
    print(json.dumps({name: (b - a) / 64 for name, a, b in zip(names, run(1), run(65), strict=True)}))


def append(options: argparse.Namespace, found: dict[str, Any]) -> None:
    """Add a line to the results."""
    sys.path.insert(0, str(Path(__file__).parent))
    from chain import commit, machine

    line = {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "machine": machine(),
        "size": options.size,
    }
    line |= {"load": "answers" if options.answers else "full length", "threads": options.threads}
    if options.against:
        line["against"] = commit(Path(options.against))
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a") as file:
        file.write(json.dumps({**line, **found}) + "\n")


if __name__ == "__main__":
    main()
