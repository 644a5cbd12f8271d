"""How many rows a rank takes at once where nobody says: as many as its memory holds, by arithmetic.

One rule for every program. Of a device's memory (on CPUs: the machine's, divided among its ranks) what the models need is
taken away; the rest holds the activations of a micro-batch. It depends on no measurement, so a restarted run
on the same machine takes the same, bit by bit. Micro-batches change a result by rounding alone.
"""

from __future__ import annotations

import os
from pathlib import Path

from . import distributed
from .model.config import ModelConfig
from .settings import BYTES, ZeroConfig, held_bytes
from .shares import largest_share

USED = 0.8  # of the memory: the rest is the process's own, and what an allocator cannot hand out
MOST_TOKENS = {"cpu": 8192, "cuda": 65_536}  # of a micro-batch: a longer one is no faster
MOST_RESPONSES = 128  # generated at once, for the same reason
CGROUPS = Path("/sys/fs/cgroup")
WORKING = 4  # layers' activations that a backward pass holds beside what was kept for it


def micro_batch(
    asked: int | None,
    rows: int,
    tokens: int,
    model: ModelConfig,
    zero: ZeroConfig,
    ranks: int,
    trained: int = 1,
    read: int = 0,
) -> int:
    """Return the rows of a micro-batch: as many as were asked for or, with None, the most that fit a rank's memory.

    `rows` are those of the global batch, each of `tokens` at most; a rank holds `trained` models of this shape in
    training and `read` more. All ranks take as many, and a divisor of the largest share.
    """
    share = largest_share(rows, ranks)
    if asked is not None:
        return min(asked, share)
    held = models_bytes(model, zero, ranks, trained, read)
    fit = _fit(held, tokens * token_bytes(model, zero.dtype), ranks)
    most = min(fit, MOST_TOKENS[distributed.device().type] // tokens)
    # A divisor, so that every micro-batch of a step is full; 1 where not even that should fit.
    return max(size for size in range(1, share + 1) if share % size == 0 and size <= max(1, most))


def responses_at_once(
    asked: int | None, model: ModelConfig, dtype: str, models: int, ranks: int, beside: float = 0.0
) -> int:
    """Return how many responses a rank generates together: as asked or, with None, as many as its memory caches.

    Each may fill the model's context. The rank holds `models` whole ones of this shape, and so many bytes `beside` them.
    """
    if asked is not None:
        return asked
    size = BYTES[dtype][0]
    cache = 2 * model.n_layers * model.n_kv_heads * model.head_dim * size * model.max_seq_len  # keys and values
    return max(1, min(MOST_RESPONSES, _fit(models * model.parameters * size + beside, cache, ranks)))


def models_bytes(model: ModelConfig, zero: ZeroConfig, ranks: int, trained: int, read: int) -> float:
    """Return what a rank holds of models in training and of models that are only read, in bytes."""
    weights, *others = held_bytes(model.parameters, zero.dtype, zero.stage, ranks)
    return trained * (weights + sum(others)) + read * weights


def token_bytes(model: ModelConfig, dtype: str) -> float:
    """Return what a training pass holds of each token: activations kept for the backward pass, and those at work."""
    # Numbers per token: some ten of the model's width (norms, projections, attention), four of the feed-forward's.
    layer = 10 * model.dim + 4 * model.hidden_dim
    kept = {"none": layer, "selective": 10 * model.dim, "full": model.dim}[model.activation_checkpointing]
    return BYTES[dtype][0] * (model.n_layers * kept + WORKING * layer)


def machine_memory() -> int:
    """Return the bytes of this machine's memory, or those that a container or a job may use of it."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for folder in _groups():
        limit = folder / "memory.max"
        if limit.is_file() and limit.read_text().strip().isdigit():
            found.append(int(limit.read_text()))
    return min(found)


def free_memory() -> int:
    """Return the bytes of this machine's memory that are free or cached files, or what a container or a job may yet take."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    for folder in _groups():
        limit, used, parts = (folder / f"memory.{name}" for name in ("max", "current", "stat"))
        if limit.is_file() and limit.read_text().strip().isdigit():
            cached = dict(line.split() for line in parts.read_text().splitlines()).get("inactive_file", "0")
            found.append(int(limit.read_text()) - int(used.read_text()) + int(cached))
    return max(0, min(found))


def _groups() -> list[Path]:
    """Return the folders of this process's control groups; a limit holds for all groups below it."""
    groups = Path("/proc/self/cgroup")
    found = []
    for line in groups.read_text().splitlines() if groups.is_file() else []:
        own = CGROUPS / line.split(":", 2)[2].lstrip("/")
        found += [own, *own.parents]
    return found


def _fit(held: float, row: float, ranks: int) -> int:
    """Return how many rows of so many bytes fit beside what is held, on the rank with the least memory."""
    import torch

    distributed.join_others()
    if torch.cuda.is_available():
        own = torch.cuda.get_device_properties(distributed.device()).total_memory
    else:
        own = machine_memory() // int(os.environ.get("LOCAL_WORLD_SIZE", ranks))
    return int((USED * min(distributed.gather_objects(own)) - held) / row)
