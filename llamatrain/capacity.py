"""How many rows or responses fit so many bytes of a rank's memory. Pure arithmetic; imports no torch."""

from __future__ import annotations

from . import footprint
from .footprint import Footprint, ModelCounts
from .model.config import ModelConfig
from .settings import ZeroConfig
from .shares import largest_share

USED = 0.8  # of the memory: the rest is the process's own, and what an allocator cannot hand out
MOST_TOKENS = {"cpu": 8192, "cuda": 65_536}  # of a micro-batch: a longer one is no faster
MOST_RESPONSES = 128  # generated at once, for the same reason


def rows_that_fit(
    memory: float,
    rows: int,
    tokens: int,
    model: ModelConfig,
    zero: ZeroConfig,
    ranks: int,
    own: ModelCounts,
    segments: bool,
    learned: int | None,
    device: str,
) -> int:
    """Return the rows of a micro-batch for so many bytes: a divisor of a rank's share of the batch, at least 1."""
    share, most = largest_share(rows, ranks), max(1, MOST_TOKENS[device] // tokens)

    def fits(size: int) -> bool:
        held = footprint.training(model, zero, ranks, size, tokens, segments, device, own, learned)
        return held.total <= memory

    # A divisor, so that every micro-batch of a step is full; 1 where not even that should fit.
    return max(size for size in range(1, share + 1) if size == 1 or (share % size == 0 and size <= most and fits(size)))


def responses_that_fit(memory: float, model: ModelConfig, dtype: str, models: int, beside: float) -> int:
    """Return how many responses are generated together in so many bytes, at least 1."""
    held = footprint.sampling(model, dtype, 0, model.max_seq_len, models).total + beside
    return max(
        1,
        min(
            MOST_RESPONSES,
            int((memory - held) / footprint.sampling(model, dtype, 1, model.max_seq_len, 0, draws=False).total),
        ),
    )


def left_by_whole(
    memory: float, model: ModelConfig, zero: ZeroConfig, ranks: int, own: ModelCounts, device: str, *phases: Footprint
) -> tuple[float, float]:
    """Return what models that are only read take more whole than sharded by stage 3, and what the phases leave of the memory."""
    whole, sharded = (footprint.models(model, zero, ranks, own, device, kind).read for kind in (True, False))
    return whole - sharded, memory - max(phase.total for phase in phases)
