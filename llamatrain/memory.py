"""How many rows a rank takes at once where nobody says: as many as its memory holds, by arithmetic.

One rule for every program. Of a device's memory (on CPUs: the machine's, divided among its ranks) what the models need is
taken away; the rest holds the activations of a micro-batch. It depends on no measurement, so a restarted run
on the same machine takes the same, bit by bit. Micro-batches change a result by rounding alone.
"""

from __future__ import annotations

import os
from pathlib import Path

from . import distributed
from .capacity import USED, responses_that_fit, rows_that_fit
from .errors import UserError
from .footprint import ALONE, ModelCounts
from .model.config import ModelConfig
from .replaced import size
from .settings import ZeroConfig
from .shares import largest_share

CGROUPS = Path("/sys/fs/cgroup")


def micro_batch(
    asked: int | None,
    rows: int,
    tokens: int,
    model: ModelConfig,
    zero: ZeroConfig,
    ranks: int,
    own: ModelCounts = ALONE,
    segments: bool = False,
    learned: int | None = None,
) -> int:
    """Return the rows of a micro-batch: as many as were asked for or, with None, the most that fit a rank's memory.

    `rows` are those of the global batch, each of `tokens` at most; the others are `footprint.training`'s. All ranks take as
    many, and a divisor of the largest share.
    """
    if asked is not None:
        return min(asked, largest_share(rows, ranks))
    device = distributed.device().type
    return rows_that_fit(usable(ranks), rows, tokens, model, zero, ranks, own, segments, learned, device)


def responses_at_once(
    asked: int | None, model: ModelConfig, dtype: str, models: int, ranks: int, beside: float = 0.0
) -> int:
    """Return how many responses a rank generates together: as asked or, with None, as many as its memory caches.

    Each may fill the model's context. The rank holds `models` whole ones of this shape, and so many bytes `beside` them.
    """
    if asked is not None:
        return asked
    return responses_that_fit(usable(ranks), model, dtype, models, beside)


def check_room(held: float, ranks: int) -> None:
    """UserError where so many bytes of models, which a rank is to hold as it samples, are more than the memory of one."""
    if held > (there := _memory(ranks)):
        raise UserError(
            f"sampling holds models of {size(held)} on a rank, which has {size(there)}: need more memory (`llamatrain plan` "
            "says how much, and what else would fit), or generation_batch_size=1 to try all the same"
        )


def usable(ranks: int) -> float:
    """Return the bytes of the memory of the rank with the least that may be filled."""
    return USED * _memory(ranks)


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


def _memory(ranks: int) -> int:
    """Return the bytes of the rank with the least memory."""
    import torch

    distributed.join_others()
    if torch.cuda.is_available():
        own = torch.cuda.get_device_properties(distributed.device()).total_memory
    else:
        own = machine_memory() // int(os.environ.get("LOCAL_WORLD_SIZE", ranks))
    return min(distributed.gather_objects(own))
