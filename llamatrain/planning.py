"""What a program asks of a machine, whether that fits, what would, and how long it takes: PLANS in its folder's plan.py.

A plan function takes a program's settings and the model's shape and returns its Work. Imports no torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from . import footprint
from .capacity import USED, responses_that_fit, rows_that_fit
from .flops import flops_per_token
from .footprint import Footprint
from .model.config import ModelConfig
from .settings import ZeroConfig

# The paper's GPU hours imply these shares of 312 TFLOP/s by 6N (2.2.1, table 2): 34B the least, 70B the most.
UTILISATION = 0.35, 0.43
NO_ZERO = ZeroConfig(0, "float32", False, False)


@dataclass(frozen=True)
class Work:
    """What a program does with models of one shape."""

    model: ModelConfig
    dtype: str
    zero: ZeroConfig | None = None  # of training; None: it only reads
    rows: int = 1  # of a global batch
    tokens: int = 1  # of a row, at most
    micro_batch: int | None = None
    learning: int = 1  # models in training
    reading: int = 0  # and read beside them in training
    learned: int | None = None  # tokens of a row whose logits are held whole; None: the loss takes them in chunks
    segments: bool = False  # rows are packed with several
    whole: int = 0  # unsharded models held while sampling, beside `learning` and `reading` where `stays`
    stays: bool = False
    trained_tokens: float | None = None  # in all; None: the data say

    def phases(self, memory: float, ranks: int) -> Iterator[tuple[str, Footprint, str]]:
        """Yield each phase's name, footprint and batch in words, for so many bytes per rank that may be used."""
        zero = self.zero
        if zero is not None:
            size = self.micro_batch or rows_that_fit(
                memory,
                self.rows,
                self.tokens,
                self.model,
                zero,
                ranks,
                self.learning,
                self.reading,
                self.segments,
                self.learned,
                "cuda",
            )
            held = footprint.training(
                self.model,
                zero,
                ranks,
                size,
                self.tokens,
                self.segments,
                "cuda",
                self.learning,
                self.reading,
                self.learned,
            )
            yield "training", held, f"{size} x {self.tokens:,} tokens per rank"
        if self.whole or self.stays:
            beside = None
            if zero is not None and self.stays:
                beside = footprint.models(self.model, zero, ranks, self.learning, self.reading, "cuda")
            whole = self.whole + int(self.stays and zero is not None and zero.stage == 3)  # gathered once
            held_beside = beside.total if beside is not None else 0.0
            count = responses_that_fit(memory, self.model, self.dtype, whole, held_beside)
            sampled = footprint.sampling(self.model, self.dtype, count, self.model.max_seq_len, whole, beside)
            yield "sampling", sampled, f"{count} response{'s' * (count > 1)} per rank"

    def most(self, memory: float, ranks: int) -> float:
        """Return the bytes of the phase that takes the most."""
        return max(held.total for _, held, _ in self.phases(memory, ranks))

    def fits(self, memory: float, ranks: int) -> bool:
        """Tell whether it fits a device of so many bytes, of which a fifth is left."""
        return self.most(USED * memory, ranks) <= USED * memory


def smallest_change(work: Work, memory: float, ranks: int, node: int = 8) -> str | None:
    """Return what makes work fit that does not, the cheapest first; None where nothing here does.

    A smaller micro-batch, recomputation, a higher ZeRO stage, the optimizer's states in host memory, then more GPUs.
    """
    tried = list(changes(work))
    for many in (ranks, *(node * 2**power for power in range(8) if node * 2**power > ranks)):
        for changed, told in tried if many > ranks else tried[1:]:
            if changed.fits(memory, many):
                return ", ".join([*told, *([f"{many} GPUs"] if many > ranks else [])])
    return None


def changes(work: Work) -> Iterator[tuple[Work, list[str]]]:
    """Yield the work as it is, then with ever more changes, each with what is changed in words."""
    told: list[str] = []
    yield work, list(told)
    zero = work.zero
    if zero is None:
        return
    if work.micro_batch is not None and work.micro_batch > 1:
        work, told = replace(work, micro_batch=1), [*told, "micro_batch_size=1"]
        yield work, told
    if work.model.activation_checkpointing != "full":
        model = dataclasses.replace(work.model, activation_checkpointing="full")
        work, told = replace(work, model=model), [*told, "activation_checkpointing=full"]
        yield work, told
    for stage in range(zero.stage + 1, 4):
        staged = replace(work, zero=replace(zero, stage=stage))
        yield staged, [*told, f"zero.stage={stage}"]
    own = [*told, *(["zero.stage=3"] if zero.stage < 3 else [])]
    at = replace(zero, stage=3, offload_optimizer=True)
    yield replace(work, zero=at), [*own, "zero.offload_optimizer=true"]


def gpu_hours(work: Work, peak_tflops: float, share: float) -> float | None:
    """Return the GPU hours of training by 6N at a share of the peak; None where the data say how long it is."""
    if work.trained_tokens is None:
        return None
    operations = work.trained_tokens * flops_per_token(work.model.parameters, work.model, work.tokens, attention=False)
    return operations / (share * peak_tflops * 1e12) / 3600


Planner = Callable[[Any, ModelConfig], Work]
