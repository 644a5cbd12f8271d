"""What a program asks of a machine, whether that fits, and what would: PLANS in its folder's plan.py, name -> function.

A plan function takes a program's settings and what is known before it runs (`given.Given`) and returns its Work, or Light
where it runs no model. How long work takes says pace.py. Imports no torch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from . import footprint
from .capacity import left_by_whole, responses_that_fit, rows_that_fit
from .footprint import ALONE, Footprint, ModelCounts
from .hardware import Machine
from .model.config import ModelConfig
from .progress import counted
from .settings import RunConfig, ZeroConfig
from .shares import padding_in_words, passes

if TYPE_CHECKING:
    from .given import Given


@dataclass(frozen=True)
class Rows:
    """How many rows there are, and how many tokens one has on average: of a pair each of its two dialogues."""

    count: float
    tokens: float
    assumed: str = ""  # where the figures are from if nobody counted them

    def part(self, share: float) -> Rows:
        """Return a share of them."""
        return Rows(self.count * share, self.tokens, self.assumed)

    def part_of(self, most: int | None) -> Rows:
        """Return at most so many of them."""
        return replace(self, count=min(self.count, most or self.count))


Files = Mapping[str, ModelConfig | Rows | int]  # what later stages read of a run's folder: models, rows, a vocabulary


PACKED = 0.95  # of a row's tokens are filled where several are packed into it
SEQUENCES = 300  # of held-out text that are read where no number is given (an assumption)
PROCESS = 5e9  # bytes of host memory that torch, CUDA and DeepSpeed take for themselves in a process with a GPU (an assumption)


@dataclass(frozen=True)
class Light:
    """A program that runs no model: all that plans ask of it is what it makes."""

    makes: Files = field(default_factory=dict)


@dataclass(frozen=True)
class HeldOut:
    """What a training measures on held-out data as it goes on."""

    tokens: float = 0.0  # passed forward in all
    responses: int = 0  # that are sampled together, and how often
    times: int = 0
    alone: bool = False  # by rank 0, while the others wait


@dataclass(frozen=True)
class Work:
    """What a program does with models of one shape."""

    model: ModelConfig
    dtype: str
    zero: ZeroConfig | None = None  # of training; None: it only reads
    rows: int = 1  # of a global batch
    tokens: int = 1  # of a row, at most
    micro_batch: int | None = None
    models: ModelCounts = ALONE  # in training, and read beside it
    learned: int | None = None  # tokens of a row whose logits are held whole; None: the loss takes them in chunks
    segments: bool = False  # rows are packed with several
    whole: int = 0  # unsharded models held while sampling, beside `models` where `stays`
    stays: bool = False
    at_once: int | None = None  # responses that a rank generates together; None: as many as fit
    steps: float | None = None  # optimizer updates in all; None: the data say
    step_tokens: float = 0.0  # that an update learns from, in each model
    sampled: float = 0.0  # responses in all
    rounds: int = 1  # that share them, one after the other: PPO's iterations
    prompt_tokens: float = 0.0  # of one, and of its prompt, on average
    written_tokens: float = 0.0
    read_rows: int = 0  # rows that are read at once where nothing else is done
    read_tokens: float = 0.0  # passed through a model forward only, in all, by each model that reads them
    held_out: HeldOut = HeldOut()
    save_every: int = 0  # steps between checkpoints (0: at the end alone)
    keep: int = 0  # of them (0: all)
    saved: float = 0.0  # checkpoints that are written in all
    makes: Files = field(default_factory=dict)

    @property
    def trained_tokens(self) -> float | None:
        """Tokens that are learned from in all; None where the data say."""
        return None if self.steps is None else self.steps * self.step_tokens

    @property
    def checkpoint_bytes(self) -> float:
        """What a checkpoint takes on disk, with what resume needs; 0 where none is written."""
        if self.zero is None:
            return 0.0
        return float(footprint.checkpoint(self.parameters, self.zero.dtype))

    @property
    def parameters(self) -> int:
        """Parameters of all models in training."""
        return sum(learning * footprint.parameters(self.model, scalar) for scalar, learning, _ in self.models.heads)

    @property
    def kept_bytes(self) -> float:
        """What a run's checkpoints take on disk at its end."""
        kept = self.saved if not self.keep else min(self.keep, self.saved)
        return self.checkpoint_bytes * kept

    def size(self, machine: Machine) -> int:
        """Return the rows of a micro-batch: as configured, otherwise as many as fit a rank's memory."""
        assert self.zero is not None
        more = self.models, self.segments, self.learned, machine.device
        return self.micro_batch or rows_that_fit(
            machine.usable, self.rows, self.tokens, self.model, self.zero, machine.ranks, *more
        )

    def responses(self, machine: Machine) -> int:
        """Return how many responses a rank generates together: no more than its share of a round."""
        beside = self._beside(machine)
        count = self.at_once or responses_that_fit(
            machine.usable, self.model, self.dtype, self._whole, beside.total if beside is not None else 0.0
        )
        return min(count, self.share(machine.ranks)) if self.sampled else count

    def share(self, ranks: int) -> int:
        """Return the responses of a round on the rank with the most."""
        return math.ceil(self.sampled / self.rounds / ranks)

    @property
    def _whole(self) -> int:
        return self.whole + int(self.stays and self.zero is not None and self.zero.stage == 3)  # gathered once

    def _beside(self, machine: Machine, whole: bool = False) -> Footprint | None:
        if self.zero is None or not self.stays:
            return None
        return footprint.models(self.model, self.zero, machine.ranks, self.models, machine.device, whole)

    def reads_whole(self, machine: Machine) -> bool:
        """Tell whether models that are only read lie whole on every rank, where stage 3 shards those that learn: if they fit."""
        zero, own = self.zero, self.models
        if zero is None or zero.stage < 3 or machine.ranks == 1 or not own.reading:
            return True
        held = [one for _, one, _ in self._training(machine, whole=False)]
        more, left = left_by_whole(machine.usable, self.model, zero, machine.ranks, own, machine.device, *held)
        return left >= more and not zero.offload_parameters

    def _training(self, machine: Machine, whole: bool) -> Iterator[tuple[str, Footprint, str]]:
        zero = self.zero
        if zero is not None:
            size = self.size(machine)
            more = self.segments, machine.device, self.models, self.learned, whole
            held = footprint.training(self.model, zero, machine.ranks, size, self.tokens, *more)
            yield "training", held, f"{size} x {self.tokens:,} tokens per rank"
        if self.whole or self.stays:
            count, beside = self.responses(machine), self._beside(machine, whole)
            sampled = footprint.sampling(self.model, self.dtype, count, self.model.max_seq_len, self._whole, beside)
            yield "sampling", sampled, f"{count} response{'s' * (count > 1)} per rank"

    def phases(self, machine: Machine) -> Iterator[tuple[str, Footprint, str]]:
        """Yield each phase's name, what a rank holds in it, and its batch in words."""
        yield from self._training(machine, self.reads_whole(machine))
        if self.read_rows:
            # A layer at a time, no more than what one would keep for a backward pass.
            plain = ZeroConfig(1, self.dtype, False, False)
            layer = footprint.layer(self.model, plain, 1, self.tokens, True, machine.device)
            held = footprint.sampling(self.model, self.dtype, 0, self.tokens, 1, draws=False)
            rows = self.read_rows * self.tokens
            yield "reading", replace(held, working=rows * layer), f"{self.read_rows} x {self.tokens:,} tokens"

    def batch(self, machine: Machine) -> str:
        """Say in words how a global batch is shared among ranks and micro-batches."""
        size, ranks, unit = self.size(machine), machine.ranks, "GPU" if machine.gpus else "rank"
        mean = round(self.step_tokens / self.rows) if self.step_tokens else self.tokens
        of = f"{self.tokens:,} tokens" if mean == self.tokens else f"up to {self.tokens:,} tokens, {mean:,} on average,"
        return (
            f"{self.rows:,} rows of {of} = {counted(ranks, unit)} x "
            f"{counted(passes(self.rows, size, ranks), 'micro-batch', plural='es')} x {counted(size, 'row')}"
            f"{padding_in_words(self.rows, size, ranks)}"
        )

    def host(self, machine: Machine) -> tuple[float, float]:
        """Return the bytes of a node's memory that it needs, and those that copies of checkpoints take beside them."""
        each = 0.0 if self.zero is None or not machine.gpus else PROCESS
        if self.zero is not None:
            own = footprint.models(self.model, self.zero, machine.ranks, self.models, machine.device)
            each += own.states.host
        copies = self.checkpoint_bytes / machine.ranks * (2 if machine.gpus else 1)
        return machine.ranks_per_node * each, machine.ranks_per_node * copies

    def waits(self, machine: Machine) -> bool:
        """Tell whether training waits while a checkpoint is written, as a node has no room for the copies."""
        return sum(self.host(machine)) > machine.host

    def most(self, machine: Machine) -> float:
        """Return the bytes of the phase that takes the most."""
        return max(held.total for _, held, _ in self.phases(machine))

    def fits_devices(self, machine: Machine) -> bool:
        """Tell whether it fits the ranks' memory, of which a fifth is left."""
        return self.most(machine) <= machine.usable

    def fits_hosts(self, machine: Machine) -> bool:
        """Tell whether it fits the nodes' memory beside GPUs: without them that is the ranks'."""
        return not machine.gpus or self.host(machine)[0] <= machine.host

    def fits(self, machine: Machine) -> bool:
        """Tell whether it fits both."""
        return self.fits_devices(machine) and self.fits_hosts(machine)


