"""Which attention kernel runs, and what makes the processor wait for the device."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from parts import ON_GPU, device, figure, optim, rows, shape, wait, zero
from torch.profiler import ProfilerActivity, profile

from llamatrain.engine.learning import Engine
from llamatrain.engine.models import build
from llamatrain.fit import train_step
from llamatrain.generation import generate
from llamatrain.losses import language_model_loss
from llamatrain.model.transformer import Transformer
from llamatrain.settings import Sampling

ATTENTION = ("flash", "fmha", "attention", "cudnn_sdpa", "causalblocks", "varlen")
READS = ("aten::_local_scalar_dense", "aten::nonzero")  # the processor needs the device's answer
NEW = 64 if ON_GPU else 16


def check() -> Iterator[dict[str, Any]]:
    """Profile training steps and generation."""
    dtype = "bfloat16" if ON_GPU else "float32"
    size = {"dim": 1024, "n_heads": 8, "n_kv_heads": 8, "hidden_dim": 2816} if ON_GPU else {}
    config = shape(max_seq_len=512, **size)
    setting = zero(1, dtype)
    engine = Engine(build(lambda: Transformer(config, 0), setting), optim(), setting, 10)
    for name, segments in (("plain rows", 1), ("packed rows", 6)):
        batch = rows(config, 2, 512, segments, seed=0)

        def step(batch: Any = batch) -> None:
            train_step(engine, [batch], language_model_loss)

        yield from looked_at(f"training, {name}", step)
    model = Transformer(config, 0).to(device(), getattr(torch, dtype))
    prompts = [list(range(3, 20 + i)) for i in range(8)]
    keys = [(str(i), 0) for i in range(8)]

    def sample() -> None:
        generate(model, prompts, keys, Sampling(1.0, 1.0, NEW, seed=0), eos_id=-1, batch_size=8)

    yield from looked_at("generation", sample, NEW, "token")


def looked_at(what: str, work: Callable[[], None], count: int = 1, per: str = "step") -> Iterator[dict[str, Any]]:
    """Yield the attention kernels of some work, and its reads and synchronisations per step or token."""
    work()  # warm
    wait()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if ON_GPU else [])]
    with profile(activities=activities) as seen:
        work()
        wait()
    counts: Counter[str] = Counter()
    for event in seen.key_averages():
        counts[event.key] += event.count
    found = [key for key in counts if any(word in key.lower() for word in ATTENTION) and "backward" not in key.lower()]
    own = [key for key in found if not key.startswith(("aten::", "autograd::"))] or found
    yield figure(f"{what}: attention by", ", ".join(sorted(name[:60] for name in own)[:2]) or "matrix products")
    operations = sum(number for key, number in counts.items() if key.startswith("aten::"))
    yield figure(f"{what}: operations per {per}", operations / count)
    yield figure(f"{what}: numbers read from the device per {per}", sum(counts[key] for key in READS) / count)
    if ON_GPU:
        yield figure(f"{what}: waits for the device per {per}", synchronisations(work) / count)


def synchronisations(work: Callable[[], None]) -> int:
    """Return how often some work makes the processor wait for the device."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in told)