def packed_rows(rows: Rows, length: int) -> float:
    """Return into how many rows of so many tokens some are packed; nearly all of a row is filled."""
    return rows.count * min(rows.tokens, length) / (PACKED * length)


def saves(run: RunConfig, steps: float | None, first: bool = False) -> dict[str, Any]:
    """Return what a Work says of a run's checkpoints; `first`: one is saved before the first step."""
    count = 1.0 if not run.save_every or steps is None else -(-steps // run.save_every)
    return {"steps": steps, "save_every": run.save_every, "keep": run.keep, "saved": count + first}


def evaluations(run: RunConfig, steps: float | None, before: bool = True) -> int:
    """Return how often held-out data are measured: `before` the first step, every run.eval_every and after the last."""
    every, last = run.eval_every, steps or 0.0
    return int(before) + (math.ceil(last / every) if every else 1)


def smallest_change(work: Work, machine: Machine, node: int) -> str | None:
    """Return what makes work fit devices and hosts that does not, the cheapest first; None where nothing here does.

    A smaller micro-batch, recomputation, a higher ZeRO stage, the optimizer's states in host memory, then more GPUs, `node`
    in each node.
    """
    tried, unit = list(changes(work)), "GPUs" if machine.gpus else "ranks"
    larger = [replace(machine, nodes=2**power, ranks_per_node=node) for power in range(8)]
    for on in (machine, *(one for one in larger if one.ranks > machine.ranks)):
        for changed, told in tried:
            if changed.fits(on):
                return ", ".join([*told, *([f"{on.ranks} {unit}"] if on.ranks > machine.ranks else [])])
    return None


def changes(work: Work) -> Iterator[tuple[Work, list[str]]]:
    """Yield the work as it is, then with ever more changes, each with what is changed in words."""
    told: list[str] = []
    yield work, list(told)
    if work.at_once is not None and work.at_once > 1 and not work.held_out.alone:
        work, told = replace(work, at_once=1), [*told, "generation_batch_size=1"]
        yield work, told
    if work.held_out.alone:
        work, told = replace(work, held_out=replace(work.held_out, responses=0), stays=False), ["samples_every=0"]
        yield work, told
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
    turned = str(not zero.offload_optimizer).lower()  # on it relieves the GPUs, off the hosts
    at = replace(zero, stage=3, offload_optimizer=not zero.offload_optimizer)
    yield replace(work, zero=at), [*own, f"zero.offload_optimizer={turned}"]


Planner = Callable[[Any, "Given"], Work | Light]
